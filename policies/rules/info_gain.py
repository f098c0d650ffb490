"""Info-Gain: look ahead at what each choice would teach about the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.noise import gumbel
from envs.view import Action, View
from policies.rules.base import Rule, top_k


def mean_entropy(view: View) -> Tensor:
    """Return (N,) float32 nats, the mean entropy of the masked positions; 0 in a finished row."""
    total = (view.features["entropy"] * view.masked).sum(1)
    return total / view.masked.sum(1).clamp(min=1)


@dataclass(frozen=True)
class InfoGain(Rule):
    """Of several candidate sets, commit the one with the largest information gain less its own uncertainty.

    ``J(A) = -(entropy of the positions of A) - (mean entropy of what stays masked after A)``, the latter from one
    forward on all candidates. The first candidate is the k most confident positions, the others are drawn by
    confidence with Gumbel noise. Where a position passes the threshold, all that do are committed without looking.

    Source: arXiv 2602.18176. That the remaining entropy is a mean is our reading.
    """

    rule = "info_gain"
    sweep = (1, 2, 4)
    drafts = True
    features = frozenset({"entropy"})

    tokens_per_step: int = 1
    """k, size of a candidate set."""
    candidates: int = 8
    """Sets compared."""
    temperature: float = 0.1
    """Of the noise on the confidence."""
    threshold: float = 0.9
    """Confidence that needs no look ahead."""

    def __post_init__(self) -> None:
        self.check_count("tokens_per_step", "candidates")
        self.check_not_negative("temperature")
        self.check_share("threshold")

    def act(self, view: View) -> Action:
        """Draw the candidates."""
        sure = view.eligible & (view.confidence >= self.threshold)
        greedy = top_k(view.confidence, view.eligible, self.tokens_per_step)
        commit = torch.where(sure.any(1, keepdim=True), sure, greedy)
        if self.candidates == 1:
            return Action(commit)
        length = view.masked.shape[1]
        # A stream of its own: from that of the sampled tokens, what is tried would depend on what was drawn.
        noise = gumbel(view.key, view.step, (self.candidates - 1, length), stream=4)
        scores = view.confidence.unsqueeze(1) + self.temperature * noise
        eligible = view.eligible.unsqueeze(1).expand_as(scores)
        drawn = top_k(scores.flatten(0, 1), eligible.flatten(0, 1), self.tokens_per_step).view_as(scores)
        # Equal drafts are computed once, so a row that is sure pays for no look ahead.
        drafts = torch.where(sure.any(1).view(-1, 1, 1), commit.unsqueeze(1), drawn)
        sets = torch.cat([commit.unsqueeze(1), drafts], 1)
        cost = (sets * view.features["entropy"].unsqueeze(1)).sum(2)  # (N, candidates)

        def choose(views: Sequence[View]) -> Tensor:
            remaining = torch.stack([mean_entropy(seen) for seen in views], 1)
            return (-cost - remaining).argmax(1)

        return Action(commit, drafts=drafts, choose=choose)
