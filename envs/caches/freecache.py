"""FreeCache: what is known from the start of the text on is frozen, piece by piece."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from envs.caches.base import CacheRule, Moment


@dataclass(frozen=True)
class FreeCache(CacheRule):
    """All from the first piece of the buffer that still has a mask on.

    The clean text before it stays as it was when its last token came in, which the forward after that computes. Blocks
    don't matter: a piece is frozen as soon as all before its end is known.

    Source: arXiv 2505.21467, Section 4, FreeCache. Departures: the pieces are counted from the end of the prompt
    whatever the decoding's blocks are; of the released code's three variants (piece by piece, token by token, all but
    the last 128) the third has no knob here.
    """

    cache = "freecache"

    piece: int = 32
    """Positions that are frozen together; 1 freezes token by token."""

    def __post_init__(self) -> None:
        self.check_count("piece", 1)

    def compute(self, moment: Moment) -> Tensor:
        """Choose by the first mask; a token that was just committed is stale and comes by itself."""
        width = moment.masked.shape[1]
        place = moment.positions
        first_mask = place.masked_fill(~moment.masked, width).amin(1)
        # Whole pieces only: the one with the first mask is not frozen at all.
        frozen = (first_mask - moment.prompt).clamp(min=0) // self.piece * self.piece
        return moment.asking(moment.behind(moment.prompt + frozen) & moment.present)
