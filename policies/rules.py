"""Hand-made decoding rules, each one knob."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor

from envs.decoding import View, ensure_progress
from envs.noise import uniform
from policies.base import UnmaskingPolicy


def top_k(score: Tensor, eligible: Tensor, k: int) -> Tensor:
    """Choose the k eligible positions of highest score in each row; of equals, the first.

    Args:
        score: (N, L) float.
        eligible: (N, L) bool.
        k: at least 1; a row with fewer eligible positions gives all of them.

    Returns:
        (N, L) bool.
    """
    order = score.masked_fill(~eligible, -torch.inf).argsort(dim=1, descending=True, stable=True)
    chosen = torch.zeros_like(eligible).scatter(1, order[:, :k], True)
    return chosen & eligible


def _check_tokens_per_step(rule: str, tokens_per_step: float) -> int:
    if not (math.isfinite(tokens_per_step) and tokens_per_step >= 1 and tokens_per_step == int(tokens_per_step)):
        raise ValueError(f"{rule}'s tokens per step is {tokens_per_step}: it must be a whole number of 1 or more")
    return int(tokens_per_step)


class LowConfidence(UnmaskingPolicy):
    """Fixed-step low-confidence remasking: commit the k most confident positions of the block.

    With ``k = L / steps`` this is LLaDA's sampler when the steps divide the block evenly.

    Source: arXiv 2502.09992, Algorithm 5. Departure: positions left over from an earlier block can't compete,
    because a block is left only when all of it is committed.

    Args:
        tokens_per_step: k.

    Raises:
        ValueError: if k is not a whole number of 1 or more.
    """

    def __init__(self, tokens_per_step: float = 1) -> None:
        self.tokens_per_step = _check_tokens_per_step("low_confidence", tokens_per_step)

    @property
    def name(self) -> str:
        """``low_confidence:k``."""
        return f"low_confidence:{self.tokens_per_step}"

    def select(self, view: View) -> Tensor:
        """Choose the k most confident."""
        return top_k(view.confidence, view.eligible, self.tokens_per_step)


class Random(UnmaskingPolicy):
    """Commit k positions of the block, uniformly at random.

    Source: arXiv 2502.09992, Algorithm 4.

    Args:
        tokens_per_step: k.

    Raises:
        ValueError: if k is not a whole number of 1 or more.
    """

    def __init__(self, tokens_per_step: float = 1) -> None:
        self.tokens_per_step = _check_tokens_per_step("random", tokens_per_step)

    @property
    def name(self) -> str:
        """``random:k``."""
        return f"random:{self.tokens_per_step}"

    def select(self, view: View) -> Tensor:
        """Choose k at random, by the sequence's key and step."""
        score = uniform(view.key, view.step, (view.confidence.shape[1],), stream=2)
        return top_k(score, view.eligible, self.tokens_per_step)


class Threshold(UnmaskingPolicy):
    """Fast-dLLM's parallel decoding: commit every position whose confidence is at least the threshold.

    A row with none commits its most confident position (the fallback is row by row, unlike some released code).

    Source: arXiv 2505.22618, Algorithm 1.

    Args:
        threshold: in [0, 1]; above 1 nothing passes and one position is committed a step.

    Raises:
        ValueError: if the threshold is negative or not a number.
    """

    def __init__(self, threshold: float = 0.9) -> None:
        if not threshold >= 0:
            raise ValueError(f"threshold is {threshold}: it must be 0 or more")
        self.threshold = float(threshold)

    @property
    def name(self) -> str:
        """``threshold:t``."""
        short = f"{self.threshold:g}"
        exact = short if float(short) == self.threshold else repr(self.threshold)
        return f"threshold:{exact}"

    def select(self, view: View) -> Tensor:
        """Choose what passes the threshold, else the best."""
        return ensure_progress(view.confidence >= self.threshold, view.eligible, view.confidence)


RULES: Mapping[str, Callable[[float], UnmaskingPolicy]] = MappingProxyType(
    {"low_confidence": LowConfidence, "random": Random, "threshold": Threshold}
)
"""Every rule by name; a new one is a class and a word here."""


def make_rule(text: str) -> UnmaskingPolicy:
    """Build a rule from ``name:knob``.

    Raises:
        ValueError: if there is no such rule, or its knob is missing or not possible.

    >>> make_rule("threshold:0.9").name
    'threshold:0.9'
    """
    name, _, knob = text.partition(":")
    if name not in RULES:
        raise ValueError(f"policy is {text!r}: no rule of that name; choose from {', '.join(RULES)}")
    try:
        value = float(knob)
    except ValueError:
        raise ValueError(f"policy is {text!r}: write a number after the colon, as in threshold:0.9") from None
    return RULES[name](value)
