"""Training itself: checkpoints, metrics and a progress bar around an algorithm of Stable-Baselines3."""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from policies.actor_critic import UnmaskingActorCritic
from train.command import checkpoint, parallel
from train.command.errors import UserError
from train.command.finite import Diverged
from train.command.interrupt import Interrupted, Stop, deferred
from train.command.progress import progress
from train.command.run_files import RunFiles
from train.job.build import checkpoint_file, rank_file, run_settings
from train.job.config import JobConfig
from train.job.validation import Validation
from train.tracking.history import ProgressWriter
from train.tracking.tracker import Tracker
from train.tracking.writers import MeanWriter, TrackerWriter


class TrainingCallback(BaseCallback):
    """Checkpoints, extra metrics and a progress bar.

    Args:
        file: the checkpoint, replaced atomically.
        every: updates between two checkpoints.
        total: environment steps of the whole run.
        stop: whether to end before that.
        writers: where what validation finds goes, under the step that it is about.
        validation: tries of the policy on validation problems; None without.

    Attributes:
        updates: finished by this process, and learned from whole rollouts.
        counted: environment steps that these updates, and those before a resume, have learned from.
        is_updating: whether the weights may be between two updates.
    """

    def __init__(
        self,
        file: Path,
        every: int,
        total: int,
        stop: Stop,
        writers: Sequence[KVWriter],
        validation: Validation | None,
    ) -> None:
        super().__init__()
        self.file, self.every, self.total, self.stop = file, every, total, stop
        self.writers, self.validation = writers, validation
        self.updates = -1
        self.counted = 0
        self.is_updating = False
        self.finished = self.unscored = 0
        self.bar: Any = None
        self.settings = run_settings(file) if parallel.is_main() else {}

    def _on_training_start(self) -> None:
        hidden = not parallel.is_main()
        self.bar = progress(total=self.total, initial=self.num_timesteps, unit="step", desc="training", disable=hidden)
        self.began = time.monotonic_ns()
        self.saved = self.num_timesteps

    def _on_step(self) -> bool:
        for info in self.locals["infos"]:
            self.finished += "episode" in info
            self.unscored += "score_error" in info
        return not self.stop

    def _on_rollout_end(self) -> None:
        # What Stable-Baselines3 has counted are this process's own steps.
        own = self.model.num_timesteps - self.counted
        self.model.num_timesteps = self.num_timesteps = self.counted + int(parallel.total(own))
        episodes = list(self.model.ep_info_buffer or [])
        means: dict[str, float] = {}
        for key in ("score", "nfe") if episodes else ():
            means[key] = float(np.mean([episode[key] for episode in episodes]))
            self.logger.record(f"rollout/{key}", means[key])
        for key, name in (("nfe", "nfe_std"), ("r", "reward_std")):
            if episodes:
                self.logger.record(f"rollout/{name}", float(np.std([e[key] for e in episodes])))
        self.logger.record("rollout/unscored_rate", self.unscored / max(1, self.finished))
        self.bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()}, refresh=False)
        self.bar.update(min(self.num_timesteps, self.total) - self.bar.n)
        # Stable-Baselines3, which logs next, subtracts times of day; in between, the clock may have been set.
        self.model.start_time = time.time_ns() - (time.monotonic_ns() - self.began)
        self.is_updating = True

    def _on_rollout_start(self) -> None:
        self.finished = self.unscored = 0
        # Called before each rollout, that is after each update but the last.
        self.updates += 1
        self.is_updating = False
        self.counted = self.model.num_timesteps
        # Whatever ends this rollout before its update, a resumed run plays it again from here.
        self.rollout = self.capture()
        if self.updates and self.updates % self.every == 0:
            self.save_together()
        self.validate()

    def close(self) -> None:
        """Close the bar, if there is one by now.

        Not left to whenever the garbage collector finds it: a bar writes when it is closed, W&B listens to what is
        written, and a context variable that is set while another is being set can end CPython 3.11 (its issue 148891).
        """
        if self.bar is not None:
            self.bar.close()

    def capture(self) -> checkpoint.State:
        """Return what the training goes on from, but for the weights."""
        tried = {} if self.validation is None else self.validation.state()
        rollout = checkpoint.capture_rollout(cast(OnPolicyAlgorithm, self.model))
        # What the last update has recorded is written with the next rollout's numbers.
        logged = dict(self.logger.name_to_value)
        return {**rollout, "validation": tried, "logged": logged, "processes": parallel.world_size()}

    def save(self) -> None:
        """Write this process's part of the checkpoint of the present rollout's beginning, whole or not at all."""
        steps = self.rollout["counters"]["num_timesteps"]
        if parallel.is_main():
            state = checkpoint.capture(cast(OnPolicyAlgorithm, self.model), self.rollout)
            checkpoint.write(self.file, {**state, "run": self.settings})
        else:
            checkpoint.write(rank_file(self.file, steps), self.rollout)

    def save_together(self) -> None:
        """Write the checkpoint of all processes, so that whenever they are killed the newest is whole."""
        if not parallel.is_main():
            self.save()
        parallel.wait()
        # From now on, the main process has written the last checkpoint, or it writes this one.
        steps = self.rollout["counters"]["num_timesteps"]
        if parallel.is_main():
            self.save()
        else:
            forget_ranks(self.file, {self.saved, steps})
        self.saved = steps

    def validate(self) -> None:
        """Try the policy on validation problems if that is due; asked to end meanwhile, leave it to a resumed run."""
        if self.validation is not None:
            try_out(self.model, self.validation, self.writers, self.stop)

    def finish(self) -> None:
        """Try the policy that came of it, and write the last checkpoint."""
        self.validate()
        if parallel.is_main():
            self.rollout = self.capture()
            self.save()
        parallel.wait()
        if not parallel.is_main():
            forget_ranks(self.file, set())

    def save_early(self) -> str:
        """Write the state after the last update, in a rollout that won't be finished.

        Returns:
            What was saved, as a clause; empty if there was nothing to save that isn't saved already.
        """
        played = self.model.num_timesteps - self.counted
        if self.updates <= 0:
            return ""
        # Not together: another process may have ended already. All of them are in the same rollout.
        self.save()
        return (
            f"saved after {self.counted:,} of {self.total:,} steps in {self.file}; the {played:,} steps played since, "
            "too few for an update, are not"
        )


def forget_ranks(file: Path, kept: Collection[int]) -> None:
    """Delete this process's parts of a job's checkpoints, but for those after some numbers of steps."""
    for part in file.parent.glob(rank_file(file, "*").name):
        if part not in {rank_file(file, steps) for steps in kept}:
            part.unlink(missing_ok=True)


def try_out(model: BaseAlgorithm, validation: Validation, writers: Sequence[KVWriter], stop: Stop) -> None:
    """Try a training's policy on validation problems if that is due, and say what was found.

    Args:
        model: the algorithm.
        validation: what is known of its policies so far.
        writers: where the numbers go.
        stop: whether to end; then the try is not made, or broken off.
    """
    if not validation.is_due(model.num_timesteps):
        return
    assert isinstance(model.policy, UnmaskingActorCritic)
    network = model.policy.network
    tried = stop.attempt(lambda: validation.measure(network))
    if tried is None:
        return
    found, rewards = tried
    validation.keep(network, rewards, model.num_timesteps)
    # What the logger is told now, it would write with the next update's numbers.
    named = {f"validation/{name}": value for name, value in found.items()}
    for writer in writers:
        writer.write(named, dict.fromkeys(named, ()), model.num_timesteps)


def learn(
    config: JobConfig,
    model: OnPolicyAlgorithm,
    tracker: Tracker | None,
    validation: Validation | None = None,
    logged: Mapping[str, float] | None = None,
) -> None:
    """Train to the end, logging and checkpointing on the way, and leave the best weights in the policy.

    Args:
        config: the job.
        model: the algorithm.
        tracker: where numbers go; None in processes beside the first.
        validation: tries of the policy on validation problems, in the first process; without, the last weights stay.
        logged: what the last update before a kill had recorded, as `train.job.build.resume` returned it.

    Raises:
        Interrupted: if a signal asked to end; what is saved is the state after the last update.
    """
    writers: list[KVWriter] = []
    if tracker is not None:
        kept = ProgressWriter(RunFiles(config.out).progress, upto=model.num_timesteps)
        tracker.log_again(kept.rows)
        writers = [kept, TrackerWriter(tracker)]
    remaining = config.total_timesteps - model.num_timesteps
    if remaining > 0:
        logger = Logger(folder=None, output_formats=[MeanWriter(writers)])
        for name, value in (logged or {}).items():
            logger.record(name, value)
        model.set_logger(logger)
        _go_on(config, model, writers, remaining, validation)
    elif validation is not None:
        # Asked to end in its last try, the run had trained to its end.
        try_out(model, validation, writers, Stop())
    if validation is not None and validation.weights:
        assert isinstance(model.policy, UnmaskingActorCritic)
        model.policy.network.load_state_dict(validation.weights)


def _go_on(
    config: JobConfig,
    model: OnPolicyAlgorithm,
    writers: list[KVWriter],
    remaining: int,
    validation: Validation | None,
) -> None:
    with deferred("stopping to save what was learned") as stop:
        file, total = checkpoint_file(config), config.total_timesteps
        callback = TrainingCallback(file, config.checkpoint_every, total, stop, writers, validation)
        try:
            model.learn(remaining, callback=callback, reset_num_timesteps=model.num_timesteps == 0)
        except Diverged as error:
            left = f"the last good state is in {file}" if file.is_file() else "no checkpoint was written before"
            raise Diverged(f"training stopped after {model.num_timesteps:,} steps, as {error}; {left}") from error
        except torch.OutOfMemoryError as error:
            raise UserError(
                f"the memory of {config.model.device} is too small: start anew with fewer rows (env.num_envs is "
                f"{config.env.num_envs}) or smaller updates; --dry-run says what a set-up takes"
            ) from error
        except RuntimeError:
            # Another process of this training stopped first, and we have waited for it in vain.
            if not stop or callback.is_updating or parallel.world_size() == 1:
                raise
        finally:
            callback.close()
        if stop.signum is not None and model.num_timesteps < total:
            raise Interrupted(stop.signum, callback.save_early())
        callback.finish()
