"""The Stable-Baselines3 actor-critic around the policy network."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from policies.distributions import ForcedBernoulli
from policies.learned import build
from policies.network import NetworkConfig, UnmaskingNetwork


class UnmaskingActorCritic(ActorCriticPolicy):
    """Actor: `UnmaskingNetwork` with a `ForcedBernoulli` on top. Critic: a head on the same body.

    Args:
        *args: as SB3 passes them (spaces and learning-rate schedule).
        network: architecture and initialisation of the actor.
        filter: `policies.learned.describe` of a filter whose log-odds are one more input; its weights are loaded by
            the caller.
        **kwargs: as SB3 passes them.
    """

    def __init__(
        self, *args: Any, network: NetworkConfig, filter: Mapping[str, Any] | None = None, **kwargs: Any
    ) -> None:
        self.network_config = network
        self.filter_description = filter
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        width = self.network_config.hidden_size
        inner = None if self.filter_description is None else build(self.filter_description)
        self.network = UnmaskingNetwork(self.network_config, inner)
        self.critic = nn.Sequential(nn.Linear(2 * width + 1, width), nn.Tanh(), nn.Linear(width, 1))
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            **super()._get_constructor_parameters(),
            "network": self.network_config,
            "filter": self.filter_description,
        }

    def _heads(self, obs: PyTorchObs) -> tuple[ForcedBernoulli, Tensor]:
        """Return the action distribution and (B,) the value."""
        assert isinstance(obs, dict)
        hidden = self.network.hidden(obs)
        logits = self.network.logits_from(hidden, obs)
        return ForcedBernoulli(logits, obs["eligible"] > 0.5), self._value(hidden, obs)

    def _value(self, hidden: Tensor, obs: dict[str, Tensor]) -> Tensor:
        """Return (B,) the value, from the mean over masked positions, the mean over all, and the mask ratio."""
        masked = obs["masked"].unsqueeze(-1)
        mean_masked = (hidden * masked).sum(1) / masked.sum(1).clamp(min=1)
        value: Tensor = self.critic(torch.cat([mean_masked, hidden.mean(1), masked.mean(1)], -1)).squeeze(-1)
        return value

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions (B, L) bool, values (B,) and log-probabilities (B,)."""
        distribution, value = self._heads(obs)
        action = distribution.mode() if deterministic else distribution.sample()
        return action, value, distribution.log_prob(action)

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return values (B,), log-probabilities (B,) and entropies (B,) of given actions."""
        distribution, value = self._heads(obs)
        return value, distribution.log_prob(actions), distribution.entropy()

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return values (B,)."""
        return self._heads(obs)[1]

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)[0]
