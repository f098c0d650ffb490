"""Everything `python train/grpo.py` can be told."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import ClassVar

from envs.decoding.settings import DecodingSettings
from train.algorithms.experts import ExpertSection
from train.algorithms.grpo_section import GRPOSection
from train.job.config import JobConfig


@dataclass(frozen=True)
class TrainGRPOConfig(JobConfig):
    """Learn an unmasking policy with GRPO, evaluate it against the rules on held-out problems, export it and log it.

    Examples:
        python train/grpo.py
        python train/grpo.py --grpo.group_size 16 --env.alpha 3 --out runs/slower
        python train/grpo.py --config configs/paper/llada_block32.yaml --env.alpha 1 --dry-run
    """

    DEFAULTS: ClassVar[str | None] = "grpo.yaml"
    ELSEWHERE: ClassVar[Mapping[str, str]] = MappingProxyType({"ppo": "train/ppo.py"})

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
            raise ValueError(
                "grpo.group_size is 1: it must be 2 or more, as a rollout is compared with another, or there must be "
                "experts"
            )
        distribution = self.actions.distribution
        if self.grpo.ratio == "position" and not self.actions.is_product:
            raise ValueError(
                f"grpo.ratio is position: the likelihood of {distribution} is no product over positions; set "
                "actions.distribution to bernoulli, or ratio to step"
            )
        if self.grpo.ent_coef and self.actions.has_stop:
            raise ValueError(
                f"grpo.ent_coef is {self.grpo.ent_coef}: the entropy of {distribution} has no closed form; set it to 0"
            )
        if experts:
            # Made to be checked.
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
