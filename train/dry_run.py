"""``--dry-run``: does this set-up work, and what would the whole job take?

Loads and checks the dLLM, measures a step of the full batch, decodes three training problems with the untrained policy,
makes one update on a small batch, and scales the seconds up. Nothing is written.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor

from envs.decoding import DecodingSettings
from envs.denoiser import Denoiser
from envs.tasks import make_tasks
from policies import LearnedPolicy, decode
from policies.actor_critic import UnmaskingActorCritic
from train import parallel
from train.job import Algorithm, load_model, make_env, make_model, stream_seed
from train.job_config import JobConfig
from train.run_folder import UserError

Result = TypeVar("Result")

ROLLOUTS, TIMED_STEPS = 3, 3


@dataclass(frozen=True)
class Estimate:
    """What a dry run measured, and what the whole job would take.

    Attributes:
        load_seconds: to load the dLLM.
        step_seconds: of one env step of all rows, policy included.
        rows: of the env.
        nfe: forwards of a rollout of the untrained policy.
        score: its mean score on three problems.
        update_seconds: of learning from one transition in an update.
        job_hours: of the whole training.
        evaluation_hours: of the evaluation after it, at the untrained policy's forwards.
        memory_gib: the most in use, on the GPU if the dLLM is there.
    """

    load_seconds: float
    step_seconds: float
    rows: int
    nfe: float
    score: float
    update_seconds: float
    job_hours: float
    evaluation_hours: float
    memory_gib: float


def dry_run(config: JobConfig, algorithm: Algorithm) -> Estimate:
    """Try a configuration and print what it would take.

    Raises:
        UserError: as the job would.
        ValueError: likewise.
    """
    if parallel.world_size() > 1:
        raise UserError(
            f"dry_run is true, but {parallel.world_size()} processes run: try one process's part without torchrun, "
            f"with --env.num_envs {config.env.num_envs // parallel.world_size()}"
        )
    torch.set_num_threads(config.model.threads)
    device = config.model.device
    denoiser, load_seconds = timed(lambda: load_model(config), device)
    model = make_model(replace(config, resume=False), make_env(config, denoiser, algorithm), algorithm)
    assert model.env is not None
    rows, step_seconds = model.env.num_envs, time_step(model, device)
    nfe, score = try_rollouts(config, denoiser, model)
    update_seconds = time_update(config, denoiser, algorithm)
    per_step = step_seconds / rows + update_seconds
    policies = 2 + len(config.evaluation.rules)
    problems = (
        config.evaluation.episodes * len(make_tasks(config.env.tasks)) * max(1, len(config.evaluation.block_lengths))
    )
    estimate = Estimate(
        load_seconds,
        step_seconds,
        rows,
        nfe,
        score,
        update_seconds,
        config.total_timesteps * per_step / 3600,
        policies * problems * nfe * step_seconds / rows / 3600,
        memory_gib(device),
    )
    print_estimate(config, estimate)
    return estimate


def timed(run: Callable[[], Result], device: str) -> tuple[Result, float]:
    """Return a call's result and its seconds, waiting for the GPU."""
    began = time.perf_counter()
    result = run()
    if torch.device(device).type == "cuda":
        torch.cuda.synchronize(device)
    return result, time.perf_counter() - began


def time_step(model: OnPolicyAlgorithm, device: str) -> float:
    """Return the seconds of one env step of all rows with the policy's decision: the fastest of some, after a first."""
    env = model.env
    assert env is not None
    obs: Any = env.reset()

    def step() -> None:
        with torch.no_grad():
            action = model.policy(obs_as_tensor(obs, model.device))[0]
        # One position a row, so that hardly a row ends and all are computed.
        env.step((action.cpu().numpy() * 0) + (obs["eligible"].cumsum(1) == 1))

    step()
    return min(timed(step, device)[1] for _ in range(TIMED_STEPS))


def try_rollouts(config: JobConfig, denoiser: Denoiser, model: OnPolicyAlgorithm) -> tuple[float, float]:
    """Decode training problems with the untrained policy; return the mean forwards and score."""
    assert isinstance(model.policy, UnmaskingActorCritic)
    tasks = make_tasks(config.env.tasks)
    chosen = [tasks[i * len(tasks) // ROLLOUTS] for i in range(ROLLOUTS)]
    problems = [task.problem("train", i) for i, task in enumerate(chosen)]
    policy = LearnedPolicy(model.policy.network, "sample", actions=config.actions)
    block = config.env.block_lengths[0] if config.env.block_lengths else None
    settings = DecodingSettings(config.env.buffer_length, block, config.env.temperature, policy.features)
    done = decode(denoiser, [p.prompt for p in problems], policy, settings, seed=stream_seed(config.seed, 0))
    scores = [task.score(done[i].text, problems[i]) for i, task in enumerate(chosen)]
    return sum(one.nfe for one in done) / ROLLOUTS, sum(scores) / ROLLOUTS


def time_update(config: JobConfig, denoiser: Denoiser, algorithm: Algorithm) -> float:
    """Make one update on a small batch; return its seconds for each transition learned from."""
    rows = config.env.num_envs if algorithm.group_size is None else algorithm.group_size
    small = replace(config, resume=False, env=replace(config.env, num_envs=rows))
    trial = replace(algorithm, arguments={**algorithm.arguments, **algorithm.trial_arguments})
    model = make_model(small, make_env(small, denoiser, trial), trial)
    model.set_logger(Logger(folder=None, output_formats=[]))
    seconds = 0.0
    learn = model.train

    def train() -> None:
        nonlocal seconds
        seconds = timed(learn, config.model.device)[1]

    model.train = train  # type: ignore[method-assign]
    model.learn(1)
    if any(not bool(torch.isfinite(p).all()) for p in model.policy.parameters()):
        raise ValueError("the update made a weight of the policy infinite: lower the learning rate")
    return seconds / max(1, model.num_timesteps)


def memory_gib(device: str) -> float:
    """Return the most memory used so far, of the GPU if that is the device, else of the process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def print_estimate(config: JobConfig, estimate: Estimate) -> None:
    """Print the table."""
    table = Table(title=f"dry run of {config.model.name} on {config.model.device}", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    whole = estimate.job_hours + estimate.evaluation_hours
    for what, shown in (
        ("loading the dLLM", f"{estimate.load_seconds:.1f} s"),
        (f"an env step of {estimate.rows} rows", f"{estimate.step_seconds:.3g} s"),
        (f"forwards of a rollout, untrained ({ROLLOUTS})", f"{estimate.nfe:.1f}"),
        ("their score", f"{estimate.score:.2f}"),
        ("an update, for each step learned from", f"{1000 * estimate.update_seconds:.3g} ms"),
        (f"training of {config.total_timesteps:,} env steps", hours(estimate.job_hours)),
        ("evaluation", hours(estimate.evaluation_hours)),
        ("the whole job, estimated", hours(whole)),
        ("peak memory so far", f"{estimate.memory_gib:.2f} GiB"),
    ):
        table.add_row(what, shown)
    Console().print(table)


def hours(value: float) -> str:
    """Write a duration for people.

    >>> [hours(x) for x in (0.001, 0.1, 3.21)]
    ['4 s', '6.0 min', '3.2 h']
    """
    if value * 3600 < 60:
        return f"{math.ceil(value * 3600)} s"
    return f"{value * 60:.1f} min" if value < 1 else f"{value:.1f} h"
