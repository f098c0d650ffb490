"""``--dry-run``: does this set-up work, and what would the whole job take?

Loads and checks the dLLM, measures a step of the full batch, decodes training problems as training, calibration and
evaluation will (the untrained policy, and every rule), makes one update on a small batch, and scales the seconds up.
Nothing is written.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, TypeVar

import torch
from rich.console import Console
from rich.table import Table
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from torch import Tensor

from envs.decoding import DecodingSettings
from envs.denoiser import Denoiser, MaskedLMDenoiser
from envs.models import step_memory
from envs.tasks import Problem, make_tasks
from policies import Generation, LearnedPolicy, UnmaskingPolicy, make_rule
from policies.actor_critic import UnmaskingActorCritic
from policies.base import Decision
from policies.learned import PolicyNetwork
from policies.rules import Oracle
from train import parallel
from train.build import Algorithm, load_filter, load_model, make_env, make_model, stream_seed
from train.evaluate import (
    EvaluateConfig,
    choose_problems,
    decode_problems,
    is_folder,
    list_jobs,
    problems_of,
    score_problems,
)
from train.finish import blocks_of, calibration_places, evaluation_of, rules_of
from train.job import warn_of_long_answers
from train.job_config import JobConfig
from train.run_folder import UserError

Result = TypeVar("Result")

ROLLOUTS, TIMED_STEPS = 3, 3
"""Fewest problems that the untrained policy decodes, and steps that are timed."""

UNTRAINED = "untrained"
"""Stands for the folder of the policy that the job would export."""


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
        answers: decoded to learn a filter, in calibration and in evaluation.
        evaluation_hours: of decoding them, if the trained policy takes as many forwards as the untrained one.
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
    answers_beside: int
    beside_hours: float
    longest_prompt: int
    step_gib: float | None
    memory_gib: float


class CountingDenoiser:
    """A dLLM that counts the positions it computes, whoever asks: the oracle's references are in no record.

    Args:
        denoiser: the dLLM.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser, self.positions = denoiser, 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def logits(self, tokens: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """Run one forward; see `Denoiser.logits`."""
        self.positions += tokens.numel()
        return self.denoiser.logits(tokens, *args, **kwargs)

    def logits_and_hidden(self, tokens: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor]:
        """Run one forward; see `Denoiser.logits_and_hidden`."""
        self.positions += tokens.numel()
        return self.denoiser.logits_and_hidden(tokens, *args, **kwargs)

    def logits_at(self, tokens: Tensor, *args: Any, **kwargs: Any) -> tuple[Tensor, Tensor | None]:
        """Run one forward on some positions; see `envs.denoiser.CachingDenoiser.logits_at`."""
        self.positions += tokens.numel()
        answer: tuple[Tensor, Tensor | None] = self.denoiser.logits_at(tokens, *args, **kwargs)  # type: ignore[attr-defined]
        return answer


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
    loaded, load_seconds = timed(lambda: load_model(config), device)
    warn_of_long_answers(config, loaded)
    denoiser: Any = CountingDenoiser(loaded)
    inner = load_filter(config)
    model = make_model(replace(config, resume=False), make_env(config, denoiser, algorithm, inner), algorithm, inner)
    assert model.env is not None
    rows, (step_seconds, step_positions) = model.env.num_envs, time_step(model, denoiser)
    trials, about = Trials(config, denoiser, model), evaluation_of(config, UNTRAINED)
    held_out = problems_of(about)
    nfe, score = trials.sample()
    beside = rules_of(config) if config.evaluation.beside_training else replace(about, policy=[])
    rest = replace(about, policy=[policy for policy in about.policy if policy not in beside.policy])
    parts = (trials.filter(), trials.calibration(), trials.evaluation(rest, len(held_out)))
    answers_beside, positions_beside = trials.evaluation(beside, len(held_out))
    update_seconds = time_update(config, denoiser, algorithm, inner, trial_rows(config, algorithm, nfe))
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
        answers_beside=answers_beside,
        beside_hours=positions_beside * step_seconds / step_positions / 3600,
        longest_prompt=prompt,
        step_gib=step_gib(
            loaded, rows, prompt, config.env.buffer_length, features_of(model), config.env.temperature > 0
        ),
        memory_gib=memory_gib(device),
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


def time_step(model: OnPolicyAlgorithm, denoiser: CountingDenoiser) -> tuple[float, float]:
    """Time one env step of all rows with the policy's decision.

    Returns:
        seconds: of the fastest of some steps, after a first.
        positions: that the dLLM computes in a step.
    """
    env = model.env
    assert env is not None
    obs: Any = env.reset()

    def step() -> None:
        with torch.no_grad():
            action = model.policy(obs_as_tensor(obs, model.device))[0]
        # One position a row, so that hardly a row ends and all are computed.
        env.step((action.cpu().numpy() * 0) + (obs["eligible"].cumsum(1) == 1))

    step()
    before = denoiser.positions
    seconds = min(timed(step, str(model.device))[1] for _ in range(TIMED_STEPS))
    return seconds, (denoiser.positions - before) / TIMED_STEPS


class Trials:
    """Decodings of a few training problems, as training, calibration and evaluation would decode them.

    Args:
        config: of the job.
        denoiser: the dLLM, counting.
        model: the algorithm, with the untrained policy.
    """

    def __init__(self, config: JobConfig, denoiser: Any, model: OnPolicyAlgorithm) -> None:
        assert isinstance(model.policy, UnmaskingActorCritic)
        self.config, self.denoiser, self.network = config, denoiser, model.policy.network
        self.tasks = make_tasks(config.env.tasks)
        count = max(ROLLOUTS, len(self.tasks))
        self.problems = [self.tasks[i % len(self.tasks)].problem("train", i // len(self.tasks)) for i in range(count)]

    def sample(self) -> tuple[float, float]:
        """Return the mean forwards and score of the untrained policy, sampled as in training; NaN without any score."""
        done = self._decode(self._untrained("sample"), blocks_of(self.config)[0], self.problems)
        scores = score_problems(self.tasks, self.problems, [one.text for one in done])
        known = [score for score in scores if score is not None]
        return sum(one.nfe for one in done) / len(done), sum(known) / len(known) if known else math.nan

    def filter(self) -> tuple[int, float]:
        """Return how many answers a filter is learned from, references not counted, and the positions computed."""
        section = self.config.filter
        if not section.is_learned:
            return 0, 0.0
        count = section.problems + max(1, section.problems // 9)  # and those that stop it
        blocks = blocks_of(self.config)
        # Its references are computed too, as the filter's are.
        oracle = Oracle(careful=make_rule(section.reference))
        return count * len(blocks), count * sum(self._positions(oracle, block) for block in blocks)

    def calibration(self) -> tuple[int, float]:
        """Return how many answers the calibration of a dial decodes, and the positions that it computes."""
        places = calibration_places(self.config)
        if not places:
            return 0, 0.0
        count = len(choose_problems(self.tasks, "validation", 0, self.config.evaluation.calibration_episodes))
        untrained = self._untrained("deterministic")
        return count * len(places), count * sum(self._positions(untrained, block) for block, _ in places)

    def evaluation(self, about: EvaluateConfig, problems: int) -> tuple[int, float]:
        """Return how many answers the evaluation decodes, and the positions that it computes.

        Args:
            about: what is evaluated; a folder stands for the untrained policy.
            problems: that each policy is evaluated on at each block length.
        """
        jobs = list_jobs(about.policy, about.block_length)
        positions = 0.0
        for job in jobs:
            policy = self._untrained(job.decision) if is_folder(job.policy) else make_rule(job.policy)
            positions += problems * self._positions(policy, job.block_length)
        return problems * len(jobs), positions

    def _untrained(self, decision: Decision) -> LearnedPolicy:
        return LearnedPolicy(self.network, decision, actions=self.config.actions)

    def _decode(self, policy: UnmaskingPolicy, block: int, problems: Sequence[Problem]) -> list[Generation]:
        settings = DecodingSettings(block_length=block, features=policy.features, **self.config.env.decoding)
        return decode_problems(self.denoiser, problems, policy, settings, seed=stream_seed(self.config.seed, 0))

    def _positions(self, policy: UnmaskingPolicy, block: int) -> float:
        """Decode a problem of each task with a policy; return the positions that the dLLM computes for an answer."""
        before: int = self.denoiser.positions
        # No more: there can be many policies, some of which take a forward for each position.
        self._decode(policy, block, self.problems[: len(self.tasks)])
        return float(self.denoiser.positions - before) / len(self.tasks)


def trial_rows(config: JobConfig, algorithm: Algorithm, nfe: float) -> int:
    """Return the rows of a trial's update: all, or of groups as many as fill one backward pass.

    Args:
        config: of the job.
        algorithm: to train with.
        nfe: forwards of a rollout.
    """
    group, rows = algorithm.group_size, config.env.num_envs
    if group is None:
        return rows
    steps: int = algorithm.arguments["chunk_size"]
    return min(rows, group * math.ceil(steps / (group * nfe)))


def time_update(
    config: JobConfig, denoiser: Denoiser, algorithm: Algorithm, inner: PolicyNetwork | None, rows: int
) -> float:
    """Make one update on a batch of few rows; return its seconds for each transition learned from."""
    small = replace(config, resume=False, env=replace(config.env, num_envs=rows))
    trial = replace(algorithm, arguments={**algorithm.arguments, **algorithm.trial_arguments})
    model = make_model(small, make_env(small, denoiser, trial, inner), trial, inner)
    model.set_logger(Logger(folder=None, output_formats=[]))
    seconds = 0.0
    learn = model.train

    def train() -> None:
        nonlocal seconds
        seconds = timed(learn, config.model.device)[1]

    model.train = train  # type: ignore[method-assign]
    model.learn(1)
    return seconds / max(1, model.num_timesteps)


def features_of(model: OnPolicyAlgorithm) -> frozenset[str]:
    """Return what the training env reads of the logits at each step."""
    assert model.env is not None
    [batch] = model.env.get_attr("batch", [0])
    features: frozenset[str] = batch.settings.features
    return features


def step_gib(
    denoiser: Denoiser, rows: int, prompt: int, length: int, features: frozenset[str], is_sampled: bool
) -> float | None:
    """Return what `step_memory` computes for a forward, the weights included; None where it can't."""
    if not isinstance(denoiser, MaskedLMDenoiser) or denoiser.family.route == "remote":
        return None
    model = denoiser.model
    device = str(denoiser.device)
    parts = step_memory(model.config, rows, prompt, length, model.dtype, features, is_sampled, device)
    return parts["peak"] / 2**30


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
    whole = max(estimate.job_hours, estimate.beside_hours) + estimate.evaluation_hours
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
            f"{'filter and ' if config.filter.is_learned else ''}evaluation, {estimate.answers:,} answers",
            hours(estimate.evaluation_hours),
        ),
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
