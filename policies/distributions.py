"""Distributions over commit sets: what PPO samples, scores and explores with."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F


class ForcedBernoulli:
    """Independent coin flips over the eligible positions, where an empty draw commits the likeliest position.

    Its likelihood is the true one: the set that holds only the likeliest position can come about in two ways,
    by its own draw or by the empty draw, and both count. Released code for arXiv 2512.09106 scores it as a plain
    Bernoulli draw.

    Args:
        logits: (B, L) float, log-odds of committing each position.
        eligible: (B, L) bool; each row needs at least one, or its actions are empty with probability 1.
    """

    def __init__(self, logits: Tensor, eligible: Tensor) -> None:
        self.eligible = eligible
        self.logits = logits.masked_fill(~eligible, 0.0)
        self.best = F.one_hot(logits.masked_fill(~eligible, -torch.inf).argmax(1), logits.shape[1]).bool() & eligible
        self._commit = F.logsigmoid(self.logits) * eligible
        self._keep = F.logsigmoid(-self.logits) * eligible

    def sample(self) -> Tensor:
        """Draw (B, L) bool from torch's global generator."""
        drawn = (torch.rand_like(self.logits) < self.logits.sigmoid()) & self.eligible
        return torch.where(drawn.any(1, keepdim=True), drawn, self.best)

    def mode(self) -> Tensor:
        """Return (B, L) bool: the positions with a probability of at least one half, or the likeliest."""
        likely = (self.logits >= 0) & self.eligible
        return torch.where(likely.any(1, keepdim=True), likely, self.best)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return (B,) float, nats.

        Args:
            action: (B, L), non-zero where committed; ineligible positions are ignored. An empty set, which is
                never drawn, counts as the forced one.
        """
        action = (action != 0) & self.eligible
        action = torch.where(action.any(1, keepdim=True), action, self.best)
        plain = torch.where(action, self._commit, self._keep).sum(1)
        is_forced = (action == self.best).all(1) & self.best.any(1)
        return torch.where(is_forced, torch.logaddexp(plain, self._keep.sum(1)), plain)

    def entropy(self) -> Tensor:
        """Return (B,) float, nats, exact: the coin flips' entropy less what merging two outcomes loses."""
        probability = self.logits.sigmoid()
        flips = -(probability * self._commit + (1 - probability) * self._keep).sum(1)
        empty = self._keep.sum(1)
        single = torch.where(self.best, self._commit, self._keep).sum(1)
        both = torch.logaddexp(empty, single)
        merged = empty.exp() * empty + single.exp() * single - both.exp() * both
        return flips + merged * self.best.any(1)
