"""The frozen dLLM behind one narrow interface, and the one place that loads it."""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from envs.toy import ToyDenoiser

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

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        """Run one forward.

        Args:
            tokens: (B, T) int64, left-padded prompt followed by the buffer.
            attention_mask: (B, T) bool, False on padding.
            length: L, the number of buffer positions at the end.

        Returns:
            (B, L, V) float, entry i about the token *at* buffer position i.
        """

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
        self.max_length = positions - 1 - self.pad_id if "roberta" in model.config.model_type else positions

    @property
    def device(self) -> torch.device:
        """Where the model is."""
        device: torch.device = self.model.device
        return device

    @torch.inference_mode()
    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        """Run one forward; see `Denoiser.logits`."""
        # Without padding no mask is passed: the attention kernel is faster then.
        padded = None if bool(attention_mask.all()) else attention_mask.long()
        logits: Tensor = self.model(input_ids=tokens, attention_mask=padded).logits
        return logits[:, -length:]

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


@lru_cache(maxsize=2)
def load_denoiser(name: str = "tiny", device: str = "cpu", dtype: str = "float32") -> Denoiser:
    """Load a dLLM once; later calls with the same arguments return the same object.

    Args:
        name: a folder that holds a Hugging Face masked-LM checkpoint, or the name of one that ships with the
            package (``"tiny"``), or ``"toy"``, the untrained denoiser of the tests.
        device: a torch device.
        dtype: a torch dtype's name; confidences are float32 whatever it is.

    Raises:
        FileNotFoundError: if there is no such model, naming those that ship.
        ValueError: if the device or dtype is unknown or missing here, or the folder holds no masked-LM checkpoint.
    """
    if name == "toy":
        return ToyDenoiser()
    folder = CHECKPOINTS / name if (CHECKPOINTS / name).is_dir() else Path(name)
    if not (folder / "config.json").is_file():
        shipped = sorted(path.name for path in CHECKPOINTS.iterdir()) if CHECKPOINTS.is_dir() else []
        raise FileNotFoundError(
            f"model is {name!r}: no config.json in that folder; give a checkpoint folder or one of "
            f"{', '.join([*shipped, 'toy'])}"
        )
    _check_device(device)
    if dtype not in ("float32", "bfloat16", "float16"):
        raise ValueError(f"dtype is {dtype!r}: choose float32, bfloat16 or float16")
    from transformers import AutoModelForMaskedLM, AutoTokenizer
    from transformers.utils import logging

    logging.disable_progress_bar()
    try:
        model = AutoModelForMaskedLM.from_pretrained(folder, dtype=getattr(torch, dtype), local_files_only=True)
        tokenizer = AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        raise ValueError(f"model is {name!r}: transformers can't load a masked LM from {folder}: {error}") from error
    return MaskedLMDenoiser(model.to(device), tokenizer)


def _check_device(device: str) -> None:
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"device is {device!r}: torch can't use it here ({error}); try cpu") from error
