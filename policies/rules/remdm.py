"""ReMDM's loop, as ported to LLaDA: near the block's end, take back the least certain and decode them again."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from envs.view import Action, View
from policies.rules.base import Rule, rank, top_k


@dataclass(frozen=True)
class ReMDM(Rule):
    """Low-confidence steps; once a share of the block is committed, some steps that remask as much as they commit.

    In such a step the committed positions of lowest confidence (when they were committed) become masks again.

    Source: arXiv 2503.00307, as ported to LLaDA (loop at 7/8 of a block).
    """

    rule = "remdm"
    sweep = (1, 2, 4, 8)

    tokens_per_step: int = 1
    """k, positions committed a step, and remasked in a step of the loop."""
    share: float = 0.875
    """Share of the block but one that is committed when the loop begins, so that it does in small blocks too."""
    loops: int = 4
    """Steps of the loop."""

    def __post_init__(self) -> None:
        self.check_count("tokens_per_step")
        self.check("loops", isinstance(self.loops, int) and self.loops >= 0, "a whole number of 0 or more")
        self.check_share("share")

    def act(self, view: View) -> Action:
        """Commit the k most confident; in the loop, remask as many."""
        done = view.memory.get("loops", torch.zeros_like(view.length))
        # Each block has a loop of its own.
        done = torch.where(view.block_step == 0, 0, done)
        committed = view.in_block & ~view.masked
        late = committed.sum(1) >= self.share * (view.in_block.sum(1) - 1)
        in_loop = late & (done < self.loops) & (view.block_step > 0)
        commit = top_k(view.confidence, view.eligible, self.tokens_per_step)
        # As many as are committed, so that the loop stays where it is until it has used up its steps.
        lowest = rank(-view.commit_confidence, committed) < commit.sum(1, keepdim=True)
        return Action(commit, remask=committed & lowest & in_loop.unsqueeze(1), memory={"loops": done + in_loop})
