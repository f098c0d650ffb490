"""What GRPO can be told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from train.command.ranges import check_count, check_range


@dataclass(frozen=True)
class GRPOSection:
    """Arguments of `train.algorithms.grpo.GRPO`, and of its optimiser."""

    group_size: int = 8
    """G, rollouts of each problem; it must divide env.num_envs."""
    n_epochs: int = 2
    """Optimiser steps on the rollouts of a round."""
    learning_rate: float = 3e-5
    """At its highest."""
    schedule: Literal["linear", "cosine"] = "cosine"
    """How it falls to 0 after the warm-up."""
    warmup: float = 0.05
    """Share of the training over which it rises from 0."""
    weight_decay: float = 0.1
    """Of AdamW."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Of AdamW."""
    clip_range: float = 0.5
    """Clip of the probability ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    max_grad_norm: float = 0.2
    """Clip of the gradient's norm."""
    divides_by_std: bool = False
    """Divide advantages by the group's standard deviation."""
    ratio: Literal["step", "position"] = "step"
    """One ratio for a step's whole commit set, or one for each position (actions.distribution: bernoulli)."""
    zero_variance: Literal["skip", "redraw", "keep"] = "skip"
    """Groups whose rollouts all earned the same: skip them, redraw until there are enough others, or keep them (only
    the entropy bonus is left of them)."""
    max_redraws: int = 2
    """Rounds drawn for one update on top of the first (zero_variance: redraw)."""
    chunk_size: int = 2048
    """Steps of one backward pass; only memory and speed depend on it."""

    def __post_init__(self) -> None:
        check_count(self, "group_size", "n_epochs", "chunk_size")
        check_count(self, "max_redraws", least=0)
        check_range(self, "learning_rate", "clip_range", "max_grad_norm", above=0)
        check_range(self, "warmup", "betas", least=0, below=1)
        check_range(self, "weight_decay", "ent_coef", least=0)
