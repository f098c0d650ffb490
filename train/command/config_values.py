"""From YAML to the value of a configuration's field, as its type says.

YAML's own guesses are left aside: whether ``1e5`` is a number or a name is for the field to say. So nodes are read, not
values; they also know the line that they stand on.
"""

from __future__ import annotations

import itertools
import math
import re
import types
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints

import yaml

from envs.characters import half_character
from envs.names import nearest
from policies.files import one_line

PathText = Annotated[str, "path"]
"""A text that can begin with a path; ~ is the home folder there."""


@dataclass(frozen=True)
class NamedIn:
    """The annotation of a text that is a name of some table, perhaps with options; ``--help`` lists the names.

    Attributes:
        names: of the table; whether a text is one of them is for the configuration to check.
    """

    names: tuple[str, ...]


STANDARD = "tag:yaml.org,2002:"
"""What the names of YAML's own types begin with."""

SAFE_TAGS = frozenset(
    STANDARD + name for name in ("str", "int", "float", "bool", "null", "timestamp", "value", "merge", "seq", "map")
)

TRUE, FALSE = frozenset({"true", "yes", "on"}), frozenset({"false", "no", "off"})

LONGEST = 60
"""Characters of a value that a message shows."""


class ConfigError(ValueError):
    """What is wrong with a configuration, in one sentence that names the place and the field."""


@dataclass(frozen=True)
class Given:
    """What a user wrote for one field.

    Attributes:
        node: as YAML.
        where: file and line, to begin a message with; empty for the command line.
        by_default: whether it is the command's own file that says so, not the user.
    """

    node: yaml.Node
    where: str = ""
    by_default: bool = False


@cache
def field_kinds(config_class: Any) -> Mapping[str, Any]:
    """Return a dataclass's fields with their types."""
    # Annotations are texts, and Python compiles each one anew whenever it is asked: a command line asks thousands.
    hints = get_type_hints(config_class, include_extras=True)
    return MappingProxyType({field.name: hints[field.name] for field in fields(config_class)})


def section_of(kind: Any) -> Any:
    """Return the dataclass of a field that is a section, optional or not; None for any other field."""
    kind, _ = without_null(kind)
    return kind if is_dataclass(kind) else None


def without_null(kind: Any) -> tuple[Any, bool]:
    """Return a type without ``| None``, and whether it had it."""
    if get_origin(kind) not in (Union, types.UnionType):
        return kind, False
    members = [member for member in get_args(kind) if member is not type(None)]
    assert len(members) == 1, f"{kind} has more than one type"
    return members[0], True


def bare(kind: Any) -> Any:
    """Return a type without ``| None`` and annotation."""
    kind, _ = without_null(kind)
    return get_args(kind)[0] if get_origin(kind) is Annotated else kind


def names_of(kind: Any) -> tuple[str, ...]:
    """Return the names that a type's annotation lists; empty for any other type.

    >>> names_of(Annotated[str, NamedIn(("none", "dual"))] | None), names_of(str)
    (('none', 'dual'), ())
    """
    kind, _ = without_null(kind)
    marks = get_args(kind)[1:] if get_origin(kind) is Annotated else ()
    return next((mark.names for mark in marks if isinstance(mark, NamedIn)), ())


def is_text(kind: Any) -> bool:
    """Tell whether a field takes a word as it stands."""
    return bare(kind) in (str, Path) or get_origin(bare(kind)) is Literal


def item_kind(kind: Any) -> Any:
    """Return the type of a list field's items; None if the field is no list."""
    origin, arguments = get_origin(bare(kind)), get_args(bare(kind))
    if origin is list or (origin is tuple and arguments[-1] is Ellipsis):
        return arguments[0]
    return None


def compose(text: str | bytes, what: str) -> yaml.Node | None:
    """Parse YAML into nodes.

    Args:
        text: one document.
        what: file or flag that it comes from, for messages.

    Returns:
        Its root; None for an empty document.

    Raises:
        ConfigError: if it is no YAML.
    """
    try:
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f", line {mark.line + 1}, column {mark.column + 1}" if mark is not None else ""
        # Some scanner errors carry their text in the context only.
        raise ConfigError(f"{what}{place}: this is no YAML: {one_line(error.problem or error.context)}") from None
    except yaml.YAMLError as error:
        reason = f"{error.reason} at position {error.position}" if isinstance(error, yaml.reader.ReaderError) else error
        raise ConfigError(f"{what}: this is no YAML: {one_line(reason)}") from None
    except (RecursionError, ValueError, OverflowError) as error:
        # Deep nesting, and escapes such as "\UFFFFFFFF" that are no character.
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else one_line(error)
        raise ConfigError(f"{what}: this is no YAML: {reason}") from None
    for node in _scalars(root):
        # An escape can name one, and a run's records can't hold it.
        if half_character(node.value):
            mark = node.start_mark
            place = f"{what}, line {mark.line + 1}, column {mark.column + 1}"
            raise ConfigError(f"{place}: it holds {shorten(node.value)!r}, which is half a character of UTF-16")
    return root


def _scalars(root: yaml.Node | None) -> Iterator[yaml.ScalarNode]:
    """Yield every scalar of a document once, however often aliases name it."""
    waiting, seen = [] if root is None else [root], set[int]()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.ScalarNode):
            yield node
        elif isinstance(node, yaml.MappingNode):
            waiting += itertools.chain.from_iterable(node.value)
        else:
            waiting += node.value


def word_node(kind: Any, word: str, flag: str) -> yaml.Node:
    """Return a word of the command line as the node that a file would have for it.

    Text is taken as it stands; only ``null`` for what may be null means null, as in a file.

    Raises:
        ConfigError: if it should be YAML and isn't.
    """
    if is_text(kind):
        is_null = without_null(kind)[1] and word == "null"
        return yaml.ScalarNode(STANDARD + ("null" if is_null else "str"), word)
    node = compose(word, flag)
    return yaml.ScalarNode(STANDARD + "null", "") if node is None else node


def read(kind: Any, node: yaml.Node, path: str) -> Any:
    """Turn a node into the value of a field.

    Args:
        kind: the field's type: bool, int, float, str, `Path`, a Literal, any of these or null, a list or tuple of them.
        node: what was written.
        path: the field's name, for messages.

    Raises:
        ConfigError: if it is no such value.
    """
    if node.tag not in SAFE_TAGS:
        raise ConfigError(f"{path} has the tag {one_line(shorten(node.tag))}: leave it out")
    kind, may_be_null = without_null(kind)
    is_null = isinstance(node, yaml.ScalarNode) and node.tag == STANDARD + "null"
    if may_be_null and is_null:
        return None
    if get_origin(kind) is Annotated:
        text = str(_read_scalar(str, node, path, may_be_null))
        return _expand(text) if kind == PathText else text
    if get_origin(kind) in (list, tuple):
        return _read_items(kind, node, path, may_be_null)
    return _read_scalar(kind, node, path, may_be_null)


def _expand(text: str) -> str:
    # Only what a shell would take for the home folder: "~", "~/x", "~name/x" of an existing user.
    return str(Path(text).expanduser()) if re.match(r"~[/\\]|~$", text) else text


def _read_items(kind: Any, node: yaml.Node, path: str, may_be_null: bool) -> Any:
    arguments = get_args(kind)
    item = item_kind(kind)
    if not isinstance(node, yaml.SequenceNode) or (item is None and len(node.value) != len(arguments)):
        raise _wrong(kind, node, path, may_be_null)
    kinds = [item] * len(node.value) if item is not None else arguments
    values = [read(one, part, f"{path}[{i}]") for i, (one, part) in enumerate(zip(kinds, node.value, strict=True))]
    return values if get_origin(kind) is list else tuple(values)


def _read_scalar(kind: Any, node: yaml.Node, path: str, may_be_null: bool) -> Any:
    if not isinstance(node, yaml.ScalarNode):
        raise _wrong(kind, node, path, may_be_null)
    text: str = node.value
    try:
        if kind is str:
            return text
        if kind is Path:
            return _read_path(text)
        if kind is bool:
            return _read_bool(text)
        if kind is int:
            return _read_int(text)
        if kind is float:
            return _read_float(text)
    except OverflowError:
        raise ConfigError(f"{path} is {show(node)}: it must be between -2^63 and 2^63") from None
    except (ValueError, RuntimeError):
        raise _wrong(kind, node, path, may_be_null) from None
    if text not in get_args(kind):
        raise _wrong(kind, node, path, may_be_null, nearest(text, get_args(kind)))
    return text


def _read_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError(text)
    return Path(text).expanduser()


def _read_bool(text: str) -> bool:
    if text.lower() not in TRUE | FALSE:
        raise ValueError(text)
    return text.lower() in TRUE


def _read_int(text: str) -> int:
    # Of ASCII, though Python would take the digits of any script.
    if re.fullmatch(r"[-+]?\d+(_\d+)*", text, re.ASCII):
        value = int(text)
    else:
        # 1e5 is how many people write 100000.
        number = _read_float(text)
        if not number.is_integer():
            raise ValueError(text)
        value = int(number)
    # Tensors and arrays hold 64 bits.
    if abs(value) >= 2**63:
        raise OverflowError(text)
    return value


def _read_float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(text)
    return value


def _wrong(kind: Any, node: yaml.Node, path: str, may_be_null: bool, close: str = "") -> ConfigError:
    hint = f" (did you mean {close}?)" if close else ""
    return ConfigError(f"{path} is {show(node)}: it must be {describe(kind)}{' or null' if may_be_null else ''}{hint}")


def show(node: yaml.Node) -> str:
    """Say what a node is, for a message."""
    if isinstance(node, yaml.ScalarNode):
        return "empty" if not node.value else repr(shorten(node.value))
    return "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"


def shorten(text: str) -> str:
    """Make a text fit a message: one line, not too long."""
    text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[: LONGEST + 1])
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."


def describe(kind: Any) -> str:
    """Say what a type allows, for a message.

    >>> describe(list[float]), describe(tuple[int, float] | None)
    ('a list, each item a number', 'a list of 2: a whole number, a number or null')
    """
    kind, may_be_null = without_null(kind)
    if may_be_null:
        return f"{describe(kind)} or null"
    if get_origin(kind) is Annotated:
        return "text"
    if get_origin(kind) is Literal:
        return f"one of {', '.join(get_args(kind))}"
    item = item_kind(kind)
    if item is not None:
        return f"a list, each item {describe(item)}"
    if get_origin(kind) is tuple:
        parts = get_args(kind)
        return f"a list of {len(parts)}: {', '.join(describe(part) for part in parts)}"
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "text", Path: "a path"}
    return names[kind]


def nearest_field(name: str, known: Mapping[str, Any]) -> str:
    """Return the dotted name of the field that was meant, by its whole name or by its last word; empty if none is.

    >>> nearest_field("alpha", {"env.alpha": float, "seed": int}), nearest_field("sede", {"seed": int})
    ('env.alpha', 'seed')
    """
    last: dict[str, str] = {}
    for path in known:
        last.setdefault(path.rpartition(".")[2], path)
    end = name.rpartition(".")[2]
    if name not in known and end in last:
        return last[end]
    return nearest(name, known) or last.get(nearest(end, last), "")
