"""A training job whatever its algorithm: learn an unmasking policy, evaluate it against the rules, export and log it.

The algorithm is any of Stable-Baselines3's family whose policy is `UnmaskingActorCritic`. A run's folder holds

* ``config.yaml``, ``command.txt``, ``versions.json``: how it was made;
* ``progress.csv`` and ``checkpoints/``: training, update by update; ``--resume`` goes on from there;
* ``policy/``: the exported policy, for `policies.load`;
* ``evaluation.json`` and ``pareto.png``: the policy and the rules on held-out problems.
"""

from __future__ import annotations

import copy
import itertools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gymnasium.vector import AutoresetMode
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecMonitor

from envs.decoding import DecodingSettings, check_block
from envs.denoiser import Denoiser, load_denoiser
from envs.sb3 import SB3VecEnv
from envs.tasks import describe_data, make_tasks, need_splits
from envs.unmasking import UnmaskingVectorEnv
from policies import LearnedPolicy, UnmaskingNetwork, load, make_rule, save
from policies.actor_critic import UnmaskingActorCritic
from policies.dial import Calibration, DialPoint
from policies.dit import DiTNetwork
from policies.learned import CommitNetwork, PolicyNetwork, check_hidden, describe
from train import parallel
from train.config import to_plain, to_yaml
from train.evaluate import EvaluateConfig, evaluate, plan, run_jobs
from train.job_config import JobConfig
from train.model_files import model_options
from train.plot import plot_pareto
from train.progress import progress
from train.records import Record, print_table
from train.run_folder import UserError, open_run, versions
from train.tracking import MeanWriter, ProgressWriter, Tracker, TrackerWriter

DIAL = tuple(i / 8 for i in range(9))
"""Places on a speed dial that are measured."""


@dataclass(frozen=True)
class Algorithm:
    """What tells one algorithm's job from another's.

    Attributes:
        cls: a Stable-Baselines3 algorithm.
        arguments: of its constructor, beyond those that every job gives.
        policy_kwargs: of `UnmaskingActorCritic`, likewise.
        group_size: rollouts of each problem that are compared with each other; None for independent episodes.
        experts: rules that decode further rows of each group.
        expert_block: positions of their blocks.
        trial_arguments: of the constructor, where a dry run needs others.
    """

    cls: type[OnPolicyAlgorithm]
    arguments: Mapping[str, Any]
    policy_kwargs: Mapping[str, Any] = field(default_factory=dict)
    group_size: int | None = None
    experts: tuple[str, ...] = ()
    expert_block: int = 32
    trial_arguments: Mapping[str, Any] = field(default_factory=dict)


def stream_seed(seed: int, stream: int, rank: int = 0) -> int:
    """Return a seed for one purpose of a run, unrelated to those of other purposes, other runs and other processes."""
    parts = [seed, stream, rank] if rank else [seed, stream]
    return int(np.random.SeedSequence(parts).generate_state(1)[0] >> 1)


def load_filter(config: JobConfig) -> PolicyNetwork | None:
    """Load the filter to build on, if there is one.

    Raises:
        UserError: if it can't be what it is to be: a start that is tied to one block or has a filter of its own, or any
            filter with a speed dial.
        ValueError: if it is tied to another block length.
    """
    folder, role = config.filter.folder, config.filter.role
    if folder is None:
        return None
    policy = load(folder)
    network = policy.network
    if policy.has_dial:
        raise UserError(f"filter.folder is {folder!r}: that policy has a speed dial and can't be a filter")
    if role != "feature" and not isinstance(network, UnmaskingNetwork):
        raise UserError(
            f"filter.role is {role!r}: the filter in {folder!r} is no transformer (one tied to a block, or the paper's "
            "network) and can't be a start; choose feature, or a transformer filter"
        )
    for block in (*config.env.block_lengths, *config.evaluation.block_lengths) or (None,):
        policy.check_block(DecodingSettings(config.env.buffer_length, block))
    if role == "feature" or not isinstance(network, UnmaskingNetwork):
        return network
    if network.filter is not None:
        raise UserError(f"filter.role is {role!r}: the policy in {folder!r} has a filter of its own; choose feature")
    return network


def starts_as(config: JobConfig, inner: PolicyNetwork | None) -> UnmaskingNetwork | None:
    """Return the filter if the policy is to start as it."""
    return inner if isinstance(inner, UnmaskingNetwork) and config.filter.role != "feature" else None


def make_network(config: JobConfig, inner: PolicyNetwork | None) -> CommitNetwork:
    """Build the policy's network with new weights; its architecture is the filter's where that is the start."""
    if config.dit is not None:
        return DiTNetwork(config.dit)
    start = starts_as(config, inner)
    shape = replace(config.policy if start is None else start.config, has_dial=bool(config.env.alpha_range))
    return UnmaskingNetwork(shape, None if config.filter.role == "start" else copy.deepcopy(inner))


def load_model(config: JobConfig) -> Denoiser:
    """Load the dLLM, or return the one already loaded."""
    return load_denoiser(config.model.name, config.model.device, config.model.dtype, **model_options(config.model))


def share(config: JobConfig, group_size: int = 1) -> JobConfig:
    """Return this process's part of a data-parallel training: its device and its rows.

    Args:
        config: of the whole job.
        group_size: rows that must stay in one process.

    Raises:
        ValueError: if the rows can't be shared out, or the device is one that processes can't share.
    """
    size, device = parallel.world_size(), torch.device(config.model.device)
    if size == 1:
        return config
    if config.env.num_envs % (size * group_size):
        groups = f" and groups of {group_size}" if group_size > 1 else ""
        raise ValueError(
            f"env.num_envs is {config.env.num_envs}: it must be a multiple of {size * group_size}, for {size} "
            f"processes{groups}"
        )
    if device.index is not None:
        raise ValueError(f"model.device is {config.model.device!r}: with {size} processes give {device.type!r}")
    own = f"cuda:{parallel.local_rank()}" if device.type == "cuda" else config.model.device
    rows = config.env.num_envs // size
    return replace(config, model=replace(config.model, device=own), env=replace(config.env, num_envs=rows))


def make_env(config: JobConfig, denoiser: Denoiser, algorithm: Algorithm, inner: PolicyNetwork | None) -> VecMonitor:
    """Build the training env for Stable-Baselines3; experts' rows come on top of ``env.num_envs``.

    Args:
        config: of the job.
        denoiser: the frozen dLLM.
        algorithm: to train with.
        inner: the filter to build on, as `load_filter` returned it.
    """
    env, network = config.env, make_network(config, inner)
    check_hidden(network, denoiser)
    features = set(network.features)
    for rule in algorithm.experts:
        features |= make_rule(rule).features
    group, experts = algorithm.group_size, len(algorithm.experts)
    batch = UnmaskingVectorEnv(
        env.num_envs if group is None else env.num_envs // group * (group + experts),
        denoiser=denoiser,
        tasks=env.tasks,
        split="train",
        buffer_length=env.buffer_length,
        block_length=env.block_lengths or None,
        temperature=env.temperature,
        reward=env.reward,
        alpha=env.alpha_range or env.alpha,
        features=sorted(features),
        group_size=None if group is None else group + experts,
        expert_blocks=[algorithm.expert_block] * experts,
    )
    mode = AutoresetMode.SAME_STEP if group is None else AutoresetMode.DISABLED
    return VecMonitor(SB3VecEnv(batch, mode), info_keywords=("score", "nfe", "token_positions"))


def make_model(
    config: JobConfig, env: VecMonitor, algorithm: Algorithm, inner: PolicyNetwork | None
) -> OnPolicyAlgorithm:
    """Build the algorithm, or load the last checkpoint of a run to be resumed.

    Args:
        config: of the job.
        env: of `make_env`.
        algorithm: to train with.
        inner: the filter to build on, as `load_filter` returned it.

    Raises:
        UserError: if the checkpoint is damaged.
    """
    checkpoint = checkpoint_file(config)
    if config.resume and checkpoint.is_file():
        try:
            model = algorithm.cls.load(checkpoint, env=env, device=config.model.device)
        except Exception as error:  # zipfile, pickle and torch each raise their own
            raise UserError(f"checkpoint {checkpoint} can't be read ({error}): delete it to start over") from error
        # New problems, instead of those the killed run has seen.
        model.set_random_seed(stream_seed(config.seed, 1 + model.num_timesteps, parallel.rank()))
        return model
    model = algorithm.cls(
        UnmaskingActorCritic,
        env,
        policy_kwargs={
            "network": describe(make_network(config, inner)),
            "actions": config.actions,
            **algorithm.policy_kwargs,
        },
        stats_window_size=1000,
        seed=stream_seed(config.seed, 0),
        device=config.model.device,
        **algorithm.arguments,
    )
    network, start = model.policy.network, starts_as(config, inner)
    if inner is not None and isinstance(network, UnmaskingNetwork):
        if network.filter is not None:
            network.filter.load_state_dict(inner.state_dict())
        if start is not None:
            network.start_as(start)
    if not parallel.is_main():
        # The same weights everywhere, but episodes of its own.
        model.set_random_seed(stream_seed(config.seed, 0, parallel.rank()))
    return model


def checkpoint_file(config: JobConfig) -> Path:
    """Return where the latest checkpoint is."""
    return config.out / "checkpoints" / "latest.zip"


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

    def _on_training_start(self) -> None:
        hidden = not parallel.is_main()
        self.bar = progress(total=self.total, initial=self.num_timesteps, unit="step", desc="training", disable=hidden)

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        # What Stable-Baselines3 has counted are this process's own steps.
        own = self.model.num_timesteps - self.counted
        self.model.num_timesteps = self.num_timesteps = self.counted + int(parallel.total(own))
        episodes = list(self.model.ep_info_buffer or [])
        means = {key: float(np.mean([e[key] for e in episodes])) for key in ("score", "nfe") if episodes}
        for key, value in means.items():
            self.logger.record(f"rollout/{key}", value)
        self.bar.set_postfix({key: f"{value:.3f}" for key, value in means.items()}, refresh=False)
        self.bar.update(min(self.num_timesteps, self.total) - self.bar.n)

    def _on_rollout_start(self) -> None:
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
        # Records of an earlier end of this run are of another policy.
        (config.out / "evaluation.json").unlink(missing_ok=True)
        writers = [ProgressWriter(config.out / "progress.csv", upto=model.num_timesteps), TrackerWriter(tracker)]
    model.set_logger(Logger(folder=None, output_formats=[MeanWriter(writers)]))
    callback = TrainingCallback(checkpoint_file(config), config.checkpoint_every, config.total_timesteps)
    model.learn(remaining, callback=callback, reset_num_timesteps=model.num_timesteps == 0)
    callback.save()


def export(config: JobConfig, model: OnPolicyAlgorithm) -> LearnedPolicy:
    """Write the trained network as a policy folder."""
    assert isinstance(model.policy, UnmaskingActorCritic)
    trained = {
        "algorithm": type(model).__name__,
        "model": config.model.name,
        "tasks": config.env.tasks,
        "data": describe_data(make_tasks(config.env.tasks)),
        "split": "train",
        "buffer_length": config.env.buffer_length,
        "block_lengths": blocks_of(config),
        "reward": config.env.reward,
        "alpha": config.env.alpha_range or config.env.alpha,
        "network": describe(model.policy.network)["kind"],
        "distribution": config.actions.distribution,
        "timesteps": model.num_timesteps,
        "seed": config.seed,
        "filter": config.filter.folder and f"{config.filter.folder} as {config.filter.role}",
        "versions": versions(),
    }
    policy = LearnedPolicy(model.policy.network.cpu(), "deterministic", trained, actions=config.actions)
    if policy.has_dial:
        policy.calibration = calibrate(config, policy)
    save(policy, config.out / "policy", policy_card(trained))
    model.policy.network.to(config.model.device).train().requires_grad_(True)
    inner = getattr(model.policy.network, "filter", None)
    if inner is not None:
        inner.requires_grad_(False)
    return policy


def calibration_places(config: JobConfig) -> list[tuple[int, float]]:
    """Return the block lengths and places on the dial that are measured after training; none without a dial."""
    return list(itertools.product(blocks_of(config), DIAL)) if config.env.alpha_range else []


def calibrate(config: JobConfig, policy: LearnedPolicy) -> Calibration:
    """Measure a policy with a dial on validation problems at each of `DIAL`, in the blocks trained with."""
    points = []
    for block, speed in progress(calibration_places(config), desc="calibrating", unit="place"):
        record = evaluate(
            load_model(config),
            policy.changed(speed=speed),
            tasks=config.env.tasks,
            split="validation",
            episodes=config.evaluation.calibration_episodes,
            buffer_length=config.env.buffer_length,
            block_length=block,
            temperature=config.env.temperature,
            seed=config.seed,
        )[-1]
        accuracy, nfe = tuple(record["accuracy_ci95"]), tuple(record["nfe_ci95"])
        points.append(DialPoint(block, speed, record["accuracy"], accuracy, record["nfe"], nfe))
    return Calibration(points)


def blocks_of(config: JobConfig) -> list[int]:
    """Return the block lengths trained with."""
    return config.env.block_lengths or [config.env.buffer_length]


def evaluated_blocks(config: JobConfig) -> list[int]:
    """Return the block lengths evaluated at."""
    return config.evaluation.block_lengths or blocks_of(config)


def policy_card(trained: dict[str, Any]) -> str:
    """Write the model card of an exported policy."""
    rows = "\n".join(f"| {key} | {value} |" for key, value in trained.items() if key != "versions")
    return f"""# Unmasking policy

Chooses which masked positions of a diffusion language model to commit at each step.

```python
import policies
policy = policies.load("this/folder")  # decision="sample" draws instead of rounding
policies.generate(model, tokenizer, prompts, policy)
```

| trained with | |
| --- | --- |
{rows}

It saw training problems only; `evaluation.json` beside the folder has its results on held-out ones.
"""


def evaluation_of(config: JobConfig, folder: str) -> EvaluateConfig:
    """Return what the job evaluates: the policy in a folder, at each of `DIAL` if it has a dial, and the rules."""
    places = [f"{folder}@speed={speed:g}" for speed in DIAL] if config.env.alpha_range else [folder]
    return EvaluateConfig(
        policy=[*places, *config.evaluation.rules],
        model=config.model.name,
        tasks=config.env.tasks,
        episodes=config.evaluation.episodes,
        buffer_length=config.env.buffer_length,
        block_length=evaluated_blocks(config),
        temperature=config.env.temperature,
        device=config.model.device,
        dtype=config.model.dtype,
        threads=config.model.threads,
        workers=1,
        # What fits while training is to fit then too.
        batch_size=min(EvaluateConfig.batch_size, config.env.num_envs),
        seed=config.seed,
        **model_options(config.model),
    )


def evaluate_all(config: JobConfig) -> list[Record]:
    """Evaluate the exported policy and the rules on held-out problems, going on where a killed run stopped."""
    about = evaluation_of(config, str(config.out / "policy"))
    return run_jobs(about, plan(about.policy, about.block_length), config.out / "evaluation.json")


def run_job(config: JobConfig, algorithm: Algorithm) -> list[Record]:
    """Run the whole job.

    Returns:
        The records of `evaluation.json`; none in processes beside the first.

    Raises:
        UserError: if the run's folder is taken, or can't be resumed.
        ValueError: if a field of the configuration is not possible.
    """
    torch.set_num_threads(config.model.threads)
    settings = {**to_plain(config), "resume": False}
    own = share(config, algorithm.group_size or 1)
    tracker = None
    try:
        with parallel.process_group(own.model.device):
            model = prepare(own, algorithm, to_yaml(settings))
            if parallel.is_main():
                tracker = Tracker(config.wandb, config.out, settings, "train")
            if parallel.total(model.num_timesteps) != parallel.world_size() * model.num_timesteps:
                raise UserError(
                    f"not all processes see {checkpoint_file(config)}: put --out where all machines read and write"
                )
            learn(own, model, tracker)
        if tracker is None:
            return []
        export(own, model)
        records = evaluate_all(own)
        plot_pareto(records, config.out / "pareto.png", f"{config.model.name}, seed {config.seed}")
        tracker.finish(records, config.out / "pareto.png", config.out / "policy")
    except BaseException:
        if tracker is not None:
            tracker.abandon()
        raise
    print_table(records, f"{config.evaluation.episodes} held-out problems a task")
    print(f"policy      {config.out / 'policy'}\nevaluation  {config.out / 'evaluation.json'}")
    print(f"plot        {config.out / 'pareto.png'}\nW&B         {tracker.place}")
    return records


def prepare(config: JobConfig, algorithm: Algorithm, settings: str) -> OnPolicyAlgorithm:
    """Check what would else fail at the end, take the run's folder, and build the algorithm.

    Args:
        config: this process's part of the job.
        algorithm: to train with.
        settings: the whole job's configuration, for the run's folder.
    """
    denoiser, inner = load_model(config), load_filter(config)
    env = make_env(config, denoiser, algorithm, inner)
    for block in evaluated_blocks(config):
        check_block(denoiser, block)
    # Calibration of a dial needs validation problems.
    has_dial = bool(config.env.alpha_range)
    need_splits(make_tasks(config.env.tasks), ("train", "test", "validation") if has_dial else ("train", "test"))
    if parallel.is_main():
        open_run(config.out, settings, config.resume)
        print(settings)
    model = make_model(config, env, algorithm, inner)
    assert isinstance(model.policy, UnmaskingActorCritic)
    size = sum(p.numel() for p in model.policy.network.parameters())
    if parallel.is_main():
        device, threads = config.model.device, torch.get_num_threads()
        processes = f"{parallel.world_size()} processes, " if parallel.world_size() > 1 else ""
        print(f"device {device}, {processes}{threads} threads, policy of {size:,} parameters")
    return model
