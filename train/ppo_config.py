"""Everything `python train/ppo.py` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from train.job_config import JobConfig
from train.ranges import check_count, check_range


@dataclass(frozen=True)
class PPOSection:
    """Arguments of stable_baselines3.PPO, by its names."""

    learning_rate: float = 1e-3
    """At the start; it falls linearly to 0."""
    n_steps: int = 32
    """Steps a row between two updates."""
    batch_size: int = 512
    """Transitions of a minibatch, over all processes."""
    n_epochs: int = 3
    """Passes over the transitions in an update."""
    gamma: float = 1.0
    """Discount; 1 because every episode ends within L steps."""
    gae_lambda: float = 0.95
    """Bias-variance trade of the advantage estimate."""
    clip_range: float = 0.2
    """Clip of the probability ratio."""
    ent_coef: float = 0.0
    """Weight of the entropy bonus."""
    vf_coef: float = 0.5
    """Weight of the value loss."""
    max_grad_norm: float = 0.5
    """Clip of the gradient's norm."""
    target_kl: float | None = None
    """Stop an update's epochs early beyond 1.5 times this divergence."""

    def __post_init__(self) -> None:
        check_count(self, "n_steps", "batch_size", "n_epochs")
        check_range(self, "learning_rate", "clip_range", "max_grad_norm", "target_kl", above=0)
        check_range(self, "gamma", "gae_lambda", least=0, most=1)
        check_range(self, "ent_coef", "vf_coef", least=0)
        if self.batch_size == 1:
            raise ValueError("batch_size is 1: advantages are normalised over a minibatch, so it must be 2 or more")


@dataclass(frozen=True)
class TrainPPOConfig(JobConfig):
    """Learn an unmasking policy with PPO, evaluate it against the rules on held-out problems, export it and log it.

    Examples:
        python train/ppo.py
        python train/ppo.py --env.alpha 20 --seed 1 --out runs/faster
        python train/ppo.py --config configs/models/llada.yaml --env.task gsm8k --out runs/llada --dry-run
    """

    DEFAULTS: ClassVar[str | None] = "ppo.yaml"

    out: Path = Path("runs/ppo")
    """The run's folder; it must be new or empty."""
    ppo: PPOSection = field(default_factory=PPOSection)
