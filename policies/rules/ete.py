"""A variant of ETE: explore then exploit, across blocks."""

from __future__ import annotations

from dataclasses import dataclass

from envs.view import Action, View
from policies.rules.base import Rule, top_k


@dataclass(frozen=True)
class ETE(Rule):
    """VARIANT: commit what passes the threshold in this block and the next, or explore.

    If too little passes, the least certain positions of this block are committed too.

    Source: arXiv 2511.21103 describes exploiting confident tokens across blocks and committing high-uncertainty
    positions to set off a cascade; its trigger, count and token choice are not published, so these are ours.
    """

    rule = "ete"
    sweep = (0.5, 0.7, 0.8, 0.9, 0.95)

    threshold: float = 0.9
    """Confidence to commit at."""
    ahead: int = 1
    """Blocks after the current one that are exploited too."""
    least: int = 1
    """Exploit this many positions, or explore."""
    explore: int = 1
    """Least certain positions to commit then."""

    def __post_init__(self) -> None:
        self.check_share("threshold")
        self.check_count("least", "explore")
        self.check("ahead", isinstance(self.ahead, int) and self.ahead >= 0, "a whole number of 0 or more")

    def act(self, view: View) -> Action:
        """Exploit, and explore where that is too little."""
        # Blocks to come are taken to be as long as this one; beyond the buffer there is nothing masked.
        reach = view.block_end + self.ahead * (view.block_end - view.block_start)
        scope = view.masked & (view.positions < reach.unsqueeze(1))
        confident = scope & (view.confidence >= self.threshold)
        short = (confident.sum(1) < self.least).unsqueeze(1)
        doubtful = top_k(-view.confidence, view.eligible_in_block & ~confident, self.explore)
        commit = confident | (doubtful & short)
        # No fallback: with 1 or more to explore, what is too little is never nothing.
        return Action(commit, scope=scope)
