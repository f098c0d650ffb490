"""SlowFast: explore until the end of the certain stretch stands still, then take it in parallel."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from envs.view import Action, View, ensure_progress
from policies.rules.base import Rule, top_k


@dataclass(frozen=True)
class SlowFast(Rule):
    """Slow steps find how far the certain stretch reaches; fast steps commit it by threshold.

    Slow: commit the most confident position; the stretch ends at the last eligible position whose confidence is at
    least `floor`. Once the last `window` ends have a standard deviation under `deviation`, or after `limit` slow
    steps, their mean is the end of the cycle. Fast: within it, commit what passes the threshold, else its most
    confident. A stretch that is committed starts the next cycle.

    Source: arXiv 2506.10848, Algorithm 1, without its cache.
    """

    rule = "slowfast"
    sweep = (0.7, 0.8, 0.9, 0.95)

    threshold: float = 0.9
    """Confidence of fast commits."""
    floor: float = 0.3
    """Confidence that a certain stretch has at least."""
    window: int = 2
    """Ends compared."""
    deviation: float = 1.0
    """Standard deviation, in positions, of ends that stand still."""
    limit: int = 6
    """Slow steps of a cycle at most."""

    def __post_init__(self) -> None:
        self.check_share("threshold", "floor")
        self.check_not_negative("deviation")
        self.check_count("window", "limit")

    def act(self, view: View) -> Action:
        """Do a slow or a fast step, row by row."""
        rows, place = len(view.masked), view.positions
        blank = torch.zeros(rows, self.window, device=view.confidence.device)
        ends = view.memory.get("ends", blank)
        slow_steps = view.memory.get("slow_steps", torch.zeros_like(view.length))
        cycle_end = view.memory.get("cycle_end", torch.zeros_like(view.length))
        # A block begins with a cycle of its own.
        begins = view.block_step == 0
        slow_steps, cycle_end = slow_steps.masked_fill(begins, 0), cycle_end.masked_fill(begins, 0)
        stretch = view.eligible & (place < cycle_end.unsqueeze(1))
        is_fast = stretch.any(1)
        # A new cycle begins when the last one has nothing left.
        slow_steps = torch.where((cycle_end > 0) & ~is_fast, 0, slow_steps)
        # Where nothing reaches the floor the stretch is the first mask alone, so that a cycle has something to commit.
        first = torch.where(view.eligible, place, view.masked.shape[1]).amin(1) + 1
        reach = torch.where(view.eligible & (view.confidence >= self.floor), place + 1, 0).amax(1)
        end = torch.maximum(reach, first).float()
        ends = torch.where(is_fast.unsqueeze(1), ends, torch.cat([ends[:, 1:], end.unsqueeze(1)], 1))
        slow_steps = torch.where(is_fast, slow_steps, slow_steps + 1)
        # correction=0, since the other of a window of one end is NaN.
        stands_still = (slow_steps >= self.window) & (ends.std(1, correction=0) < self.deviation)
        found = stands_still | (slow_steps >= self.limit)
        # Of a cycle shorter than the window only its own ends count.
        counted = slow_steps.clamp(1, self.window)
        recent = torch.arange(self.window, device=place.device) >= self.window - counted.unsqueeze(1)
        mean = (ends * recent).sum(1) / counted
        cycle_end = torch.where(is_fast, cycle_end, torch.where(found, mean.round().long(), 0))
        fast = ensure_progress(view.confidence >= self.threshold, stretch, view.confidence)
        slow = top_k(view.confidence, view.eligible, 1)
        memory = {"ends": ends, "slow_steps": slow_steps, "cycle_end": cycle_end}
        return Action(torch.where(is_fast.unsqueeze(1), fast, slow), memory=memory)
