"""d2Cache: the masks that are likely to be decided next, by their confidence and how much around them is known."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.caches.base import CacheRule, Moment


@dataclass(frozen=True)
class D2Cache(CacheRule):
    """The best masks by certainty, tokens that were just committed, and small gaps between them.

    A mask's score is its last confidence times its certainty density: the share of known positions around it under a
    Gaussian, where all before the buffer is known and what lies behind it is like its last position. Masks of the
    current block come first; those of later blocks count up to the end of the block with the `masks`-th mask.

    Source: arXiv 2509.23094, Sections 4.2 and 4.3, and its released code. Departures: known tokens that have not just
    been committed are never computed anew (there, those with most of the attention rollout are, which the attention
    kernels used here don't give); the Gaussian is cut at five deviations; blocks are those of the decoding; rows are
    not filled up to the same number of positions, so that none depends on its batch.
    """

    cache = "d2cache"

    masks: int = 32
    """Masks that a forward computes at most."""
    sigma: int = 10
    """Standard deviation of the Gaussian, in positions."""
    gap: int = 4
    """Positions between two computed ones at most this far apart are computed too; 0 leaves them."""

    def __post_init__(self) -> None:
        self.check_count("masks", 1)
        # Wider than that, all of a text counts alike; the Gaussian is written out.
        self.check_count("sigma", 1, 1000)
        self.check_count("gap", 0)

    def compute(self, moment: Moment) -> Tensor:
        """Choose by certainty."""
        place, last = moment.positions, moment.masked.shape[1] - 1
        # The end of the block that holds the masks-th mask, or the last one.
        is_enough = moment.masked.cumsum(1) >= self.masks
        # argmax is the first of equals, so it is where the count is reached.
        target = torch.where(is_enough.any(1), is_enough.int().argmax(1), last)
        size = (moment.end - moment.start).clamp(min=1)
        end = moment.start + ((target - moment.start).clamp(min=0) // size + 1) * size
        candidates = moment.masked & moment.behind(moment.start) & ~moment.behind(end)
        in_block = candidates & ~moment.behind(moment.end)
        score = moment.confidence.double() * self.density(moment)
        # Confidence and density are at most 1 each: 2 puts the block's masks before all others.
        # Stable, so that of two as good the earlier one is taken, on any device.
        rank = torch.where(candidates, score + 2 * in_block, -1.0).argsort(dim=1, descending=True, stable=True)
        best = torch.zeros_like(candidates).scatter(1, rank[:, : self.masks], True) & candidates
        return moment.asking(self._with_gaps(best | moment.stale, place) & moment.present)

    def density(self, moment: Moment) -> Tensor:
        """Return (B, W) float64 in [0, 1], the share of known positions around each."""
        reach = 5 * self.sigma
        distance = torch.arange(-reach, reach + 1, device=moment.masked.device, dtype=torch.float64)
        weight = (-(distance**2) / (2 * self.sigma**2)).exp()
        known = (~moment.masked).double()
        count = moment.present.sum(1, keepdim=True)
        ending = known.gather(1, count - 1)
        known = torch.where(moment.present, known, ending)
        padded = torch.cat([torch.ones_like(known[:, :1]).expand(-1, reach), known, ending.expand(-1, reach)], 1)
        # A sum of each window by itself: a convolution's order of summation may depend on the batch.
        return (padded.unfold(1, 2 * reach + 1, 1) * weight).sum(-1) / weight.sum()

    def _with_gaps(self, chosen: Tensor, place: Tensor) -> Tensor:
        """Return (B, W) bool, chosen positions and those in small gaps between two of them."""
        if self.gap == 0:
            return chosen
        width = chosen.shape[1]
        # Where there is none, one that is too far for any gap.
        before = torch.where(chosen, place, -width - self.gap).cummax(1).values
        after = torch.where(chosen, place, 2 * width + self.gap).flip(1).cummin(1).values.flip(1)
        return chosen | (after - before <= self.gap)
