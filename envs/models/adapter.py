"""A masked language model of transformers as a denoiser."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from envs.models.attention_maps import AttentionMaps
from envs.models.checks import (
    check_attention,
    check_keeps,
    check_left_padding,
    check_shift,
)
from envs.models.families.family import PLAIN, Family
from envs.models.routes import ROUTES, Question
from envs.models.tokenizer import find_ids, first_line

if TYPE_CHECKING:
    from envs.models.key_values import KeyValues  # it imports transformers


class MaskedLMDenoiser:
    """A dLLM of transformers: a masked language model, or a causal class that is given explicit masks.

    Args:
        model: the model; it is frozen and put in evaluation mode.
        tokenizer: its tokenizer.
        family: what is particular about it; the default is a plain absorbing-diffusion checkpoint that
            ``AutoModelForMaskedLM`` loads: bidirectional, logits aligned.
        config: the checkpoint's config.json where the model's own configuration is a translation of it.
        chat_template: True to put prompts into the tokenizer's chat template, None where it has one.
        name: for messages; None is what the model was loaded from.

    Raises:
        ValueError: if a special token is missing or impossible, the chat template is missing, or the model fails a
            check of `envs.models.checks`.
    """

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        family: Family = PLAIN,
        config: Mapping[str, Any] | None = None,
        chat_template: bool | None = False,
        name: str | None = None,
    ) -> None:
        self.name: str = name or model.name_or_path
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.family = family
        self._route = ROUTES[family.route]
        facts = model.config.to_dict() if config is None else config
        ids = find_ids(family, tokenizer, facts, model.get_input_embeddings().num_embeddings, self.name)
        self.mask_id, self.eos_id, self.end_ids, self.pad_id = ids.mask, ids.eos, ids.ends, ids.pad
        self.block_length = family.block_of(facts)
        self.absolute_blocks = family.block_origin == "absolute"
        self.logit_shift = family.logit_shift
        has_template = getattr(tokenizer, "chat_template", None) is not None
        if chat_template and not has_template:
            raise ValueError(f"chat_template is true, but the tokenizer of {self.name!r} has none; set it to false")
        self.uses_chat_template: bool = has_template if chat_template is None else chat_template
        positions = int(getattr(model.config, "max_position_embeddings", 2**31))
        # RoBERTa-like models number positions from pad_token_id + 1.
        self.first_position = 1 + self.pad_id if "roberta" in model.config.model_type else 0
        self.max_length = min(positions - self.first_position, family.max_length or positions)
        self._keeps = False  # whether the model was seen to keep keys and values as it should
        check_left_padding(self)
        check_attention(self)
        check_shift(self)

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @property
    def hidden_size(self) -> int:
        """D, width of the hidden states, as the model's configuration says it."""
        size: int = self.model.config.hidden_size
        return size

    @torch.inference_mode()
    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        """Run one forward; see `Denoiser.logits`.

        Raises:
            ValueError: for a mask of who sees whom, where the family's own can't be combined with it.
        """
        return self._answer(tokens, attention_mask, length, position_ids)[0]

    @torch.inference_mode()
    def logits_and_hidden(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Run one forward; see `Denoiser.logits_and_hidden`."""
        logits, hidden = self._answer(tokens, attention_mask, length, None, with_hidden=True)
        assert hidden is not None
        return logits, hidden

    @torch.inference_mode()
    def logits_and_attention(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Run one forward; see `envs.denoiser.AttendingDenoiser.logits_and_attention`.

        Raises:
            ValueError: if the model computes its attention by another function than torch's
                ``scaled_dot_product_attention``.
        """
        with AttentionMaps() as maps:
            logits = self._answer(tokens, attention_mask, length, None)[0]
        attention = maps.mean()
        if attention is None:
            raise ValueError(
                f"features hold attention: {type(self.model).__name__} can't give it, as it computes its attention by "
                "another function than torch's scaled_dot_product_attention; leave it out"
            )
        return logits, attention

    @torch.inference_mode()
    def raw_logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        """Return the (B, T, V) logits of all positions as the model gives them, unshifted; for checks."""
        return self._route.run(self, Question(tokens, attention_mask, length, tokens.shape[1]))[0]

    def key_values(self, num_rows: int) -> KeyValues:
        """Return empty keys and values; see `CachingDenoiser.key_values`."""
        from envs.models.key_values import KeyValues

        if not self._keeps:
            check_keeps(self)
            self._keeps = True
        return KeyValues(num_rows)

    @torch.inference_mode()
    def logits_at(
        self, tokens: Tensor, sees: Tensor, keep: int, kept: KeyValues, with_hidden: bool = False
    ) -> tuple[Tensor, Tensor | None]:
        """Run one forward on some positions; see `CachingDenoiser.logits_at`."""
        return self._route.run_at(self, tokens, sees, keep, kept, with_hidden)

    def _answer(
        self,
        tokens: Tensor,
        attention_mask: Tensor,
        length: int,
        position_ids: Tensor | None,
        with_hidden: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Return logits and hidden states, entry i those about position i of the last L."""
        shift = self.family.logit_shift
        if tokens.shape[1] < length + shift:
            raise ValueError(
                f"tokens has {tokens.shape[1]} columns: the first of {length} positions needs one before it"
            )
        asked = Question(tokens, attention_mask, length, length + shift, position_ids, with_hidden)
        logits, hidden = self._route.run(self, asked)
        return logits[:, :length], None if hidden is None else hidden[:, :length]

    def check_can_be_told_who_sees_whom(self) -> None:
        """Refuse a mask of who sees whom where the family's own can't be combined with it.

        Raises:
            ValueError: if it can't.
        """
        if self.block_length is not None or not self.family.sees_far:
            raise ValueError(
                f"features hold leave_one_out: a model of the {self.family.name} family can't give it, as its own "
                "attention hides some positions from others; leave it out"
            )

    def encode_prompt(self, prompt: str) -> list[int]:
        """Turn a prompt into token ids, as a user's message where there is a chat template."""
        if self.uses_chat_template:
            return self.encode_messages([{"role": "user", "content": prompt}])
        return self.encode_text(prompt)

    def encode_messages(self, messages: Sequence[Mapping[str, str]]) -> list[int]:
        """Turn a conversation into token ids by the chat template, up to where the answer begins.

        Args:
            messages: turns, each with a ``role`` and a ``content``.

        Raises:
            ValueError: if the tokenizer has no chat template, or one that fails.
        """
        if getattr(self.tokenizer, "chat_template", None) is None:
            raise ValueError(
                f"messages are given, but the tokenizer of {self.name!r} has no chat template: give a text"
            )
        # The template writes every special token itself. LLaDA's always ends in the assistant's header.
        try:
            text: str = self.tokenizer.apply_chat_template(
                list(messages), tokenize=False, add_generation_prompt=True, **self.family.chat_options
            )
        except Exception as error:  # it is a program, of whoever made the checkpoint
            raise ValueError(
                f"the chat template of {self.name!r} can't be applied ({first_line(error)}): mend the tokenizer's "
                "files, or set chat_template to false"
            ) from error
        return self.encode_text(text)

    def encode_text(self, text: str) -> list[int]:
        """Turn text into token ids, as it is."""
        ids: list[int] = self.tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Turn buffer tokens into text up to the first end-of-text."""
        end = next((i for i, token in enumerate(tokens) if token in self.end_ids), len(tokens))
        text: str = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        for stop in self.family.stop_strings:
            text = text.partition(stop)[0]
        return text

    def token_strings(self, tokens: list[int]) -> list[str]:
        """Return one printable string a token."""
        strings: list[str | None] = self.tokenizer.convert_ids_to_tokens(tokens)
        # An embedding may have more rows than the tokenizer has tokens.
        return [f"[{token}]" if string is None else string for token, string in zip(tokens, strings, strict=True)]
