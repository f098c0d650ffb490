"""Where blocks lie in a buffer: which lengths a dLLM can decode in, how wide its buffer is, and what it is shown."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import TypeVar

import torch
from torch import Tensor

from envs.caches import CacheRule, make_cache
from envs.decoding.rows import Rows
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser

Count = TypeVar("Count", int, Tensor)


def filled_length(denoiser: Denoiser, prompt: Count, length: Count) -> Count:
    """Return where the dLLM's own block ends that holds a row's last position; its length where all see all.

    Args:
        denoiser: the dLLM.
        prompt: tokens of the row's prompt, or (N,) int64 of several.
        length: positions after it.
    """
    own = denoiser.block_length
    if own is None:
        return length
    known = prompt % own if denoiser.absolute_blocks else 0 * prompt
    return length + -(known + length) % own


def buffer_width(denoiser: Denoiser, length: int) -> int:
    """Return L, the positions that a batch has for texts of this length: the most of `filled_length`.

    Args:
        denoiser: the dLLM.
        length: the settings' ``buffer_length``.
    """
    own = denoiser.block_length
    if own is None or not denoiser.absolute_blocks:
        return filled_length(denoiser, 0, length)
    # A prompt may end anywhere in a block: at worst the text's last position begins one.
    return length + own - 1


def prompt_room(denoiser: Denoiser, length: int) -> int:
    """Return the tokens that a prompt may have before texts of this length, 0 or less if none fits."""
    own, most = denoiser.block_length, denoiser.max_length
    if own is not None and denoiser.absolute_blocks:
        # The block that holds the last position must fit too, wherever in it the prompt ends.
        return most // own * own - length
    return most - filled_length(denoiser, 0, length)


def check_block(denoiser: Denoiser, block: int, buffer_length: int | None = None) -> None:
    """Refuse blocks that a block-causal dLLM was not trained to fill.

    Args:
        denoiser: the dLLM.
        block: the block length.
        buffer_length: that blocks must divide too; None where they needn't.

    Raises:
        ValueError: if the block length does not divide the dLLM's.
    """
    own = denoiser.block_length
    if own is not None and own % block:
        both = own if buffer_length is None else math.gcd(own, buffer_length)
        divisors = [d for d in range(both, 0, -1) if both % d == 0]
        raise ValueError(
            f"block_length is {block}: this dLLM sees only blocks of {own} and what lies before them, so it must "
            f"divide {own}; choose one of {', '.join(map(str, divisors))}"
        )


@dataclass(frozen=True)
class Layout:
    """A dLLM and how its buffers are decoded: where their blocks begin and end.

    Attributes:
        denoiser: the frozen dLLM.
        settings: lengths, windows and blocks.

    Raises:
        ValueError: if the buffer leaves no room for a prompt, the dLLM is block-causal and the block length does not
            divide its blocks, or a reading is asked for that it can't give.
    """

    denoiser: Denoiser
    settings: DecodingSettings

    def __post_init__(self) -> None:
        divided = self.settings.buffer_length if self.settings.block_origin == "buffer" else None
        check_block(self.denoiser, self.settings.block, divided)
        if "attention" in self.settings.features and not hasattr(self.denoiser, "logits_and_attention"):
            raise ValueError("features hold attention: this dLLM does not tell its attention; leave it out")
        length = self.settings.buffer_length
        if self.room < 1:
            most = min(length, self.denoiser.max_length)
            longest = next((one for one in range(most, 0, -1) if prompt_room(self.denoiser, one) > 0), 0)
            raise ValueError(
                f"buffer_length is {length}: it must be {longest} or less, as this dLLM takes "
                f"{self.denoiser.max_length} tokens of prompt and buffer together"
            )

    @cached_property
    def cache(self) -> CacheRule:
        """The rule about what a forward computes anew."""
        return make_cache(self.settings.cache)

    @property
    def room(self) -> int:
        """Tokens that a prompt may have."""
        return prompt_room(self.denoiser, self.settings.buffer_length)

    @property
    def is_absolute(self) -> bool:
        """Whether blocks are counted from the start of the prompt."""
        # One block is all of the buffer, wherever the prompt ends.
        is_asked = self.settings.block_origin == "absolute" and self.settings.block_length is not None
        return is_asked or self.denoiser.absolute_blocks

    def whole(self, rows: Rows, length: Tensor | int) -> Tensor:
        """Return (N,) int64, each row's length made up to whole blocks of the dLLM."""
        lengths = torch.full_like(rows.prompt_length, length) if isinstance(length, int) else length
        return filled_length(self.denoiser, rows.prompt_length, lengths)

    def most(self, rows: Rows) -> Tensor:
        """Return (N,) int64, the positions that a row may have at most."""
        return self.whole(rows, self.settings.buffer_length)

    def shown(self, rows: Rows) -> Tensor:
        """Return (N,) int64, positions after the prompt that are shown; over L where the last block ends behind L."""
        if self.settings.window == "full":
            return rows.length
        shown = torch.minimum(rows.block_end, rows.length)
        if not self.is_absolute:
            return shown
        # A block that the buffer cuts is shown whole, as an engine would, as far as the dLLM's length allows.
        most = self.most(rows)
        end = rows.prompt_length + most
        rest = torch.minimum(-end % rows.block_length, (self.denoiser.max_length - end).clamp(min=0))
        return shown + torch.where(shown == most, rest, 0)

    def seen(self, rows: Rows, step: Tensor) -> Tensor:
        """Return (N, L) bool, the positions of the buffer that a forward is shown: `shown`, less what the cache hides.

        Args:
            rows: as they are before it.
            step: (N,) int64, forwards of each row before it.
        """
        inside = rows.positions < self.shown(rows).unsqueeze(1)
        shows = self.cache.shows(rows.masked, rows.commit_step, step, step - rows.refresh_step)
        return inside & (~rows.masked | shows)

    def visible_end(self, rows: Rows, start: Tensor) -> Tensor:
        """Return (N,) where the dLLM's own block that holds a position ends, the buffer's end where all see all.

        A block-causal dLLM has no opinion yet about what follows it.
        """
        length = rows.masked.shape[1]
        if self.denoiser.block_length is None:
            return torch.full_like(start, length)
        return self.whole(rows, start + 1).clamp(max=length)

    def first_end(self, rows: Rows) -> Tensor:
        """Return (N,) int64, the position after each row's first block."""
        # Blocks that are counted from the start of the text shorten the buffer's first one.
        return rows.block_length - (rows.prompt_length % rows.block_length if self.is_absolute else 0)

    def move(self, rows: Rows, acted: Tensor) -> None:
        """Go on to the first block with a mask where the current one has none; blocks follow each other.

        Args:
            rows: the rows.
            acted: (N,) bool, rows whose stay in their block is one step longer.
        """
        block = rows.block_length
        done = rows.running & ~rows.eligible().any(1)
        first_masked = rows.masked.int().argmax(1)
        if self.is_absolute:
            known = rows.prompt_length
            # Blocks are counted from the prompt's start, positions kept from its end.
            start = torch.maximum(rows.block_end, (first_masked + known) // block * block - known)
            end = (start + known) // block * block + block - known
        else:
            start = rows.block_end + (first_masked - rows.block_end).clamp(min=0) // block * block
            end = start + block
        rows.block_start = torch.where(done, start, rows.block_start)
        rows.block_end = torch.where(done, torch.minimum(end, self.visible_end(rows, start)), rows.block_end)
        rows.block_step = torch.where(done, 0, rows.block_step + (rows.running & acted))
