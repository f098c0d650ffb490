"""DUS: a fixed dilated order, no model score."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.view import View, ensure_progress
from policies.rules.base import CommitRule


@dataclass(frozen=True)
class DUS(CommitRule):
    """At step t of a block of n positions commit every ``n / base^t``-th position, so neighbours come last.

    A block takes ``log_base n`` steps, fewer if n is no power of the base, whatever the dLLM believes.

    Source: arXiv 2506.19037.
    """

    rule = "dus"
    sweep = (2, 3, 4, 8)

    base: int = 2
    """How much denser each step is than the one before."""

    def __post_init__(self) -> None:
        self.check("base", isinstance(self.base, int) and self.base >= 2, "a whole number of 2 or more")

    def select(self, view: View) -> Tensor:
        """Choose the step's grid."""
        size = view.in_block.sum(1)
        # After 64 steps any dilation is 1; the bound keeps the power finite.
        power = torch.pow(float(self.base), (view.block_step + 1).clamp(max=64).float())
        dilation = (size / power).floor().clamp(min=1).long()
        # From the block's start, not the buffer's: the grid of every block is the same.
        offset = view.positions - view.block_start.unsqueeze(1)
        # Where all of the grid is known already, as between given tokens, the leftmost mask goes.
        return ensure_progress(offset % dilation.unsqueeze(1) == 0, view.eligible, -offset.float())
