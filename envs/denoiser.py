"""The frozen dLLM behind one narrow interface, and the one place that loads it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors import SafetensorError
from torch import Tensor

from envs.toy import ToyDenoiser

LEFT_PADDING_TOLERANCE = 0.02
"""Largest change of a probability by left padding that counts as rounding (bfloat16 resolves 0.004)."""

CHECKPOINTS = Path(__file__).parent / "checkpoints"
"""Models that ship with the package; each folder's name is a model name."""


@runtime_checkable
class Denoiser(Protocol):
    """What decoding needs of a masked diffusion language model."""

    mask_id: int
    eos_id: int
    pad_id: int
    max_length: int
    """Most tokens of prompt and buffer together."""

    @property
    def device(self) -> torch.device:
        """Where the tokens must be."""

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

    def encode(self, prompt: str) -> list[int]:
        """Turn a prompt into token ids."""

    def decode(self, tokens: list[int]) -> str:
        """Turn buffer tokens into text: everything before the first end-of-text, special tokens dropped."""

    def token_strings(self, tokens: list[int]) -> list[str]:
        """Return one printable string a token, for rendering."""


class MaskedLMDenoiser:
    """A plain absorbing-diffusion checkpoint that ``AutoModelForMaskedLM`` loads: bidirectional, logits aligned.

    Args:
        model: the masked language model; it is frozen and put in evaluation mode.
        tokenizer: its tokenizer.

    Raises:
        ValueError: if the tokenizer names no mask or end-of-text token.
    """

    def __init__(self, model: Any, tokenizer: Any) -> None:
        for token in ("mask_token_id", "eos_token_id"):
            if getattr(tokenizer, token) is None:
                raise ValueError(f"{token} is None in the tokenizer of {model.name_or_path!r}: the dLLM needs one")
        self.model = model.eval().requires_grad_(False)
        self.tokenizer = tokenizer
        self.mask_id: int = tokenizer.mask_token_id
        self.eos_id: int = tokenizer.eos_token_id
        self.pad_id: int = self.eos_id if tokenizer.pad_token_id is None else tokenizer.pad_token_id
        positions = int(getattr(model.config, "max_position_embeddings", 2**31))
        # RoBERTa-like models number positions from pad_token_id + 1.
        self._first_position = 1 + self.pad_id if "roberta" in model.config.model_type else 0
        self.max_length = positions - self._first_position
        self._check_left_padding()

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    def _check_left_padding(self) -> None:
        """Refuse a model whose answer depends on the padding of its batch, by two forwards on three tokens."""
        tokens = torch.full((1, 3), self.mask_id, device=self.device)
        padded = torch.cat([torch.full_like(tokens, self.pad_id), tokens], 1)
        attention_mask = torch.tensor([[False] * 3 + [True] * 3], device=self.device)
        alone = self.logits(tokens, attention_mask[:, 3:], 3).float().softmax(-1)
        in_batch = self.logits(padded, attention_mask, 3).float().softmax(-1)
        # NaN is left to decoding, which says where it arose.
        if float((alone - in_batch).abs().max()) > LEFT_PADDING_TOLERANCE:
            raise ValueError(
                f"model is {self.model.name_or_path!r} ({self.model.config.model_type}): its predictions change with "
                "left padding, so batches would change answers; use a model with rotary or padding-aware positions"
            )

    @torch.inference_mode()
    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        """Run one forward; see `Denoiser.logits`."""
        logits: Tensor = self._run(tokens, attention_mask, position_ids).logits
        return logits[:, -length:]

    @torch.inference_mode()
    def logits_and_hidden(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Run one forward; see `Denoiser.logits_and_hidden`."""
        output = self._run(tokens, attention_mask, None, output_hidden_states=True)
        return output.logits[:, -length:], output.hidden_states[-1][:, -length:]

    def _run(self, tokens: Tensor, attention_mask: Tensor, position_ids: Tensor | None, **options: Any) -> Any:
        seen: Tensor | None
        if attention_mask.ndim == 3:
            seen = attention_mask.unsqueeze(1)  # one for all heads
        else:
            # Without padding no mask is passed: the attention kernel is faster then.
            seen = None if bool(attention_mask.all()) else attention_mask.long()
        if position_ids is not None:
            options["position_ids"] = position_ids + self._first_position
        return self.model(input_ids=tokens, attention_mask=seen, **options)

    def encode(self, prompt: str) -> list[int]:
        """Turn a prompt into token ids."""
        ids: list[int] = self.tokenizer(prompt, add_special_tokens=False)["input_ids"]
        return ids

    def decode(self, tokens: list[int]) -> str:
        """Turn buffer tokens into text up to the first end-of-text."""
        end = tokens.index(self.eos_id) if self.eos_id in tokens else len(tokens)
        text: str = self.tokenizer.decode(tokens[:end], skip_special_tokens=True)
        return text

    def token_strings(self, tokens: list[int]) -> list[str]:
        """Return one printable string a token."""
        strings: list[str] = self.tokenizer.convert_ids_to_tokens(tokens)
        return strings


def load_denoiser(name: str = "tiny", device: str = "cpu", dtype: str = "float32") -> Denoiser:
    """Load a dLLM once; later calls with the same arguments return the same object.

    Args:
        name: a folder that holds a Hugging Face masked-LM checkpoint, or the name of one that ships with the
            package (``"tiny"``), or ``"toy"``, the untrained denoiser of the tests, or ``"sapiens:heavy"`` or
            ``"sapiens:light"`` (see `envs.sapiens`).
        device: a torch device.
        dtype: a torch dtype's name; confidences are float32 whatever it is.

    Raises:
        FileNotFoundError: if there is no such model, naming those that ship.
        ValueError: if the device or dtype is unknown or missing here, or the folder holds no masked-LM checkpoint
            that is whole and batches safely.
    """
    return _load(name, device, dtype)


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

    return _from_pretrained(AutoModelForCausalLM, name, _folder(name), device, torch.float32)


@lru_cache(maxsize=2)
def _load(name: str, device: str, dtype: str) -> Denoiser:
    if name == "toy":
        return ToyDenoiser()
    if name.startswith("sapiens:"):
        from envs.sapiens import load_sapiens

        return load_sapiens(name, device, dtype)
    folder = _folder(name)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype is {dtype!r}: choose float32, bfloat16 or float16")
    from transformers import AutoModelForMaskedLM, AutoTokenizer

    if not any((folder / file).is_file() for file in ("tokenizer.json", "tokenizer_config.json")):
        # transformers would make up a tokenizer of a few words.
        raise ValueError(f"model is {name!r}: {folder} holds no tokenizer.json")
    model = _from_pretrained(AutoModelForMaskedLM, name, folder, device, getattr(torch, dtype))
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model is {name!r}: transformers can't load a tokenizer from {folder}: {error}") from error
    return MaskedLMDenoiser(model, tokenizer)


def _folder(name: str) -> Path:
    folder = CHECKPOINTS / name if (CHECKPOINTS / name).is_dir() else Path(name)
    if not (folder / "config.json").is_file():
        shipped = sorted(path.name for path in CHECKPOINTS.iterdir()) if CHECKPOINTS.is_dir() else []
        raise FileNotFoundError(
            f"model is {name!r}: no config.json in that folder; give a checkpoint folder or one of "
            f"{', '.join([*shipped, 'toy'])}"
        )
    return folder


def _from_pretrained(auto_class: Any, name: str, folder: Path, device: str, dtype: torch.dtype) -> Any:
    from transformers.utils import logging

    _check_device(device)
    logging.disable_progress_bar()
    kind = "masked" if "MaskedLM" in auto_class.__name__ else "causal"
    try:
        model, report = auto_class.from_pretrained(folder, dtype=dtype, local_files_only=True, output_loading_info=True)
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        raise ValueError(f"model is {name!r}: transformers can't load a {kind} LM from {folder}: {error}") from error
    missing = sorted(report["missing_keys"])
    if missing:
        # They would be random numbers.
        raise ValueError(f"model is {name!r}: its weights lack {len(missing)} tensors, such as {missing[0]}")
    return model.to(device).eval().requires_grad_(False)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}: torch can't use it here ({error}); try cpu") from error
