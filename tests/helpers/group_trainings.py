"""GRPO trainings small enough for a test."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import places
import torch
from torch import Tensor

from envs.models.toy import ToyDenoiser
from policies import NetworkConfig
from train.algorithms.grpo import GRPO
from train.algorithms.grpo_section import GRPOSection
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.grpo import algorithm
from train.job.build import make_env, make_model
from train.job.config import EnvConfig, EvaluationConfig
from train.job.grpo_config import TrainGRPOConfig


def tiny(out: Path, **changes: Any) -> TrainGRPOConfig:
    config = TrainGRPOConfig(
        out=out,
        total_timesteps=150,
        model=ModelConfig("toy", device=str(places.here)),
        env=EnvConfig(num_envs=8, tasks=["copy"], buffer_length=8),
        policy=NetworkConfig(hidden_size=8, feedforward_size=8, init="random", bias=-1.0),
        grpo=GRPOSection(group_size=4, learning_rate=1e-2),
        evaluation=EvaluationConfig(episodes=3),
        wandb=WandbConfig(mode="disabled"),
    )
    return replace(config, **changes)


class Flaky(ToyDenoiser):
    """Right about the second position only once the first is known, so that hasty rollouts fail and groups differ."""

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        logits = super().logits(tokens, attention_mask, length)
        logits[:, 1, self._ids["="]] += torch.where(tokens[:, -length] == self.mask_id, 50.0, 0.0)
        return logits


def begun(config: TrainGRPOConfig, denoiser: ToyDenoiser | None = None) -> GRPO:
    """Ready for its first update: one round is played."""
    model = made(config, denoiser)
    _, callback = model._setup_learn(100)
    assert model.env is not None
    assert model.collect_rollouts(model.env, callback, model.rollout_buffer, 1)
    return model


def made(config: TrainGRPOConfig, denoiser: ToyDenoiser | None = None) -> GRPO:
    env = make_env(config, denoiser or Flaky(config.model.device), algorithm(config), None)
    model = make_model(config, env, algorithm(config), None)
    assert isinstance(model, GRPO)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model
