"""PUNT: commit together what a forward finds not to influence each other."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.view import Action, View
from policies.rules.base import Rule, rank, top_k


@dataclass(frozen=True)
class PUNT(Rule):
    """Commit the most confident positions that stay as they are believed when the more confident ones are filled in.

    The block's m masks are numbered from 0 by confidence, the highest first. Each round takes one binary digit of the
    numbers, the highest digit first: those left with a 0 there are filled in, one forward is run, and those with a 1
    whose distribution has moved by more than `divergence`, KL(before, after), are left for a later step. What is left
    after ``ceil(log2 m)`` rounds is committed; the most confident position always is. Every round counts as a forward.

    Source: arXiv 2510.21961, Section 3 (its Algorithm 1 as others describe it: no code is released). Departures: the
    confidence is the probability of the token, masks are those of the block, and a round in which nothing is left to be
    tested runs no forward.
    """

    rule = "punt"
    sweep = (0.01, 0.02, 0.04, 0.08, 0.16, 0.32)
    drafts = True
    features = frozenset({"probabilities"})

    divergence: float = 0.04
    """epsilon, nats that a position's distribution may move by."""

    def __post_init__(self) -> None:
        self.check_not_negative("divergence")

    def act(self, view: View) -> Action:
        """Test whom the positions influence, digit by digit."""
        number = rank(view.confidence, view.eligible)
        # Those of the largest number.
        most = (view.eligible.sum(1) - 1).clamp(min=0).tolist()
        digits = torch.tensor([largest.bit_length() for largest in most], device=number.device)
        return self._next_round(view, number, digits, view.eligible)

    def _next_round(self, view: View, number: Tensor, digits: Tensor, left: Tensor) -> Action:
        """Return the trial of the next digit at which a row has something to test, or the commit if none has.

        Args:
            view: what is decided on.
            number: (N, L) int64, places in the order of confidence.
            digits: (N,) int64, how many digits of each row's numbers are still to come.
            left: (N, L) bool, positions that have passed so far.
        """
        before = view.tensors["probabilities"]
        while bool((digits > 0).any()):
            digits = digits - 1
            is_one = (number >> digits.clamp(min=0).unsqueeze(1)) % 2 == 1
            tested = left & is_one & (digits >= 0).unsqueeze(1)
            if bool(tested.any()):
                break
        else:
            return Action(left)
        rest = digits

        def decide(seen: View) -> Action:
            # A row that the trial finished is known to its end: what it leaves open does not matter.
            judged = tested & seen.masked
            old, new = before[judged], seen.tensors["probabilities"][judged]
            moved = (old * (old.clamp(min=1e-30).log() - new.clamp(min=1e-30).log())).sum(-1)
            failed = torch.zeros_like(left).masked_scatter(judged, moved > self.divergence)
            return self._next_round(view, number, rest, left & ~failed)

        # Rows with nothing to test need no forward.
        trial = left & ~is_one & tested.any(1, keepdim=True)
        return Action(top_k(view.confidence, view.eligible, 1), trial=trial, decide=decide)
