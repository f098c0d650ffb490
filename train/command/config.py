"""What every entry point shares: a configuration from dataclass defaults, YAML files and the command line."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import yaml

from envs.characters import half_character
from envs.names import nearest
from train.command.config_values import (
    ConfigError,
    Given,
    compose,
    field_kinds,
    read,
    section_of,
    shorten,
    show,
    without_null,
)
from train.command.model_files import is_model_file, translate
from train.command.nodes import flags_of, gather, override, sections_of
from train.command.words import read_words

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / "configs"

ConfigT = TypeVar("ConfigT")


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
    for word in words:
        # Python makes half characters of bytes that are no UTF-8; a run's records can't hold them.
        if half_character(word):
            raise ConfigError(f"the command line holds {shorten(word)!r}: it must be UTF-8")
    defaults = _read_file(config_class, _default(default_file), by_default=True) if default_file else {}
    if {"-h", "--help"} & set(words):
        from train.command.config_help import help_text

        print(help_text(config_class, build(config_class, defaults), positional))
        sys.exit(0)
    is_printed = bool({"--print_config", "--print-config"} & set(words))
    files, flags = read_words(config_class, [word for word in words if not _is_print(word)], positional)
    given = defaults
    for file in files:
        given = override(given, _read_file(config_class, find_file(file)))
    given = override(given, flags)
    config = build(config_class, given)
    # A killed run's configuration was checked when it started; since then defaults may have changed.
    if not getattr(config, "resume", False):
        # A flag in a section changes what a file says of it, and may leave some of that without a role.
        changed = {path.rpartition(".")[0] for path in flags} - {""}
        asked = {path: one for path, one in given.items() if path in flags or path.rpartition(".")[0] not in changed}
        _refuse_unused(config, asked, (build(config_class, defaults), build(config_class, {})))
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


def find_file(name: str, field: str = "config") -> Path:
    """Return a configuration file: as it is named, or else the one that ships by that name (``configs/...``).

    Args:
        name: as it was given.
        field: that it was given as, for messages.

    Raises:
        ConfigError: if there is none.
    """
    file = Path(name).expanduser()
    shipped = ROOT / file
    # As the documentation writes it, from whatever folder the command runs in.
    if not file.exists() and file.parts[:1] == ("configs",) and shipped.is_file():
        return shipped
    if not file.is_file():
        kind = "a folder" if file.is_dir() else "no file of text" if file.exists() else "not there"
        raise ConfigError(f"{field} is {shorten(name)!r}, which is {kind}: {_meant(file) or 'give a YAML file'}")
    return file


def _meant(file: Path) -> str:
    """Say which file was probably meant, if one beside it, or of those that ship, has a name like it."""
    folders = [file.parent, *([ROOT / file.parent] if file.parts[:1] == ("configs",) else [])]
    names = [found.name for folder in folders for found in folder.glob("*.yaml")]
    close = nearest(file.name, names)
    return f"did you mean {file.with_name(close)}?" if close else ""


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
    gather(config_class, root, "", str(file), by_default, found)
    optional = [f"{name}." for name, kind in sections_of(config_class).items() if without_null(kind)[1]]
    required = {path for path in flags_of(config_class) if not path.startswith(tuple(optional))}
    if required <= found.keys():
        # Written by a run: it says everything, and so of nothing that it is to play a role.
        return {path: replace(one, by_default=True) for path, one in found.items()}
    return found


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
        # What is not given of a section is as its default has it, which need not be as its class does.
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
    """Name a field by its dotted name, and the file and line that its value comes from; shorten long values."""
    # Paths stay whole.
    message = re.sub(r"'([^']{240,})'", lambda value: repr(shorten(value[1])), message)
    # Checks begin their sentence with the field's name.
    match = re.match(r"[\w.]+", message)
    if match is None or f"{prefix}{match[0]}" not in {**flags_of(config_class, prefix), **sections_of(config_class)}:
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
