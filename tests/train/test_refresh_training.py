"""Trainings of policies that decide when their cache is refreshed."""

from __future__ import annotations

import csv
import math
import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import places
import pytest
import torch
from kills import differences, finish, results, start
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.utils import obs_as_tensor
from trainings import run_here

import envs.reward
from envs.decoding.settings import DecodingSettings
from envs.models.load import load_denoiser
from envs.tasks import prompt
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, decode, load, save
from policies.actor_critic import UnmaskingActorCritic
from policies.distributions import ActionConfig
from train.algorithms.experts import ExpertSection
from train.algorithms.grpo_section import GRPOSection
from train.algorithms.ppo import PPOSection
from train.command.config import parse
from train.command.model_config import ModelConfig
from train.command.wandb_config import WandbConfig
from train.evaluate import main
from train.evaluation.run import EvaluateConfig
from train.export import ExportConfig
from train.export import main as export
from train.grpo import algorithm as grpo
from train.job.build import load_filter, make_env, make_model, spec_of
from train.job.config import EnvConfig, EvaluationConfig, JobConfig
from train.job.counting import CountingDenoiser
from train.job.grpo_config import TrainGRPOConfig
from train.job.ppo_config import TrainPPOConfig
from train.job.trials import time_step
from train.ppo import algorithm as ppo
from train.ppo import train
from train.watching.recording import record

pytestmark = pytest.mark.usefixtures("device")

POLICY = NetworkConfig(hidden_size=8, feedforward_size=8, decides_refresh=True, refresh_bias=0.0)


def parts(out: Path, **env: Any) -> dict[str, Any]:
    """What all of these trainings have: sorting on the embedded dLLM under the dual cache, positions priced."""
    about = {"num_envs": 8, "tasks": ["sort"], "buffer_length": 8, "cache": "dual", "price": "positions"}
    return {
        "out": out,
        "model": ModelConfig("tiny", device=str(places.here), threads=1),
        "env": EnvConfig(**{**about, **env}),
        "policy": POLICY,
        "wandb": WandbConfig(mode="disabled"),
    }


def begun(config: JobConfig, algorithm: Any) -> Any:
    inner = load_filter(config)
    made = make_model(config, make_env(config, config.model.load(), algorithm, inner), algorithm, inner)
    made.set_logger(Logger(None, []))
    return made


def test_ppo_keeps_and_scores_the_bit_with_the_commits(tmp_path: Path) -> None:
    config = TrainPPOConfig(**parts(tmp_path), ppo=PPOSection(n_steps=4, batch_size=16))
    model = begun(config, ppo(config))
    model.learn(1)
    buffer = model.rollout_buffer
    assert buffer.actions.shape == (32, 9)
    assert 0 < buffer.actions[:, -1].mean() < 1
    # An untrained one has a half for the bit, whatever it commits.
    obs = {name: torch.as_tensor(values) for name, values in buffer.observations.items()}
    fresh = begun(config, ppo(config)).policy
    actions = torch.as_tensor(buffer.actions)
    flipped = actions.clone()
    flipped[:, -1] = 1 - flipped[:, -1]
    _, expected, _ = fresh.evaluate_actions(obs_as_tensor(obs, places.here), actions.to(places.here))
    _, found, _ = fresh.evaluate_actions(obs_as_tensor(obs, places.here), flipped.to(places.here))
    np.testing.assert_allclose(expected.detach().cpu(), buffer.log_probs.flatten(), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(found, expected)
    alone = fresh.commit_distribution(obs_as_tensor(obs, places.here)).commits
    torch.testing.assert_close(expected, alone.log_prob(actions[:, :-1].to(places.here)) + math.log(0.5))
    assert model.logger.name_to_value["rollout/refresh_probability"] == pytest.approx(0.5)


@pytest.mark.parametrize("ratio", ["step", "position"])
def test_grpo_trains_it_with_either_ratio_and_beside_experts(tmp_path: Path, ratio: Any) -> None:
    section = GRPOSection(group_size=3, ratio=ratio, zero_variance="keep", learning_rate=1e-2, warmup=0.0)
    # Coins for commits, so that rollouts of a group take several forwards and differ.
    about = parts(tmp_path, num_envs=6, reward="forward_cost") | {"policy": replace(POLICY, init="random", bias=-1.0)}
    config = TrainGRPOConfig(
        **about,
        grpo=section,
        actions=ActionConfig("bernoulli"),
        experts=ExpertSection(["threshold:0.9"], block_length=8),
    )
    model = begun(config, grpo(config))
    _, callback = model._setup_learn(1000)
    model.collect_rollouts(model.env, callback, model.rollout_buffer, 1)
    model.train()
    steps = model._batch.steps
    assert steps.action.shape == (len(steps), 9)
    assert steps.log_prob.shape[1] == (1 if ratio == "step" else 9)
    # What experts do is a whole action too; no rule refreshes.
    assert steps.is_expert.any()
    assert not steps.action[steps.is_expert, -1].any()
    assert steps.action[~steps.is_expert, -1].any()
    # The last update's gradient.
    assert model.policy.network.refresh[-1].bias.grad.abs().item() > 1e-3


@pytest.mark.slow
@pytest.mark.parametrize("sign", [-1.0, 1.0])
def test_ppo_learns_to_refresh_by_what_it_costs(tmp_path: Path, sign: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing but positions is paid for, by the policy or to it, it refreshes less and less, or more and more."""

    class Positions(envs.reward.ForwardCost):
        def per_step(self, cost: Any, alpha: Any, log_likelihood: Any) -> Any:
            return sign * alpha * cost

        def final(self, score: Any, cost: Any, buffer_length: int, alpha: Any) -> Any:
            return np.zeros_like(alpha)

    monkeypatch.setattr(envs.reward, "REWARDS", {**envs.reward.REWARDS, "positions_alone": Positions()})
    about = parts(tmp_path, reward="positions_alone", alpha=1.0)
    section = PPOSection(n_steps=16, batch_size=64, n_epochs=4, learning_rate=2e-2, gamma=1.0)
    config = TrainPPOConfig(**about, ppo=section)
    # Commits are the same throughout: one a step.
    config = replace(config, policy=replace(POLICY, init="random", bias=-9.0))
    model = begun(config, ppo(config))
    for name, parameter in model.policy.network.named_parameters():
        parameter.requires_grad_(name.startswith("refresh"))
    model.learn(8 * 16 * 12)
    last = model.logger.name_to_value["rollout/refresh_probability"]
    assert last < 0.25 if sign < 0 else last > 0.75


def test_it_starts_as_a_filter_without_it(tmp_path: Path) -> None:
    torch.manual_seed(1)
    source = UnmaskingNetwork(NetworkConfig(hidden_size=8, feedforward_size=8))
    torch.nn.init.normal_(source.output.weight)
    folder = save(LearnedPolicy(source), tmp_path / "filter")
    given = ["--policy.decides_refresh=true", "--policy.refresh_bias=-3", "--env.cache=dual", "--model.name=tiny"]
    given += [f"--filter.folder={folder}", "--filter.role=start", "--env.tasks=[sort]", "--env.buffer_length=8"]
    given += ["--env.num_envs=2", "--ppo.batch_size=4", "--ppo.n_steps=2"]
    config = parse(TrainPPOConfig, None, given)
    network = begun(config, ppo(config)).policy.network
    assert network.config == replace(source.config, decides_refresh=True, refresh_bias=-3.0)
    for name, values in source.state_dict().items():
        torch.testing.assert_close(network.state_dict()[name].cpu(), values)
    # What a policy that decides it starts as goes on deciding it, whatever the section says.
    again = save(LearnedPolicy(network.cpu()), tmp_path / "again")
    config = parse(TrainPPOConfig, None, [f"--filter.folder={again}", "--filter.role=start", "--env.cache=dual"])
    assert spec_of(config, load_filter(config)).config.decides_refresh


def test_a_job_refuses_it_without_a_cache_and_says_what_is_not_used() -> None:
    with pytest.raises(ValueError, match=r"policy\.decides_refresh is true and cache 'none': it keeps nothing"):
        JobConfig(policy=POLICY)
    with pytest.raises(ValueError, match=r"refresh_bias is given, but not used: policy\.decides_refresh is false"):
        parse(TrainPPOConfig, None, ["--policy.refresh_bias=-1"])


def test_a_dry_runs_step_has_the_bit(tmp_path: Path) -> None:
    config = TrainPPOConfig(**parts(tmp_path), ppo=PPOSection(n_steps=4, batch_size=16))
    denoiser: Any = CountingDenoiser(config.model.load())
    model = make_model(config, make_env(config, denoiser, ppo(config), None), ppo(config), None)
    _, positions = time_step(model, denoiser)
    assert positions > 0


@pytest.mark.slow
def test_a_killed_run_ends_as_the_run_that_was_not(tmp_path: Path) -> None:
    """With rows under way that have asked for a refresh: rollouts are shorter than episodes."""

    def train_refreshes(out: Path, resume: bool) -> None:
        about = parts(out, temperature=0.7)
        config = TrainPPOConfig(
            **about,
            resume=resume,
            total_timesteps=8 * 3 * 8,
            checkpoint_every=1,
            evaluation=EvaluationConfig(2, 1, 2, rules=[]),
            ppo=PPOSection(n_steps=3, batch_size=12, n_epochs=2),
        )
        train(config)

    finish(train_refreshes, tmp_path / "whole")
    process = start(train_refreshes, tmp_path / "killed", 8)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    # In the midst of it: a few of its eight updates are logged.
    assert 1 <= len((tmp_path / "killed" / "progress.csv").read_text().splitlines()) - 1 < 8
    finish(train_refreshes, tmp_path / "killed")
    expected = results(tmp_path / "whole")
    assert "policy/model.safetensors" in expected
    assert differences(expected, results(tmp_path / "killed")) == []


@pytest.mark.slow
def test_a_whole_job_and_all_that_uses_its_policy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    words = ["--env.cache=dual", "--policy.decides_refresh=true", "--env.price=positions", "--policy.refresh_bias=0.5"]
    words += ["--model.name=tiny", "--env.tasks=[sort]", "--env.buffer_length=8", "--env.block_lengths=[4]"]
    words += ["--env.num_envs=4", "--env.problems=null", "--filter.problems=9", "--total_timesteps=64"]
    words += ["--ppo.n_steps=4", "--ppo.batch_size=16", "--policy.hidden_size=8", "--policy.feedforward_size=8"]
    words += [
        "--policy.hidden_state_size=0",
        "--evaluation.episodes=2",
        "--evaluation.validations=1",
        "--evaluation.validation_episodes=2",
    ]
    words += ["--evaluation.rules=['threshold:0.9']", "--evaluation.beside_training=false", "--wandb.mode=disabled"]
    assert run_here(monkeypatch, *words, f"--out={out}") == 0
    with (out / "progress.csv").open() as file:
        assert 0.4 < float([*csv.DictReader(file)][-1]["rollout/refresh_probability"]) < 0.8
    policy = load(out / "policy")
    assert policy.network.config.decides_refresh
    # Evaluation, decoding and the viewer all play it alike.
    about = {"tasks": ["sort"], "episodes": 2, "buffer_length": 8, "block_length": [4], "cache": "dual"}
    records = main(EvaluateConfig([str(out / "policy")], tmp_path / "evaluation", **about))  # type: ignore[arg-type]
    assert all(one["cache"] == "dual" for one in records)
    denoiser = load_denoiser("tiny", str(places.here))
    settings = DecodingSettings(8, 4, features=policy.features, cache="dual")
    asked = prompt("sort", "d b c a")
    [answer] = decode(denoiser, [asked], policy, settings)
    [watched] = record(denoiser, [asked], policy, settings)
    assert (watched.text, watched.nfe, watched.token_positions) == (answer.text, answer.nfe, answer.token_positions)
    # At its log-odds of a half it refreshes in every step, and the viewer shows that.
    assert all(all(frame.computed) for frame in watched.frames[1:])
    assert answer.token_positions == answer.nfe * (len(denoiser.encode_prompt(asked)) + 8)
    with pytest.raises(ValueError, match="its network sees the whole buffer"):
        export(ExportConfig(str(out / "policy"), tmp_path / "exported", "diffusers"))
    assert not (tmp_path / "exported").exists() or not any((tmp_path / "exported").iterdir())


def test_the_critic_and_the_bit_share_the_body(tmp_path: Path) -> None:
    config = TrainPPOConfig(**parts(tmp_path), ppo=PPOSection(n_steps=4, batch_size=16))
    policy = begun(config, ppo(config)).policy
    assert isinstance(policy, UnmaskingActorCritic)
    obs = {name: values[None].repeat(3, 0) for name, values in policy.observation_space.sample().items()}
    action, value, log_prob = policy.forward(obs_as_tensor(obs, places.here), deterministic=True)
    assert action.shape == (3, 9)
    assert (value.shape, log_prob.shape) == ((3,), (3,))
