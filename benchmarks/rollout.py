"""Where the time of a rollout and of a PPO update goes.

``python benchmarks/rollout.py`` runs the default training setting for a few updates and prints the share of the dLLM's
forward, the policy, the env's own work and the PPO update.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from envs.models.load import load_denoiser
from envs.unmasking import UnmaskingVectorEnv
from train.command.config import parse
from train.command.ranges import check_count
from train.job.build import make_env, make_model
from train.job.ppo_config import TrainPPOConfig
from train.ppo import algorithm


@dataclass
class RolloutConfig:
    """How much to time.

    Attributes:
        updates: of PPO, each after a rollout; the mean counts.
        num_envs: rows side by side; null for as many as a training has.
    """

    updates: int = 4
    num_envs: int | None = None

    def __post_init__(self) -> None:
        check_count(self, "updates", "num_envs")


class Stopwatch:
    """Adds up the seconds spent in wrapped functions."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    def wrap(self, owner: Any, name: str, label: str) -> None:
        """Replace ``owner.name`` by a timed one."""
        inner: Callable[..., Any] = getattr(owner, name)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return inner(*args, **kwargs)
            finally:
                self.seconds[label] = self.seconds.get(label, 0.0) + time.perf_counter() - began

        setattr(owner, name, timed)


def main(config: RolloutConfig) -> None:
    """Time a few updates and print the table."""
    with tempfile.TemporaryDirectory() as folder:
        words = ["--out", str(Path(folder) / "run"), "--wandb.mode", "disabled"]
        if config.num_envs is not None:
            words += ["--env.num_envs", str(config.num_envs)]
        job = parse(TrainPPOConfig, "ppo.yaml", words)
    torch.set_num_threads(job.model.threads)
    denoiser = load_denoiser(job.model.name, job.model.device, job.model.dtype)
    env = make_env(job, denoiser, algorithm(job), None)
    model = make_model(job, env, algorithm(job), None)
    per_update = job.env.num_envs * job.ppo.n_steps
    # The first update is slower than all others, so it isn't timed.
    model.learn(per_update)
    watch = Stopwatch()
    # Which of them is called depends on what the policy reads.
    for name in ("logits", "logits_and_hidden", "logits_and_attention"):
        watch.wrap(denoiser, name, "dLLM forward")
    watch.wrap(UnmaskingVectorEnv, "step", "env step, dLLM included")
    watch.wrap(model.policy, "forward", "policy forward")
    watch.wrap(model, "train", "PPO update")
    updates = config.updates
    began = time.perf_counter()
    model.learn(updates * per_update)
    total = time.perf_counter() - began
    # The env calls the dLLM within its step, so its own work is what remains.
    watch.seconds["env's own work"] = watch.seconds.pop("env step, dLLM included") - watch.seconds["dLLM forward"]
    watch.seconds["rest (SB3's loop and buffers)"] = total - sum(watch.seconds.values())
    rollout = total - watch.seconds["PPO update"]
    print(f"{updates * per_update / total:.0f} environment steps a second, {torch.get_num_threads()} threads")
    print(f"{'':32}{'seconds':>9}{'of all':>8}{'of rollout':>12}")
    for label, seconds in watch.seconds.items():
        share = "" if label == "PPO update" else f"{seconds / rollout:12.0%}"
        print(f"{label:32}{seconds:9.2f}{seconds / total:8.0%}{share}")


if __name__ == "__main__":
    from train.command.cli import run

    run(main, RolloutConfig)
