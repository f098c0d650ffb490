"""How much a dLLM computes, and how long it takes: what estimates and prices are made of."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from envs.denoiser import Denoiser

Result = TypeVar("Result")


class CountingDenoiser:
    """A dLLM that counts the positions it computes, whoever asks: the oracle's references are in no record.

    Args:
        denoiser: the dLLM.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.positions = denoiser, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def logits(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run one forward; see `Denoiser.logits`."""
        self.positions += tokens.numel()
        return self.denoiser.logits(tokens, *args, **kwargs)

    def logits_and_hidden(self, tokens: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Run one forward; see `Denoiser.logits_and_hidden`."""
        self.positions += tokens.numel()
        return self.denoiser.logits_and_hidden(tokens, *args, **kwargs)

    def logits_and_attention(self, tokens: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Run one forward; see `envs.denoiser.AttendingDenoiser.logits_and_attention`."""
        self.positions += tokens.numel()
        answer: tuple[Tensor, Tensor] = self.denoiser.logits_and_attention(tokens, *args, **kwargs)  # type: ignore[attr-defined]
        return answer

    def logits_at(self, tokens: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Run one forward on some positions; see `envs.denoiser.CachingDenoiser.logits_at`."""
        self.positions += tokens.numel()
        answer: tuple[Tensor, Tensor | None] = self.denoiser.logits_at(tokens, *args, **kwargs)  # type: ignore[attr-defined]
        return answer


def timed(run: Callable[[], Result], device: str) -> tuple[Result, float]:
    """Return a call's result and its seconds, waiting for the GPU: before it too, for what was asked earlier."""
    _wait(device)
    began = time.perf_counter()
    result = run()
    _wait(device)
    return result, time.perf_counter() - began


def _wait(device: str) -> None:
    # CUDA returns from a call before its work is done.
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
