"""Window-Diffusion: near masks are computed, those behind them kept, and far ones not even there."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from envs.caches.base import CacheRule, Moment, forwards_into


@dataclass(frozen=True)
class Window(CacheRule):
    """The first masks and what was committed lately; masks behind them stay, and those behind the window are not there.

    A phase is `refresh` forwards of a row; a policy that asks for a refresh begins one too. Its first computes all that
    is shown: every known token and the first `window` masks, which are the window until the next phase. Its others
    compute the *active* positions: the first `active` masks, and the tokens that were committed since the phase began.
    The *buffer* masks between them and the window's end are seen as they were. Only active masks may be committed.

    Source: arXiv 2601.20332 and its released code (phases, the window, active positions). Departures: what is committed
    is the rule's choice among the active masks, in the current block; where a rule has committed so much that the
    window holds fewer than `active` masks, the next ones are shown before the phase ends; far masks are not shown to a
    phase's first forward either, as in the paper and the code for Dream (that for LLaDA shows them).
    """

    cache = "window"

    window: int = 64
    """Masks that a phase begins with; those behind them are not shown."""
    active: int = 16
    """Masks that every forward computes, and that may be committed."""
    refresh: int = 32
    """Forwards of a phase; 1 computes all that is shown always, 0 begins another only where the policy asks."""

    def __post_init__(self) -> None:
        self.check_count("window", 1)
        if self.active > self.window:
            raise ValueError(
                f"window's active is {self.active} and window {self.window}: what is active lies in the window, so "
                f"give an active of 1 to {self.window}, or a larger window"
            )
        self.check_count("active", 1)
        self.check_count("refresh", 0)

    def compute(self, moment: Moment) -> Tensor:
        """Choose the active positions, or all."""
        is_full = (forwards_into(moment.since, self.refresh) == 0).unsqueeze(1)
        # What is computed is what may be committed, so no decision rests on an old belief.
        active = self.opens(moment.masked)
        chosen = moment.asking(active) | self._is_new(moment.commit_step, moment.step, moment.since)
        return moment.present & (is_full | chosen)

    def shows(self, masked: Tensor, commit_step: Tensor, step: Tensor, since: Tensor) -> Tensor:
        """Show the masks of the window, and all active ones."""
        began = masked | self._is_new(commit_step, step, since)  # the masks with which the phase began
        return masked & (began.cumsum(1) <= self.window) | self.opens(masked)

    def opens(self, masked: Tensor) -> Tensor:
        """Open the active masks."""
        return masked & (masked.cumsum(1) <= self.active)

    def _is_new(self, commit_step: Tensor, step: Tensor, since: Tensor) -> Tensor:
        """Return bool of `commit_step`'s shape, True where a token was committed since the phase began."""
        # The phase's first forward is the one after this many.
        before = step - forwards_into(since, self.refresh)
        return commit_step > before.unsqueeze(1)
