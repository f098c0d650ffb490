"""What a job does with the policy that it has trained: calibrate a dial, export it, evaluate it against the rules."""

from __future__ import annotations

import itertools
from dataclasses import replace
from pathlib import Path
from typing import Any

from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm

from envs.decoding.settings import conditions_of
from envs.denoiser import identify
from envs.tasks import describe_data, make_tasks
from policies import LearnedPolicy, save
from policies.actor_critic import UnmaskingActorCritic
from policies.calibration import Calibration, DialPoint
from train.command.files import write_json
from train.command.progress import progress
from train.command.provenance import versions
from train.command.run_files import RunFiles
from train.evaluation.headline import is_learned
from train.evaluation.jobs import plan
from train.evaluation.measure import evaluate
from train.evaluation.records import Record, read_outcomes, read_records, write_outcomes
from train.evaluation.run import EvaluateConfig, run_jobs
from train.job.build import load_model
from train.job.config import JobConfig

DIAL = tuple(i / 8 for i in range(9))
"""Places on a speed dial that are measured."""


def export(
    config: JobConfig, model: OnPolicyAlgorithm, chosen_after: int | None = None, threshold: float = 0.5
) -> LearnedPolicy:
    """Write the trained network as a policy folder.

    Args:
        config: of the job.
        model: the algorithm, with the weights to export.
        chosen_after: environment steps that they have learned from; None for all.
        threshold: least probability at which its deterministic decision commits.
    """
    assert isinstance(model.policy, UnmaskingActorCritic)
    trained = {
        "algorithm": type(model).__name__,
        "model": config.model.name,
        "dllm": identify(load_model(config)),
        "tasks": config.env.tasks,
        "data": describe_data(make_tasks(config.env.tasks)),
        "split": "train",
        "buffer_length": config.env.buffer_length,
        "block_lengths": blocks_of(config),
        **conditions_of(config.env),
        "reward": config.env.reward,
        "price": config.env.price,
        "alpha": config.env.alpha_range or config.env.alpha,
        "network": model.policy.spec.kind,
        "distribution": config.actions.distribution,
        "timesteps": model.num_timesteps,
        "chosen_after": model.num_timesteps if chosen_after is None else chosen_after,
        "seed": config.seed,
        "filter": config.filter.folder and f"{config.filter.folder} as {config.filter.role}",
        "versions": versions(),
    }
    # On the CPU, as a folder is read anywhere; deterministic, which its users can change when they load it.
    policy = LearnedPolicy(model.policy.network.cpu(), "deterministic", trained, threshold, actions=config.actions)
    if policy.has_dial:
        policy.calibration = calibrate(config, policy)
    save(policy, config.out / "policy")
    # A learned policy has its network frozen and in evaluation mode: the algorithm gets it back as it was.
    model.policy.network.to(config.model.device).train().requires_grad_(True)
    inner = getattr(model.policy.network, "filter", None)
    if inner is not None:
        inner.requires_grad_(False)
    return policy


def calibration_places(config: JobConfig) -> list[tuple[int, float]]:
    """Return the block lengths and places on the dial that are measured after training; none without a dial."""
    return list(itertools.product(blocks_of(config), DIAL)) if config.env.alpha_range else []


def on_validation(config: JobConfig) -> dict[str, Any]:
    """Return how the job measures on validation problems, as `measure` is told, but for how many."""
    about = {"tasks": config.env.tasks, "split": "validation", "seed": config.seed}
    return about | config.env.decoding | {"batch_size": evaluated_rows(config)}


def evaluated_rows(config: JobConfig) -> int:
    """Return how many sequences the job evaluates at a time: what fits while training is to fit then too."""
    return min(EvaluateConfig.batch_size, config.env.num_envs)


def calibrate(config: JobConfig, policy: LearnedPolicy) -> Calibration:
    """Measure a policy with a dial on validation problems at each of `DIAL`, in the blocks trained with."""
    points = []
    for block, speed in progress(calibration_places(config), desc="calibrating", unit="place"):
        record = evaluate(
            load_model(config),
            policy.changed(speed=speed),
            episodes=config.evaluation.calibration_episodes,
            block_length=block,
            **on_validation(config),
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


def evaluation_of(config: JobConfig, folder: str) -> EvaluateConfig:
    """Return what the job evaluates: the policy in a folder, at each of `DIAL` if it has a dial, and the rules."""
    # With a dial its sampled decision is left out: nine places are enough to look at.
    places = [f"{folder}@speed={speed:g}" for speed in DIAL] if config.env.alpha_range else [folder]
    return EvaluateConfig(
        policy=[*places, *config.evaluation.rules],
        model=config.model,
        tasks=config.env.tasks,
        split=config.evaluation.split,
        episodes=config.evaluation.episodes,
        block_length=evaluated_blocks(config),
        **config.env.decoding,
        # The dLLM is loaded in this process, with its first forwards computed; others would load it again.
        workers=1,
        batch_size=evaluated_rows(config),
        seed=config.seed,
    )


def rules_of(config: JobConfig) -> EvaluateConfig:
    """Return the part of `evaluation_of` that does not depend on the policy."""
    return replace(evaluation_of(config, ""), policy=config.evaluation.rules)


def forget_policies(file: Path) -> None:
    """Drop what a file of records and the outcomes beside it say of learned policies; those of rules stay."""
    if not file.is_file():
        return
    outcomes = [entry for entry in read_outcomes(file).values() if not is_learned(entry)]
    records = [record for record in read_records(file) if not is_learned(record)]
    # The records first: they say what is done.
    write_json(file, records)
    write_outcomes(RunFiles(file.parent).outcomes, outcomes)


def evaluate_all(config: JobConfig) -> list[Record]:
    """Evaluate the exported policy and the rules on held-out problems, going on where a killed run stopped."""
    about = evaluation_of(config, str(config.out / "policy"))
    return run_jobs(about, plan(about.policy, about.block_length), RunFiles(config.out).evaluation)
