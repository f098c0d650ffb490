"""WINO: commit widely, take back what does not hold."""

from __future__ import annotations

from dataclasses import dataclass

from envs.view import Action, View, ensure_progress
from policies.rules.base import Rule, rank


@dataclass(frozen=True)
class Wino(Rule):
    """Wide in: commit what passes a low threshold. Narrow out: remask what its own context gives too little.

    A committed token's own context is the leave-one-out probability from a shadow block of masks in the same forward
    (`envs.readings.READINGS`). At most one position fewer is remasked than is committed, lowest first, so each
    step gains at least one; at most ``max(least, share of the masks)`` are committed.

    Source: arXiv 2507.18578 and its released code. Departures: a shadow position sees the tokens and itself, not the
    other shadows; and it is there for Dream too, whose logits about a position are computed at the one before it (see
    `envs.decoding.shadow.add_shadow`), where its code has LLaDA and MMaDA only. A dLLM in which some positions never
    see others (block-causal ones, ModernBERT) has no leave-one-out context, and is refused.
    """

    rule = "wino"
    sweep = (0.3, 0.5, 0.6, 0.7, 0.8)
    features = frozenset({"leave_one_out"})

    threshold: float = 0.7
    """tau1, confidence to commit at."""
    keep: float = 0.9
    """tau2, leave-one-out probability to stay at."""
    least: int = 5
    """Lower bound of the cap on commits."""
    share: float = 0.7
    """Share of the block's masks in that cap."""

    def __post_init__(self) -> None:
        self.check_share("threshold", "keep", "share")
        self.check_count("least")

    def act(self, view: View) -> Action:
        """Commit widely, remask narrowly."""
        # Nothing that the shadow, which is of the block, could not doubt.
        eligible = view.eligible_in_block
        ranks = rank(view.confidence, eligible)
        cap = (self.share * eligible.sum(1)).floor().clamp(min=self.least).unsqueeze(1)
        wide = (view.confidence > self.threshold) & (ranks < cap)
        commit = ensure_progress(wide, eligible, view.confidence)
        left_out = view.features["leave_one_out"]
        doubted = view.in_block & ~view.masked & (left_out < self.keep)
        # One fewer than are committed, or a row could take back all that it gains, step after step.
        allowed = (commit.sum(1) - 1).clamp(min=0).unsqueeze(1)
        remask = doubted & (rank(-left_out, doubted) < allowed)
        return Action(commit, remask=remask)
