"""What every entry point shares: a configuration from dataclass defaults, YAML files and the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from train.config_values import (
    ConfigError,
    Given,
    compose,
    field_kinds,
    item_kind,
    nearest_field,
    read,
    section_of,
    shorten,
    show,
    without_null,
    word_node,
)
from train.model_files import is_model_file, translate

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = ROOT / "configs"

ConfigT = TypeVar("ConfigT")

NOTHING = yaml.MappingNode("tag:yaml.org,2002:map", [])
"""``{}``: an optional section that is wanted as it is."""


def parse(
    config_class: type[ConfigT],
    default_file: str | None = None,
    argv: Sequence[str] | None = None,
    *,
    positional: str | None = None,
) -> ConfigT:
    """Read a configuration: dataclass defaults, then `default_file`, then each ``--config``, then the other flags.

    A field is ``--name VALUE`` or ``--section.name=VALUE``; hyphens may stand for underscores. A true-or-false field
    may stand alone, a list's items may come one a flag and by their singular (``--task a --task b``), and a section
    with a ``SHORT`` may be given as that field (``--model tiny``). ``--help`` and ``--print_config`` print and exit.

    Args:
        config_class: a dataclass, possibly nested. Its ``__post_init__`` says what values are possible, and its method
            ``unused``, where it has one, which fields play no role beside the others, and why.
        default_file: a file of `configs/` to start from.
        argv: the command line, without the program; None takes the process's.
        positional: the field that words without a flag belong to, one or, of a list, any number.

    Raises:
        ConfigError: if it is no such configuration, or something is given that isn't used. One sentence.
    """
    words = list(sys.argv[1:] if argv is None else argv)
    defaults = _read_file(config_class, _default(default_file), by_default=True) if default_file else {}
    if {"-h", "--help"} & set(words):
        from train.config_help import help_text

        print(help_text(config_class, build(config_class, defaults), positional))
        sys.exit(0)
    is_printed = bool({"--print_config", "--print-config"} & set(words))
    files, flags = _read_words(config_class, [word for word in words if not _is_print(word)], positional)
    given = defaults
    for file in files:
        given = _override(given, _read_file(config_class, find_file(file)))
    given = _override(given, flags)
    config = build(config_class, given)
    # A killed run's configuration was checked when it started; since then defaults may have changed.
    if not getattr(config, "resume", False):
        _refuse_unused(config, given, (build(config_class, defaults), build(config_class, {})))
    if is_printed:
        print(to_yaml(config), end="")
        sys.exit(0)
    return config


def _is_print(word: str) -> bool:
    return word in ("--print_config", "--print-config")


def _default(name: str) -> Path:
    """Return a file of `configs/` that a command can't do without."""
    if not (CONFIGS / name).is_file():
        raise ConfigError(
            f"{CONFIGS / name} is missing, which holds this command's defaults: the installation is not whole; "
            "install the package again, or run from a clone"
        )
    return CONFIGS / name


def find_file(name: str) -> Path:
    """Return a configuration file: as it is named, or else the one that ships by that name (``configs/...``).

    Raises:
        ConfigError: if there is none.
    """
    file = Path(name).expanduser()
    shipped = ROOT / file
    if not file.exists() and file.parts[:1] == ("configs",) and shipped.is_file():
        return shipped
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "not there"
        raise ConfigError(f"config is {shorten(name)!r}, which is {kind}: give a YAML file")
    return file


def _read_file(config_class: Any, file: Path, by_default: bool = False) -> dict[str, Given]:
    try:
        content = file.read_bytes()
    except OSError as error:
        raise ConfigError(f"config is {str(file)!r}, which can't be read: {error.strerror}") from None
    root = compose(content, str(file))
    found: dict[str, Given] = {}
    if root is None:
        return found
    if not isinstance(root, yaml.MappingNode):
        raise ConfigError(f"{file}: it holds {show(root)}, but a configuration is lines of name: value")
    if is_model_file(root):
        root = translate(root, flags_of(config_class), str(file))
    _gather(config_class, root, "", str(file), by_default, found)
    optional = [f"{name}." for name, kind in _sections_of(config_class).items() if without_null(kind)[1]]
    required = {path for path in flags_of(config_class) if not path.startswith(tuple(optional))}
    if required <= found.keys():
        # Written by a run: it says everything, and so of nothing that it is to play a role.
        return {path: replace(one, by_default=True) for path, one in found.items()}
    return found


def _gather(
    config_class: Any, node: yaml.MappingNode, prefix: str, what: str, by_default: bool, found: dict[str, Given]
) -> None:
    """Add what a mapping says to what is found, by the fields' dotted names."""
    kinds = field_kinds(config_class)
    seen = set()
    for key, value in node.value:
        where = f"{what}, line {key.start_mark.line + 1}: " if key.start_mark is not None else f"{what}: "
        name = key.value if isinstance(key, yaml.ScalarNode) else show(key)
        if name in seen:
            raise ConfigError(f"{where}{prefix}{shorten(name)} is given twice: give it once")
        seen.add(name)
        if name not in kinds:
            raise ConfigError(where + _unknown(f"{prefix}{name}", kinds, prefix, flags_of(config_class, prefix)))
        _gather_field(kinds[name], value, f"{prefix}{name}", (what, where, by_default), found)


def _gather_field(
    kind: Any, node: yaml.Node, path: str, origin: tuple[str, str, bool], found: dict[str, Given]
) -> None:
    what, where, by_default = origin
    section = section_of(kind)
    if section is None:
        found[path] = Given(node, where, by_default)
        return
    is_null = isinstance(node, yaml.ScalarNode) and (node.tag.endswith(":null") or not node.value)
    short = getattr(section, "SHORT", None)
    if is_null:
        # A section whose lines are all commented out says nothing; an optional one is left out.
        if without_null(kind)[1]:
            found[path] = Given(node, where, by_default)
    elif isinstance(node, yaml.MappingNode):
        if without_null(kind)[1]:
            found[path] = Given(NOTHING, where, by_default)
        _gather(section, node, f"{path}.", what, by_default, found)
    elif short is not None and isinstance(node, yaml.ScalarNode):
        found[f"{path}.{short}"] = Given(node, where, by_default)
    else:
        raise ConfigError(f"{where}{path} is {show(node)}: it is a section, with {', '.join(field_kinds(section))}")


def _unknown(path: str, known: Mapping[str, Any], prefix: str, everywhere: Mapping[str, Any]) -> str:
    """Say that a file's key is unknown, and which one was probably meant."""
    close = nearest_field(path.removeprefix(prefix), known)
    close = f"{prefix}{close}" if close else nearest_field(path, everywhere)
    hint = f"did you mean {close}?" if close else f"choose from {', '.join(known)}"
    return f"there is no field {shorten(path)}: {hint}"


def flags_of(config_class: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted names of a configuration's fields, nested ones included, with their types."""
    found: dict[str, Any] = {}
    for name, kind in field_kinds(config_class).items():
        section = section_of(kind)
        found |= {f"{prefix}{name}": kind} if section is None else flags_of(section, f"{prefix}{name}.")
    return found


def _sections_of(config_class: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted names of a configuration's sections, with their types."""
    found: dict[str, Any] = {}
    for name, kind in field_kinds(config_class).items():
        section = section_of(kind)
        if section is not None:
            found |= {f"{prefix}{name}": kind, **_sections_of(section, f"{prefix}{name}.")}
    return found


def _read_words(config_class: Any, words: Sequence[str], positional: str | None) -> tuple[list[str], dict[str, Given]]:
    """Take a command line apart.

    Returns:
        The files of ``--config``, and what the other flags give, by the fields' dotted names.
    """
    kinds, sections = flags_of(config_class), _sections_of(config_class)
    plurals = {path[:-1]: path for path in kinds if path.endswith("s") and item_kind(kinds[path]) is not None}
    files: list[str] = []
    found: dict[str, Given] = {}
    i = 0
    while i < len(words):
        word = words[i]
        i += 1
        if not word.startswith("--") or word == "--":
            if positional is None:
                raise ConfigError(_stray(word, words[: i - 1]))
            if item_kind(kinds[positional]) is not None:
                _add_item(found, positional, kinds[positional], word)
            elif positional in found:
                raise ConfigError(_stray(word, words[: i - 1]))
            else:
                found[positional] = Given(word_node(kinds[positional], word, positional))
            continue
        flag, has_value, value = word.partition("=")
        path = flag[2:].replace("-", "_")
        path = path if path in kinds else plurals.get(path, path)
        if path not in kinds and path not in sections and path != "config":
            close = nearest_field(path, {**kinds, **sections, **plurals, "config": str, "help": str})
            hint = f"did you mean --{_as_flag(close, sections)}?" if close else "--help lists them all"
            raise ConfigError(f"there is no flag {shorten(flag)}: {hint}")
        if not has_value:
            is_switch = kinds.get(path) is bool
            stands_alone = i == len(words) or words[i].startswith("--")
            # Where words stand for themselves, one after a switch is its value only if it can be.
            stands_alone |= is_switch and positional is not None and words[i : i + 1] not in (["true"], ["false"])
            if stands_alone and not is_switch:
                raise ConfigError(f"{flag} has no value: write {flag} VALUE")
            value = "true" if stands_alone else words[i]
            i += not stands_alone
        if path == "config":
            files.append(value)
        elif path in sections:
            _gather_section(sections[path], value, path, found)
        elif item_kind(kinds[path]) is not None:
            _add_item(found, path, kinds[path], value)
        else:
            found[path] = Given(word_node(kinds[path], value, f"--{path}"))
    return files, found


def _stray(word: str, before: Sequence[str]) -> str:
    last = next((flag for flag in reversed(before) if flag.startswith("--")), None)
    hint = f"; for a list, repeat {last.partition('=')[0]} before each" if last is not None else ""
    return f"{shorten(word)!r} stands alone: every value follows a flag, as in --seed 3{hint}"


def _as_flag(path: str, sections: Mapping[str, Any]) -> str:
    """Return how a field, or some field of a section, is written on the command line."""
    if path not in sections or hasattr(section_of(sections[path]), "SHORT"):
        return path
    return f"{path}.{next(iter(flags_of(section_of(sections[path]))))}"


def _gather_section(kind: Any, value: str, path: str, found: dict[str, Given]) -> None:
    """Read ``--dit '{hidden_size: 32}'``, ``--dit null`` or, for a section with a short form, ``--model tiny``."""
    short = getattr(section_of(kind), "SHORT", None)
    if short is not None and not value.startswith("{"):
        found[f"{path}.{short}"] = Given(word_node(flags_of(section_of(kind))[short], value, f"--{path}"))
        return
    node = compose(value, f"--{path}")
    if node is not None:
        _gather_field(kind, node, path, (f"--{path}", "", False), found)


def _add_item(found: dict[str, Given], path: str, kind: Any, word: str) -> None:
    """Add an item to a list of the command line; a list in brackets replaces what stands before it."""
    if word.startswith("[") or (word == "null" and without_null(kind)[1]):
        node = compose(word, f"--{path}")
        assert node is not None
        found[path] = Given(node)
        return
    item = item_kind(kind)
    before = found[path].node.value if path in found and isinstance(found[path].node, yaml.SequenceNode) else []
    found[path] = Given(yaml.SequenceNode("tag:yaml.org,2002:seq", [*before, word_node(item, word, f"--{path}")]))


def _override(given: Mapping[str, Given], more: Mapping[str, Given]) -> dict[str, Given]:
    """Let later settings replace earlier ones; an optional section that becomes null loses what it had."""
    merged = dict(given)
    for path, one in more.items():
        if isinstance(one.node, yaml.ScalarNode) and one.node.tag.endswith(":null"):
            merged = {name: value for name, value in merged.items() if not name.startswith(f"{path}.")}
        # Whoever sets a field of an optional section wants the section, whatever stood before.
        parent = path.rpartition(".")[0]
        if parent not in more:
            merged.pop(parent, None)
        merged[path] = one
    return merged


def build(config_class: type[ConfigT], given: Mapping[str, Given], prefix: str = "") -> ConfigT:
    """Make a configuration of what is given, and of defaults for all else.

    Raises:
        ConfigError: if a value is not possible.
    """
    return cast(ConfigT, _build(config_class, given, prefix, None))


def _build(config_class: Any, given: Mapping[str, Given], prefix: str, base: Any) -> Any:
    values: dict[str, Any] = {}
    for name, kind in field_kinds(config_class).items():
        path = f"{prefix}{name}"
        section = section_of(kind)
        if section is None and path in given:
            values[name] = _read_given(kind, given[path], path)
        elif section is not None:
            default = _default_of(config_class, name) if base is None else getattr(base, name)
            marker = given.get(path)
            inside = next((other for other in given if other.startswith(f"{path}.")), None)
            if marker is not None and isinstance(marker.node, yaml.ScalarNode):
                if inside is not None:
                    raise ConfigError(f"{marker.where}{path} is null, but {inside} is given: leave out one of them")
                values[name] = None
            elif marker is not None or inside is not None:
                values[name] = _build(section, given, f"{path}.", default)
    try:
        return replace(base, **values) if base is not None else config_class(**values)
    except ConfigError:
        raise
    except (ValueError, FileNotFoundError) as error:
        raise ConfigError(_located(str(error), config_class, given, prefix)) from error


def _read_given(kind: Any, one: Given, path: str) -> Any:
    try:
        return read(kind, one.node, path)
    except ConfigError as error:
        raise ConfigError(f"{one.where}{error}") from None


def _default_of(config_class: Any, name: str) -> Any:
    [field] = [field for field in fields(config_class) if field.name == name]
    return field.default if field.default_factory is MISSING else field.default_factory()


def _located(message: str, config_class: Any, given: Mapping[str, Given], prefix: str) -> str:
    """Name a field by its dotted name, and the file and line that its value comes from."""
    match = re.match(r"[\w.]+", message)
    if match is None or f"{prefix}{match[0]}" not in {**flags_of(config_class, prefix), **_sections_of(config_class)}:
        return message
    path = f"{prefix}{match[0]}"
    return f"{given[path].where if path in given else ''}{prefix}{message}"


def _refuse_unused(config: Any, given: Mapping[str, Given], defaults: Sequence[Any]) -> None:
    """Refuse what the user set and the configuration makes no use of.

    What is as by default may be given: a whole configuration, written by another run, says everything.

    Raises:
        ConfigError: naming the first such field and why it plays no role.
    """
    reasons = unused(config)
    for path, one in given.items():
        if one.by_default or isinstance(one.node, yaml.MappingNode):
            continue
        reason = next((why for name, why in reasons.items() if path == name or path.startswith(f"{name}.")), None)
        if reason is not None and all(_get(config, path) != _get(default, path) for default in defaults):
            raise ConfigError(f"{one.where}{path} is given, but not used: {reason}")


def unused(config: Any, prefix: str = "") -> dict[str, str]:
    """Return the fields and sections that play no role in a configuration, by dotted name, each with the reason."""
    own = config.unused() if hasattr(config, "unused") else {}
    found = {f"{prefix}{name}": why for name, why in own.items()}
    config_class: Any = type(config)
    for name, kind in field_kinds(config_class).items():
        value = getattr(config, name)
        if section_of(kind) is not None and value is not None:
            found |= unused(value, f"{prefix}{name}.")
    return found


def _get(config: Any, path: str) -> Any:
    for name in path.split("."):
        config = getattr(config, name, None)
    return config


def to_plain(config: Any) -> Any:
    """Turn a configuration into what YAML and JSON can hold."""
    if is_dataclass(config) and not isinstance(config, type):
        return to_plain(asdict(config))
    if isinstance(config, dict):
        return {key: to_plain(value) for key, value in config.items()}
    if isinstance(config, list | tuple | set | frozenset):
        return [to_plain(value) for value in config]
    return str(config) if isinstance(config, Path) else config


def to_yaml(config: Any) -> str:
    """Write a configuration as the YAML that `parse` reads."""
    text: str = yaml.safe_dump(to_plain(config), sort_keys=False)
    return text
