"""Sections, fields and items of a configuration as YAML nodes that know where they were written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from train.command.config_values import (
    ConfigError,
    Given,
    compose,
    field_kinds,
    item_kind,
    nearest_field,
    section_of,
    shorten,
    show,
    without_null,
    word_node,
)

NOTHING = yaml.MappingNode("tag:yaml.org,2002:map", [])
"""``{}``: an optional section that is wanted as it is."""


def gather(
    config_class: Any, node: yaml.MappingNode, prefix: str, what: str, by_default: bool, found: dict[str, Given]
) -> None:
    """Add what a mapping says to what is found, by the fields' dotted names."""
    kinds = field_kinds(config_class)
    seen = set()
    for key, value in node.value:
        # What was made here, not read, has no line.
        where = f"{what}, line {key.start_mark.line + 1}: " if key.start_mark is not None else f"{what}: "
        name = key.value if isinstance(key, yaml.ScalarNode) else show(key)
        if name in seen:
            raise ConfigError(f"{where}{prefix}{shorten(name)} is given twice: give it once")
        seen.add(name)
        if name in getattr(config_class, "ELSEWHERE", {}):
            raise ConfigError(f"{where}{name} is a section of {config_class.ELSEWHERE[name]}: run that with it instead")
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
        gather(section, node, f"{path}.", what, by_default, found)
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


def sections_of(config_class: Any, prefix: str = "") -> dict[str, Any]:
    """Return the dotted names of a configuration's sections, with their types."""
    found: dict[str, Any] = {}
    for name, kind in field_kinds(config_class).items():
        section = section_of(kind)
        if section is not None:
            found |= {f"{prefix}{name}": kind, **sections_of(section, f"{prefix}{name}.")}
    return found


def gather_section(kind: Any, value: str, path: str, found: dict[str, Given]) -> None:
    """Read ``--dit '{hidden_size: 32}'``, ``--dit null`` or, for a section with a short form, ``--model tiny``."""
    short = getattr(section_of(kind), "SHORT", None)
    if short is not None and not value.startswith("{"):
        found[f"{path}.{short}"] = Given(word_node(flags_of(section_of(kind))[short], value, f"--{path}"))
        return
    node = compose(value, f"--{path}")
    if node is not None:
        _gather_field(kind, node, path, (f"--{path}", "", False), found)


def add_item(found: dict[str, Given], path: str, kind: Any, word: str, is_flagged: bool = True) -> None:
    """Add an item to a list of the command line; a list in brackets replaces what stands before it.

    Args:
        found: what the command line gives so far.
        path: of the list.
        kind: its type.
        word: as it was typed.
        is_flagged: whether it follows a flag. A word that stands for itself is an item whatever it looks like.
    """
    if is_flagged and (word.startswith("[") or (word == "null" and without_null(kind)[1])):
        node = compose(word, f"--{path}")
        assert node is not None
        found[path] = Given(node)
        return
    item = item_kind(kind)
    before = found[path].node.value if path in found and isinstance(found[path].node, yaml.SequenceNode) else []
    found[path] = Given(yaml.SequenceNode("tag:yaml.org,2002:seq", [*before, word_node(item, word, f"--{path}")]))


def override(given: Mapping[str, Given], more: Mapping[str, Given]) -> dict[str, Given]:
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
