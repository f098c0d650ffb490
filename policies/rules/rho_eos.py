"""rho-EOS: let the share of predicted end-of-text set the buffer's length."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from envs.view import Action, View, ensure_progress
from policies.rules.base import Rule


@dataclass(frozen=True)
class RhoEOS(Rule):
    """The threshold rule in a buffer that shrinks and grows with the density of predicted end-of-text.

    rho = share of masked positions that predict end-of-text. Above `high` the buffer loses masks at its end, below
    `low` it gains some: ``unit * min(8, 2^(segments - 1))`` of them, with one segment for each tenth that rho is off.

    Source: arXiv 2601.22527 (the paper's density; its released code uses a confidence instead). There a buffer of 64
    grows to 2048 at most in units of 8; here it starts at half of the buffer, grows to all of it, and the default unit
    is 1, because answers are a tenth as long.
    """

    rule = "rho_eos"
    sweep = (0.7, 0.8, 0.9, 0.95)
    features = frozenset({"is_eos"})

    threshold: float = 0.9
    """Confidence to commit at."""
    low: float = 0.4
    """Density below which masks are appended."""
    high: float = 0.6
    """Density above which masks are dropped."""
    unit: int = 1
    """Smallest change of the length."""
    start: float = 0.5
    """Share of the buffer to start from."""
    most: int = 64
    """Changes of a sequence's length at most."""

    def __post_init__(self) -> None:
        self.check_share("threshold", "low", "high", "start")
        self.check_count("unit", "most")
        self.check("low", self.low <= self.high, f"at most high, {self.high}")

    def initial_length(self, buffer_length: int) -> int:
        """Return the share of the buffer to start from, at least one unit."""
        return min(buffer_length, max(self.unit, round(self.start * buffer_length)))

    def act(self, view: View) -> Action:
        """Change the length by the density; commit by threshold."""
        density = (view.masked & (view.features["is_eos"] > 0)).sum(1) / view.masked.sum(1).clamp(min=1)
        changes = view.memory.get("changes", torch.zeros_like(view.length))
        gap = torch.maximum(density - self.high, self.low - density)
        # Rounding must not make three segments of a gap of 0.2; four reach the largest factor, 2^3.
        segments = (gap / 0.1 - 1e-4).ceil().clamp(1, 4)
        amount = (self.unit * 2 ** (segments - 1)).long()
        # A bound on changes, as a dLLM whose belief swings with the length would otherwise never settle.
        may = (gap > 0) & (changes < self.most)
        wanted = view.length + torch.where(may, torch.where(density > self.high, -amount, amount), 0)
        length = wanted.clamp(1, view.masked.shape[1])
        commit = ensure_progress(view.confidence >= self.threshold, view.eligible, view.confidence)
        return Action(commit, length=length, memory={"changes": changes + (length != view.length)})
