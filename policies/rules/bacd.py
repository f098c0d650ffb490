"""BACD: a threshold that follows the block's own confidence; TCCF: its coarse and fine phases."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.view import Action, View, ensure_progress
from policies.rules.base import CommitRule, Rule, bound


def adaptive_commit(view: View, low: float, high: float) -> Tensor:
    """Return (N, L) bool: what passes the block's running threshold, else the most confident.

    The threshold is the mean confidence of what the block has committed so far (before that, the highest confidence in
    sight), kept within [low, high]. Given tokens were believed by nobody, and don't count.
    """
    committed = view.in_block & (view.commit_confidence > 0) & (view.tensors["given"] < 0)
    mean = (view.commit_confidence * committed).sum(1) / committed.sum(1).clamp(min=1)
    best = view.confidence.masked_fill(~view.eligible, 0.0).amax(1)
    threshold = torch.where(committed.any(1), mean, best).clamp(low, high)
    return ensure_progress(view.confidence >= threshold.unsqueeze(1), view.eligible, view.confidence)


@dataclass(frozen=True)
class BACD(CommitRule):
    """Bounded adaptive confidence decoding: threshold = the block's mean committed confidence, within bounds.

    Source: arXiv 2602.09555. The running mean belongs to the row, not to its slot in the batch as in released code.
    """

    rule = "bacd"
    features = frozenset({"given"})
    sweep = (0.3, 0.5, 0.6, 0.8)

    low: float = 0.6
    """Lower bound of the threshold."""
    high: float = 0.9
    """Upper bound."""

    def __post_init__(self) -> None:
        self.check_share("low", "high")
        self.check("low", self.low <= self.high, f"at most high, {self.high}")

    def select(self, view: View) -> Tensor:
        """Choose by the running threshold."""
        return adaptive_commit(view, self.low, self.high)


@dataclass(frozen=True)
class TCCF(Rule):
    """Think coarse, critic fine: BACD in large blocks until the thinking ends, then in small ones.

    Source: arXiv 2602.09555 (block 16 while thinking, 1 in the answer). The end of the thinking is a marker token;
    the embedded suite has none, so its stand-in is the equals sign before a running total.
    """

    rule = "tccf"
    features = frozenset({"given"})
    sweep = (4, 16, 64)

    coarse: int = 16
    """Block length before the marker is committed."""
    fine: int = 1
    """Block length after it."""
    marker: str = "="
    """Text whose last token ends the thinking."""
    low: float = 0.6
    """Lower bound of BACD's threshold."""
    high: float = 0.9
    """Upper bound."""
    marker_id: int = bound(-1)

    def __post_init__(self) -> None:
        self.check_count("coarse", "fine")
        self.check_share("low", "high")
        self.check("low", self.low <= self.high, f"at most high, {self.high}")

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> Self:
        """Look up the marker's token; without one, all is coarse."""
        ids = denoiser.encode_text(self.marker)
        return replace(self, marker_id=ids[-1] if ids else -1)

    def act(self, view: View) -> Action:
        """Set the block's end when it begins; commit by BACD."""
        before = view.positions < view.block_start.unsqueeze(1)
        # At committed positions the prediction is the token that stands there.
        answering = (before & (view.prediction == self.marker_id)).any(1)
        size = torch.where(answering, self.fine, self.coarse)
        end = torch.where(view.block_step == 0, view.block_start + size, view.block_end)
        inside = (view.positions >= view.block_start.unsqueeze(1)) & (view.positions < end.unsqueeze(1))
        # The running threshold is that of the block as it is from now on.
        narrowed = replace(view, block_end=end, eligible=view.masked & inside)
        return Action(adaptive_commit(narrowed, self.low, self.high), block_end=end)
