"""Fast-dLLM's two parallel rules: a threshold, and a bound on rank times doubt."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.view import View, ensure_progress
from policies.rules.base import CommitRule, rank


@dataclass(frozen=True)
class Threshold(CommitRule):
    """Commit every position whose confidence is at least the threshold, else the most confident.

    The fallback is row by row, unlike in some released code.

    Source: arXiv 2505.22618, Algorithm 1.
    """

    rule = "threshold"
    sweep = (0.3, 0.5, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98)

    threshold: float = 0.9
    """Confidence to commit at; at 1 hardly anything passes, and one position is committed a step."""

    def __post_init__(self) -> None:
        self.check_share("threshold")

    def select(self, view: View) -> Tensor:
        """Choose what passes the threshold."""
        return ensure_progress(view.confidence >= self.threshold, view.eligible, view.confidence)


@dataclass(frozen=True)
class Factor(CommitRule):
    """Commit the n most confident, n the largest number with ``(n + 1) (1 - c_n) < factor``, at least one.

    Source: arXiv 2505.22618, Theorem 1 and Section 3.3. Released implementations differ at the edges (the authors'
    own commits a block's last two masks together, about one forward a block fewer); this is the formula, checked
    against brute force.
    """

    rule = "factor"
    sweep = (0.1, 0.25, 0.5, 1.0, 1.5, 2.0)

    factor: float = 1.0
    """f; larger commits more."""

    def __post_init__(self) -> None:
        self.check_not_negative("factor")

    def select(self, view: View) -> Tensor:
        """Choose by rank and doubt."""
        ranks = rank(view.confidence, view.eligible)
        # Ranks count from 0, so n + 1 is two more.
        passes = view.eligible & ((ranks + 2) * (1 - view.confidence) < self.factor)
        # Both factors grow with the rank, so what passes is a prefix; the largest passing n says so explicitly.
        last = torch.where(passes, ranks, -1).amax(1, keepdim=True)
        return ensure_progress(ranks <= last, view.eligible, view.confidence)


@dataclass(frozen=True)
class Frechet(CommitRule):
    """Commit the n most confident, n the largest number with ``sum c_1..n - (n - 1) > 1 - c_n + margin``, at least one.

    On the left is the Fréchet bound on the probability that all n are right, whatever their dependence; on the right
    that of any other choice. With equal confidences it is `factor` at ``1 - margin``; unequal ones let more pass.

    Source: arXiv 2606.02955 (Fast-dLLM++), the Fréchet score. Departure: the left side is not cut at 0, which matters
    to no margin of 0 or more.
    """

    rule = "frechet"
    sweep = (0.75, 0.5, 0.25, 0.1, 0.02, 0.0)

    margin: float = 0.25
    """delta; smaller commits more."""

    def __post_init__(self) -> None:
        self.check_not_negative("margin")

    def select(self, view: View) -> Tensor:
        """Choose by the whole sorted profile."""
        ranks = rank(view.confidence, view.eligible)
        # In float64: a sum of 256 confidences near 1 would lose the doubts that it is about.
        doubt = (1 - view.confidence.double()).masked_fill(~view.eligible, 0.0)
        order = ranks.argsort(dim=1)
        summed = torch.zeros_like(doubt).scatter(1, order, doubt.gather(1, order).cumsum(1))
        # In doubts: the sum of n confidences less n - 1 is 1 less n doubts, and 1 - c_n is the last of them.
        passes = view.eligible & (1 - summed - doubt > self.margin)
        last = torch.where(passes, ranks, -1).amax(1, keepdim=True)
        return ensure_progress(ranks <= last, view.eligible, view.confidence)
