"""The three ways to load and to ask a checkpoint: each says all that differs between them.

Letters: B rows, T positions of prompt and buffer, L of the buffer, V vocabulary, D width of the hidden states.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
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


@dataclass(frozen=True)
class Question:
    """What a model is asked about whole texts.

    Attributes:
        tokens: (B, T) int64.
        attention_mask: (B, T) bool, or (B, T, T) bool of who sees whom.
        length: L.
        keep: positions at the end that are asked about.
        position_ids: (B, T) int64, None to number those present.
        with_hidden: whether hidden states are wanted.
    """

    tokens: Tensor
    attention_mask: Tensor
    length: int
    keep: int
    position_ids: Tensor | None = None
    with_hidden: bool = False


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
    def run(self, denoiser: MaskedLMDenoiser, asked: Question) -> tuple[Tensor, Tensor | None]:
        """Run a model on whole texts.

        Args:
            denoiser: whose model it is.
            asked: what is asked of it.

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


def _explicit(denoiser: MaskedLMDenoiser, asked: Question) -> tuple[Tensor, Tensor]:
    """Return who sees whom as a 4D mask, always the same kernel's, and the position numbers."""
    mask, numbers = asked.attention_mask, asked.position_ids
    if mask.ndim == 3:
        denoiser.check_can_be_told_who_sees_whom()
        assert numbers is not None
        return mask.unsqueeze(1), numbers
    prompt = mask[:, : mask.shape[1] - asked.length].sum(1)
    seen = attention(mask, denoiser.block_length, 0 if denoiser.absolute_blocks else prompt)
    return seen, position_numbers(mask) if numbers is None else numbers


def _all_of(model: Any, keep: int, with_hidden: bool, tokens: Tensor, **options: Any) -> tuple[Tensor, Tensor | None]:
    """Run a whole model, head included, and return what it says of the last positions."""
    output = model(input_ids=tokens, output_hidden_states=with_hidden, **options)
    return output.logits[:, -keep:], output.hidden_states[-1][:, -keep:] if with_hidden else None


def _last_of(model: Any, keep: int, tokens: Tensor, **options: Any) -> tuple[Tensor, Tensor]:
    """Run the body on all tokens and the head on the last ones."""
    states = model.base_model(input_ids=tokens, **options)
    # In half precision on the CPU a layer copies its weights once a row unless its input is in one piece.
    hidden = states.last_hidden_state[:, -keep:].contiguous()
    return model.lm_head(hidden), hidden


class MaskedLM(Route):
    """Transformers' ``AutoModelForMaskedLM``: positions and padding are the class's own affair."""

    def load(
        self, family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype
    ) -> tuple[Any, Mapping[str, str] | None, Tensor | None]:
        """Load it; its class must be a masked language model's."""
        from transformers import AutoModelForMaskedLM

        return from_pretrained(AutoModelForMaskedLM, folder, device, dtype), None, None

    def run(self, denoiser: MaskedLMDenoiser, asked: Question) -> tuple[Tensor, Tensor | None]:
        """Run it."""
        options: dict[str, Any] = {}
        if asked.position_ids is not None:
            options["position_ids"] = asked.position_ids + denoiser.first_position
        seen: Tensor | None
        if asked.attention_mask.ndim == 3:
            denoiser.check_can_be_told_who_sees_whom()
            seen = asked.attention_mask.unsqueeze(1)  # one for all heads
        else:
            # Without padding no mask is passed: the attention kernel is faster then.
            seen = None if bool(asked.attention_mask.all()) else asked.attention_mask.long()
        return _all_of(denoiser.model, asked.keep, asked.with_hidden, asked.tokens, attention_mask=seen, **options)

    def run_at(
        self, denoiser: MaskedLMDenoiser, tokens: Tensor, sees: Tensor, keep: int, kept: KeyValues, with_hidden: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run it."""
        numbers = kept.positions.clamp(min=0) + denoiser.first_position
        options = {"attention_mask": sees.unsqueeze(1), "position_ids": numbers, "past_key_values": kept}
        return _all_of(denoiser.model, keep, with_hidden, tokens, **options)


class Native(Route):
    """A causal class of transformers that is given explicit masks."""

    def load(
        self, family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype
    ) -> tuple[Any, Mapping[str, str] | None, Tensor | None]:
        """Load it tensor by tensor."""
        model, names = load_native(family, folder, config, device, dtype)
        return model, names, rotary_frequencies(model.config)

    def run(self, denoiser: MaskedLMDenoiser, asked: Question) -> tuple[Tensor, Tensor | None]:
        """Run it; the head is applied to the positions that are asked about, not to the prompt."""
        seen, numbers = _explicit(denoiser, asked)
        return _last_of(denoiser.model, asked.keep, asked.tokens, attention_mask=seen, position_ids=numbers)

    def run_at(
        self, denoiser: MaskedLMDenoiser, tokens: Tensor, sees: Tensor, keep: int, kept: KeyValues, with_hidden: bool
    ) -> tuple[Tensor, Tensor | None]:
        """Run it."""
        options = {"attention_mask": sees.unsqueeze(1), "position_ids": kept.positions.clamp(min=0)}
        return _last_of(denoiser.model, keep, tokens, past_key_values=kept, **options)


class Remote(Route):
    """The checkpoint's own code, given explicit masks."""

    def load(
        self, family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype
    ) -> tuple[Any, Mapping[str, str] | None, Tensor | None]:
        """Load it by its code, which the user must have allowed."""
        return load_remote(folder, device, dtype), None, None

    def run(self, denoiser: MaskedLMDenoiser, asked: Question) -> tuple[Tensor, Tensor | None]:
        """Run it on all positions: where its head is, is not known."""
        seen, numbers = _explicit(denoiser, asked)
        options = {"attention_mask": seen, "position_ids": numbers, "use_cache": False}
        return _all_of(denoiser.model, asked.keep, asked.with_hidden, asked.tokens, **options)


ROUTES: Mapping[RouteName, Route] = MappingProxyType({"masked_lm": MaskedLM(), "native": Native(), "remote": Remote()})
"""By the name that a family has for it."""
