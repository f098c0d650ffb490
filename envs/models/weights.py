"""A checkpoint's tensors, read from its files one at a time."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator, Mapping
from itertools import chain
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

PLAIN_DTYPES = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool)
"""What an unquantised checkpoint holds: weights as floats, position numbers and masks as the last two."""


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold a checkpoint's tensors: one, or the shards of an index.

    Raises:
        ValueError: if there are none, an index is damaged, or a shard is missing.
    """
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{stem}.index.json"
        # One whole file wins over an index, as in transformers.
        if (folder / stem).is_file():
            return [folder / stem]
        if index.is_file():
            try:
                shards = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
                # Not its repr, which for bytes that are no text is the whole file.
                said = f"{type(error).__name__}: {error}"
                raise ValueError(f"{index} is damaged ({said[:200]}): download it again") from error
            missing = [shard.name for shard in shards if not shard.is_file()]
            if missing:
                raise ValueError(f"{folder} lacks {missing[0]}, which {index.name} names")
            return shards
    raise ValueError(f"{folder} holds no model.safetensors")


def read_tensors(folder: Path, device: str | torch.device = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Yield a checkpoint's tensors by name, no more than one file's in memory at a time.

    Raises:
        ValueError: if the folder holds no whole weights, or none that can be read without running code.
    """
    for file in weight_files(folder):
        if file.suffix == ".bin":
            yield from _read_pickle(file).items()
            continue
        with _open(file, device) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                yield name, tensors.get_tensor(name)


def check_dtypes(folder: Path) -> None:
    """Refuse quantised weights, whose scales no loader here would apply.

    Raises:
        ValueError: naming the first tensor of such a dtype, or as `read_tensors` does.
    """
    for file in weight_files(folder):
        if file.suffix == ".bin":
            for name, tensor in _read_pickle(file).items():
                _check_dtype(name, str(tensor.dtype).removeprefix("torch."), tensor.dtype in PLAIN_DTYPES)
            continue
        with _open(file, "cpu") as tensors:
            for name in tensors.keys():  # noqa: SIM118
                kind = tensors.get_slice(name).get_dtype()
                _check_dtype(name, kind, kind in ("F64", "F32", "F16", "BF16", "I64", "BOOL"))


LAYERS = ("n_layers", "num_hidden_layers", "num_layers")
"""What configurations call the number of layers, each of which has tensors of its own."""

SIZES = (
    *("d_model", "hidden_size", "intermediate_size", "mlp_hidden_size"),
    *("vocab_size", "embedding_size", "type_vocab_size"),
)
"""What they call sizes that a tensor must have."""


def check_sizes(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse a configuration of a model far beyond its weights, before anything is built of it.

    A network of any number of layers can be described in a line, and describing it to torch takes memory without end.

    Args:
        folder: the checkpoint's.
        config: its config.json.

    Raises:
        ValueError: naming the setting, or as `read_tensors` does.
    """
    shapes = _shapes(folder)
    largest = max(chain.from_iterable(shapes.values()), default=0)
    has_positions = any("position_embeddings" in name for name in shapes)
    limits = {**dict.fromkeys(LAYERS, len(shapes)), **dict.fromkeys(SIZES, largest)}
    # Rotary positions need no table: how many there may be is up to the model.
    limits |= {"max_position_embeddings": largest} if has_positions else {}
    for name, limit in limits.items():
        value = config.get(name)
        if isinstance(value, int | float) and value > limit:
            raise ValueError(
                f"config.json says {name} {str(value)[:20]}, but its weights are {len(shapes)} tensors with no side "
                f"above {largest}: the two are not of one model"
            )


def _shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for file in weight_files(folder):
        if file.suffix == ".bin":
            found |= {name: tuple(tensor.shape) for name, tensor in _read_pickle(file).items()}
            continue
        with _open(file, "cpu") as tensors:
            found |= {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
    return found


def _check_dtype(name: str, kind: str, is_plain: bool) -> None:
    if not is_plain:
        raise ValueError(
            f"its weights hold {name} as {kind}: quantised weights are not supported; give a checkpoint in bfloat16, "
            "float16 or float32"
        )


def _open(file: Path, device: str | torch.device) -> safe_open:
    try:
        return safe_open(file, framework="pt", device=str(device))
    except SafetensorError as error:
        raise ValueError(f"{file} is damaged ({error}): download it again") from error


def _read_pickle(file: Path) -> dict[str, Tensor]:
    """Read a .bin file's tensors; nothing in it is run."""
    # Only the zip format can be mapped into memory; files of before torch 1.6 are read whole.
    try:
        held = torch.load(file, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(file))
    except UnpicklingError as error:
        # torch's own message advises to let the file run its code.
        raise ValueError(
            f"{file} is damaged or holds more than tensors, which could run code: it was not loaded; give a "
            "model.safetensors"
        ) from error
    except (RuntimeError, EOFError, KeyError, OSError, AttributeError, TypeError) as error:
        raise ValueError(f"{file} is damaged ({type(error).__name__}): download it again") from error
    if not isinstance(held, dict) or not all(isinstance(tensor, Tensor) for tensor in held.values()):
        raise ValueError(f"{file} is no table of tensors by name: give a model.safetensors")
    return held


def from_pretrained(auto_class: Any, folder: Path, device: str, dtype: torch.dtype) -> Any:
    """Load a model by one of transformers' auto classes, never by the folder's own code.

    Args:
        auto_class: such as ``AutoModelForMaskedLM``.
        folder: the checkpoint's.
        device: a torch device.
        dtype: of the weights.

    Raises:
        ValueError: if weights are missing.
    """
    from transformers.utils import logging

    logging.disable_progress_bar()
    # Left out, trust_remote_code would mean to ask at the terminal whether to run the folder's own code.
    model, report = auto_class.from_pretrained(
        folder, dtype=dtype, local_files_only=True, output_loading_info=True, trust_remote_code=False
    )
    missing = sorted(report["missing_keys"])
    if missing:
        # They would be random numbers.
        raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
    return model.to(device).eval().requires_grad_(False)
