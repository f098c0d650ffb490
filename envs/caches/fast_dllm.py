"""Fast-dLLM's two caches: what lies outside the block is computed once a block."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.caches.base import CacheRule, Moment, forwards_into


@dataclass(frozen=True)
class Prefix(CacheRule):
    """Everything at a block's start; then the block and all after it, while what lies before it stays.

    Where logits about a position are computed at the one before it, the last position before the block is computed too
    (the released code for Dream commits a block's first token from the forward of the block's start instead).

    Source: arXiv 2505.22618, Section 3.2.
    """

    cache = "prefix"

    refresh: int = 0
    """Compute everything each so many forwards of a block; 0 only at its start, as published."""

    fresh_prompt: int = 0
    """Compute the prompt too each so many forwards of a block, 1 in every one; 0 only at its start, as published.
    A dLLM may note there what it has written, and go by it."""

    def __post_init__(self) -> None:
        self.check_count("refresh", 0)
        self.check_count("fresh_prompt", 0)

    def compute(self, moment: Moment) -> Tensor:
        """Choose all at a block's start, else what the block's masks see change."""
        return self._always(moment) | moment.asking(moment.behind(moment.start) & moment.present)

    def _always(self, moment: Moment) -> Tensor:
        """Return (B, W) bool, what is computed whatever the block: everything in some rows, perhaps the prompt."""
        # 0 in a block's first forward, so every block starts with everything.
        spent = torch.minimum(moment.block_step, moment.since)
        is_full, is_fresh = (
            (forwards_into(spent, often) == 0).unsqueeze(1) for often in (self.refresh, self.fresh_prompt)
        )
        return (is_full | (is_fresh & ~moment.behind(moment.prompt))) & moment.present


@dataclass(frozen=True)
class Dual(Prefix):
    """Everything at a block's start; then the block alone, while what lies before and after it stays.

    Logit shift: see `Prefix`.

    Source: arXiv 2505.22618, Section 3.2.
    """

    cache = "dual"

    def compute(self, moment: Moment) -> Tensor:
        """Choose all at a block's start, else the block."""
        block = moment.behind(moment.start) & ~moment.behind(moment.end)
        return self._always(moment) | moment.asking(block & moment.present)
