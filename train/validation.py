"""Trying the policy on validation problems while it is learned, and keeping the weights that did best.

Reinforcement learning can lose what it had: the last policy of a run need not be its best. Problems of the training
split can't say so, since it learns from them, and held-out ones must not choose.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.first_forwards import remember_problems
from envs.reward import Preference, get_reward
from envs.tasks import make_tasks
from policies import LearnedPolicy
from policies.learned import PolicyNetwork
from train.build import load_model
from train.evaluate import choose_problems, measure
from train.finish import blocks_of
from train.job_config import JobConfig

PLACES = (0.0, 0.5, 1.0)
"""On a speed dial, where a policy that has one is tried."""


class Validation:
    """Tries, evenly spread over a run and the last at its end.

    Args:
        config: of the job; `evaluation.validations` says how many.

    Attributes:
        tried: how many are done.
        reward: of the best so far, a mean over problems, block lengths and places on the dial.
        timesteps: environment steps after which that was.
        weights: of its network by name; empty before the first try.
    """

    def __init__(self, config: JobConfig) -> None:
        self.config = config
        self.tried = 0
        self.reward, self.timesteps = -np.inf, 0
        self.weights: dict[str, Tensor] = {}
        tasks, evaluation = make_tasks(config.env.tasks), config.evaluation
        problems = choose_problems(tasks, "validation", 0, evaluation.validation_episodes)
        self._denoiser = remember_problems(load_model(config), problems, config.env.buffer_length)

    def is_due(self, timesteps: int) -> bool:
        """Tell whether another try should have been by now."""
        return self._reached(timesteps) > self.tried

    def _reached(self, timesteps: int) -> int:
        wanted, total = self.config.evaluation.validations, self.config.total_timesteps
        return min(wanted, timesteps * wanted // total)

    def run(self, network: PolicyNetwork, timesteps: int) -> dict[str, float]:
        """Try a network and keep its weights if it is the best so far.

        Args:
            network: of the policy; it is not changed.
            timesteps: environment steps that it has learned from.

        Returns:
            ``score``, ``nfe`` and ``reward``, means.
        """
        found = self._measure(copy.deepcopy(network))
        self.tried = self._reached(timesteps)
        # Of equals the later one: it has learned from more.
        if found["reward"] >= self.reward:
            self.reward, self.timesteps = found["reward"], timesteps
            self.weights = {name: values.detach().cpu().clone() for name, values in network.state_dict().items()}
        return found

    @torch.no_grad()
    def _measure(self, network: PolicyNetwork) -> dict[str, float]:
        config = self.config
        preference = Preference(*(config.env.alpha_range or [config.env.alpha] * 2))
        reward = get_reward(config.env.reward)
        policy = LearnedPolicy(network.cpu(), "deterministic", actions=config.actions)
        scores, forwards, rewards = [], [], []
        for block in blocks_of(config):
            for speed in PLACES if policy.has_dial else (0.0,):
                outcomes = measure(
                    self._denoiser,
                    policy.changed(speed=speed) if policy.has_dial else policy,
                    tasks=config.env.tasks,
                    split="validation",
                    episodes=config.evaluation.validation_episodes,
                    buffer_length=config.env.buffer_length,
                    block_length=block,
                    temperature=config.env.temperature,
                    early_end=config.env.early_end,
                    batch_size=min(64, config.env.num_envs),
                    seed=config.seed,
                )
                score, nfe = np.array(outcomes["score"]), np.array(outcomes["nfe"])
                alpha = preference.alpha(np.full(len(score), speed))
                final = reward.final(score, nfe, config.env.buffer_length, alpha)
                scores.append(score.mean())
                forwards.append(nfe.mean())
                rewards.append((final + nfe * reward.per_step(alpha)).mean())
        means = {"score": scores, "nfe": forwards, "reward": rewards}
        return {name: float(np.mean(values)) for name, values in means.items()}

    def state(self) -> dict[str, Any]:
        """Return what is known so far; see `load_state`."""
        best = {"reward": float(self.reward), "timesteps": self.timesteps, "weights": dict(self.weights)}
        return {"tried": self.tried, **best}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.tried, self.reward, self.timesteps = state["tried"], state["reward"], state["timesteps"]
        self.weights = dict(state["weights"])
