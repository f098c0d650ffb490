"""``--dry-run``: does this set-up work, and what would the whole job take?

Loads and checks the dLLM, measures a step of the full batch, decodes training problems as training, its tries,
calibration and evaluation will (the untrained policy, and every rule), makes one update on a small batch, and scales
the seconds up. Nothing is written.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from train.command import parallel
from train.command.errors import UserError
from train.evaluation.run import problems_of
from train.job.build import Algorithm, load_filter, load_model, make_env, make_model
from train.job.config import JobConfig
from train.job.counting import CountingDenoiser, timed
from train.job.finish import evaluation_of, rules_of
from train.job.price import without_measurement
from train.job.run import warn_of_long_answers
from train.job.trials import (
    UNTRAINED,
    Trials,
    features_of,
    memory_gib,
    step_gib,
    time_fit,
    time_step,
    time_update,
    trial_rows,
)


@dataclass(frozen=True)
class Estimate:
    """What a dry run measured, and what the whole job would take.

    Attributes:
        load_seconds: to load the dLLM.
        step_seconds: of one env step of all rows, policy included.
        rows: of the env.
        rollouts: problems that the untrained policy decoded.
        nfe: forwards of a rollout of the untrained policy.
        score: its mean score.
        update_seconds: of learning from one transition in an update.
        job_hours: of the whole training.
        answers: decoded to learn a filter, in tries on validation problems, in calibration and in evaluation.
        evaluation_hours: of decoding them, if the trained policy takes as many forwards as the untrained one.
        filter_states: that a filter is learned from in the end, 0 without one.
        filter_gib: of them on disk, while it is learned.
        fit_hours: of learning it, in one process.
        answers_beside: decoded by rules beside the training.
        beside_hours: of decoding those.
        longest_prompt: in tokens, of those that were tried and those of the evaluation.
        step_gib: what a forward of all rows needs with that prompt, computed; None where it can't be.
        memory_gib: the most that the dry run itself used, on the GPU if the dLLM is there.
    """

    load_seconds: float
    step_seconds: float
    rows: int
    rollouts: int
    nfe: float
    score: float
    update_seconds: float
    job_hours: float
    answers: int
    evaluation_hours: float
    filter_states: int
    filter_gib: float
    fit_hours: float
    answers_beside: int
    beside_hours: float
    longest_prompt: int
    step_gib: float | None
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
    config = without_measurement(config)
    device = config.model.device
    loaded, load_seconds = timed(lambda: load_model(config), device)
    warn_of_long_answers(config, loaded)
    denoiser: Any = CountingDenoiser(loaded)
    inner = load_filter(config)
    model = make_model(replace(config, resume=False), make_env(config, denoiser, algorithm, inner), algorithm, inner)
    assert model.env is not None
    # By what a position takes here, all other decodings are scaled.
    rows, (step_seconds, step_positions) = model.env.num_envs, time_step(model, denoiser)
    trials, about = Trials(config, denoiser, model), evaluation_of(config, UNTRAINED)
    held_out = problems_of(about)
    nfe, score = trials.sample()
    beside = rules_of(config) if config.evaluation.beside_training else replace(about, policy=[])
    # What is evaluated beside the training takes no time after it.
    rest = replace(about, policy=[policy for policy in about.policy if policy not in beside.policy])
    parts = (trials.filter(), trials.tries(), trials.calibration(), trials.evaluation(rest, len(held_out)))
    answers_beside, positions_beside = trials.evaluation(beside, len(held_out))
    update_seconds = time_update(config, denoiser, algorithm, inner, trial_rows(config, algorithm, nfe))
    states, looked_at = trials.fitting()
    fit_seconds, state_bytes = time_fit(config, loaded.hidden_size) if states else (0.0, 0)
    prompt = max(len(denoiser.encode_prompt(problem.prompt)) for problem in (*held_out, *trials.problems))
    estimate = Estimate(
        load_seconds=load_seconds,
        step_seconds=step_seconds,
        rows=rows,
        rollouts=len(trials.problems),
        nfe=nfe,
        score=score,
        update_seconds=update_seconds,
        job_hours=config.total_timesteps * (step_seconds / rows + update_seconds) / 3600,
        answers=sum(answers for answers, _ in parts),
        evaluation_hours=sum(positions for _, positions in parts) * step_seconds / step_positions / 3600,
        filter_states=states,
        filter_gib=states * state_bytes / 2**30,
        fit_hours=looked_at * fit_seconds / 3600,
        answers_beside=answers_beside,
        beside_hours=positions_beside * step_seconds / step_positions / 3600,
        longest_prompt=prompt,
        step_gib=step_gib(
            loaded,
            rows,
            prompt,
            config.env.buffer_length,
            features_of(model),
            config.env.temperature > 0,
            config.env.cache,
        ),
        memory_gib=memory_gib(device),
    )
    print_estimate(config, estimate)
    return estimate


def print_estimate(config: JobConfig, estimate: Estimate) -> None:
    """Print the table."""
    table = Table(title=f"dry run of {config.model.name} on {config.model.device}", title_justify="left")
    table.add_column("what")
    table.add_column("measured", justify="right")
    # The rules are evaluated while the policy is learned.
    whole = max(estimate.job_hours, estimate.beside_hours) + estimate.evaluation_hours + estimate.fit_hours
    fitting = f"learning the filter from {estimate.filter_states:,} states, {estimate.filter_gib:.2f} GiB on disk"
    beside = (f"rules beside it, {estimate.answers_beside:,} answers", hours(estimate.beside_hours))
    largest = f"needed by a forward of {estimate.rows} rows, prompts of {estimate.longest_prompt} tokens"
    for what, shown in (
        ("loading the dLLM", f"{estimate.load_seconds:.1f} s"),
        (f"an env step of {estimate.rows} rows", f"{estimate.step_seconds:.3g} s"),
        (f"forwards of a rollout, untrained ({estimate.rollouts})", f"{estimate.nfe:.1f}"),
        ("their score", f"{estimate.score:.2f}"),
        ("an update, for each step learned from", f"{1000 * estimate.update_seconds:.3g} ms"),
        (f"training of {config.total_timesteps:,} env steps", hours(estimate.job_hours)),
        *([beside] if estimate.answers_beside else []),
        (
            f"{'filter, ' if config.filter.is_learned else ''}tries and evaluation, {estimate.answers:,} answers",
            hours(estimate.evaluation_hours),
        ),
        *([(fitting, hours(estimate.fit_hours))] if estimate.filter_states else []),
        ("the whole job, estimated", hours(whole)),
        (largest, "unknown" if estimate.step_gib is None else f"{estimate.step_gib:.2f} GiB"),
        ("peak memory of this dry run", f"{estimate.memory_gib:.2f} GiB"),
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
