"""Fast-dLLM's two caches: what lies outside the block is computed once a block."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from envs.caches.base import CacheRule, Moment


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

    def __post_init__(self) -> None:
        self.check_count("refresh", 0)

    def compute(self, moment: Moment) -> Tensor:
        """Choose all at a block's start, else what the block's masks see change."""
        return self._starts(moment) | moment.asking(moment.behind(moment.start) & moment.present)

    def _starts(self, moment: Moment) -> Tensor:
        """Return (B, W) bool, True in rows in which everything is computed."""
        into = moment.block_step % self.refresh if self.refresh else moment.block_step
        return (into == 0).unsqueeze(1) & moment.present


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
        return self._starts(moment) | moment.asking(block & moment.present)
