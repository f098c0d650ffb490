"""Random numbers by counter: the same sequence draws the same numbers alone or in any batch.

A generator shared by a batch makes each row's draws depend on the other rows. Here a draw is a hash of (the
sequence's key, the step, the position), so nothing but the sequence itself decides it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix 64 bits (the finaliser of splitmix64; Steele et al. 2014, "Fast splittable PRNGs")."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sequence_key(prompt_ids: Sequence[int], seed: int) -> int:
    """Return the key of a sequence: it depends on its prompt and the seed, not on its place in a batch."""
    data = np.asarray([seed, *prompt_ids], dtype=np.int64).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def uniform(keys: Tensor, steps: Tensor, shape: tuple[int, ...], stream: int = 0, skip: int = 0) -> Tensor:
    """Draw uniform numbers for each sequence.

    Args:
        keys: (B,) int64 from `sequence_key`.
        steps: (B,) int64, number of the decoding step.
        shape: shape of one sequence's draw.
        stream: draws of different streams are independent.
        skip: numbers of a larger draw that come before these.

    Returns:
        (B, *shape) float32 in (0, 1).
    """
    counters = np.arange(1 + skip, 1 + skip + int(np.prod(shape)), dtype=np.uint64) * _GOLDEN
    with np.errstate(over="ignore"):
        rows = _mix(keys.cpu().numpy().astype(np.uint64) + np.uint64(stream + 1) * _GOLDEN)
        rows = _mix(rows + steps.cpu().numpy().astype(np.uint64) * _GOLDEN)
        bits = _mix(rows[:, None] + counters)
    values = ((bits >> np.uint64(41)).astype(np.float32) + np.float32(0.5)) * np.float32(2.0**-23)
    return torch.from_numpy(values.reshape(len(values), *shape)).to(keys.device)


def gumbel(keys: Tensor, steps: Tensor, shape: tuple[int, ...], stream: int = 1, skip: int = 0) -> Tensor:
    """Draw standard Gumbel noise for each sequence: (B, *shape) float32; arguments as of `uniform`."""
    return -torch.log(-torch.log(uniform(keys, steps, shape, stream, skip)))
