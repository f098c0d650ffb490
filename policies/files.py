"""Files that strangers made: read within bounds, and checked field by field before anything believes them.

Every function here raises ValueError with one sentence that says what is wrong; its caller adds which file it was.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Mapping
from dataclasses import MISSING, fields
from functools import cache
from pathlib import Path
from typing import Annotated, Any, NoReturn, TypeVar, get_origin, get_type_hints

import torch
import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, create_model
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from envs.characters import half_character

T = TypeVar("T")

MAX_SETTINGS = 2**20
"""Bytes of a file of settings; ours have some thousand."""

MAX_DEPTH, MAX_ENTRIES, MAX_BITS = 32, 100_000, 1000
"""Of settings: levels of nesting, entries with every alias of a YAML written out, bits of a whole number."""

MAX_SIZE = 2**20
"""Of a width, length or number in a network's configuration."""

MAX_NUMBER = 1e30
"""Of any other number there, whatever its sign: float32 ends at 3e38."""

FLOATS: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
}
"""Dtypes that weights are read from, by their names in a safetensors header."""

Header = Mapping[str, tuple[str, tuple[int, ...]]]
"""Each tensor's dtype, as safetensors names it, and shape."""


class Checked(BaseModel):
    """A base for what a file must hold: no number for a text nor a text for a number, and nothing that isn't finite."""

    model_config = ConfigDict(strict=True, allow_inf_nan=False)


def read_text(file: Path, limit: int = MAX_SETTINGS) -> str:
    """Read a text of at most so many bytes.

    Raises:
        ValueError: if it is larger or not UTF-8.
    """
    if file.exists() and not file.is_file():
        raise ValueError("it is no file")  # a pipe, which would be waited for
    with file.open("rb") as stream:
        # One byte more than allowed tells that there are more, without taking memory for them.
        data = stream.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is larger than {limit} bytes, the most that is read")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        raise ValueError(f"it is no text in UTF-8: byte {error.start} is {data[error.start]:#04x}") from None


def read_json(file: Path, limit: int = MAX_SETTINGS) -> Any:
    """Read JSON without NaN and infinities, which its standard doesn't know.

    Raises:
        ValueError: if it is too large or nested too deeply, or no such JSON.
    """
    try:
        return json.loads(read_text(file, limit), parse_constant=_refuse_constant, object_pairs_hook=_refuse_doubles)
    except json.JSONDecodeError as error:
        raise ValueError(f"it is no JSON: {error}") from None
    except RecursionError:
        raise ValueError("it is nested too deeply") from None


def _refuse_doubles(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        name = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"it holds {show(name)} twice")
    return found


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"it holds {name}: every number in it must be finite")


def read_settings(file: Path) -> dict[str, Any]:
    """Read names and values from JSON or, by the file's suffix, YAML.

    Raises:
        ValueError: if it holds something else, or more than settings need (`MAX_SETTINGS`, `MAX_DEPTH`).
    """
    if file.suffix == ".json":
        found = read_json(file)
    else:
        try:
            found = yaml.safe_load(read_text(file))
        except yaml.YAMLError as error:
            raise ValueError(f"it is no YAML: {one_line(error)}") from None
        except RecursionError:
            raise ValueError("it is no YAML that can be read: it is nested too deeply") from None
    if not isinstance(found, dict):
        raise ValueError(f"it holds a {type(found).__name__}, {show(found)}, where names and values should be")
    _check_extent(found)
    return found


def _check_extent(found: Any) -> None:
    """Refuse what grows without end as YAML's aliases are followed, or has no place in settings."""
    # A list of what waits, not a recursion: its depth is the stranger's choice.
    waiting, entries = [(found, 0)], 0
    while waiting:
        value, depth = waiting.pop()
        entries += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"it is nested more than {MAX_DEPTH} levels deep")
        if entries > MAX_ENTRIES:
            raise ValueError(f"it has more than {MAX_ENTRIES} entries")
        if isinstance(value, int) and value.bit_length() > MAX_BITS:
            raise ValueError(f"it holds a whole number of {value.bit_length()} bits: {MAX_BITS} are the most")
        if isinstance(value, dict):
            odd = [key for key in value if not isinstance(key, str)]
            if odd:
                raise ValueError(f"it has a field {show(odd[0])}: a field's name must be a text")
            waiting += [(key, depth + 1) for key in value]
            waiting += [(inner, depth + 1) for inner in value.values()]
        elif isinstance(value, list | tuple | set):
            waiting += [(inner, depth + 1) for inner in value]
        elif isinstance(value, str):
            check_characters("it", value)


def check_characters(name: str, text: str) -> None:
    """Refuse a text with half a character, which no tokenizer takes and no file in UTF-8 can hold.

    Args:
        name: what it is called, for the message.
        text: any.

    Raises:
        ValueError: if there is one.
    """
    if half_character(text):
        raise ValueError(f"{name} holds {show(text)}, which is no text: half a character of UTF-16")


def one_line(text: object) -> str:
    """Return a text, such as what an error says, as one line of bounded length."""
    return " ".join(str(text).split())[:300]


def show(value: object) -> str:
    """Write a value for a message, cut short where it is long."""
    text = reprlib.repr(value) if isinstance(value, dict | list | tuple) else repr(value)
    return text if len(text) <= 80 else f"{text[:60]}…{text[-10:]}"


def check(kind: Any, data: Any, place: str = "") -> Any:
    """Return data as a type that pydantic can check; `Checked` models and lists of them.

    Args:
        kind: the type.
        data: as JSON or YAML gave it.
        place: of the data in its file, such as "calibration", for the message.

    Raises:
        ValueError: naming the first field that is wrong, its value, and what is allowed.
    """
    try:
        return TypeAdapter(kind).validate_python(data)
    except ValidationError as error:
        raise ValueError(_sentence(error, place)) from None


def _sentence(error: ValidationError, place: str) -> str:
    first = error.errors(include_url=False)[0]
    # A stranger's name for a field may hold the end of a line, or a terminal's commands.
    path = [place] * bool(place) + [text if (text := str(part)).isprintable() else repr(text) for part in first["loc"]]
    if first["type"] == "missing":
        return f"{'.'.join(path[:-1]) or 'it'} has no {path[-1]!r}"
    name = ".".join(path) or "it"
    if len(name) > 120:
        name = f"{name[:100]}…"
    if first["type"] == "extra_forbidden":
        return f"{name!r} is no field that is known"
    if first["type"] == "value_error":  # a check of ours
        return f"{name}: {first['ctx']['error']}"
    # pydantic speaks of Python's classes too, which no file holds.
    allowed = re.sub(r" or instance of \w+", "", first["msg"]).replace("Input should be", "it must be", 1)
    allowed = re.sub(r"\d{20,}", lambda digits: f"{float(digits[0]):g}", allowed)  # 1e+30, not its thirty zeros
    return f"{name} is {show(first['input'])}: {allowed[:1].lower()}{allowed[1:]}"


def parse(cls: type[T], data: Any, place: str = "") -> T:
    """Make a dataclass of a mapping: every field of its type, none unknown, numbers within `MAX_SIZE` and `MAX_NUMBER`.

    Bounds that a field's annotation holds are kept; the class's own checks run too.

    Raises:
        ValueError: as `check`, or as the class raises.
    """
    kind: Any = cls  # mypy takes no type variable for hashable
    found = check(_schema(kind), data, place)
    try:
        return cls(**{name: getattr(found, name) for name in type(found).model_fields})
    except ValueError as error:
        raise ValueError(f"{place}: {error}" if place else str(error)) from None


@cache
def _schema(cls: Any) -> type[BaseModel]:
    hints, schema = get_type_hints(cls, include_extras=True), {}
    for field in fields(cls):
        hint = hints[field.name]
        if hint is int:
            hint = Annotated[int, Field(le=MAX_SIZE)]
        elif hint is float:
            hint = Annotated[float, Field(ge=-MAX_NUMBER, le=MAX_NUMBER)]
        elif get_origin(hint) is tuple:
            hint = Annotated[hint, Field(strict=False)]  # files hold lists
        schema[field.name] = (hint, ... if field.default is MISSING else field.default)
    settings = ConfigDict(strict=True, allow_inf_nan=False, extra="forbid")
    made: type[BaseModel] = create_model(cls.__name__, __config__=settings, **schema)  # type: ignore[call-overload]
    return made


# Weights.


def write_together(folder: Path, contents: Mapping[str, bytes]) -> None:
    """Write files that belong together: on a full disk the old ones stay, and nothing is left of the new ones.

    Args:
        folder: theirs; it is made.
        contents: by their names. Weights as `safetensors.torch.save` gives them: what safetensors writes itself, only
            its owner may read, and of a full disk it says something else than that it is full.

    Raises:
        OSError: if they can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    partial = {name: folder / f"{name}.tmp" for name in contents}
    try:
        for name, file in partial.items():
            # What a killed process left, or a stranger's link to a file that is not to be written.
            file.unlink(missing_ok=True)
            file.write_bytes(contents[name])
        for name, file in partial.items():
            os.replace(file, folder / name)
    except BaseException:
        for file in partial.values():
            file.unlink(missing_ok=True)
        raise


def read_header(file: Path) -> Header:
    """Read the names, dtypes and shapes of a safetensors file, and none of its tensors.

    Raises:
        ValueError: if it is damaged.
    """
    try:
        with safe_open(file, "pt") as tensors:
            parts = {name: tensors.get_slice(name) for name in tensors.keys()}  # noqa: SIM118 (it is no mapping)
            return {name: (str(part.get_dtype()), tuple(part.get_shape())) for name, part in parts.items()}
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise ValueError(f"it is no whole safetensors file: {one_line(error)}") from None


def plain_weights(network: nn.Module) -> dict[str, Tensor]:
    """Return a network's weights as safetensors takes them: on the CPU, each in one piece.

    Raises:
        ValueError: if one of them is not finite.
    """
    weights = {name: tensor.cpu().contiguous() for name, tensor in network.state_dict().items()}
    check_finite(weights)
    return weights


def check_header(header: Header, network: nn.Module) -> None:
    """Refuse tensors that are not those of a network, by a header alone; the network can be on the meta device.

    Raises:
        ValueError: naming the first tensor that is missing, unknown, or of another shape or no float.
    """
    expected = network.state_dict()
    for name, values in expected.items():
        if name not in header:
            raise ValueError(f"it has no tensor {name}, which its configuration needs")
        kind, shape = header[name]
        if kind not in FLOATS:
            raise ValueError(f"{name} is of dtype {kind}: it must be one of {', '.join(FLOATS)}")
        if shape != tuple(values.shape):
            raise ValueError(f"{name} has shape {shape}: by its configuration it must be {tuple(values.shape)}")
    unknown = next((name for name in header if name not in expected), None)
    if unknown is not None:
        raise ValueError(f"it has a tensor {show(unknown)}, which its configuration does not know")


def check_finite(weights: Mapping[str, Tensor]) -> None:
    """Refuse weights that are no numbers.

    Raises:
        ValueError: naming the first tensor that holds NaN or infinite values.
    """
    for name, values in weights.items():
        if not bool(torch.isfinite(values).all()):
            raise ValueError(f"{name} holds NaN or infinite values: the training that made it has diverged")
