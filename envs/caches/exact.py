"""The cache of block-causal dLLMs: it changes no answer."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.caches.base import CacheRule, Moment


@dataclass(frozen=True)
class Exact(CacheRule):
    """Everything from the first of the dLLM's own blocks on in which a token changed; what lies before can't have.

    So each block is computed for the last time in the pass in which it is final, together with the next one's first.
    With ``window="truncated"`` that is all; a full window shows later blocks too, and these follow every change.

    Source: the released decoding of SDAR (arXiv 2510.06303) and LLaDA2 (arXiv 2512.15745), which spends a forward of
    its own on a block that is final.
    """

    cache = "exact"
    needs_blocks = True

    def compute(self, moment: Moment) -> Tensor:
        """Choose by the dLLM's blocks."""
        # A number behind all blocks: where nothing changed, nothing is computed.
        last = moment.own_block.amax(1, keepdim=True) + 1
        first_changed = torch.where(moment.stale, moment.own_block, last).amin(1, keepdim=True)
        return (moment.own_block >= first_changed) & moment.present
