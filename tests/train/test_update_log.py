from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from stable_baselines3.common.logger import Logger
from torch import nn

from policies.distributions import Bernoulli, PlackettLuce
from train.algorithms.group_rollouts import group_spread
from train.algorithms.update_log import GradientNorms, UnmaskProbabilities


def logged(thing: GradientNorms | UnmaskProbabilities) -> dict[str, Any]:
    logger = Logger(None, [])
    thing.record(logger)
    return dict(logger.name_to_value)


def test_a_gradients_norm_is_the_one_before_it_was_clipped() -> None:
    layer = nn.Linear(3, 2)
    optimizer = torch.optim.SGD(layer.parameters(), lr=0.0)
    norms = GradientNorms(layer.parameters(), optimizer)
    assert logged(norms) == {}
    found = []
    for scale in (1.0, 10.0):
        optimizer.zero_grad()
        (scale * layer(torch.ones(4, 3)).pow(2).sum()).backward()
        found.append(float(nn.utils.clip_grad_norm_(layer.parameters(), 0.1)))
        optimizer.step()
    assert found[1] == pytest.approx(10 * found[0], rel=1e-5)
    assert logged(norms) == {"train/grad_norm": pytest.approx(sum(found) / 2)}
    assert logged(norms) == {}


def test_unmask_probabilities_are_of_eligible_positions() -> None:
    chance = torch.tensor([[0.5, 0.25, 0.99], [0.125, 0.9, 0.5]])
    eligible = torch.tensor([[True, True, False], [True, False, False]])
    found = UnmaskProbabilities()
    assert logged(found) == {}
    found.add(PlackettLuce(chance.logit(), eligible))  # has none for a position alone
    assert logged(found) == {}
    found.add(Bernoulli(chance.logit(), eligible))
    both = {"rollout/unmask_probability": 0.875 / 3, "rollout/unmask_probability_max": 0.5}
    assert logged(found) == pytest.approx(both)
    found.add(Bernoulli(chance.logit(), eligible), torch.tensor([False, True]))
    assert logged(found)["rollout/unmask_probability"] == pytest.approx(1.0 / 4)


def test_a_groups_spread_leaves_out_what_is_unknown() -> None:
    rewards = np.array([[0.0, 1.0, np.nan], [2.0, 2.0, 2.0], [np.nan, np.nan, np.nan]])
    assert group_spread(rewards) == pytest.approx(0.5 / 3)


@pytest.mark.parametrize("algorithm", ["ppo", pytest.param("grpo", marks=pytest.mark.slow)])
@pytest.mark.slow
def test_a_training_logs_them(algorithm: str, tmp_path: Path) -> None:
    from importlib import import_module

    from train.command.config import parse
    from train.job.grpo_config import TrainGRPOConfig
    from train.job.ppo_config import TrainPPOConfig

    config: Any = TrainPPOConfig if algorithm == "ppo" else TrainGRPOConfig
    small = ["--model=toy", "--env.task=copy", "--env.num_envs=8", "--env.buffer_length=8", "--total_timesteps=192"]
    small += [
        "--policy.init=random",
        "--evaluation.episodes=2",
        "--evaluation.rules=[]",
        "--wandb.mode=disabled",
        f"--out={tmp_path / 'run'}",
    ]
    small += (
        ["--ppo.n_steps=8", "--ppo.batch_size=32", "--filter.learn=false"]
        if algorithm == "ppo"
        else ["--grpo.group_size=4"]
    )
    import_module(f"train.{algorithm}").train(parse(config, config.DEFAULTS, small))
    header, *rows = (tmp_path / "run" / "progress.csv").read_text().splitlines()
    names = {"rollout/unmask_probability", "rollout/unmask_probability_max", "train/grad_norm", "rollout/nfe_std"}
    names |= {"rollout/reward_std"} | ({"rollout/group_reward_std"} if algorithm == "grpo" else set())
    assert names <= set(header.split(","))
    last = dict(zip(header.split(","), rows[-1].split(","), strict=True))
    assert all(float(last[name]) >= 0 for name in names)
    assert 0 < float(last["rollout/unmask_probability"]) <= float(last["rollout/unmask_probability_max"]) < 1
