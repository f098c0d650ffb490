"""CCD, coherent contextual decoding: rank by the entropy of the averaged recent distributions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from envs.view import Action, View, ensure_progress
from policies.rules.base import Rule, top_k


def averaged_entropy(view: View, history: int) -> tuple[Tensor, dict[str, Tensor]]:
    """Return (N, L) float32 nats, the entropy of the mean of the last distributions, and the memory to keep.

    Args:
        view: with ``probabilities``.
        history: d, distributions averaged; fewer at the start of a sequence.
    """
    now = view.tensors["probabilities"]
    kept = view.memory.get("past", torch.zeros(now.shape[0], history - 1, *now.shape[1:], device=now.device))
    # What lies before a sequence's first step are zeros, which must not count as distributions.
    available = (view.step - 1).clamp(max=history - 1)
    mean = (now + kept.sum(1)) / (1 + available).view(-1, 1, 1)
    # 0 log 0 is 0, as of the mask token.
    entropy = -(mean * mean.clamp(min=1e-30).log()).sum(-1)
    # Newest first, so that the oldest is what the cut drops.
    return entropy, {"past": torch.cat([now.unsqueeze(1), kept], 1)[:, : history - 1]}


@dataclass(frozen=True)
class CCD(Rule):
    """Commit the k positions of lowest entropy of the mean of the last d distributions.

    Source: arXiv 2512.02044, Section 3 (the paper's rule; its released code intersects buffers of candidates
    instead). Departure: the mean is over the whole vocabulary, not its four likeliest tokens.
    """

    rule = "ccd"
    sweep = (1, 2, 4, 8, 16)
    features = frozenset({"probabilities"})

    tokens_per_step: int = 1
    """b, budget of a step."""
    history: int = 2
    """d, distributions averaged, the present one included."""

    def __post_init__(self) -> None:
        self.check_count("tokens_per_step", "history")

    def act(self, view: View) -> Action:
        """Choose by averaged entropy."""
        entropy, memory = averaged_entropy(view, self.history)
        return Action(top_k(-entropy, view.eligible, self.tokens_per_step), memory=memory)


@dataclass(frozen=True)
class CCDDynamic(Rule):
    """CCD-DS: commit every position whose averaged entropy is at most a threshold, else the lowest.

    Source: arXiv 2512.02044, Section 3, dynamic budget; departures as in `CCD`.
    """

    rule = "ccd_ds"
    sweep = (0.01, 0.05, 0.1, 0.3, 1.0)
    features = frozenset({"probabilities"})

    threshold: float = 0.1
    """Nats."""
    history: int = 2
    """d, distributions averaged, the present one included."""

    def __post_init__(self) -> None:
        self.check_not_negative("threshold")
        self.check_count("history")

    def act(self, view: View) -> Action:
        """Choose by averaged entropy."""
        entropy, memory = averaged_entropy(view, self.history)
        return Action(ensure_progress(entropy <= self.threshold, view.eligible, -entropy), memory=memory)
