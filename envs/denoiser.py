"""The frozen dLLM behind one narrow interface, and the one place that loads it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

if TYPE_CHECKING:
    from envs.models.key_values import KeyValues  # it imports transformers


@runtime_checkable
class Denoiser(Protocol):
    """What decoding needs of a masked diffusion language model."""

    mask_id: int
    eos_id: int
    """End of text; it fills what follows one."""
    end_ids: tuple[int, ...]
    """Every token that ends a text, `eos_id` first."""
    pad_id: int
    max_length: int
    """Most tokens of prompt and buffer together."""
    block_length: int | None
    """Positions of a block of a block-causal model, whose blocks see themselves and those before; None: all see all."""
    absolute_blocks: bool
    """Whether blocks are counted from the start of the text; else from the end of the prompt."""
    logit_shift: int
    """1 where logits about a position are computed at the one before it, else 0; `logits` returns them aligned."""

    @property
    def device(self) -> torch.device:
        """Where the tokens must be."""

    @property
    def hidden_size(self) -> int:
        """D, width of the hidden states."""

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        """Run one forward.

        Args:
            tokens: (B, T) int64, left-padded prompt followed by the buffer; shorter buffers are right-padded.
            attention_mask: (B, T) bool, False on padding; or (B, T, T), entry (i, j) True where i sees j.
            length: L, the number of positions at the end to answer about.
            position_ids: (B, T) int64 from 0, places in the text; None counts what is not padding.

        Returns:
            (B, L, V) float, entry i about the token *at* position i of the last L.
        """

    def logits_and_hidden(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Run one forward as `logits` does and return the (B, L, D) last hidden states too."""

    def encode_prompt(self, prompt: str) -> list[int]:
        """Turn a whole prompt into token ids, in the chat template where there is one."""

    def encode_text(self, text: str) -> list[int]:
        """Turn a piece of text (of an answer, a delimiter, a marker) into token ids as it is, without a template."""

    def decode(self, tokens: list[int]) -> str:
        """Turn buffer tokens into text: everything before the first end-of-text, special tokens dropped."""

    def token_strings(self, tokens: list[int]) -> list[str]:
        """Return one printable string a token, for rendering."""


class CachingDenoiser(Denoiser, Protocol):
    """A dLLM that can compute some positions and keep what it knows of the others; see `envs.caches`."""

    def key_values(self, num_rows: int) -> KeyValues:
        """Return empty keys and values of so many rows.

        Raises:
            ValueError: if this dLLM can't keep them.
        """

    def logits_at(
        self, tokens: Tensor, sees: Tensor, keep: int, kept: KeyValues, with_hidden: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Run one forward on the positions that ``kept.place`` was told.

        Args:
            tokens: (B, S) int64, those at the positions.
            sees: (B, 1 or S, W) bool, entry (i, j) True where the i-th of them sees position j of the text.
            keep: S' of the S positions, at the end, to answer about.
            kept: what is known of all positions; what is computed is written into it.
            with_hidden: whether to return the last hidden states too.

        Returns:
            (B, S', V) float logits as the model gives them, unshifted, and (B, S', D) hidden states or None.
        """


class AttendingDenoiser(Denoiser, Protocol):
    """A dLLM that can tell what its positions attend to; see ``attention`` in `envs.readings`."""

    def logits_and_attention(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Run one forward as `logits` does and return its attention too.

        Returns:
            (B, L, V) float logits, the same as those of `logits`, and (B, T, T) float32 in [0, 1], what position i pays
            to position j in the mean of the last four layers and all their heads.

        Raises:
            ValueError: if this dLLM can't give it.
        """


def identify(denoiser: Denoiser) -> dict[str, Any]:
    """Return what tells dLLMs of different kinds apart, as JSON can hold it; fine-tunes of one are the same."""
    return {
        "mask_id": denoiser.mask_id,
        "end_ids": list(denoiser.end_ids),
        "hidden_size": denoiser.hidden_size,
        "block_length": denoiser.block_length,
        "logit_shift": denoiser.logit_shift,
    }
