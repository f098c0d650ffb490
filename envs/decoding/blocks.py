"""Which block lengths a dLLM can decode in, and how wide its buffer is."""

from __future__ import annotations

from typing import TypeVar

from torch import Tensor

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
    return length + own - 1


def _room(denoiser: Denoiser, length: int) -> int:
    """Return the tokens that a prompt may have before texts of this length, 0 or less if none fits."""
    own, most = denoiser.block_length, denoiser.max_length
    if own is not None and denoiser.absolute_blocks:
        return most // own * own - length
    return most - filled_length(denoiser, 0, length)


def check_block(denoiser: Denoiser, block: int) -> None:
    """Refuse blocks that a block-causal dLLM was not trained to fill.

    Raises:
        ValueError: if the block length does not divide the dLLM's.
    """
    own = denoiser.block_length
    if own is not None and own % block:
        divisors = [d for d in range(own, 0, -1) if own % d == 0]
        raise ValueError(
            f"block_length is {block}: this dLLM sees only blocks of {own} and what lies before them, so it must "
            f"divide {own}; choose one of {', '.join(map(str, divisors))}"
        )
