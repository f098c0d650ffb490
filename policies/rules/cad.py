"""CAD: a threshold whose harvest is bounded, with the end of the text held back."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.view import View, ensure_progress
from policies.rules.base import CommitRule, share_committed, top_k


@dataclass(frozen=True)
class CAD(CommitRule):
    """Commit the top ``clamp(number that pass the threshold, smallest, largest)``; end-of-text waits.

    Predictions of end-of-text count as confidence -inf until a share of the row is committed; a block that has
    taken as many steps as it has positions commits all the rest.

    Source: arXiv 2601.02236 and its released code (the rule alone, on a frozen dLLM; the paper distils one).
    """

    rule = "cad"
    sweep = (0.5, 0.7, 0.8, 0.9, 0.95)
    features = frozenset({"is_eos"})

    threshold: float = 0.95
    """tau; released code has 0.8, the paper 0.95."""
    smallest: int = 1
    """kmin."""
    largest: int = 32
    """kmax."""
    eos_ratio: float = 0.3
    """Share of the row that must be committed before an end-of-text can be."""

    def __post_init__(self) -> None:
        self.check_count("smallest", "largest")
        self.check_share("threshold", "eos_ratio")
        self.check("smallest", self.smallest <= self.largest, f"at most largest, {self.largest}")

    def select(self, view: View) -> Tensor:
        """Choose a bounded number."""
        # A frozen dLLM is often sure of end-of-text from the first step on, which would end the answer before it began.
        early = (share_committed(view) < self.eos_ratio).unsqueeze(1)
        allowed = view.eligible & ~(early & (view.features["is_eos"] > 0))
        count = (allowed & (view.confidence >= self.threshold)).sum(1).clamp(self.smallest, self.largest)
        commit = top_k(view.confidence, allowed, count)
        overdue = (view.block_step >= view.in_block.sum(1)).unsqueeze(1)
        # The fallback may take an end-of-text that has to wait: where nothing else is left, a row would stand still.
        return ensure_progress(torch.where(overdue, view.eligible_in_block, commit), view.eligible, view.confidence)
