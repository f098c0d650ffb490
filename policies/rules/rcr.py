"""RCR, running confidence remasking: write everything, keep the most certain."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from envs.view import Action, View
from policies.rules.base import Rule, rank
from policies.rules.fixed import SCHEDULES, committed_target


@dataclass(frozen=True)
class RCR(Rule):
    """At each step predict the whole block and keep the most certain, as many as a schedule says.

    A committed token is judged by its confidence when it was committed, a mask by its present one, so a token can be
    taken back when something more certain turns up.

    Source: arXiv 2508.13148, Section 3 (training-free part).
    """

    rule = "rcr"
    sweep = (1, 2, 4, 8, 16)

    tokens_per_step: int = 1
    """k, on average."""
    schedule: str = "linear"
    """Of the number kept: linear, cosine, square or root."""

    def __post_init__(self) -> None:
        self.check_count("tokens_per_step")
        self.check("schedule", self.schedule in SCHEDULES, f"one of {', '.join(SCHEDULES)}")

    def act(self, view: View) -> Action:
        """Keep the most certain of old and new."""
        running = torch.where(view.masked, view.confidence, view.commit_confidence)
        committed = (view.in_block & ~view.masked).sum(1)
        target = torch.maximum(committed_target(view, self.tokens_per_step, self.schedule), committed + 1)
        keep = view.in_block & (rank(running, view.in_block) < target.unsqueeze(1))
        # A step in which nothing new is kept would change nothing for ever.
        best = rank(view.confidence, view.eligible_in_block) == 0
        commit = keep & view.eligible
        commit = commit | (best & ~commit.any(1, keepdim=True))
        return Action(commit, remask=view.in_block & ~view.masked & ~keep)
