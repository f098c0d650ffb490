"""Infilling: a text in which some tokens are given and some are blanks, written as one string."""

from __future__ import annotations

from collections.abc import Iterable

from envs.denoiser import Denoiser
from envs.tasks.base import BLANK


def encode_given(denoiser: Denoiser, text: str) -> list[int]:
    """Turn a text with blanks into buffer tokens, the mask token at each `BLANK`.

    What stands between two blanks is tokenised by itself, so a word that a blank cuts is not joined over it.

    >>> from envs.models.toy import ToyDenoiser
    >>> toy = ToyDenoiser()
    >>> toy.token_strings(encode_given(toy, "a [MASK] [MASK] b [EOS]"))
    ['a', '[MASK]', '[MASK]', 'b', '[EOS]']
    """
    tokens: list[int] = []
    for i, piece in enumerate(text.split(BLANK)):
        tokens += [denoiser.mask_id] * (i > 0) + (denoiser.encode_text(piece) if piece else [])
    return tokens


def encode_all_given(denoiser: Denoiser, texts: Iterable[str | None]) -> list[list[int] | None]:
    """Return what `envs.decoding.batch.DecodingBatch.load` takes: None where a problem gives no text."""
    return [None if text is None else encode_given(denoiser, text) for text in texts]
