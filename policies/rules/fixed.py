"""Fixed-step rules: so many positions a step, whatever the dLLM believes of them."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
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

DREAM_END = 1e-3
"""Time at which Dream's schedule stops, from 1; its ``eps``."""


@dataclass(frozen=True)
class FixedStep(CommitRule):
    """Commit the best-scored positions of the block, as many as a schedule says.

    A block of n positions takes ``ceil(n / k)`` steps. After step j of S the share ``schedule(j / S)`` of it is
    committed, at least one more each step. The linear schedule commits k each step (LLaDA spreads an uneven
    remainder over the first steps instead; the number of steps is the same). Dream's own schedule, ``dream``, takes as
    many steps: times fall evenly from 1 to 1e-3, and a step from t to s commits the share ``1 - s / t`` of the masks
    that are left, rounded down: k - 1 at the first step, k after it, k + 1 at the last.
    """

    sweep = (1, 2, 4, 8, 16, 64)

    tokens_per_step: int = 1
    """k, on average."""
    schedule: str = "linear"
    """linear, cosine, square, root or dream."""

    def __post_init__(self) -> None:
        self.check_count("tokens_per_step")
        names = (*SCHEDULES, "dream")
        self.check("schedule", self.schedule in names, f"one of {', '.join(names)}")

    def quota(self, view: View) -> int | Tensor:
        """Return the number of positions to commit now, (N,) int64 or the same for all."""
        # Whatever is left: fewer masks than k are all taken by `top_k`.
        if self.schedule == "linear":
            return self.tokens_per_step
        size, left = view.in_block.sum(1), (view.in_block & view.masked).sum(1)
        if self.schedule == "dream":
            return dream_quota(size, left, view.block_step, self.tokens_per_step)
        committed = size - left
        return (committed_target(view, self.tokens_per_step, self.schedule) - committed).clamp(min=1)

    @abstractmethod
    def score(self, view: View) -> Tensor:
        """Return (N, L) float, higher is committed first."""

    def select(self, view: View) -> Tensor:
        """Choose the best-scored."""
        # The other schedules are of a block's steps, and count its positions alone.
        eligible = view.eligible if self.schedule == "linear" else view.eligible_in_block
        return top_k(self.score(view), eligible, self.quota(view))


def dream_quota(size: Tensor, left: Tensor, step: Tensor, tokens_per_step: int) -> Tensor:
    """Return (N,) int64, how many masks Dream's released schedule commits, at least one.

    Args:
        size: (N,) int64, positions of the block.
        left: (N,) int64, its masks.
        step: (N,) int64, steps already spent in it.
        tokens_per_step: k, of which ceil(size / k) steps are made.
    """
    steps = (size + tokens_per_step - 1) // tokens_per_step
    quotas = []
    for masks, total, done in zip(left.tolist(), steps.tolist(), step.tolist(), strict=True):
        is_last = done >= total - 1
        quotas.append(masks if is_last else int(masks * _dream_shares(total)[done]))
    return torch.tensor(quotas, device=left.device).clamp(min=1)


@lru_cache(maxsize=64)
def _dream_shares(steps: int) -> Tensor:
    """Return (steps,) float32, the share of the masks left that each step commits."""
    # In float32, as there: a rounding that falls the other way commits another number.
    times = torch.linspace(1, DREAM_END, steps + 1)
    return 1 - times[1:] / times[:-1]


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
        # A stream of its own: with that of the sampled tokens, what is committed would depend on what was drawn.
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
