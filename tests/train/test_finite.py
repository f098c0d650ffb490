"""Trainings that meet answers without a score, or numbers that are none."""

from __future__ import annotations

import copy
import csv
import gc
import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pytest
import torch
from faulty import FAULTS
from group_trainings import tiny as tiny_grpo
from gymnasium import spaces
from trainings import tiny, trained

from envs.models.toy import ToyDenoiser
from envs.tasks import TASKS
from envs.tasks.base import Problem
from envs.tasks.suite.copy_list import Copy
from policies import NetworkConfig, UnmaskingNetwork
from train.algorithms.group_rollouts import advantages, is_informative
from train.algorithms.ppo import CommitBuffer
from train.command.finite import Diverged, check_loss, watch
from train.filters.fit import FitSettings, fit
from train.filters.traces import Traces
from train.grpo import algorithm as grpo
from train.job.build import make_env, make_model
from train.job.learning import learn
from train.pretrain import pretrain
from train.pretraining.config import PretrainConfig
from train.pretraining.loop import STATE
from train.tracking.tracker import Tracker

Section = TypeVar("Section")


def endless(section: Section) -> Section:
    """Return a copy whose learning rate is infinite, which no configuration can be given."""
    changed = copy.copy(section)
    object.__setattr__(changed, "learning_rate", math.inf)
    return changed


def sometimes(fault: str, every: int = 10) -> type[Copy]:
    """A copy task, of whose answers every `every`-th has a fault."""

    class Sometimes(Copy):
        time_limit = 0.05
        calls = 0

        def score(self, text: str, problem: Problem) -> Any:
            type(self).calls += 1
            return FAULTS[fault][0](text) if self.calls % every == 0 else super().score(text, problem)

    return Sometimes


def rates(folder: Path) -> list[float]:
    with (folder / "progress.csv").open() as lines:
        return [float(row["rollout/unscored_rate"]) for row in csv.DictReader(lines)]


@pytest.mark.parametrize("fault", FAULTS)
def test_ppo_leaves_out_what_has_no_score(
    fault: str, tmp_path: Path, toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    task = sometimes(fault)
    monkeypatch.setitem(TASKS, "copy", task)
    model = trained(tiny(tmp_path, 0), toy)
    assert all(torch.isfinite(weight).all() for weight in model.policy.state_dict().values())
    assert task.calls >= 20
    assert max(rates(tmp_path)) > 0.0
    # The last mean score too is of known ones.
    assert all(math.isfinite(info["score"]) for info in model.ep_info_buffer or ())


def test_ppo_learns_from_nothing_of_such_an_episode() -> None:
    """Two rows of five steps: row 0 has episodes of steps 0-1, 2-3 and 4; row 1 one that began before, 0-2, and 3-4."""
    box = spaces.Dict({"x": spaces.Box(0.0, 1.0, (1,), np.float32)})
    buffer = CommitBuffer(5, box, spaces.MultiBinary(3), n_envs=2)
    starts = np.array([[1, 0], [0, 0], [1, 0], [0, 1], [1, 0]], dtype=bool)
    for step, start in enumerate(starts):
        if step == 3:
            buffer.leave_out(0)  # the episode of steps 2 and 3
        if step == 2:
            buffer.leave_out(1)  # the one that began before
        if step == 4:
            buffer.leave_out(0)  # a single step
        value = torch.tensor([step, 10 + step], dtype=torch.float32)
        obs = {"x": np.zeros((2, 1), np.float32)}
        buffer.add(obs, np.zeros((2, 3)), np.zeros(2), start, value, torch.zeros(2))
    assert buffer.kept.T.tolist() == [[True, True, False, False, False], [False, False, False, True, True]]
    assert (buffer.fills(4), buffer.fills(2)) == (True, False)  # 3 and 5 minibatches, 4 steps
    for _ in range(2):
        parts = [part.old_values.tolist() for part in buffer.get(4)]
        assert len(parts) == 3
        assert sorted(value for part in parts for value in part) == [0.0, 1.0, 13.0, 14.0]
    buffer.reset()
    assert buffer.kept.all()


def test_ppo_skips_an_update_without_enough(tmp_path: Path, toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(CommitBuffer, "fills", lambda self, size: False)
    config = tiny(tmp_path, 0)
    model = trained(replace(config, total_timesteps=64), toy)
    assert model._n_updates == 0


@pytest.mark.parametrize("fault", ["nan", "raises"])
@pytest.mark.parametrize("divides_by_std", [False, True])
def test_grpo_leaves_out_what_has_no_score(
    fault: str, divides_by_std: bool, tmp_path: Path, toy: ToyDenoiser, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(TASKS, "copy", sometimes(fault, every=21))
    config = tiny_grpo(tmp_path)
    config = replace(config, grpo=replace(config.grpo, divides_by_std=divides_by_std, zero_variance="keep"))
    model = make_model(config, make_env(config, toy, grpo(config), None), grpo(config), None)
    learn(config, model, Tracker(config.wandb, config.out, {}, "train"))
    assert all(torch.isfinite(weight).all() for weight in model.policy.state_dict().values())
    assert max(rates(tmp_path)) > 0.0


def test_advantages_without_unknown_rewards_by_hand() -> None:
    rewards = np.array([[1.0, np.nan, 0.0, 0.5], [np.nan, 1.0, 1.0, np.nan], [np.nan] * 4, [2.0, np.nan, 2.0, 0.0]])
    assert advantages(rewards, False).tolist() == [
        [0.5, 0.0, -0.5, 0.0],
        [0.0] * 4,
        [0.0] * 4,
        pytest.approx([2 / 3, 0.0, 2 / 3, -4 / 3]),
    ]
    assert advantages(rewards, True)[0] == pytest.approx(np.array([0.5, 0, -0.5, 0]) / (math.sqrt(1 / 6) + 1e-4))
    assert is_informative(rewards).tolist() == [True, False, False, True]


# Numbers that are none.


def test_ppo_stops_at_its_last_checkpoint(tmp_path: Path, toy: ToyDenoiser) -> None:
    config = tiny(tmp_path, 0)
    trained(replace(config, total_timesteps=64, checkpoint_every=1), toy)
    file = tmp_path / "checkpoints" / "latest.safetensors"
    kept = file.read_bytes()
    worse = replace(config, ppo=endless(config.ppo), total_timesteps=1024, checkpoint_every=1)
    with pytest.raises(Diverged, match=r"stopped after 64 steps, as a \w+ is NaN or infinite: .*latest.safetensors"):
        trained(worse, toy)
    assert file.read_bytes() == kept


def test_ppo_says_that_there_is_no_checkpoint(tmp_path: Path, toy: ToyDenoiser) -> None:
    config = tiny(tmp_path, 0)
    with pytest.raises(Diverged, match="no checkpoint was written before"):
        trained(replace(config, ppo=endless(config.ppo)), toy)


def test_the_bar_of_a_training_that_stops_is_closed_there(
    tmp_path: Path, toy: ToyDenoiser, capsys: pytest.CaptureFixture[str]
) -> None:
    config = tiny(tmp_path, 0)
    with pytest.raises(Diverged) as stopped:
        trained(replace(config, ppo=endless(config.ppo)), toy)
    assert re.search(r"training: \d+% 64/128 steps", capsys.readouterr().err)
    # Whatever is still alive of the training writes nothing when it goes.
    del stopped
    gc.collect()
    assert capsys.readouterr().err == ""


def test_grpo_stops(tmp_path: Path, toy: ToyDenoiser) -> None:
    config = tiny_grpo(tmp_path)
    config = replace(config, grpo=replace(config.grpo, zero_variance="keep", ent_coef=0.1))
    model = make_model(config, make_env(config, toy, grpo(config), None), grpo(config), None)
    model.lr_schedule = lambda remaining: math.inf
    with pytest.raises(Diverged, match="is NaN or infinite"):
        learn(config, model, Tracker(config.wandb, config.out, {}, "train"))


def test_a_bad_gradient_changes_no_weight() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.Adam([weight], 0.1)
    watch(optimizer)
    (weight.sum() * 2).backward()
    optimizer.step()
    before = weight.detach().clone()
    for bad in (math.nan, math.inf, -math.inf):
        weight.grad = torch.tensor([0.0, bad, 1.0])
        with pytest.raises(Diverged, match="a gradient is NaN or infinite"):
            optimizer.step()
        assert torch.equal(weight, before)
    weight.grad = torch.tensor([3e38, -3e38, 3e38])  # large, but numbers
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step()
    for bad in (math.nan, math.inf):
        with pytest.raises(Diverged, match="the loss is"):
            check_loss(bad)


class OneStep(Traces):
    """A trace of one step that was decoded."""

    def __init__(self, oracle: float) -> None:
        row = {name: np.full((1, 4), 0.5, np.float32) for name in ("confidence", "masked", "eligible")}
        row |= {"time": np.zeros((1, 1), np.float32), "oracle": np.full((1, 4), oracle, np.float32)}
        self.columns, self.sizes, self.bytes = {name: [values] for name, values in row.items()}, [1], 0


@pytest.mark.parametrize(("rate", "oracle"), [(math.inf, 1.0), (1e-3, math.nan)])
def test_filter_stops(rate: float, oracle: float) -> None:
    network = UnmaskingNetwork(NetworkConfig(hidden_size=8, feedforward_size=8, init="random"))
    with pytest.raises(Diverged):
        fit(network, [OneStep(oracle)], [OneStep(1.0)], FitSettings(learning_rate=rate, epochs=3))


def test_pretraining_stops_at_what_was_saved(tmp_path: Path) -> None:
    small: dict[str, Any] = {"hidden_size": 16, "num_layers": 1, "num_heads": 2, "batch_size": 4, "group_size": 4}
    config = endless(PretrainConfig(out=tmp_path, steps=2, **small))
    with pytest.raises(Diverged, match=r"training stopped after step 0, as a weight is NaN or infinite: .*nothing"):
        pretrain(config)
    assert not (tmp_path / STATE).exists()
