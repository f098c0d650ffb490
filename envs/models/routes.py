"""The three ways to load and to ask a checkpoint: each says all that differs between them.

Letters: B rows, T positions of prompt and buffer, L of the buffer, V vocabulary, D width of the hidden states.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from envs.models.attention import attention, position_numbers
from envs.models.checks import rotary_frequencies
from envs.models.families.family import Family, RouteName
from envs.models.native import load_native
from envs.models.remote import load_remote
from envs.models.weights import from_pretrained

if TYPE_CHECKING:
    from envs.models.adapter import MaskedLMDenoiser  # which asks a route
    from envs.models.key_values import KeyValues  # it imports transformers


class Route(ABC):
    """How checkpoints become models, and models are asked."""

    @abstractmethod
    def load(
        self, family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype
    ) -> tuple[Any, Mapping[str, str] | None, Tensor | None]:
        """Load a checkpoint.

        Args:
            family: how it is to be read.
            folder: the checkpoint's.
            config: its config.json.
            device: a torch device.
            dtype: of the weights.

        Returns:
            model: the language model.
            names: the checkpoint's tensor names to the model's, None where they are the same.
            frequencies: the rotary frequencies that it must have, None where they are not known.
        """

    @abstractmethod
    def run(
        self,
        denoiser: MaskedLMDenoiser,
        tokens: Tensor,
        attention_mask: Tensor,
        length: int,
        keep: int,
        position_ids: Tensor | None,
        with_hidden: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Run a model on whole texts.

        Args:
            denoiser: whose model it is.
            tokens: (B, T) int64.
            attention_mask: (B, T) bool, or (B, T, T) bool of who sees whom.
            length: L.
            keep: positions at the end that are asked about.
            position_ids: (B, T) int64, None to number those present.
            with_hidden: whether to return hidden states.

        Returns:
            (B, keep, V) logits, and (B, keep, D) hidden states where they were asked for.
        """

    def run_at(
        self, denoiser: MaskedLMDenoiser, tokens: Tensor, sees: Tensor, keep: int, kept: KeyValues, with_hidden: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run a model on some positions; see `envs.denoiser.CachingDenoiser.logits_at`.

        Raises:
            NotImplementedError: where keys and values can't be kept from outside.
        """
        raise NotImplementedError


def _explicit(
    denoiser: MaskedLMDenoiser, attention_mask: Tensor, length: int, position_ids: Tensor | None
) -> tuple[Tensor, Tensor]:
    """Return who sees whom as a 4D mask, always the same kernel's, and the position numbers."""
    if attention_mask.ndim == 3:
        denoiser.check_can_be_told_who_sees_whom()
        assert position_ids is not None
        return attention_mask.unsqueeze(1), position_ids
    prompt = attention_mask[:, : attention_mask.shape[1] - length].sum(1)
    seen = attention(attention_mask, denoiser.block_length, 0 if denoiser.absolute_blocks else prompt)
    return seen, position_numbers(attention_mask) if position_ids is None else position_ids


class MaskedLM(Route):
    """Transformers' ``AutoModelForMaskedLM``: positions and padding are the class's own affair."""

    def load(
        self, family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype
    ) -> tuple[Any, Mapping[str, str] | None, Tensor | None]:
        """Load it; its class must be a masked language model's."""
        from transformers import AutoModelForMaskedLM

        return from_pretrained(AutoModelForMaskedLM, folder, device, dtype), None, None

    def run(
        self,
        denoiser: MaskedLMDenoiser,
        tokens: Tensor,
        attention_mask: Tensor,
        length: int,
        keep: int,
        position_ids: Tensor | None,
        with_hidden: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Run it."""
        options: dict[str, Any] = {"output_hidden_states": True} if with_hidden else {}
        seen: Tensor | None
        if attention_mask.ndim == 3:
            denoiser.check_can_be_told_who_sees_whom()
            seen = attention_mask.unsqueeze(1)  # one for all heads
        else:
            # Without padding no mask is passed: the attention kernel is faster then.
            seen = None if bool(attention_mask.all()) else attention_mask.long()
        if position_ids is not None:
            options["position_ids"] = position_ids + denoiser.first_position
        output = denoiser.model(input_ids=tokens, attention_mask=seen, **options)
        return output.logits[:, -keep:], output.hidden_states[-1][:, -keep:] if with_hidden else None

    def run_at(
        self, denoiser: MaskedLMDenoiser, tokens: Tensor, sees: Tensor, keep: int, kept: KeyValues, with_hidden: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run it."""
        options: dict[str, Any] = {"output_hidden_states": True} if with_hidden else {}
        numbers = kept.positions.clamp(min=0) + denoiser.first_position
        output = denoiser.model(
            input_ids=tokens, attention_mask=sees.unsqueeze(1), position_ids=numbers, past_key_values=kept, **options
        )
        return output.logits[:, -keep:], output.hidden_states[-1][:, -keep:] if with_hidden else None


class Native(Route):
    """A causal class of transformers that is given explicit masks."""

    def load(
        self, family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype
    ) -> tuple[Any, Mapping[str, str] | None, Tensor | None]:
        """Load it tensor by tensor."""
        model, names = load_native(family, folder, config, device, dtype)
        return model, names, rotary_frequencies(model.config)

    def run(
        self,
        denoiser: MaskedLMDenoiser,
        tokens: Tensor,
        attention_mask: Tensor,
        length: int,
        keep: int,
        position_ids: Tensor | None,
        with_hidden: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Run it; the head is applied to the positions that are asked about, not to the prompt."""
        seen, numbers = _explicit(denoiser, attention_mask, length, position_ids)
        states = denoiser.model.base_model(input_ids=tokens, attention_mask=seen, position_ids=numbers)
        # In half precision on the CPU a layer copies its weights once a row unless its input is in one piece.
        hidden = states.last_hidden_state[:, -keep:].contiguous()
        return denoiser.model.lm_head(hidden), hidden

    def run_at(
        self, denoiser: MaskedLMDenoiser, tokens: Tensor, sees: Tensor, keep: int, kept: KeyValues, with_hidden: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run it."""
        states = denoiser.model.base_model(
            input_ids=tokens,
            attention_mask=sees.unsqueeze(1),
            position_ids=kept.positions.clamp(min=0),
            past_key_values=kept,
        )
        hidden = states.last_hidden_state[:, -keep:].contiguous()  # as in `run`
        return denoiser.model.lm_head(hidden), hidden


class Remote(Route):
    """The checkpoint's own code, given explicit masks."""

    def load(
        self, family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype
    ) -> tuple[Any, Mapping[str, str] | None, Tensor | None]:
        """Load it by its code, which the user must have allowed."""
        return load_remote(folder, device, dtype), None, None

    def run(
        self,
        denoiser: MaskedLMDenoiser,
        tokens: Tensor,
        attention_mask: Tensor,
        length: int,
        keep: int,
        position_ids: Tensor | None,
        with_hidden: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Run it on all positions: where its head is, is not known."""
        seen, numbers = _explicit(denoiser, attention_mask, length, position_ids)
        output = denoiser.model(
            input_ids=tokens,
            attention_mask=seen,
            position_ids=numbers,
            use_cache=False,
            output_hidden_states=with_hidden,
        )
        return output.logits[:, -keep:], output.hidden_states[-1][:, -keep:] if with_hidden else None


ROUTES: Mapping[RouteName, Route] = MappingProxyType({"masked_lm": MaskedLM(), "native": Native(), "remote": Remote()})
"""By the name that a family has for it."""
