"""Short trials of a set-up, timed: what an estimate of the whole job is made of."""

from __future__ import annotations

import math
import resource
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import torch
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor

from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.models import step_memory
from envs.models.adapter import MaskedLMDenoiser
from envs.tasks import Problem, make_tasks
from policies import Generation, LearnedPolicy, UnmaskingNetwork, UnmaskingPolicy, make_rule
from policies.actor_critic import UnmaskingActorCritic
from policies.base import Decision
from policies.networks.kinds import PolicyNetwork
from policies.rules import Oracle
from train.evaluation.jobs import list_jobs
from train.evaluation.measure import choose_problems, decode_problems, score_problems
from train.evaluation.naming import is_folder
from train.evaluation.run import EvaluateConfig
from train.filters.fit import weighted_loss
from train.job.build import Algorithm, filter_shape, make_env, make_model, stream_seed
from train.job.config import JobConfig
from train.job.counting import CountingDenoiser, timed
from train.job.finish import blocks_of, calibration_places
from train.job.validation import thresholds_tried, tried_places

ROLLOUTS, TIMED_STEPS = 3, 3
"""Fewest problems that the untrained policy decodes, and steps that are timed."""


PASSES = 45
"""That a filter takes over its states until it stops by itself, about: on the embedded dLLMs it was 23 to 51."""

FITTED = 16
"""States that a filter learns from at once where that is timed."""

UNTRAINED = "untrained"
"""Stands for the folder of the policy that the job would export."""


def time_step(model: OnPolicyAlgorithm, denoiser: CountingDenoiser) -> tuple[float, float]:
    """Time one env step of all rows with the policy's decision.

    Returns:
        seconds: of the fastest of some steps, after a first.
        positions: that the dLLM computes in a step.
    """
    env = model.env
    assert env is not None
    obs: Any = env.reset()
    [batch] = env.get_attr("unwrapped", [0])

    def seen() -> Any:
        """Return what the algorithm would look at: GRPO's observations are not all of it."""
        if batch.observes_tensors:
            return obs_as_tensor(obs, model.device)
        return {name: values.to(model.device) for name, values in batch.inputs().items()}

    def step() -> None:
        with torch.no_grad():
            action = model.policy(seen())[0]
        # One position a row, so that hardly a row ends and all are computed.
        bits = action.cpu().numpy() * 0
        bits[:, : obs["eligible"].shape[1]] = obs["eligible"].cumsum(1) == 1
        env.step(bits)

    step()
    before = denoiser.positions
    # The fastest, as other processes only ever make it slower.
    seconds = min(timed(step, str(model.device))[1] for _ in range(TIMED_STEPS))
    return seconds, (denoiser.positions - before) / TIMED_STEPS


def time_fit(config: JobConfig, hidden_size: int) -> tuple[float, int]:
    """Time what a filter learns from one state in one pass, on the processor, where it does that.

    Args:
        config: of the job.
        hidden_size: width of the dLLM's hidden states.

    Returns:
        seconds: of the fastest of some minibatches, after a first, for each state.
        size: bytes of a recorded state.
    """
    shape, length = filter_shape(config), config.env.buffer_length
    network = UnmaskingNetwork(shape)
    names = [name for name in shape.readings if name != "hidden"]
    rows = {name: torch.rand(FITTED, length) for name in ("confidence", "oracle", *names)}
    rows |= {"masked": torch.ones(FITTED, length), "eligible": torch.ones(FITTED, length)}
    size = 4 * (1 + length * len(rows))
    rows["time"] = torch.rand(FITTED, 1)
    if "hidden" in shape.readings:
        rows["hidden"] = torch.randn(FITTED, length, hidden_size)
        size += 2 * length * hidden_size

    def step() -> None:
        weighted_loss(network(rows), rows, config.filter.false_commit_weight).backward()

    step()
    return min(timed(step, "cpu")[1] for _ in range(TIMED_STEPS)) / FITTED, size


@dataclass(frozen=True)
class Cost:
    """What an answer takes on average.

    Attributes:
        positions: that the dLLM computes, those of references too.
        nfe: forwards of the decoding itself.
    """

    positions: float
    nfe: float


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
        oracle, reference = self._filter_costs
        # An oracle's references are computed too: as the filter's are, in the longest blocks, but in no others.
        positions = sum(cost.positions for cost in oracle.values())
        positions -= sum(cost.positions for block, cost in reference.items() if block != max(oracle))
        # What a student takes to the same answers is not known before there is one; hardly more than they took.
        positions += (section.rounds - 1) * sum(cost.positions for cost in reference.values())
        return count * section.rounds * len(oracle), count * positions

    def fitting(self) -> tuple[int, int]:
        """Return how many states a filter is learned from in the end, and how many it looks at in all passes.

        What a student passes through on its way is not known before there is one: it is taken as the mean of what the
        oracle and the reference do, which it was for 1,728 problems of the prose suite.
        """
        section = self.config.filter
        if not section.is_learned:
            return 0, 0
        oracle, reference = (sum(cost.nfe for cost in costs.values()) for costs in self._filter_costs)
        rounds = [section.problems * (oracle + number * (oracle + reference) / 2) for number in range(section.rounds)]
        # Each round learns anew, from all that there is by then.
        return round(rounds[-1]), round(sum(rounds) * (section.epochs or PASSES))

    @cached_property
    def _filter_costs(self) -> tuple[dict[int, Cost], dict[int, Cost]]:
        """By block length, what the oracle takes, its references included, and what the reference does where it counts.

        That is in all blocks on a student's way, else in those where it is not to be counted again.
        """
        blocks, reference = blocks_of(self.config), make_rule(self.config.filter.reference)
        counted = blocks if self.config.filter.rounds > 1 else [block for block in blocks if block != max(blocks)]
        return (
            {block: self._cost(Oracle(careful=reference), block) for block in blocks},
            {block: self._cost(reference, block) for block in counted},
        )

    def tries(self) -> tuple[int, float]:
        """Return how many answers tries on validation problems decode, and the positions that they compute."""
        tries, places = thresholds_tried(self.config), tried_places(self.config)
        if not tries:
            return 0, 0.0
        count = len(choose_problems(self.tasks, "validation", 0, self.config.evaluation.validation_episodes))
        positions = 0.0
        for threshold, times in Counter(tries).items():
            untrained = self._untrained("deterministic", threshold)
            positions += times * count * sum(self._cost(untrained, block).positions for block, _ in places)
        return len(tries) * count * len(places), positions

    def calibration(self) -> tuple[int, float]:
        """Return how many answers the calibration of a dial decodes, and the positions that it computes."""
        places = calibration_places(self.config)
        if not places:
            return 0, 0.0
        count = len(choose_problems(self.tasks, "validation", 0, self.config.evaluation.calibration_episodes))
        untrained = self._untrained("deterministic")
        return count * len(places), count * sum(self._cost(untrained, block).positions for block, _ in places)

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
            positions += problems * self._cost(policy, job.block_length).positions
        return problems * len(jobs), positions

    def _untrained(self, decision: Decision, threshold: float | None = None) -> LearnedPolicy:
        # Which one will be exported is not known before it is tried.
        least = self.config.evaluation.decision_thresholds[0] if threshold is None else threshold
        return LearnedPolicy(self.network, decision, threshold=least, actions=self.config.actions)

    def _decode(self, policy: UnmaskingPolicy, block: int, problems: Sequence[Problem]) -> list[Generation]:
        settings = DecodingSettings(block_length=block, features=policy.features, **self.config.env.decoding)
        return decode_problems(self.denoiser, problems, policy, settings, seed=stream_seed(self.config.seed, 0))

    def _cost(self, policy: UnmaskingPolicy, block: int) -> Cost:
        """Decode a problem of each task with a policy; return what an answer takes."""
        before: int = self.denoiser.positions
        # No more: there can be many policies, some of which take a forward for each position.
        done = self._decode(policy, block, self.problems[: len(self.tasks)])
        positions = self.denoiser.positions - before
        return Cost(positions / len(done), sum(one.nfe for one in done) / len(done))


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
    # The rollout before the update is not to be timed.
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
    denoiser: Denoiser,
    rows: int,
    prompt: int,
    length: int,
    features: frozenset[str],
    is_sampled: bool,
    cache: str = "none",
) -> float | None:
    """Return what `step_memory` computes for a forward, weights and cache included; None where it can't."""
    if not isinstance(denoiser, MaskedLMDenoiser) or denoiser.family.runs_own_code:
        return None
    model = denoiser.model
    device = str(denoiser.device)
    parts = step_memory(model.config, rows, prompt, length, model.dtype, features, is_sampled, device, cache)
    return parts["peak"] / 2**30


def memory_gib(device: str) -> float:
    """Return the most memory used so far, of the GPU if that is the device, else of the process."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 2**30
    # Linux counts it in KiB.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
