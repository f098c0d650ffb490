"""Window-Diffusion's order: only the first masks of the block compete."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from envs.view import View
from policies.rules.base import CommitRule, top_k


@dataclass(frozen=True)
class Window(CommitRule):
    """Commit the k most confident of the first `active` masks.

    Source: arXiv 2601.20332. Only its order: pruning the masks beyond the window and its cache change the logits.
    """

    rule = "window"
    sweep = (1, 2, 4, 8)

    tokens_per_step: int = 1
    """k."""
    active: int = 16
    """A, masks that compete."""

    def __post_init__(self) -> None:
        self.check_count("tokens_per_step", "active")

    def select(self, view: View) -> Tensor:
        """Choose among the first masks."""
        # The count begins with the eligible ones: masks of later blocks compete only where they may be committed too.
        first = view.eligible & (view.eligible.cumsum(1) <= self.active)
        return top_k(view.confidence, first, self.tokens_per_step)
