from __future__ import annotations

from dataclasses import replace
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import VecEnv
from torch import Tensor

from envs import UnmaskingVectorEnv
from envs.sb3 import SB3VecEnv
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork
from policies.actor_critic import UnmaskingActorCritic
from policies.distributions import ForcedBernoulli
from policies.networks.kinds import NetworkSpec

L, N = 8, 6
NETWORK = NetworkConfig(hidden_size=16, features=("margin",), threshold=0.8)
KWARGS: dict[str, Any] = {"network": NetworkSpec.of(UnmaskingNetwork(NETWORK))}


def make_env(**kwargs: Any) -> SB3VecEnv:
    about = {"denoiser": "toy", "tasks": ["copy"], "buffer_length": L, "block_length": 4, "features": ["margin"]}
    return SB3VecEnv(UnmaskingVectorEnv(N, **about | kwargs))


def make_ppo(env: VecEnv, **kwargs: Any) -> PPO:
    """PPO whose actor and critic say something about everything they see."""
    model = PPO(UnmaskingActorCritic, env, n_steps=8, batch_size=16, policy_kwargs=KWARGS | kwargs, seed=0)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return model


@pytest.fixture
def env() -> SB3VecEnv:
    env = make_env()
    env.seed(0)
    env.reset()
    return env


def observe(env: SB3VecEnv, steps: int = 2) -> dict[str, np.ndarray]:
    """Observations some steps into the episodes, rows at different points."""
    rng = np.random.default_rng(0)
    obs = env.reset()
    for _ in range(steps):
        obs = env.step(rng.random((N, L)) < 0.3)[0]
    assert isinstance(obs, dict)
    return obs


def as_tensors(obs: dict[str, np.ndarray]) -> dict[str, Tensor]:
    return {name: torch.from_numpy(values) for name, values in obs.items()}


def actor(model: PPO) -> UnmaskingActorCritic:
    assert isinstance(model.policy, UnmaskingActorCritic)
    return model.policy


@pytest.mark.parametrize("deterministic", [False, True])
def test_forward_and_evaluate_actions_agree(env: SB3VecEnv, deterministic: bool) -> None:
    policy, obs = actor(make_ppo(env)), as_tensors(observe(env))
    actions, values, log_prob = policy(obs, deterministic)
    assert (actions.shape, values.shape, log_prob.shape) == ((N, L), (N,), (N,))
    again, log_prob_again, entropy = policy.evaluate_actions(obs, actions.float())
    torch.testing.assert_close(log_prob_again, log_prob)
    torch.testing.assert_close(again, values)
    torch.testing.assert_close(policy.predict_values(obs), values)
    truth = ForcedBernoulli(policy.network(obs), obs["eligible"] > 0.5)
    torch.testing.assert_close(entropy, truth.entropy())
    torch.testing.assert_close(log_prob, truth.log_prob(actions))
    assert entropy.std() > 0
    assert values.std() > 0


def test_actions_are_eligible_and_never_empty(env: SB3VecEnv) -> None:
    policy, obs = actor(make_ppo(env)), as_tensors(observe(env))
    for _ in range(50):
        actions = policy(obs)[0]
        assert not (actions & (obs["eligible"] < 0.5)).any()
        assert actions.any(1).all()


def test_deterministic_prediction_is_the_exported_policys(env: SB3VecEnv) -> None:
    model = make_ppo(env)
    policy = LearnedPolicy(actor(model).network)
    obs = env.reset()
    batch = env.env.unwrapped
    assert isinstance(batch, UnmaskingVectorEnv)
    chosen = []
    for _ in range(6):
        action, _ = model.predict(obs, deterministic=True)  # type: ignore[arg-type]
        np.testing.assert_array_equal(action.astype(bool), policy.select(batch.view).numpy())
        chosen.append(action.sum())
        obs = env.step(action)[0]
    assert len(set(chosen)) > 1


def test_ineligible_bits_count_for_nothing(env: SB3VecEnv) -> None:
    policy, obs = actor(make_ppo(env)), as_tensors(observe(env))
    actions = policy(obs)[0]
    blocked = obs["eligible"] < 0.5
    assert blocked.any(1).all()
    _, log_prob, entropy = policy.evaluate_actions(obs, actions)
    assert torch.equal(policy.evaluate_actions(obs, actions | blocked)[1], log_prob)
    for row in range(N):
        places = (~blocked[row]).nonzero().squeeze(1)
        subsets = torch.zeros(2 ** len(places), L)
        subsets[:, places] = torch.tensor(list(product([0.0, 1.0], repeat=len(places))))
        alone = {name: values[row].expand(len(subsets) - 1, -1) for name, values in obs.items()}
        _, log_probs, _ = policy.evaluate_actions(alone, subsets[1:])
        assert log_probs.exp().sum().item() == pytest.approx(1, abs=1e-5)
        assert entropy[row].item() == pytest.approx(-(log_probs.exp() * log_probs).sum().item(), abs=1e-5)


def test_values_do_not_depend_on_the_batch(env: SB3VecEnv) -> None:
    policy, obs = actor(make_ppo(env)), as_tensors(observe(env))
    together = policy.predict_values(obs)
    alone = [policy.predict_values({name: values[row : row + 1] for name, values in obs.items()}) for row in range(N)]
    torch.testing.assert_close(torch.cat(alone), together)


def test_ppo_saves_and_loads(env: SB3VecEnv, tmp_path: Path) -> None:
    model = make_ppo(env)
    model.learn(2 * 8 * N)
    model.save(tmp_path / "model.zip")
    again = PPO.load(tmp_path / "model.zip", env=make_env())
    before, after = model.policy.state_dict(), again.policy.state_dict()
    assert before.keys() == after.keys()
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert actor(again).network.config == NETWORK
    obs = observe(env)
    np.testing.assert_array_equal(model.predict(obs, deterministic=True)[0], again.predict(obs, deterministic=True)[0])
    again.learn(8 * N, reset_num_timesteps=False)
    assert again.num_timesteps == 3 * 8 * N


def test_the_policy_alone_saves_and_loads(env: SB3VecEnv, tmp_path: Path) -> None:
    policy = actor(make_ppo(env))
    policy.save(str(tmp_path / "policy.pt"))
    again = UnmaskingActorCritic.load(str(tmp_path / "policy.pt"))
    obs = as_tensors(observe(env))
    assert torch.equal(again.network(obs), policy.network(obs))


def test_learning_moves_actor_and_critic(env: SB3VecEnv) -> None:
    model = make_ppo(env)
    before = {name: values.clone() for name, values in model.policy.state_dict().items()}
    model.learn(8 * N)
    moved = {name for name, values in model.policy.state_dict().items() if not torch.equal(values, before[name])}
    assert moved == set(before)


@pytest.mark.parametrize("has_dial", [False, True])
def test_the_value_by_hand(has_dial: bool) -> None:
    """The critic reads the mean over masked positions, the mean over all, the share of masks, and the speed."""
    env = make_env(alpha=[1.0, 16.0] if has_dial else 1.0)
    env.seed(0)
    network = NetworkSpec("transformer", replace(NETWORK, has_dial=has_dial))
    policy = make_ppo(env, network=network).policy
    assert isinstance(policy, UnmaskingActorCritic)
    obs = as_tensors(observe(env))
    with torch.no_grad():
        hidden = policy.network.hidden(obs)
        for row in range(N):
            masked = [hidden[row, i] for i in range(L) if obs["masked"][row, i]]
            assert 0 < len(masked) < L
            seen = [torch.stack(masked).mean(0), hidden[row].mean(0), torch.tensor([len(masked) / L])]
            expected = policy.critic(torch.cat([*seen, obs["speed"][row]] if has_dial else seen))
            torch.testing.assert_close(policy.predict_values(obs)[row : row + 1], expected, atol=1e-6, rtol=1e-5)
