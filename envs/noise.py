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

# 2**64 over the golden ratio, the step of splitmix64's counter.
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)

_BELOW_ONE = 1.0 - 2.0**-53
"""The largest float64 below 1."""


def _mix(x: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Mix 64 bits (the finaliser of splitmix64; Steele et al. 2014, "Fast splittable PRNGs")."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def sequence_key(prompt_ids: Sequence[int], seed: int) -> int:
    """Return the key of a sequence: it depends on its prompt and the seed, not on its place in a batch.

    Several samples of one prompt need a seed each; see `sample_seed`.
    """
    # Shifted by one bit: torch's integers are signed, and keys are kept as tensors.
    data = np.asarray([seed, *prompt_ids], dtype=np.int64).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") >> 1


def sample_seed(seed: int, sample: int) -> int:
    """Return the seed of one of several samples of a prompt; the first sample's is `seed` itself.

    A hash, so that the samples of neighbouring seeds have nothing in common.
    """
    if sample == 0:
        return seed
    data = np.asarray([seed, sample], dtype=np.int64).tobytes()
    return int.from_bytes(hashlib.blake2b(data, digest_size=8, person=b"sample").digest(), "big") >> 1


def uniform(keys: Tensor, steps: Tensor, shape: tuple[int, ...], stream: int = 0, skip: int | Tensor = 0) -> Tensor:
    """Draw uniform numbers for each sequence.

    Args:
        keys: (B,) int64 from `sequence_key`.
        steps: (B,) int64, number of the decoding step.
        shape: shape of one sequence's draw.
        stream: draws of different streams are independent.
        skip: numbers of a larger draw that come before these; or (B, *shape[:-1]) int64, those that come before each
            of the last dimension's.

    Returns:
        (B, *shape) float64 in (0, 1), of 53 random bits: with the 24 of a float32, rare events of a large vocabulary
        would hardly ever come about (arXiv 2409.02908).
    """
    if isinstance(skip, Tensor):
        each = skip.cpu().numpy().astype(np.uint64)[..., None] + np.arange(1, 1 + shape[-1], dtype=np.uint64)
        places = np.asarray(each.reshape(len(keys), -1), dtype=np.uint64)
    else:
        places = np.arange(1 + skip, 1 + skip + int(np.prod(shape)), dtype=np.uint64)
    counters = places * _GOLDEN
    # In numpy and on the CPU: torch can't shift 64 unsigned bits, and every device is to draw the same numbers.
    # They wrap by intent, of which numpy warns where both factors are scalars.
    with np.errstate(over="ignore"):
        rows = _mix(keys.cpu().numpy().astype(np.uint64) + np.uint64(stream + 1) * _GOLDEN)
        rows = _mix(rows + steps.cpu().numpy().astype(np.uint64) * _GOLDEN)
        bits = _mix(rows[:, None] + counters)
    # In the upper half the sum is rounded to a whole number, which must not become 1.
    values = np.minimum(((bits >> np.uint64(11)).astype(np.float64) + 0.5) * 2.0**-53, _BELOW_ONE)
    return torch.from_numpy(values.reshape(len(values), *shape)).to(keys.device)


def gumbel(keys: Tensor, steps: Tensor, shape: tuple[int, ...], stream: int = 1, skip: int | Tensor = 0) -> Tensor:
    """Draw standard Gumbel noise for each sequence: (B, *shape) float64; arguments as of `uniform`."""
    return -torch.log(-torch.log(uniform(keys, steps, shape, stream, skip)))
