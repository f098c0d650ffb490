"""LocalLeap: confident positions lower the bar for their neighbours."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor
from torch.nn import functional as F

from envs.view import View, ensure_progress
from policies.rules.base import CommitRule


@dataclass(frozen=True)
class LocalLeap(CommitRule):
    """Commit what passes the threshold, and near such an anchor what passes a lower one.

    An anchor is an eligible position that passes the threshold itself.

    Source: arXiv 2510.07081, after two independent copies of its rule that agree.
    """

    rule = "localleap"
    sweep = (0.7, 0.8, 0.9, 0.95, 0.98)

    threshold: float = 0.9
    """tau, of anchors and of positions without one nearby."""
    relaxed: float = 0.75
    """tau_r, near an anchor."""
    radius: int = 4
    """r, positions to either side."""

    def __post_init__(self) -> None:
        self.check_share("threshold", "relaxed")
        self.check_count("radius")

    def select(self, view: View) -> Tensor:
        """Choose by the local threshold."""
        anchors = view.eligible & (view.confidence >= self.threshold)
        # The maximum over r positions to either side is 1 next to an anchor.
        near = F.max_pool1d(anchors.float().unsqueeze(1), 2 * self.radius + 1, 1, self.radius).squeeze(1) > 0
        passes = anchors | (near & (view.confidence >= self.relaxed))
        return ensure_progress(passes, view.eligible, view.confidence)
