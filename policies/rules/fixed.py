"""Fixed-step rules: so many positions a step, whatever the dLLM believes of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor

from envs.noise import uniform
from envs.view import View
from policies.rules.base import CommitRule, top_k

SCHEDULES: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {
        "linear": lambda u: u,
        "cosine": lambda u: 1 - torch.cos(math.pi / 2 * u),
        "square": lambda u: u**2,
        "root": lambda u: u**0.5,
    }
)
"""Share of a block that is committed after a share u of its steps. Cosine: MaskGIT, arXiv 2202.04200."""


@dataclass(frozen=True)
class FixedStep(CommitRule):
    """Commit the best-scored positions of the block, as many as a schedule says.

    A block of n positions takes ``ceil(n / k)`` steps. After step j of S the share ``schedule(j / S)`` of it is
    committed, at least one more each step. The linear schedule commits k each step (LLaDA spreads an uneven
    remainder over the first steps instead; the number of steps is the same).
    """

    sweep = (1, 2, 4, 8, 16, 64)

    tokens_per_step: int = 1
    """k, on average."""
    schedule: str = "linear"
    """linear, cosine, square or root."""

    def __post_init__(self) -> None:
        self.check_count("tokens_per_step")
        self.check("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")

    def quota(self, view: View) -> int | Tensor:
        """Return the number of positions to commit now, (N,) int64 or the same for all."""
        if self.schedule == "linear":
            return self.tokens_per_step
        size = view.in_block.sum(1)
        committed = size - (view.in_block & view.masked).sum(1)
        return (committed_target(view, self.tokens_per_step, self.schedule) - committed).clamp(min=1)

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """Return (N, L) float, higher is committed first."""

    def select(self, view: View) -> Tensor:
        """Choose the best-scored."""
        return top_k(self.score(view), view.eligible, self.quota(view))


def committed_target(view: View, tokens_per_step: int, schedule: str = "linear") -> Tensor:
    """Return (N,) int64, how much of the block a schedule wants committed after this step."""
    size = view.in_block.sum(1)
    steps = (size / tokens_per_step).ceil().clamp(min=1)
    share = SCHEDULES[schedule](((view.block_step + 1) / steps).clamp(max=1))
    # Rounding must not turn a whole number into the next.
    return (size * share - 1e-4).ceil().long()


@dataclass(frozen=True)
class LowConfidence(FixedStep):
    """Fixed-step low-confidence remasking: the k most confident positions of the block.

    Source: arXiv 2502.09992, Algorithm 5. Departure: positions left over from an earlier block can't compete,
    because a block is left only when all of it is committed.
    """

    rule = "low_confidence"

    def score(self, view: View) -> Tensor:
        """Return the confidence."""
        return view.confidence


@dataclass(frozen=True)
class Random(FixedStep):
    """k positions of the block, uniformly at random.

    Source: arXiv 2502.09992, Algorithm 4.
    """

    rule = "random"

    def score(self, view: View) -> Tensor:
        """Return random numbers, by the sequence's key and step."""
        return uniform(view.key, view.step, (view.confidence.shape[1],), stream=2)


@dataclass(frozen=True)
class Margin(FixedStep):
    """The k positions of largest margin between the two likeliest tokens.

    Source: arXiv 2502.06768 (top-K margin); Dream's ``topk_margin``.
    """

    rule = "margin"
    features = frozenset({"margin"})

    def score(self, view: View) -> Tensor:
        """Return the margin."""
        return view.features["margin"]


@dataclass(frozen=True)
class Entropy(FixedStep):
    """The k positions of lowest entropy.

    Source: Dream's ``entropy`` (arXiv 2508.15487). Some released code has the sign the wrong way round.
    """

    rule = "entropy"
    features = frozenset({"entropy"})

    def score(self, view: View) -> Tensor:
        """Return minus the entropy."""
        return -view.features["entropy"]
