"""What a cache is: a rule about which positions a forward computes anew; the others stay as they were.

Letters: B rows of a forward, W positions of the longest text (prompt, then buffer).
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.numbers import is_whole


@dataclass(frozen=True)
class Moment:
    """All that a cache may look at before a forward; positions count from the start of each row's text.

    Attributes:
        stale: (B, W) bool, True where the token is not the one that was last computed there: a new prompt, a commit, a
            remask, a mask that was appended or is shown for the first time. They are computed whatever the cache says.
        present: (B, W) bool, True where the dLLM is shown a token.
        masked: (B, W) bool, True where the token is a mask.
        prompt: (B,) int64, tokens before the buffer.
        start: (B,) int64, first position of the current block.
        end: (B,) int64, the position after its last.
        block_step: (B,) int64, forwards that the row has already spent in the block.
        step: (B,) int64, forwards that the row has already used.
        since: (B,) int64, those since the policy last asked for one that computes everything, or since the row's first;
            0 in the forward itself, which computes everything whatever the cache says.
        commit_step: (B, W) int64, the row's forward after which each token was committed, from 1; 0 at the others.
        own_block: (B, W) int64, number of the dLLM's own block that holds the position; all 0 where all see all.
        logit_shift: see `envs.denoiser.Denoiser`.
        confidence: (B, W) float32 in [0, 1], the last that was believed of each mask. In a row's first forward, which
            computes everything as all of it is stale, it means nothing.
    """

    stale: Tensor
    present: Tensor
    masked: Tensor
    prompt: Tensor
    start: Tensor
    end: Tensor
    block_step: Tensor
    step: Tensor
    since: Tensor
    commit_step: Tensor
    own_block: Tensor
    logit_shift: int
    confidence: Tensor

    @property
    def positions(self) -> Tensor:
        """(W,) int64, 0 to W - 1."""
        return torch.arange(self.present.shape[1], device=self.present.device)

    def behind(self, first: Tensor) -> Tensor:
        """Return (B, W) bool, True from a position of each row on.

        Args:
            first: (B,) int64.
        """
        return self.positions >= first.unsqueeze(1)

    def asking(self, positions: Tensor, everywhere: bool = False) -> Tensor:
        """Return these positions and those that must be computed for a belief about each mask of them.

        Args:
            positions: (B, W) bool.
            everywhere: True for a belief about each of them, mask or not.
        """
        if self.logit_shift == 0:
            return positions
        # What is believed of a position is computed at the one before it.
        about = positions if everywhere else positions & self.masked
        return positions | F.pad(about[:, 1:], (0, 1))


def forwards_into(since: Tensor, refresh: int) -> Tensor:
    """Return the forwards since the last one that computed everything, where each `refresh`-th does; 0 in it.

    Args:
        since: (B,) int64, forwards since the first of them.
        refresh: 0 where none follows it.
    """
    return since % refresh if refresh else since


@dataclass(frozen=True)
class CacheRule:
    """A rule about what to compute: a frozen dataclass whose fields are its knobs.

    Attributes:
        cache: its name in `envs.caches.CACHES`.
        needs_blocks: whether it is for block-causal dLLMs only.
        keeps: whether a forward may leave positions as they were.
    """

    cache: ClassVar[str]
    needs_blocks: ClassVar[bool] = False
    keeps: ClassVar[bool] = True

    def compute(self, moment: Moment) -> Tensor:
        """Return (B, W) bool, the positions to compute now; those not present count as False."""
        raise NotImplementedError

    def shows(self, masked: Tensor, commit_step: Tensor, step: Tensor, since: Tensor) -> Tensor:
        """Return (N, L) bool, the masks that the dLLM is shown in the next forward; here all.

        Args:
            masked: (N, L) bool, the buffer's masks before it.
            commit_step: (N, L) int64, the row's forward after which each token was committed, from 1; 0 at the others.
            step: (N,) int64, forwards of the row before it.
            since: (N,) int64, see `Moment.since`.
        """
        return masked

    def opens(self, masked: Tensor) -> Tensor:
        """Return (N, L) bool, the masks that may be committed after the next forward; here all.

        Args:
            masked: (N, L) bool, the buffer's masks before it; the first of a row must be among what is returned.
        """
        return masked

    @property
    def name(self) -> str:
        """The name, and ``:knob=value,...`` for each knob that differs from its default."""
        # Defaults are left out, so that two ways to write a cache have one name.
        changed = [f"{f.name}={getattr(self, f.name)}" for f in fields(self) if getattr(self, f.name) != f.default]
        return self.cache + (":" + ",".join(changed) if changed else "")

    def check_count(self, name: str, least: int, most: int = 2**31 - 1) -> None:
        """Refuse a knob that is not a whole number from `least` to `most`.

        Raises:
            ValueError: naming it.
        """
        value = getattr(self, name)
        if not is_whole(value) or not least <= value <= most:
            # The largest there is goes unsaid, unless it is what is exceeded.
            is_bounded = most < 2**31 - 1 or (isinstance(value, int) and value > most)
            allowed = f"{least} to {most:,}" if is_bounded else f"a whole number of {least} or more"
            raise ValueError(f"{self.cache}'s {name} is {value!r}: it must be {allowed}")
