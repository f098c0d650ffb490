"""FreeDave: draft several one-token steps, verify them all in one forward, lose nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from envs.view import Action, View
from policies.rules.base import Rule, rank


@dataclass(frozen=True)
class FreeDave(Rule):
    """One-token-per-step decoding, several steps to a forward where they can be foreseen.

    The drafts are nested: the j most confident positions of the block, j = 1 to K. The next forward sees all of them;
    a draft is right if the one before it, now evaluated, would itself commit just the position that the draft adds,
    with the same token. The row goes on from the last right draft. At temperature 0 the result is that of
    `low_confidence:1` (sampling noise goes by the number of the forward); forwards are fewer, token positions more.

    Source: arXiv 2510.00294, Algorithm 1, with one position a step and drafts within the block.
    """

    rule = "freedave"
    sweep = (2, 4, 8, 16)
    drafts = True

    draft_steps: int = 4
    """K."""

    def __post_init__(self) -> None:
        self.check_count("draft_steps")

    def act(self, view: View) -> Action:
        """Draft."""
        ranks = rank(view.confidence, view.eligible)
        sizes = torch.arange(1, self.draft_steps + 1, device=ranks.device)
        drafts = (ranks.unsqueeze(1) < sizes.view(-1, 1)) & view.eligible.unsqueeze(1)
        # The first position is what is committed without looking: one step foresees nothing, and copies would cost a
        # forward.
        if self.draft_steps == 1:
            return Action(drafts[:, 0])

        def choose(views: Sequence[View]) -> Tensor:
            right = torch.ones_like(view.step, dtype=torch.bool)
            choice = torch.zeros_like(view.step)
            # The last view is of the longest draft, which can be found right but says nothing of a longer one.
            for size, seen in enumerate(views[:-1], start=1):
                added = (ranks == size) & view.eligible
                step = (rank(seen.confidence, seen.eligible) == 0) & seen.eligible
                same_token = (added & (seen.prediction == view.prediction)).any(1)
                # Drafts are nested: behind the first wrong one all are.
                right = right & same_token & (added == step).all(1)
                choice = torch.where(right, size, choice)
            return choice

        return Action(drafts[:, 0], drafts=drafts[:, 1:], choose=choose)
