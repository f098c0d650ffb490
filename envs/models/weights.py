"""A checkpoint's tensors, read from its files one at a time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor


def weight_files(folder: Path) -> list[Path]:
    """List the files that hold a checkpoint's tensors: one, or the shards of an index.

    Raises:
        ValueError: if there are none, or a shard is missing.
    """
    for stem in ("model.safetensors", "pytorch_model.bin"):
        index = folder / f"{stem}.index.json"
        if (folder / stem).is_file():
            return [folder / stem]
        if index.is_file():
            shards = [folder / name for name in sorted(set(json.loads(index.read_text())["weight_map"].values()))]
            missing = [shard.name for shard in shards if not shard.is_file()]
            if missing:
                raise ValueError(f"{folder} lacks {missing[0]}, which {index.name} names")
            return shards
    raise ValueError(f"{folder} holds no model.safetensors")


def read_tensors(folder: Path, device: str | torch.device = "cpu") -> Iterator[tuple[str, Tensor]]:
    """Yield a checkpoint's tensors by name, no more than one file's in memory at a time.

    Raises:
        ValueError: if the folder holds no whole weights.
    """
    for file in weight_files(folder):
        if file.suffix == ".bin":
            yield from torch.load(file, map_location="cpu", weights_only=True, mmap=True).items()
            continue
        with safe_open(file, framework="pt", device=str(device)) as tensors:
            for name in tensors.keys():  # noqa: SIM118 (it is no mapping)
                yield name, tensors.get_tensor(name)
