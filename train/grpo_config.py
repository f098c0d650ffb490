"""Everything `python train/grpo.py` can be told."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from envs.decoding import DecodingSettings
from policies import make_rule
from policies.base import CommitPolicy
from train.job_config import JobConfig
from train.ranges import check_count, check_range


@dataclass(frozen=True)
class GRPOSection:
    """Arguments of `train.grpo_algorithm.GRPO`, and of its optimiser."""

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


@dataclass(frozen=True)
class ExpertSection:
    """Expert steering: rollouts of each group that rules decode, on top of the policy's."""

    rules: list[str] = field(default_factory=list)
    """As name:knob, one rollout each, such as threshold:0.9; rules that only commit."""
    block_length: int = 32
    """Positions of the experts' blocks; the policy is in full diffusion."""

    def __post_init__(self) -> None:
        check_count(self, "block_length")
        for rule in self.rules:
            if not isinstance(make_rule(rule), CommitPolicy):
                raise ValueError(f"experts.rules has {rule!r}: it does more than commit, which no policy can imitate")


@dataclass(frozen=True)
class TrainGRPOConfig(JobConfig):
    """Learn an unmasking policy with GRPO, evaluate it against the rules on held-out problems, export it and log it.

    Examples:
        python train/grpo.py
        python train/grpo.py --grpo.group_size 16 --env.alpha 3 --out runs/slower
        python train/grpo.py --config configs/paper/llada_block32.yaml --env.alpha 1 --dry-run
    """

    DEFAULTS: ClassVar[str | None] = "grpo.yaml"

    out: Path = Path("runs/grpo")
    """The run's folder; it must be new or empty."""
    grpo: GRPOSection = field(default_factory=GRPOSection)
    experts: ExpertSection = field(default_factory=ExpertSection)

    def __post_init__(self) -> None:
        super().__post_init__()
        size, experts = self.grpo.group_size, self.experts.rules
        if self.env.num_envs % size:
            raise ValueError(f"env.num_envs is {self.env.num_envs}: it must be a multiple of grpo.group_size, {size}")
        if size + len(experts) < 2:
            raise ValueError("grpo.group_size is 1: a rollout needs another, or an expert's, to be compared with")
        distribution = self.actions.distribution
        if self.grpo.ratio == "position" and distribution != "bernoulli":
            raise ValueError(
                f"grpo.ratio is position: the likelihood of {distribution} is no product over positions; set "
                "actions.distribution to bernoulli, or ratio to step"
            )
        if self.grpo.ent_coef and distribution == "plackett_luce":
            raise ValueError(
                f"grpo.ent_coef is {self.grpo.ent_coef}: the entropy of plackett_luce has no closed form; set it to 0"
            )
        if experts:
            DecodingSettings(self.env.buffer_length, self.experts.block_length)
            if self.env.block_lengths:
                raise ValueError(
                    f"env.block_lengths is {self.env.block_lengths}: with experts the policy is trained in full "
                    "diffusion; leave it empty"
                )

    def unused(self) -> dict[str, str]:
        """Return the fields and sections that play no role beside the others, each with the reason."""
        found = super().unused()
        if self.grpo.zero_variance != "redraw":
            found["grpo.max_redraws"] = f"grpo.zero_variance is {self.grpo.zero_variance}"
        if not self.experts.rules:
            found["experts.block_length"] = "experts.rules is empty"
        return found
