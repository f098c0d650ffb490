"""Everything `python train/ppo.py` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from train.algorithms.ppo import PPOSection
from train.job.config import JobConfig


@dataclass(frozen=True)
class TrainPPOConfig(JobConfig):
    """Learn an unmasking policy with PPO, evaluate it against the rules on held-out problems, export it and log it.

    Examples:
        python train/ppo.py
        python train/ppo.py --env.alpha 20 --seed 1 --out runs/faster
        python train/ppo.py --config configs/models/llada.yaml --env.task gsm8k --out runs/llada --dry-run
    """

    DEFAULTS: ClassVar[str | None] = "ppo.yaml"
    ELSEWHERE: ClassVar[Mapping[str, str]] = MappingProxyType({"grpo": "train/grpo.py", "experts": "train/grpo.py"})

    out: Path = Path("runs/ppo")
    """The run's folder; it must be new or empty."""
    ppo: PPOSection = field(default_factory=PPOSection)
