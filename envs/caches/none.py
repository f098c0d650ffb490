"""No cache."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from envs.caches.base import CacheRule, Moment


@dataclass(frozen=True)
class NoCache(CacheRule):
    """Compute everything in every forward and keep nothing."""

    cache = "none"
    keeps = False

    def compute(self, moment: Moment) -> Tensor:
        """Choose all."""
        return moment.present
