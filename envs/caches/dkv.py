"""dKV-Cache: a token is kept from the second forward after its commit on."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from envs.caches.base import CacheRule, Moment, forwards_into


@dataclass(frozen=True)
class DelayedKV(CacheRule):
    """All masks, and each token once after it was committed; everything every `refresh` forwards.

    A token's keys and values change most in the forward after it replaces its mask, so they are kept one step later.
    This is the variant dKV-Cache-Decode; masks are all computed, in the block and after it.

    Source: arXiv 2505.15781, Section 3.2.
    """

    cache = "dkv"

    refresh: int = 8
    """Forwards of a row from one in which everything is computed to the next; 1 computes everything always, 0 only
    in the first one and where the policy asks."""

    def __post_init__(self) -> None:
        self.check_count("refresh", 0)

    def compute(self, moment: Moment) -> Tensor:
        """Choose masks; tokens that were just committed are stale and come by themselves."""
        is_full = (forwards_into(moment.since, self.refresh) == 0).unsqueeze(1)
        return moment.present & (is_full | moment.asking(moment.masked))
