"""Trying the policy on validation problems while it is learned, and keeping the weights to export.

Reinforcement learning can lose what it had: the last policy of a run need not be its best. Problems of the training
split can't say so, since it learns from them, and held-out ones must not choose. But the best of several tries is to
some part the luckiest: what has learned from more is kept unless it is worse by more than one standard error of the
difference, over the same problems.

Source: the one-standard-error rule of Breiman et al. (1984), *Classification and Regression Trees*, Section 3.4.3.
"""

from __future__ import annotations

import copy
import itertools
from collections.abc import Mapping
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from envs.decoding.first_forwards import remember_problems
from envs.decoding.infilling import encode_all_given
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.reward import Preference, get_reward
from envs.tasks import make_tasks
from policies import LearnedPolicy
from policies.networks.kinds import PolicyNetwork
from train.command.progress import progress
from train.evaluation.measure import choose_problems, measure
from train.job.build import load_model
from train.job.config import JobConfig
from train.job.finish import blocks_of, on_validation
from train.job.price import price_of

PLACES = (0.0, 0.5, 1.0)
"""On a speed dial, where a policy that has one is tried."""


def tried_places(config: JobConfig) -> list[tuple[int, float]]:
    """Return the block lengths and places on the dial of one try; without a dial, 0 stands for its only place."""
    return list(itertools.product(blocks_of(config), PLACES if config.env.alpha_range else PLACES[:1]))


def thresholds_tried(config: JobConfig) -> list[float]:
    """Return the threshold of each try of a job: while the policy is learned, and of several thresholds in the end."""
    thresholds = config.evaluation.decision_thresholds
    return thresholds[:1] * config.evaluation.validations + (thresholds if len(thresholds) > 1 else [])


class Validation:
    """Tries, evenly spread over a run and the last at its end.

    Args:
        config: of the job; `evaluation.validations` says how many.

    Attributes:
        tried: how many are done.
        best: (R,) float64, rewards of the try with the highest mean so far, of each problem at each block length and
            place on the dial; empty before the first try. NaN where an answer has no score.
        timesteps: environment steps that the weights to export have learned from.
        weights: of that network by name.
    """

    def __init__(self, config: JobConfig) -> None:
        self.config = config
        self.tried = 0
        self.best: npt.NDArray[np.float64] = np.zeros(0)
        self.timesteps = 0
        self.weights: dict[str, Tensor] = {}
        tasks, evaluation = make_tasks(config.env.tasks), config.evaluation
        self._problems = choose_problems(tasks, "validation", 0, evaluation.validation_episodes)
        self._places = {(problem.task, problem.index): i for i, problem in enumerate(self._problems)}

    @cached_property
    def _denoiser(self) -> Denoiser:
        # Not before the first try: a run that is resumed at its end has none.
        settings = DecodingSettings(**self.config.env.decoding)
        return remember_problems(load_model(self.config), self._problems, settings)

    @cached_property
    def _whole(self) -> npt.NDArray[np.int64]:
        """(R,) int64, positions of each problem's prompt and text."""
        prompts = [len(self._denoiser.encode_prompt(problem.prompt)) for problem in self._problems]
        given = encode_all_given(self._denoiser, [problem.given for problem in self._problems])
        texts = [self.config.env.buffer_length if text is None else len(text) for text in given]
        whole: npt.NDArray[np.int64] = np.array(prompts) + np.array(texts)
        return whole

    def is_due(self, timesteps: int) -> bool:
        """Tell whether another try should have been by now."""
        return self._reached(timesteps) > self.tried

    def _reached(self, timesteps: int) -> int:
        wanted, total = self.config.evaluation.validations, self.config.total_timesteps
        return min(wanted, timesteps * wanted // total)

    def keep(self, network: PolicyNetwork, rewards: npt.NDArray[np.float64], timesteps: int) -> None:
        """Keep a network's weights unless an earlier one was better by more than chance.

        Args:
            network: of the policy; it is not changed.
            rewards: (R,) float64, what `measure` found of it.
            timesteps: environment steps that it has learned from.
        """
        self.tried = self._reached(timesteps)
        if len(self.best) == 0 or is_no_worse(rewards, self.best):
            self.timesteps = timesteps
            # Copies, since the training goes on in the network's own.
            self.weights = {name: values.detach().cpu().clone() for name, values in network.state_dict().items()}
        if len(self.best) == 0 or np.nanmean(rewards) > np.nanmean(self.best):
            self.best = rewards

    @torch.no_grad()
    def measure(
        self, network: PolicyNetwork, threshold: float | None = None
    ) -> tuple[dict[str, float], npt.NDArray[np.float64]]:
        """Try a network on the validation problems.

        Args:
            network: of the policy; it is not changed.
            threshold: least probability at which it commits; None is the first of `evaluation.decision_thresholds`.

        Returns:
            ``score``, ``nfe`` and ``reward``, means, and (R,) float64 rewards, in the order of `best`.
        """
        # A copy: a learned policy freezes the network that it is given.
        config, network = self.config, copy.deepcopy(network)
        preference = Preference(*(config.env.alpha_range or [config.env.alpha] * 2))
        reward, price = get_reward(config.env.reward), price_of(config)
        least = config.evaluation.decision_thresholds[0] if threshold is None else threshold
        policy = LearnedPolicy(network, "deterministic", threshold=least, actions=config.actions)
        scores, forwards, rewards = [], [], []
        for block, speed in tried_places(config):
            outcomes = measure(
                self._denoiser,
                policy.changed(speed=speed) if policy.has_dial else policy,
                episodes=config.evaluation.validation_episodes,
                block_length=block,
                **on_validation(config),
            )
            score, nfe = np.array(outcomes["score"]), np.array(outcomes["nfe"])
            alpha = preference.alpha(np.full(len(score), speed))
            # Problems whose answers couldn't be scored are not among the outcomes.
            place = [self._places[key] for key in zip(outcomes["task"], outcomes["index"], strict=True)]
            cost = price.cost(nfe, outcomes["token_positions"], self._whole[place])
            final = reward.final(score, cost, config.env.buffer_length, alpha)
            every = np.full(len(self._places), np.nan)
            every[place] = final + reward.per_step(cost, alpha, np.array(outcomes["log_likelihood"]))
            scores.append(score.mean())
            forwards.append(nfe.mean())
            rewards.append(every)
        joined = np.concatenate(rewards)
        means = {"score": np.mean(scores), "nfe": np.mean(forwards), "reward": np.nanmean(joined)}
        return {name: float(value) for name, value in means.items()}, joined

    def state(self) -> dict[str, Any]:
        """Return what is known so far; see `load_state`."""
        chosen = {"timesteps": self.timesteps, "weights": dict(self.weights)}
        return {"tried": self.tried, "best": self.best.copy(), **chosen}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned.

        Raises:
            ValueError: if it did not.
        """
        try:
            tried, best, timesteps, weights = (state[name] for name in ("tried", "best", "timesteps", "weights"))
            self.tried, self.best, self.timesteps = int(tried), np.asarray(best, np.float64), int(timesteps)
            self.weights = dict(weights)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"a checkpoint's tries on validation problems can't be read ({error!r})") from error


def best_threshold(config: JobConfig, network: PolicyNetwork, validation: Validation | None) -> float:
    """Return the one of `evaluation.decision_thresholds` at which a network earns most on the validation problems.

    Args:
        config: of the job.
        network: of the policy, with the weights to export; it is not changed.
        validation: what tried it while it was learned, and has the problems' first forwards; None without.
    """
    thresholds = config.evaluation.decision_thresholds
    if len(thresholds) == 1:
        return thresholds[0]
    validation = validation or Validation(config)
    tried = progress(thresholds, desc="trying thresholds", unit="threshold")
    rewards = {threshold: validation.measure(network, threshold)[0]["reward"] for threshold in tried}
    return max(thresholds, key=rewards.__getitem__)


def is_no_worse(rewards: npt.NDArray[np.float64], best: npt.NDArray[np.float64]) -> bool:
    """Tell whether rewards lie at most one standard error of their mean difference below the best ones.

    Args:
        rewards: (R,) float, NaN where unknown.
        best: (R,) float, of the same problems.

    >>> is_no_worse(np.array([1.0, 0.0, 1.0, 1.0]), np.array([1.0, 1.0, 1.0, 1.0]))  # 1 of 4 lost, +- 0.25
    True
    >>> is_no_worse(np.array([0.9, 0.9, 0.9, 0.9]), np.array([1.0, 1.0, 1.0, 1.0]))  # a little, but always
    False
    """
    difference = rewards - best
    known = difference[~np.isnan(difference)]
    # Too few to tell: then what has learned from more is kept.
    if len(known) < 2:
        return True
    error = float(known.std(ddof=1)) / np.sqrt(len(known))
    return bool(known.mean() >= -error)
