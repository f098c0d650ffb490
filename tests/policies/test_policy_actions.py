"""How an exported policy decides: each distribution, sampled and deterministic, its temperature and beta."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from networks import perturbed
from stable_baselines3 import PPO
from trainings import tiny, trained
from views import make_view, random_view, take

from envs.models.toy import ToyDenoiser
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, load, save
from policies.distributions import ActionConfig, DistributionName, make_distribution
from policies.networks.dit import DiTConfig, DiTNetwork
from train.evaluation.jobs import Job, plan

NAMES = get_args(DistributionName)
ROWS = 8000


def coin(bias: float, decision: Any = "sample", **kwargs: Any) -> LearnedPolicy:
    """The same log-odds at every position."""
    return LearnedPolicy(UnmaskingNetwork(NetworkConfig(init="random", bias=bias)), decision, **kwargs)


def rate(policy: LearnedPolicy) -> float:
    """How often the second of two equal positions is committed; the first may be forced."""
    chosen = policy.select(make_view([[0.5, 0.5, 0.5]] * ROWS, ["xx."] * ROWS))
    return chosen[:, 1].float().mean().item()


def near(p: float) -> Any:
    return pytest.approx(p, abs=4 * math.sqrt(0.25 / ROWS))


@pytest.mark.parametrize("name", NAMES)
def test_the_deterministic_decision_is_the_mode_of_what_was_trained(name: Any) -> None:
    actions = ActionConfig(name, temperature=0.7, stop_logit=0.4 if name == "plackett_luce" else 0.0)
    network = perturbed(NetworkConfig(hidden_size=16, feedforward_size=16))
    view = random_view(200, 8)
    view = take(view, view.eligible.any(1).nonzero().squeeze(1))
    policy = LearnedPolicy(network, actions=actions)
    mode = make_distribution(actions, network(view.inputs()), view.eligible).mode() != 0
    chosen = policy.select(view)
    drawn = mode.any(1)
    assert torch.equal(chosen[drawn], mode[drawn])
    assert chosen.sum(1)[~drawn].eq(1).all()
    if name == "bernoulli":  # the env answers an empty set with the most confident position, and so does the policy
        best = view.confidence.masked_fill(~view.eligible, -1).argmax(1)
        assert chosen[~drawn].gather(1, best[~drawn].unsqueeze(1)).all()
    assert chosen.sum(1).max() > 1


@pytest.mark.parametrize("name", NAMES)
def test_sampled_sets_have_the_frequencies_of_what_was_trained(name: Any) -> None:
    actions = ActionConfig(name, temperature=0.5)
    network = perturbed(NetworkConfig(hidden_size=16, feedforward_size=16))
    view = make_view([[0.9, 0.6, 0.3]], ["xxx"])
    logits = network(view.inputs()).repeat(ROWS, 1)
    torch.manual_seed(0)
    sample = make_distribution(actions, logits, torch.ones(ROWS, 3, dtype=torch.bool)).sample() != 0
    if name == "bernoulli":
        sample[~sample.any(1), 0] = True  # the most confident
    many = take(make_view([[0.9, 0.6, 0.3]] * ROWS, ["xxx"] * ROWS), list(range(ROWS)))
    chosen = LearnedPolicy(network, "sample", actions=actions).select(many)
    code = torch.tensor([1, 2, 4])
    found, expected = (torch.bincount((s * code).sum(1), minlength=8) / ROWS for s in (chosen, sample))
    torch.testing.assert_close(found, expected, atol=6 * math.sqrt(0.25 / ROWS), rtol=0)
    assert (found > 0.01).sum() > 2


def test_choices_repeat_alone_and_in_any_batch() -> None:
    policy, view = (
        LearnedPolicy(perturbed(NetworkConfig()), "sample", actions=ActionConfig("plackett_luce")),
        random_view(24, 8),
    )
    chosen = policy.select(view)
    for row in range(24):
        assert torch.equal(policy.select(take(view, [row]))[0], chosen[row])


@pytest.mark.slow
def test_temperature_and_beta_by_hand() -> None:
    p = 1 / (1 + math.exp(1.0))
    assert rate(coin(-1.0)) == near(p)
    assert rate(coin(-1.0, actions=ActionConfig(temperature=0.5))) == near(1 / (1 + math.exp(2.0)))
    assert rate(coin(-1.0).changed(temperature=0.5)) == near(1 / (1 + math.exp(2.0)))
    assert rate(coin(-1.0, beta=1.7)) == near(1.7 * p)
    assert rate(coin(-1.0, beta=0.4)) == near(0.4 * p)
    assert rate(coin(1.0, beta=2.0)) == 1.0  # min(1, 2 * 0.73)
    view = make_view([[0.5, 0.5]], ["xx"])
    assert coin(-1.0, beta=1.7).probabilities(view).tolist() == [pytest.approx([1.7 * p] * 2)]
    assert coin(1.0, beta=2.0).probabilities(view).tolist() == [[1.0, 1.0]]


def test_beta_moves_the_deterministic_decision_as_a_threshold_does() -> None:
    view, network = random_view(100, 8), perturbed(NetworkConfig())
    halved = LearnedPolicy(network, beta=0.8).select(view)
    assert torch.equal(halved, LearnedPolicy(network, threshold=0.625).select(view))
    slowest = LearnedPolicy(network, beta=0.4).select(view)  # 0.4 p never reaches one half
    assert torch.equal(slowest.sum(1), view.eligible.any(1).long())


def test_impossible_settings_are_refused() -> None:
    with pytest.raises(ValueError, match="beta is 0"):
        coin(0.0, beta=0.0)
    with pytest.raises(ValueError, match="plackett_luce policy has no probabilities"):
        coin(0.0, beta=0.5, actions=ActionConfig("plackett_luce"))
    with pytest.raises(ValueError, match="temperature of the policy is -1"):
        coin(0.0).changed(temperature=-1.0)


def test_settings_survive_the_folder_and_are_overridden(tmp_path: Path) -> None:
    actions = ActionConfig("bernoulli", temperature=0.5)
    folder = save(coin(-1.0, actions=actions, beta=0.9), tmp_path / "policy")
    again = load(folder)
    assert (again.actions, again.beta) == (actions, 0.9)
    other = load(folder, temperature=2.0, beta=1.1)
    assert (other.actions, other.beta) == (replace(actions, temperature=2.0), 1.1)


def test_folders_are_evaluated_at_a_beta_or_temperature(tmp_path: Path) -> None:
    folder = save(coin(-1.0), tmp_path / "run" / "policy")
    jobs = plan([f"{folder}@beta=0.7", f"{folder}@temperature=0.5"], [8])
    assert [(job.name, job.decision) for job in jobs] == [
        ("learned@beta=0.7", "sample"),
        ("learned@temperature=0.5", "sample"),
    ]
    policies = [Job(job.policy, job.name, job.decision, 8).make() for job in jobs]
    assert [(p.beta, p.actions.temperature) for p in policies if isinstance(p, LearnedPolicy)] == [
        (0.7, 1.0),
        (1.0, 0.5),
    ]
    with pytest.raises(ValueError, match="beta is -1"):
        plan([f"{folder}@beta=-1"], [8])
    with pytest.raises(ValueError, match="'colour' can't be set"):
        plan([f"{folder}@colour=1"], [8])


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_ppo_trains_each_distribution(name: Any, tmp_path: Path, toy: ToyDenoiser) -> None:
    config = replace(tiny(tmp_path, 0), actions=ActionConfig(name))
    if name == "plackett_luce":
        config = replace(config, dit=DiTConfig(hidden_size=8, feedforward_size=8, time_size=8))
    model = trained(config, toy)
    assert isinstance(model, PPO)
    if name == "plackett_luce":
        assert isinstance(model.policy.network, DiTNetwork)
    # The buffer's actions score as they did when they were taken, order included.
    model = trained(replace(config, ppo=replace(config.ppo, learning_rate=1e-30), out=tmp_path / "still"), toy)
    data = next(model.rollout_buffer.get(64))
    _, log_prob, _ = model.policy.evaluate_actions(data.observations, data.actions)
    torch.testing.assert_close(log_prob, data.old_log_prob)


@pytest.mark.slow
def test_long_orders_survive_ppos_buffer(tmp_path: Path, toy: ToyDenoiser) -> None:
    config = tiny(tmp_path, 0)
    hasty = NetworkConfig(hidden_size=8, feedforward_size=8, init="random", bias=6.0)
    config = replace(
        config, env=replace(config.env, buffer_length=200), policy=hasty, actions=ActionConfig("plackett_luce")
    )
    model = trained(config, toy)
    assert isinstance(model, PPO)
    assert model.rollout_buffer.actions.max() > 127  # beyond the action space's int8
    assert model.rollout_buffer.actions.min() >= 0
