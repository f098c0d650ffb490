"""Learn an unmasking policy with GRPO, the algorithm of arXiv 2512.09106; everything else is as in `train/ppo.py`.

``python train/grpo.py`` with no argument trains on the embedded dLLM as `configs/grpo.yaml` says, and
``--config configs/paper/llada_block32.yaml`` is a setting of the paper. `train.job.run` says what a run's folder
holds, `train.algorithms.grpo` what is learned.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import math
from collections.abc import Callable
from dataclasses import asdict

import torch

from train.algorithms.grpo import GRPO
from train.algorithms.grpo_section import GRPOSection
from train.evaluation.records import Record
from train.job.build import Algorithm
from train.job.dry_run import dry_run
from train.job.grpo_config import TrainGRPOConfig
from train.job.run import run_job


def learning_rate(section: GRPOSection) -> Callable[[float], float]:
    """Return the learning rate as a function of the share of training that remains, from 1 to 0.

    >>> rate = learning_rate(GRPOSection(learning_rate=1.0, warmup=0.2, schedule="linear"))
    >>> [round(rate(remaining), 3) for remaining in (1.0, 0.9, 0.8, 0.4, 0.0)]
    [0.0, 0.5, 1.0, 0.5, 0.0]
    """
    peak, warmup, is_cosine = section.learning_rate, section.warmup, section.schedule == "cosine"

    def rate(remaining: float) -> float:
        done = 1 - remaining
        if done < warmup:
            return peak * done / warmup
        # What remains after the warm-up, from 1 to 0.
        left = remaining / (1 - warmup)
        return peak * ((1 - math.cos(math.pi * left)) / 2 if is_cosine else left)

    return rate


def algorithm(config: TrainGRPOConfig) -> Algorithm:
    """Return GRPO as the configuration says."""
    arguments = asdict(config.grpo)
    # Arguments of the optimizer, not of the algorithm; the learning rate is the schedule below.
    optimizer = {name: arguments.pop(name) for name in ("weight_decay", "betas")}
    for name in ("schedule", "warmup"):
        del arguments[name]
    arguments |= {"learning_rate": learning_rate(config.grpo), "experts": tuple(config.experts.rules)}
    return Algorithm(
        GRPO,
        arguments,
        policy_kwargs={"has_critic": False, "optimizer_class": torch.optim.AdamW, "optimizer_kwargs": optimizer},
        group_size=config.grpo.group_size,
        experts=tuple(config.experts.rules),
        expert_block=config.experts.block_length,
        # A group without differences is to take part in a trial's only update.
        trial_arguments={"zero_variance": "keep"},
    )


def train(config: TrainGRPOConfig) -> list[Record]:
    """Run the whole job, or try it; see `train.job.run.run_job` and `train.job.dry_run`."""
    if config.dry_run:
        dry_run(config, algorithm(config))
        return []
    return run_job(config, algorithm(config))


if __name__ == "__main__":
    from train.command.cli import run

    run(train, TrainGRPOConfig, TrainGRPOConfig.DEFAULTS)
