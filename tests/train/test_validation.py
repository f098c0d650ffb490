"""Which weights a training exports."""

from __future__ import annotations

import itertools
import os
import signal
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from kills import differences, results
from trainings import tiny

from envs.decoding.settings import DecodingSettings
from policies import UnmaskingNetwork, load
from train.command.interrupt import Interrupted
from train.job.config import EnvConfig, EvaluationConfig
from train.job.validation import Validation
from train.ppo import train

GOOD, WORSE, LUCKY = np.array([0.9, 0.8, 1.0, 0.9]), np.array([0.8, 0.7, 0.9, 0.8]), np.array([1.0, 1.0, 1.0, 0.6])


def chosen(tmp_path: Path, rewards: list[npt.NDArray[np.float64]]) -> int:
    """Which of four tries with these rewards is kept, from 1."""
    config = tiny(tmp_path, 0)
    config = replace(config, total_timesteps=400, evaluation=EvaluationConfig(validations=4, validation_episodes=2))
    validation, found = Validation(config), iter(rewards)
    networks = [UnmaskingNetwork(config.policy) for _ in rewards]
    for i, network in enumerate(networks):
        assert validation.is_due(100 * (i + 1))
        validation.keep(network, next(found), 100 * (i + 1))
        assert not validation.is_due(100 * (i + 1))
    place = validation.timesteps // 100
    assert all(torch.equal(w, validation.weights[name]) for name, w in networks[place - 1].state_dict().items())
    return place


@pytest.mark.parametrize(
    ("rewards", "place"),
    [
        ([WORSE, WORSE, GOOD, GOOD], 4),  # of equals the last
        ([WORSE, GOOD, WORSE, WORSE], 2),  # always worse than the best, by a little
        ([GOOD, GOOD, LUCKY, GOOD], 4),  # as good by chance: the last is kept
        ([GOOD, GOOD - 0.02 * np.array([0, 1, 2, 3]), WORSE, WORSE], 1),
        ([GOOD, WORSE, np.array([0.9, np.nan, 1.0, 0.9]), WORSE], 3),  # an answer without a score is left out
    ],
)
def test_what_is_kept(tmp_path: Path, rewards: list[npt.NDArray[np.float64]], place: int) -> None:
    assert chosen(tmp_path, rewards) == place


@pytest.mark.parametrize(("alpha_range", "price"), [([], "forwards"), ([1.0, 8.0], "forwards"), ([], "positions")])
def test_a_try_measures_validation_problems(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, alpha_range: list[float], price: Any
) -> None:
    """Each at every block length, and at three places where there is a dial; its reward by hand."""
    config = tiny(tmp_path, 0)
    env = replace(config.env, block_lengths=[4, 8], alpha_range=alpha_range, alpha=2.0, price=price)
    config = replace(config, env=env, evaluation=EvaluationConfig(validation_episodes=3))
    asked: list[Any] = []

    def measured(denoiser: Any, policy: Any, **about: Any) -> Any:
        asked.append((about["split"], about["block_length"], policy.speed))
        # A prompt of 21 words: the first answer has computed as much as two forwards of all 29 positions.
        counts: dict[str, Any] = {"nfe": [3.0, 1.0], "token_positions": [58.0, 29.0]}
        counts["log_likelihood"] = [-0.5, -2.0]
        return {"score": [1.0, 0.0], **counts, "task": ["copy", "copy"], "index": [0, 2]}

    monkeypatch.setattr("train.job.validation.measure", measured)
    validation = Validation(config)
    found, rewards = validation.measure(UnmaskingNetwork(replace(config.policy, has_dial=bool(alpha_range))))
    speeds = [0.0, 0.5, 1.0] if alpha_range else [0.5]  # as a policy without a dial says
    assert asked == [("validation", block, speed) for block in (4, 8) for speed in speeds]
    alphas = [1.0, 8**0.5, 8.0] if alpha_range else [2.0]
    right = [((6 if price == "forwards" else 7) / 8) ** alpha for alpha in alphas]
    assert rewards[:3] == pytest.approx([right[0], np.nan, 0.0], nan_ok=True)
    assert found == pytest.approx({"score": 0.5, "nfe": 2.0, "reward": np.mean(right) / 2})
    config = replace(config, env=replace(env, reward="likelihood", price="forwards"))
    _, rewards = Validation(config).measure(UnmaskingNetwork(replace(config.policy, has_dial=bool(alpha_range))))
    # Nats less the price of three forwards and of one.
    assert rewards[:3] == pytest.approx([-0.5 - 3 * alphas[0], np.nan, -2.0 - alphas[0]], nan_ok=True)


def test_the_threshold_that_earns_most_on_validation_problems_is_exported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """While it is learned it is tried at the first; of equals the first stays."""
    about = EvaluationConfig(validations=1, validation_episodes=3, episodes=2, rules=[], beside_training=False)
    config = replace(tiny(tmp_path / "run", 0), evaluation=replace(about, decision_thresholds=[0.4, 0.6, 0.7, 0.8]))
    scores, asked = {0.4: 0.0, 0.6: 1.0, 0.7: 1.0, 0.8: 0.5}, list[float]()

    def measured(denoiser: Any, policy: Any, **about: Any) -> Any:
        asked.append(policy.threshold)
        counts: dict[str, Any] = {"nfe": [1.0], "token_positions": [29.0], "log_likelihood": [0.0]}
        return {"score": [scores[policy.threshold]], **counts, "task": ["copy"], "index": [0]}

    monkeypatch.setattr("train.job.validation.measure", measured)
    train(config)
    assert asked == [0.4, 0.4, 0.6, 0.7, 0.8]
    assert load(config.out / "policy").threshold == 0.6
    asked.clear()
    config = replace(config, out=tmp_path / "one", evaluation=replace(about, decision_thresholds=[0.8]))
    train(config)
    assert asked == [0.8]
    assert load(config.out / "policy").threshold == 0.8


@pytest.mark.slow
@pytest.mark.parametrize("number", [0, 1])
def test_a_run_asked_to_end_while_it_tries_its_policy_tries_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    """It ends at once; resumed, also after its last update, it leaves what it would have left."""
    about = EvaluationConfig(validations=2, validation_episodes=3, episodes=2, rules=[], beside_training=False)
    config = replace(tiny(tmp_path / "whole", 0), evaluation=about)
    train(config)
    tries, measure = itertools.count(), Validation.measure

    def measure_or_be_asked(validation: Validation, network: Any) -> Any:
        if next(tries) == number:
            os.kill(os.getpid(), signal.SIGTERM)
        return measure(validation, network)

    monkeypatch.setattr(Validation, "measure", measure_or_be_asked)
    killed = replace(config, out=tmp_path / "killed")
    with pytest.raises(Interrupted, match="interrupted by SIGTERM"):
        train(killed)
    assert next(tries) == number + 1
    train(replace(killed, resume=True))
    assert next(tries) == 4
    assert len(results(killed.out)) == 4
    assert differences(results(config.out), results(killed.out)) == []


def test_nothing_of_how_a_job_decodes_is_left_out() -> None:
    """What the env's section and the settings of decoding both have."""
    both = {field.name for field in fields(EnvConfig)} & {field.name for field in fields(DecodingSettings)}
    assert EnvConfig().decoding.keys() == both
    assert {"early_end", "window", "cache"} <= both
