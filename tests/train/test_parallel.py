"""Data-parallel training and evaluation, with two real processes."""

from __future__ import annotations

import csv
import json
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import pytest
import torch
from group_trainings import begun, tiny
from together import started_together

from policies import load
from train.algorithms.group_rollouts import Batch
from train.algorithms.ppo import PPOSection
from train.command import parallel
from train.command.config import ROOT, parse
from train.command.errors import UserError
from train.command.model_config import ModelConfig
from train.evaluate import main as evaluate
from train.evaluation.run import EvaluateConfig
from train.grpo import train
from train.job.build import share
from train.job.ppo_config import TrainPPOConfig
from train.ppo import algorithm as ppo_algorithm
from train.tracking.history import STEP

HELPERS = Path(__file__).parents[1] / "helpers"


@pytest.fixture
def two(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pretend to be the second of two processes."""
    for name, value in {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "TORCHELASTIC_RUN_ID": "x"}.items():
        monkeypatch.setenv(name, value)


def test_variables_of_a_cluster_without_torchrun_mean_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "3")
    assert (parallel.world_size(), parallel.rank(), parallel.is_main()) == (1, 0, True)
    assert parallel.total(3.0) == 3.0
    assert parallel.mean({"a": 1}) == {"a": 1}


def test_rows_and_devices_are_shared_out(tmp_path: Path, two: None) -> None:
    config = replace(tiny(tmp_path), model=ModelConfig("toy", device="cuda"))
    mine = share(config, 4)
    assert (mine.model.device, mine.env.num_envs) == ("cuda:1", 4)
    assert replace(mine, model=config.model, env=config.env) == config
    assert share(tiny(tmp_path), 4).model.device == "cpu"
    with pytest.raises(ValueError, match="num_envs is 8: it must be a multiple of 16, for 2 processes and groups of 8"):
        share(config, 8)
    with pytest.raises(ValueError, match=r"model\.device is 'cuda:0': with 2 processes give 'cuda'"):
        share(replace(config, model=ModelConfig("toy", device="cuda:0")))


def test_minibatches_are_shared_out(two: None) -> None:
    assert ppo_algorithm(TrainPPOConfig(ppo=PPOSection(batch_size=512))).arguments["batch_size"] == 256
    with pytest.raises(ValueError, match="batch_size is 5: it must be a multiple of 2 processes"):
        ppo_algorithm(TrainPPOConfig(ppo=PPOSection(batch_size=5)))
    with pytest.raises(ValueError, match=r"target_kl is 0\.1: processes would stop at different times"):
        ppo_algorithm(TrainPPOConfig(ppo=PPOSection(target_kl=0.1)))


@pytest.mark.parametrize(("count", "size"), [(5, 2), (2, 3), (6, 3), (0, 2)])
def test_what_is_dealt_comes_back_in_order(monkeypatch: pytest.MonkeyPatch, count: int, size: int) -> None:
    items, shares = list(range(count)), []
    monkeypatch.setattr(parallel, "world_size", lambda: size)
    for number in range(size):
        monkeypatch.setattr(parallel, "rank", lambda number=number: number)
        shares.append(parallel.deal(items))
    assert sorted(item for share in shares for item in share) == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    made = [[str(item) for item in share] for share in shares]
    monkeypatch.setattr(parallel, "_gather", lambda own: made)
    assert parallel.collect(made[0]) == [str(item) for item in items]


def test_processes_leave_workers_out(two: None) -> None:
    with pytest.raises(ValueError, match="workers is 2, but torchrun's 2 processes share the problems out"):
        evaluate(EvaluateConfig(workers=2))
    with pytest.raises(ValueError, match=r"model\.device is 'cuda:0': with 2 processes give 'cuda'"):
        evaluate(EvaluateConfig(model=ModelConfig("toy", device="cuda:0")))


@pytest.mark.slow
def test_an_evaluation_that_is_shared_out_is_that_of_one_process(tmp_path: Path) -> None:
    """Records and outcomes of two processes, with sampled answers, an odd number of problems and a cache."""
    flags = ["--tasks", "[copy, sort, reverse]", "--episodes", "3", "--buffer_length", "16", "--block_length", "[8]"]
    flags += ["--policy", "threshold:0.9", "--policy", "random:4", "--temperature", "1", "--cache", "dual"]

    def found(folder: Path) -> Any:
        records, outcomes = (json.loads((folder / name).read_text()) for name in ("evaluation.json", "outcomes.json"))
        for entry in outcomes:
            assert entry.pop("seconds") > 0
        return records, outcomes

    words = [*flags, "--out", str(tmp_path / "two")]
    with started_together(tmp_path / "log.txt", ROOT / "train" / "evaluate.py", *words) as processes:
        statuses, printed = processes.wait()
    assert statuses == [0, 0], printed
    evaluate(parse(EvaluateConfig, None, [*flags, "--out", str(tmp_path / "alone")]))
    assert found(tmp_path / "two") == found(tmp_path / "alone")
    assert len(found(tmp_path / "two")[1][0]["score"]) == 9
    assert printed.count("evaluation  ") == 1  # one table, not two


GRADIENTS = """
import json, sys
from pathlib import Path
import torch
from torch import nn
sys.path[:0] = [sys.argv[2]]
from group_trainings import made, tiny
from train.command import parallel
from train.algorithms.group_rollouts import Batch

folder = Path(sys.argv[1])
rank = parallel.rank()
with parallel.process_group("cpu"):
    found = {"gradients": []}
    for weights, whole in torch.load(folder / "rounds.pt", weights_only=False):
        model = made(tiny(folder / f"run{rank}"))
        model.policy.load_state_dict(weights)
        own = whole.steps.rollout // 4 == rank  # a group of four each
        if own.any():
            # A process knows its own rollouts only: half of them all.
            mine = Batch(whole.steps.take(own), whole.advantage[own], 2 * whole.weight[own])
            model._loss(mine, {}).backward()
        parallel.average_gradients(model.policy.parameters())
        found["gradients"].append(torch.cat([p.grad.flatten() for p in model.policy.parameters()]).tolist())
    layer = nn.Linear(3, 1)
    parallel.average_gradients_when_made(layer.parameters())
    layer(torch.tensor([[1.0, 2.0, 3.0]]) * (1 + rank)).sum().backward()
    found["hooked"] = layer.weight.grad.tolist()
    found["total"] = parallel.total(rank + 1)
    found["mean"] = parallel.mean({"both": float(rank), **({"second": 5.0} if rank else {})})
(folder / f"found{rank}.json").write_text(json.dumps(found))
"""


@pytest.mark.slow
def test_the_processes_gradient_is_that_of_one_process(tmp_path: Path) -> None:
    model = begun(tiny(tmp_path / "alone"))
    whole = model._batch
    assert whole is not None
    is_first = whole.steps.rollout < 4
    assert 0 < is_first.sum() < len(whole.steps)
    # The second time, all groups of the second process are skipped.
    first = Batch(whole.steps.take(is_first), whole.advantage[is_first], whole.weight[is_first])
    rounds, expected = [], []
    for batch in (whole, first):
        model.policy.zero_grad()
        model._loss(batch, {}).backward()
        expected.append(torch.cat([p.grad.flatten() for p in model.policy.parameters() if p.grad is not None]))
        assert expected[-1].abs().max() > 1e-4
        rounds.append((model.policy.state_dict(), batch))
    torch.save(rounds, tmp_path / "rounds.pt")
    script = tmp_path / "script.py"
    script.write_text(GRADIENTS)
    with started_together(tmp_path / "log.txt", script, str(tmp_path), str(HELPERS)) as processes:
        statuses, printed = processes.wait()
    assert statuses == [0, 0], printed
    for rank in (0, 1):
        found = json.loads((tmp_path / f"found{rank}.json").read_text())
        for gradient, wanted in zip(found["gradients"], expected, strict=True):
            assert torch.tensor(gradient) == pytest.approx(wanted, abs=1e-6)
        assert found["hooked"] == [[1.5, 3.0, 4.5]]
        assert found["total"] == 3
        assert found["mean"] == {"both": 0.5, "second": 5.0}


TRAINING = """
import sys
from pathlib import Path
import torch
sys.path[:0] = [sys.argv[3]]
from train import grpo, ppo
from train.command import parallel
from train.job import run as job

name, folder = sys.argv[1], Path(sys.argv[2])
kept = {}
learn = job.learn

def watched(config, model, tracker, *others):
    learn(config, model, tracker, *others)
    kept.update(
        weights=torch.cat([p.detach().flatten() for p in model.policy.parameters()]),
        steps=model.num_timesteps,
        problems=[problem.prompt for problem in model.env.get_attr("problems", [0])[0]],
    )

job.learn = watched
module = {"grpo": grpo, "ppo": ppo}[name]
from train.command.config import parse
config_class = grpo.TrainGRPOConfig if name == "grpo" else ppo.TrainPPOConfig
# Processes that learn a filter import this file.
if __name__ == "__main__":
    kept["records"] = module.train(parse(config_class, f"{name}.yaml", sys.argv[4:]))
    torch.save(kept, folder / f"rank{parallel.rank()}.pt")
"""


@pytest.mark.slow
@pytest.mark.parametrize("name", ["grpo", "ppo"])
def test_two_processes_learn_one_policy(tmp_path: Path, name: str) -> None:
    script = tmp_path / "script.py"
    script.write_text(TRAINING)
    own = {
        "grpo": ["--grpo.group_size", "4", "--grpo.zero_variance", "redraw"],
        "ppo": ["--ppo.n_steps", "4", "--ppo.batch_size", "16", "--ppo.n_epochs", "1", "--filter.problems", "18"],
    }[name]
    words = ["--out", str(tmp_path / "run"), "--model.name", "toy", "--env.tasks", "copy", "--env.num_envs", "8"]
    words += ["--env.buffer_length", "8", "--policy.init", "random", "--evaluation.episodes", "3"]
    words += ["--evaluation.rules", "[threshold:0.9]", "--wandb.mode", "disabled", *own]
    # The last weights are looked at, which both have; the best come back in the first process alone.
    words += ["--evaluation.validations", "0"]

    words = [name, str(tmp_path), str(HELPERS), *words, "--total_timesteps", "120"]
    with started_together(tmp_path / "log.txt", script, *words) as processes:
        statuses, printed = processes.wait()
    assert statuses == [0, 0], printed
    assert printed.count("2 processes") == 1  # the second prints nothing
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=False) for rank in (0, 1))
    assert torch.equal(first["weights"], second["weights"])
    assert first["steps"] == second["steps"] >= 120
    assert first["problems"] != second["problems"]
    assert first["records"]
    assert not second["records"]
    with (tmp_path / "run/progress.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert int(float(rows[-1][STEP])) == first["steps"]
    policy = load(tmp_path / "run/policy")
    assert policy.trained["timesteps"] == first["steps"]
    again = [p.detach().flatten() for p in policy.network.parameters()]
    assert torch.equal(torch.cat(again), first["weights"][: sum(map(len, again))])


def test_processes_that_begin_at_different_checkpoints_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parallel, "total", lambda value: value + 64)
    with pytest.raises(UserError, match=r"not all processes see .*latest\.safetensors: put --out where all machines"):
        train(tiny(tmp_path / "run"))


def _double(number: int) -> int:
    return 2 * number


def _uses_a_pool() -> None:
    with parallel.worker_pool(1) as pool:
        assert pool.submit(_double, 4).result() == 8


@pytest.mark.slow
def test_a_fork_of_a_process_that_had_workers_has_its_own() -> None:
    _uses_a_pool()
    process = get_context("fork").Process(target=_uses_a_pool)
    process.start()
    process.join()
    assert process.exitcode == 0
