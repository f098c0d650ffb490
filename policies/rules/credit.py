"""CreditDecoding: tokens that were predicted before count for more."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch.nn import functional as F

from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.noise import gumbel
from envs.view import Action, View, ensure_progress
from policies.rules.base import Rule, bound


@dataclass(frozen=True)
class CreditDecoding(Rule):
    """The threshold rule on logits to which each token's accumulated credit is added.

    ``credit = decay * credit``, plus ``p^power`` for the present best token; fused logits are
    ``logits + weight * log(1 + credit)``; the fused best token is what is committed, at a temperature one that is
    sampled from them.

    Source: arXiv 2510.06133; constants of dInfer's implementation. Credit belongs to the row and ends with it.
    """

    rule = "credit"
    sweep = (0.5, 0.7, 0.8, 0.9, 0.95)
    features = frozenset({"probabilities"})

    threshold: float = 0.9
    """On the fused confidence."""
    decay: float = 0.8
    """What remains of the credit after a step."""
    power: float = 0.2
    """Exponent of the probability that is credited."""
    weight: float = 0.7
    """Of the logarithm of the credit."""
    temperature: float = bound(0.0)

    def __post_init__(self) -> None:
        self.check_not_negative("power", "weight")
        self.check_share("threshold", "decay")

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> Self:
        """Take over the temperature."""
        return replace(self, temperature=settings.temperature)

    def act(self, view: View) -> Action:
        """Credit, fuse, and commit by threshold."""
        now = view.tensors["probabilities"]
        credit = self.decay * view.memory.get("credit", torch.zeros_like(now))
        best, token = now.max(-1)
        # A power below 1 lifts small probabilities: a doubtful token that stays the best earns nearly what a sure one
        # does.
        credit = credit + F.one_hot(token, now.shape[-1]) * best.pow(self.power).unsqueeze(-1)
        # Adding logs to logits multiplies the probabilities.
        fused = now * (1 + credit).pow(self.weight)
        token = fused.argmax(-1)
        if self.temperature > 0:
            # The noise that the predictions were sampled with: without credit, they are what is committed.
            noise = gumbel(view.key, view.step, tuple(fused.shape[1:]))
            token = (fused.log() + self.temperature * noise).argmax(-1)
        # At committed positions, and in finished rows, all probabilities are 0.
        confidence = fused.gather(-1, token.unsqueeze(-1)).squeeze(-1) / fused.sum(-1).clamp(min=1e-30)
        commit = ensure_progress(confidence >= self.threshold, view.eligible, confidence)
        return Action(commit, tokens=token, memory={"credit": credit})
