"""Prophet: stop early once the answer is clear."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from envs.view import Action, View
from policies.rules.base import Rule, share_committed, top_k


@dataclass(frozen=True)
class Prophet(Rule):
    """Low-confidence steps until the mean gap between the two best logits passes a bar, then everything at once.

    The bar is 7.5, 5 and 2.5 in the first, second and last third of the decoding; the gap is the mean over all masked
    positions.

    Source: arXiv 2508.19982. Thirds are by share of committed positions, the paper's by step.
    """

    rule = "prophet"
    sweep = (0.5, 1.0, 2.0, 3.0, 4.0)
    features = frozenset({"logit_gap"})

    scale: float = 1.0
    """Multiplies the three bars."""
    tokens_per_step: int = 1
    """Positions a step before that."""

    def __post_init__(self) -> None:
        self.check_not_negative("scale")
        self.check_count("tokens_per_step")

    def act(self, view: View) -> Action:
        """Commit all, or the k most confident."""
        gap = (view.features["logit_gap"] * view.masked).sum(1) / view.masked.sum(1).clamp(min=1)
        # A finished row's share is 1, which would be a fourth third.
        third = (3 * share_committed(view)).long().clamp(max=2)
        is_clear = gap >= self.scale * torch.tensor([7.5, 5.0, 2.5], device=gap.device)[third]
        some = top_k(view.confidence, view.eligible, self.tokens_per_step)
        return Action(torch.where(is_clear.unsqueeze(1), view.masked, some), scope=view.masked)
