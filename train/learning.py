"""Training itself: checkpoints, metrics and a progress bar around an algorithm of Stable-Baselines3."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from train import parallel
from train.build import checkpoint_file
from train.finite import Diverged
from train.job_config import JobConfig
from train.progress import progress
from train.tracking import MeanWriter, ProgressWriter, Tracker, TrackerWriter


class TrainingCallback(BaseCallback):
    """Checkpoints, extra metrics and a progress bar.

    Args:
        file: the checkpoint, replaced atomically.
        every: updates between two checkpoints.
        total: environment steps of the whole run.
    """

    def __init__(self, file: Path, every: int, total: int) -> None:
        super().__init__()
        self.file, self.every, self.total = file, every, total
        self.updates = 0
        self.finished = self.unscored = 0

    def _on_training_start(self) -> None:
        hidden = not parallel.is_main()
        self.bar = progress(total=self.total, initial=self.num_timesteps, unit="step", desc="training", disable=hidden)

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            self.finished += "episode" in info
            self.unscored += "score_error" in info
        return True

    def _on_rollout_end(self) -> None:
        # What Stable-Baselines3 has counted are this process's own steps.
        own = self.model.num_timesteps - self.counted
        self.model.num_timesteps = self.num_timesteps = self.counted + int(parallel.total(own))
        episodes = list(self.model.ep_info_buffer or [])
        means = {key: float(np.mean([e[key] for e in episodes])) for key in ("score", "nfe") if episodes}
        for key, value in means.items():
            self.logger.record(f"rollout/{key}", value)
        self.logger.record("rollout/unscored_rate", self.unscored / max(1, self.finished))
        self.bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()}, refresh=False)
        self.bar.update(min(self.num_timesteps, self.total) - self.bar.n)

    def _on_rollout_start(self) -> None:
        self.finished = self.unscored = 0
        # Called before each rollout, that is after each update but the last.
        if self.updates and self.updates % self.every == 0:
            self.save()
        self.updates += 1
        self.counted = self.model.num_timesteps

    def _on_training_end(self) -> None:
        self.bar.close()

    def save(self) -> None:
        """Write the checkpoint whole or not at all."""
        if not parallel.is_main():
            return
        self.file.parent.mkdir(parents=True, exist_ok=True)
        partial = self.file.with_name("partial.zip")
        self.model.save(partial)
        os.replace(partial, self.file)


def learn(config: JobConfig, model: OnPolicyAlgorithm, tracker: Tracker | None) -> None:
    """Train to the end, logging and checkpointing on the way.

    Args:
        config: the job.
        model: the algorithm.
        tracker: where numbers go; None in processes beside the first.
    """
    remaining = config.total_timesteps - model.num_timesteps
    if remaining <= 0:
        return
    writers: list[KVWriter] = []
    if tracker is not None:
        writers = [ProgressWriter(config.out / "progress.csv", upto=model.num_timesteps), TrackerWriter(tracker)]
    model.set_logger(Logger(folder=None, output_formats=[MeanWriter(writers)]))
    callback = TrainingCallback(checkpoint_file(config), config.checkpoint_every, config.total_timesteps)
    try:
        model.learn(remaining, callback=callback, reset_num_timesteps=model.num_timesteps == 0)
    except Diverged as error:
        file = checkpoint_file(config)
        kept = f"the last good state is in {file}" if file.is_file() else "no checkpoint was written before"
        raise Diverged(f"training stopped after {model.num_timesteps:,} steps, as {error}; {kept}") from error
    callback.save()
