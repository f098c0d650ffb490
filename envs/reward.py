"""Rewards: how a task's score and the forwards spent become what the policy maximises.

NFE (number of function evaluations) counts the dLLM's forwards, L is the buffer length.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Protocol

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]


class Reward(Protocol):
    """What the env asks of a reward."""

    @property
    def per_step(self) -> float:
        """What each step pays, whatever comes of it."""

    def final(self, score: Floats, nfe: Ints, buffer_length: int) -> Floats:
        """Return what the end of an episode pays on top.

        Args:
            score: (N,) float in [0, 1], the task's score.
            nfe: (N,) int, forwards used, at least 1.
            buffer_length: L.

        Returns:
            (N,) float.
        """


@dataclass(frozen=True)
class Multiplicative:
    """``score * ((L - (NFE - 1)) / L) ** alpha`` at the end: a wrong answer earns nothing, however fast.

    Source: arXiv 2512.09106, with the +1 of the released code, which keeps the factor above 0.
    """

    alpha: float
    per_step: float = 0.0

    def final(self, score: Floats, nfe: Ints, buffer_length: int) -> Floats:
        """Return the score times the speed factor."""
        return score * ((buffer_length - (nfe - 1)) / buffer_length) ** self.alpha


@dataclass(frozen=True)
class Additive:
    """``score - alpha * NFE / L`` at the end.

    Source: the ablation of arXiv 2512.09106, which finds that giving up on the answer can pay.
    """

    alpha: float
    per_step: float = 0.0

    def final(self, score: Floats, nfe: Ints, buffer_length: int) -> Floats:
        """Return the score less the price of all forwards."""
        return score - self.alpha * nfe / buffer_length


@dataclass(frozen=True)
class ForwardCost:
    """``-alpha`` at every step and the score at the end: credit for a forward goes to the step that caused it."""

    alpha: float

    @property
    def per_step(self) -> float:
        """The price of one forward."""
        return -self.alpha

    def final(self, score: Floats, nfe: Ints, buffer_length: int) -> Floats:
        """Return the score alone."""
        return score


REWARDS: Mapping[str, Callable[[float], Reward]] = MappingProxyType(
    {"multiplicative": Multiplicative, "additive": Additive, "forward_cost": ForwardCost}
)
"""Every reward by name, built from alpha, the weight of speed."""


def make_reward(name: str, alpha: float) -> Reward:
    """Build a reward.

    Raises:
        ValueError: if the name is unknown or alpha is not a number of 0 or more.
    """
    if name not in REWARDS:
        raise ValueError(f"reward is {name!r}: choose one of {', '.join(REWARDS)}")
    if not 0 <= alpha < float("inf"):
        raise ValueError(f"alpha is {alpha}: it must be 0 (speed doesn't matter) or more")
    return REWARDS[name](alpha)
