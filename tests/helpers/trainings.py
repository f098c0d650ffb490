"""Trainings small enough for a test, and worlds whose best policy is known."""

from __future__ import annotations

import sys
from pathlib import Path

import places
import pytest
import torch
from stable_baselines3 import PPO
from torch import Tensor

from envs.models.toy import ToyDenoiser
from envs.tasks.suite.copy_list import Copy
from envs.tasks.suite.form import EMPTY
from policies import NetworkConfig
from train.algorithms.ppo import PPOSection
from train.command.cli import run
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.job.build import load_filter, make_env, make_model, resume
from train.job.config import EnvConfig
from train.job.learning import learn
from train.job.ppo_config import TrainPPOConfig
from train.ppo import algorithm, train
from train.tracking.tracker import Tracker


def trained(config: TrainPPOConfig, denoiser: ToyDenoiser) -> PPO:
    inner = load_filter(config)
    model = make_model(config, make_env(config, denoiser, algorithm(config), inner), algorithm(config), inner)
    resume(config, model)
    learn(config, model, Tracker(config.wandb, config.out, {}, "train"))
    assert isinstance(model, PPO)
    return model


class ShortCopy(Copy):
    def __init__(self) -> None:
        super().__init__(3, 5)


class Trap(ToyDenoiser):
    """Confidence misleads: odd positions look sure, but are right only once every even position is committed."""

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        cells = tokens[:, 4 : 4 + length]
        right = torch.where(cells == self._ids[EMPTY], self.eos_id, cells)
        odd = (torch.arange(length, device=tokens.device) % 2 == 1).expand_as(right)
        evens_known = ((tokens[:, -length:] != self.mask_id) | odd).all(1, keepdim=True)
        prediction = torch.where(odd & ~evens_known, self._ids["="], right)  # "=" is in no answer
        p = torch.where(odd, 0.95, 0.6).unsqueeze(-1)
        logits = ((1 - p) / (len(self.words) - 2)).log().repeat(1, 1, len(self.words))
        return logits.scatter(-1, prediction.unsqueeze(-1), p.log())


def tiny(out: Path, seed: int) -> TrainPPOConfig:
    return TrainPPOConfig(
        out=out,
        seed=seed,
        total_timesteps=128,
        model=ModelConfig("toy", device=str(places.here), threads=1),
        env=EnvConfig(num_envs=8, tasks=["copy"], buffer_length=8),
        policy=NetworkConfig(hidden_size=8, feedforward_size=8),
        ppo=PPOSection(n_steps=8, batch_size=32, n_epochs=2),
        wandb=WandbConfig(mode="disabled"),
    )


FLAGS = [
    "--model.name=toy",
    "--model.threads=1",
    "--env.num_envs=8",
    "--env.buffer_length=8",
    "--env.tasks=[copy]",
    "--env.problems=null",
    "--filter.learn=false",
    "--evaluation.beside_training=false",
    "--policy.hidden_size=8",
    "--policy.feedforward_size=8",
    "--ppo.learning_rate=1e-3",
    "--ppo.n_steps=8",
    "--ppo.batch_size=32",
    "--ppo.n_epochs=1",
    "--evaluation.episodes=5",
    "--evaluation.block_lengths=[8,4]",
    "--evaluation.rules=['threshold:0.9']",
    "--wandb.mode=disabled",
    "--checkpoint_every=1",
]


def run_here(monkeypatch: pytest.MonkeyPatch, *words: str) -> int | str | None:
    """The command line without a new process; returns the exit status."""
    monkeypatch.setattr(sys, "argv", ["train/ppo.py", *words])
    try:
        run(train, TrainPPOConfig, "ppo.yaml")
    except SystemExit as stop:
        return stop.code
    return 0
