"""The Stable-Baselines3 actor-critic around the policy network."""

from __future__ import annotations

from typing import Any

import torch
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.type_aliases import PyTorchObs, Schedule
from torch import Tensor, nn

from policies.distributions import ActionConfig, CommitDistribution, make_distribution
from policies.networks.kinds import CommitNetwork, NetworkSpec


class UnmaskingActorCritic(ActorCriticPolicy):
    """Actor: a network with a distribution over commit sets on top. Critic: a head on the same body.

    Args:
        *args: as SB3 passes them (spaces and learning-rate schedule).
        network: the actor, its filter included; a filter's weights are loaded by the caller.
        actions: the distribution.
        has_critic: without one, every value is 0.
        **kwargs: as SB3 passes them.
    """

    def __init__(
        self,
        *args: Any,
        network: NetworkSpec,
        actions: ActionConfig | None = None,
        has_critic: bool = True,
        **kwargs: Any,
    ) -> None:
        # Before SB3's own constructor, which calls `_build`.
        self.spec = network
        self.actions = actions or ActionConfig()
        self.has_critic = has_critic
        super().__init__(*args, **kwargs)

    def _build(self, lr_schedule: Schedule) -> None:
        # In place of all that SB3 builds: its orthogonal initialisation would zero the output's bias.
        network = self.spec.build()
        assert isinstance(network, CommitNetwork)
        self.network = network
        width = network.config.hidden_size
        if self.has_critic:
            inputs = 2 * width + 1 + network.config.has_dial
            self.critic = nn.Sequential(nn.Linear(inputs, width), nn.Tanh(), nn.Linear(width, 1))
        self.optimizer = self.optimizer_class(
            self.parameters(),
            lr=lr_schedule(1),  # type: ignore[call-arg]
            **self.optimizer_kwargs,
        )

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return {
            # SB3 saves these, and builds the policy from them again.
            **super()._get_constructor_parameters(),
            "network": self.spec,
            "actions": self.actions,
            "has_critic": self.has_critic,
        }

    def _heads(self, obs: PyTorchObs) -> tuple[CommitDistribution, Tensor]:
        """Return the action distribution and (B,) the value."""
        assert isinstance(obs, dict)
        hidden = self.network.hidden(obs)
        logits = self.network.logits_from(hidden, obs)
        value = self._value(hidden, obs) if self.has_critic else hidden.new_zeros(len(hidden))
        return make_distribution(self.actions, logits, obs["eligible"] > 0.5), value

    def commit_distribution(self, obs: PyTorchObs) -> CommitDistribution:
        """Return the distribution over the rows' actions."""
        return self._heads(obs)[0]

    def _value(self, hidden: Tensor, obs: dict[str, Tensor]) -> Tensor:
        """Return (B,) the value, from the mean over masked positions, the mean over all, the mask ratio and the speed.

        What speed is worth sets the scale of all that can be earned, so the critic of a dial reads it itself.
        """
        masked = obs["masked"].unsqueeze(-1)
        mean_masked = (hidden * masked).sum(1) / masked.sum(1).clamp(min=1)
        seen = [mean_masked, hidden.mean(1), masked.mean(1)]
        if self.network.config.has_dial:
            seen.append(obs["speed"].float())
        value: Tensor = self.critic(torch.cat(seen, -1)).squeeze(-1)
        return value

    def forward(self, obs: PyTorchObs, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:
        """Return actions (B, L or L + 1), non-zero where chosen, values (B,) and log-probabilities (B,)."""
        distribution, value = self._heads(obs)
        action = distribution.mode() if deterministic else distribution.sample()
        return action, value, distribution.log_prob(action)

    def evaluate_actions(self, obs: PyTorchObs, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """Return values (B,), log-probabilities (B,) and entropies (B,), if known, of given actions."""
        distribution, value = self._heads(obs)
        return value, distribution.log_prob(actions), distribution.entropy()

    def predict_values(self, obs: PyTorchObs) -> Tensor:
        """Return values (B,)."""
        return self._heads(obs)[1]

    def _predict(self, observation: PyTorchObs, deterministic: bool = False) -> Tensor:
        return self.forward(observation, deterministic)[0]
