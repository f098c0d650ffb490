"""Envs with one row and several, and what they must have in common."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import places

from envs import UnmaskingEnv, UnmaskingVectorEnv
from envs.models.toy import ToyDenoiser

L = 8


NOTHING = np.zeros(L, dtype=np.int8)


EVERYTHING = np.ones(L, dtype=np.int8)


def single(**kwargs: Any) -> UnmaskingEnv:
    return UnmaskingEnv(**{"denoiser": ToyDenoiser(places.here), "tasks": "copy", "buffer_length": L, **kwargs})


def native(num_envs: int, **kwargs: Any) -> UnmaskingVectorEnv:
    return UnmaskingVectorEnv(
        num_envs, **{"denoiser": ToyDenoiser(places.here), "tasks": "copy", "buffer_length": L, **kwargs}
    )


def assert_same(one: Any, two: Any) -> None:
    """Compare nested dicts, sequences and arrays exactly, types and dtypes included."""
    assert type(one) is type(two)
    if isinstance(one, dict):
        assert one.keys() == two.keys()
        for key in one:
            assert_same(one[key], two[key])
    elif isinstance(one, list | tuple) or (isinstance(one, np.ndarray) and one.dtype == object):
        for a, b in zip(one, two, strict=True):
            assert_same(a, b)
    elif isinstance(one, np.ndarray):
        assert one.dtype == two.dtype
        assert np.array_equal(one, two)
    else:
        assert one == two


def some(rng: np.random.Generator, *shape: int) -> npt.NDArray[np.int8]:
    """Random actions, from sparse to dense."""
    chosen: npt.NDArray[np.bool_] = rng.random(shape) < rng.choice([0.02, 0.2, 0.6])
    return chosen.astype(np.int8)
