"""EB-Sampler: commit until an entropy budget is spent."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.view import View, ensure_progress
from policies.rules.base import CommitRule


@dataclass(frozen=True)
class EBSampler(CommitRule):
    """Commit the longest prefix, best first, with ``sum of H - max of H <= gamma``, at least one.

    Source: arXiv 2505.24857, Eq. 5. The maximum runs along the prefix (one released copy takes it over the batch).
    """

    rule = "eb_sampler"
    sweep = (0.0, 0.001, 0.01, 0.1, 0.5, 1.0, 2.0)
    features = frozenset({"entropy", "margin"})

    gamma: float = 0.1
    """Budget in nats; 0 commits one position a step unless entropies are 0."""
    order: str = "entropy"
    """The error proxy to sort by: entropy, confidence or margin."""

    def __post_init__(self) -> None:
        self.check_not_negative("gamma")
        self.check("order", self.order in ("entropy", "confidence", "margin"), "entropy, confidence or margin")

    def select(self, view: View) -> Tensor:
        """Choose the prefix."""
        entropy = view.features["entropy"]
        proxies = {"entropy": -entropy, "confidence": view.confidence, "margin": view.features["margin"]}
        score = proxies[self.order].masked_fill(~view.eligible, -torch.inf)
        order = score.argsort(dim=1, descending=True, stable=True)
        ordered = entropy.gather(1, order)
        # What positions committed together can get wrong is what they say of each other, at most the sum of entropies
        # less the largest; of a single position that is 0, so the first always fits.
        within = ordered.cumsum(1) - ordered.cummax(1).values <= self.gamma
        # The bound only grows along the prefix; rounding must not open it again.
        prefix = within.int().cummin(1).values.bool()
        commit = torch.zeros_like(view.eligible).scatter(1, order, prefix)
        return ensure_progress(commit, view.eligible, score)
