"""The frozen dLLM behind one narrow interface, and the one place that loads it."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from envs.beliefs import DenoiserError
from envs.models.attention import attention, position_numbers
from envs.models.families import check_kind, check_supported, check_unquantised, find_family
from envs.models.family import PLAIN, Family
from envs.models.native import load_native
from envs.models.probes import (
    check_attention,
    check_keeps,
    check_left_padding,
    check_rotary,
    check_shift,
    check_tensors,
    rotary_frequencies,
)
from envs.models.remote import check_remote, load_remote
from envs.models.source import fetch, is_hub_id
from envs.models.tokens import find_ids, first_line, load_tokenizer
from envs.models.weights import check_dtypes, check_sizes
from envs.toy import ToyDenoiser

if TYPE_CHECKING:
    from envs.models.key_values import KeyValues  # it imports transformers

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Models that ship with the package; each folder's name is a model name."""


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


def identify(denoiser: Denoiser) -> dict[str, Any]:
    """Return what tells dLLMs of different kinds apart, as JSON can hold it; fine-tunes of one are the same."""
    return {
        "mask_id": denoiser.mask_id,
        "end_ids": list(denoiser.end_ids),
        "hidden_size": denoiser.hidden_size,
        "block_length": denoiser.block_length,
        "logit_shift": denoiser.logit_shift,
    }


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
            check of `envs.models.probes`.
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
        self._first_position = 1 + self.pad_id if "roberta" in model.config.model_type else 0
        self.max_length = min(positions - self._first_position, family.max_length or positions)
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
    def raw_logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        """Return the (B, T, V) logits of all positions as the model gives them, unshifted; for checks."""
        return self._run(tokens, attention_mask, length, tokens.shape[1], None, with_hidden=False)[0]

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
        numbers = kept.positions.clamp(min=0)
        shared: dict[str, Any] = {"attention_mask": sees.unsqueeze(1), "past_key_values": kept}
        if self.family.route == "masked_lm":
            options = {"output_hidden_states": True} if with_hidden else {}
            output = self.model(input_ids=tokens, position_ids=numbers + self._first_position, **shared, **options)
            return output.logits[:, -keep:], output.hidden_states[-1][:, -keep:] if with_hidden else None
        states = self.model.base_model(input_ids=tokens, position_ids=numbers, **shared)
        hidden = states.last_hidden_state[:, -keep:].contiguous()  # as in _run
        return self.model.lm_head(hidden), hidden

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
        logits, hidden = self._run(tokens, attention_mask, length, length + shift, position_ids, with_hidden)
        return logits[:, :length], None if hidden is None else hidden[:, :length]

    def _run(
        self,
        tokens: Tensor,
        attention_mask: Tensor,
        length: int,
        keep: int,
        position_ids: Tensor | None,
        with_hidden: bool,
    ) -> tuple[Tensor, Tensor | None]:
        """Run the model; returns the logits and hidden states of the last `keep` positions."""
        if self.family.route == "masked_lm":
            return self._run_masked(tokens, attention_mask, keep, position_ids, with_hidden)
        seen, numbers = self._explicit(attention_mask, length, position_ids)
        if self.family.route == "remote":
            output = self.model(
                input_ids=tokens,
                attention_mask=seen,
                position_ids=numbers,
                use_cache=False,
                output_hidden_states=with_hidden,
            )
            return output.logits[:, -keep:], output.hidden_states[-1][:, -keep:] if with_hidden else None
        # The head is applied to the positions that are asked about, not to the prompt.
        states = self.model.base_model(input_ids=tokens, attention_mask=seen, position_ids=numbers)
        # In half precision on the CPU a layer copies its weights once a row unless its input is in one piece.
        hidden = states.last_hidden_state[:, -keep:].contiguous()
        return self.model.lm_head(hidden), hidden

    def _run_masked(
        self, tokens: Tensor, attention_mask: Tensor, keep: int, position_ids: Tensor | None, with_hidden: bool
    ) -> tuple[Tensor, Tensor | None]:
        options: dict[str, Any] = {"output_hidden_states": True} if with_hidden else {}
        seen: Tensor | None
        if attention_mask.ndim == 3:
            self._check_can_be_told_who_sees_whom()
            seen = attention_mask.unsqueeze(1)  # one for all heads
        else:
            # Without padding no mask is passed: the attention kernel is faster then.
            seen = None if bool(attention_mask.all()) else attention_mask.long()
        if position_ids is not None:
            options["position_ids"] = position_ids + self._first_position
        output = self.model(input_ids=tokens, attention_mask=seen, **options)
        return output.logits[:, -keep:], output.hidden_states[-1][:, -keep:] if with_hidden else None

    def _explicit(self, attention_mask: Tensor, length: int, position_ids: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return who sees whom as a 4D mask, always the same kernel's, and the position numbers."""
        if attention_mask.ndim == 3:
            self._check_can_be_told_who_sees_whom()
            assert position_ids is not None
            return attention_mask.unsqueeze(1), position_ids
        prompt = attention_mask[:, : attention_mask.shape[1] - length].sum(1)
        seen = attention(attention_mask, self.block_length, 0 if self.absolute_blocks else prompt)
        return seen, position_numbers(attention_mask) if position_ids is None else position_ids

    def _check_can_be_told_who_sees_whom(self) -> None:
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


def load_denoiser(
    name: str = "tiny",
    device: str = "cpu",
    dtype: str = "float32",
    *,
    family: str | None = None,
    chat_template: bool | None = None,
    revision: str | None = None,
    trust_remote_code: bool = False,
) -> Denoiser:
    """Load a dLLM once; later calls with the same arguments return the same object.

    Args:
        name: a folder that holds a checkpoint of a family of `envs.models`, or the name of one that ships with the
            package (``"tiny"``), or ``"toy"``, the untrained denoiser of the tests, or ``"sapiens:heavy"`` or
            ``"sapiens:light"`` (see `envs.sapiens`), or a repository of the Hugging Face hub
            (``"GSAI-ML/LLaDA-8B-Instruct"``).
        device: a torch device.
        dtype: a torch dtype's name; confidences are float32 whatever it is.
        family: a name of `envs.models.FAMILIES`; None reads it from config.json.
        chat_template: False for a base model; None puts prompts into the chat template where there is one.
        revision: commit of the hub repository; None is the newest.
        trust_remote_code: allow a family without a class in transformers to run the code of its repository.

    Raises:
        FileNotFoundError: if there is no such model, naming those that ship.
        ValueError: if the device or dtype is unknown or missing here, or the folder holds no checkpoint of a known
            family that is whole and passes the checks of `envs.models.probes`.
    """
    return _load(name, device, dtype, family, chat_template, revision, trust_remote_code)


def load_guide(name: str, device: str = "cpu") -> Any:
    """Load a causal language model that shares the dLLM's tokenizer, frozen; later calls return the same object.

    Args:
        name: a folder that holds a Hugging Face causal-LM checkpoint, or the name of one that ships with the package
            (``"tiny_guide"``).
        device: a torch device.

    Raises:
        FileNotFoundError: if there is no such model, naming those that ship.
        ValueError: if the folder holds no causal-LM checkpoint that is whole.
    """
    return _load_guide(name, device)


@lru_cache(maxsize=2)
def _load_guide(name: str, device: str) -> Any:
    from transformers import AutoModelForCausalLM

    _check_device(device)
    folder = _folder(name)
    config = _read_config(name, folder)
    try:
        check_unquantised(config)
        check_kind(config, "causal")
        check_dtypes(folder)
        check_sizes(folder, config)
        model = _from_pretrained(AutoModelForCausalLM, folder, device, torch.float32)
        check_tensors(model, folder, None)
    except Exception as error:  # as in _load
        raise ValueError(f"model is {name!r}: {first_line(error)}") from error
    return model


@lru_cache(maxsize=2)
def _load(
    name: str,
    device: str,
    dtype: str,
    family_name: str | None,
    chat_template: bool | None,
    revision: str | None,
    trust_remote_code: bool,
) -> Denoiser:
    if name == "toy":
        return ToyDenoiser()
    if name.startswith("sapiens:"):
        from envs.sapiens import load_sapiens

        return load_sapiens(name, device, dtype)
    folder = _folder(name, revision, trust_remote_code)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype is {dtype!r}: choose float32, bfloat16 or float16")
    _check_device(device)
    config = _read_config(name, folder)
    family = find_family(config, name, family_name)
    if family.route == "remote":
        check_remote(name, Path(name).is_dir(), trust_remote_code, revision)
    try:
        check_supported(config, family)
        check_dtypes(folder)
        check_sizes(folder, config)
        tokenizer = load_tokenizer(family, folder, trust_remote_code)
        model = _load_model(family, folder, config, device, getattr(torch, dtype))
    except Exception as error:  # transformers, safetensors and torch each raise their own
        raise ValueError(f"model is {name!r}: {first_line(error)}") from error
    try:
        return MaskedLMDenoiser(model, tokenizer, family, config, chat_template, name)
    except (ValueError, DenoiserError):
        raise
    except Exception as error:  # settings of the tokenizer that transformers believes until they are used
        raise ValueError(f"model is {name!r}: it can't be asked ({first_line(error)})") from error


def _load_model(family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype) -> Any:
    """Load a model by its family's route, and check that it is the checkpoint's."""
    from transformers import AutoModelForMaskedLM

    names: Mapping[str, str] | None = None
    frequencies: Tensor | None = None
    if family.route == "native":
        model, names = load_native(family, folder, config, device, dtype)
        frequencies = rotary_frequencies(model.config)
    elif family.route == "remote":
        model = load_remote(folder, device, dtype)
    else:
        model = _from_pretrained(AutoModelForMaskedLM, folder, device, dtype)
    check_tensors(model, folder, names)
    check_rotary(model, frequencies)
    return model


def _folder(name: str, revision: str | None = None, with_code: bool = False) -> Path:
    folder = CHECKPOINTS / name if (CHECKPOINTS / name).is_dir() else Path(os.path.expanduser(name))
    if not folder.is_dir() and is_hub_id(name):
        folder = fetch(name, revision, with_code)
    if not (folder / "config.json").is_file():
        shipped = sorted(path.name for path in CHECKPOINTS.iterdir()) if CHECKPOINTS.is_dir() else []
        raise FileNotFoundError(
            f"model is {name!r}: no config.json in that folder; give a checkpoint folder or one of "
            f"{', '.join([*shipped, 'toy'])}"
        )
    return folder


def _read_config(name: str, folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text())
    except (ValueError, RecursionError) as error:
        raise ValueError(f"model is {name!r}: {folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise ValueError(f"model is {name!r}: {folder / 'config.json'} holds no object of settings")
    return config


def _from_pretrained(auto_class: Any, folder: Path, device: str, dtype: torch.dtype) -> Any:
    from transformers.utils import logging

    logging.disable_progress_bar()
    # Left out, trust_remote_code would mean to ask at the terminal whether to run the folder's own code.
    model, report = auto_class.from_pretrained(
        folder, dtype=dtype, local_files_only=True, output_loading_info=True, trust_remote_code=False
    )
    missing = sorted(report["missing_keys"])
    if missing:
        # They would be random numbers.
        raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
    return model.to(device).eval().requires_grad_(False)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch lists all its backends, a line each.
        reason = str(error).splitlines()[0].partition(". ")[0]
        raise ValueError(f"device is {device!r}: torch can't use it here ({reason}); try cpu") from error
