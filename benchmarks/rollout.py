"""Where the time of a rollout and of a PPO update goes.

``python benchmarks/rollout.py`` runs the default training for a few updates, or another one that it is given as
``train/ppo.py`` is, and prints the share of the dLLM's forward, the policy, the env's own work and the PPO update.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import time
from collections.abc import Callable
from typing import Any

import torch

from envs.models.load import load_denoiser
from envs.unmasking import UnmaskingVectorEnv
from train.job.build import make_env, make_model
from train.job.ppo_config import TrainPPOConfig
from train.ppo import algorithm


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


UPDATES = 4
"""Of PPO, each after a rollout; the mean counts."""


def main(config: TrainPPOConfig) -> None:
    """Time a few updates and print the table."""
    torch.set_num_threads(config.model.threads)
    denoiser = load_denoiser(config.model.name, config.model.device, config.model.dtype)
    env = make_env(config, denoiser, algorithm(config), None)
    model = make_model(config, env, algorithm(config), None)
    per_update = config.env.num_envs * config.ppo.n_steps
    # The first update is slower than all others, so it isn't timed.
    model.learn(per_update)
    watch = Stopwatch()
    # Which of them is called depends on what the policy reads.
    for name in ("logits", "logits_and_hidden", "logits_and_attention", "logits_at"):
        if hasattr(denoiser, name):
            watch.wrap(denoiser, name, "dLLM forward")
    watch.wrap(UnmaskingVectorEnv, "step", "env step, dLLM included")
    watch.wrap(model.policy, "forward", "policy forward")
    watch.wrap(model, "train", "PPO update")
    began = time.perf_counter()
    model.learn(UPDATES * per_update)
    total = time.perf_counter() - began
    # The env calls the dLLM within its step, so its own work is what remains.
    watch.seconds["env's own work"] = watch.seconds.pop("env step, dLLM included") - watch.seconds["dLLM forward"]
    watch.seconds["rest (SB3's loop and buffers)"] = total - sum(watch.seconds.values())
    rollout = total - watch.seconds["PPO update"]
    print(f"{UPDATES * per_update / total:.0f} environment steps a second, {torch.get_num_threads()} threads")
    print(f"{'':32}{'seconds':>9}{'of all':>8}{'of rollout':>12}")
    for label, seconds in watch.seconds.items():
        share = "" if label == "PPO update" else f"{seconds / rollout:12.0%}"
        print(f"{label:32}{seconds:9.2f}{seconds / total:8.0%}{share}")


if __name__ == "__main__":
    from train.command.cli import run

    run(main, TrainPPOConfig, "ppo.yaml")
