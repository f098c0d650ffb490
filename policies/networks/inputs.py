"""How readings become inputs of the policy network, all of about one size.

Letters: B rows, L positions.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

LARGEST_BLOCK = 64
"""Masks left in a block that count as all."""

MAX_LOG_ODDS = 14.0
"""Log-odds are clamped to +-14: float32 can't tell probabilities beyond that from 0 and 1."""


def log_odds(probability: Tensor) -> Tensor:
    """Return log(p / (1 - p)) in float32, clamped to +-`MAX_LOG_ODDS`."""
    return torch.logit(probability.float(), eps=1e-7).clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS)


def sized(name: str, values: Tensor) -> Tensor:
    """Return a reading as the network takes it, of about the size of the others."""
    # These count up to the forwards or tokens of a whole text, and of old beliefs it matters little how old.
    return values.log1p() if name in ("age", "unseen") else values


def gap_above(level: Tensor, eligible: Tensor) -> Tensor:
    """Return how far each eligible position lies below the next better one.

    A position that is doubtful itself but next to certain ones in the order of confidence is the best of the
    doubtful; nothing else in its own readings says so.

    Args:
        level: (B, L) float, log-odds of the confidence.
        eligible: (B, L) bool.

    Returns:
        (B, L) float, 0 or more; 0 for the best position of a row and for ineligible ones. Of equals, the first
        counts as the better.
    """
    best_first, order = level.masked_fill(~eligible, -torch.inf).sort(dim=1, descending=True, stable=True)
    # Behind the eligible ones it is infinite or NaN, which is left out below.
    gap = F.pad(best_first[:, :-1] - best_first[:, 1:], (1, 0))
    return torch.zeros_like(level).scatter(1, order, gap).masked_fill(~eligible, 0.0)


def share_left(eligible: Tensor) -> Tensor:
    """Return (B, 1) float in [0, 1], how many masks are left in the block.

    Args:
        eligible: (B, L) float, 1 at each of them.
    """
    return (eligible.sum(1, keepdim=True) / LARGEST_BLOCK).clamp(max=1)
