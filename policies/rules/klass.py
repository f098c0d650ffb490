"""KLASS: commit what is confident and has stopped changing."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from envs.view import Action, View, ensure_progress
from policies.rules.base import Rule


@dataclass(frozen=True)
class Klass(Rule):
    """Commit confident positions whose distribution moved less than `divergence` in each of the last n steps.

    ``KL(p_t || p_(t-1)) < divergence`` n times running and ``c > threshold``; else the most confident position.

    Source: arXiv 2511.05664, Algorithm 1; thresholds there are set per task and model.
    """

    rule = "klass"
    sweep = (0.5, 0.7, 0.9, 0.98)
    features = frozenset({"probabilities"})

    threshold: float = 0.9
    """tau, on the confidence."""
    divergence: float = 0.01
    """epsilon, nats."""
    history: int = 2
    """n, steps."""

    def __post_init__(self) -> None:
        self.check_share("threshold")
        self.check_not_negative("divergence")
        self.check_count("history")

    def act(self, view: View) -> Action:
        """Compare with the step before."""
        now = view.tensors["probabilities"]
        before = view.memory.get("probabilities", torch.zeros_like(now))
        stable = view.memory.get("stable", torch.zeros_like(view.prediction))
        moved = (now * (now.clamp(min=1e-30).log() - before.clamp(min=1e-30).log())).sum(-1)
        # At its first step a row has nothing to be compared with.
        is_still = (moved < self.divergence) & (view.step > 1).unsqueeze(1)
        # A single jump starts the count anew: the paper asks for n steps in a row.
        stable = torch.where(is_still, stable + 1, 0)
        passes = (stable >= self.history) & (view.confidence > self.threshold)
        commit = ensure_progress(passes, view.eligible, view.confidence)
        return Action(commit, memory={"probabilities": now, "stable": stable})
