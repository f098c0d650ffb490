from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

import train.sweep
from train.command.config import CONFIGS, parse, to_plain
from train.command.config_values import ConfigError
from train.command.errors import UserError
from train.command.sweep_file import read_sweep, suggest
from train.command.wandb_config import WandbConfig
from train.comparison.report import flatten
from train.job.ppo_config import TrainPPOConfig
from train.sweep import SweepConfig, last_value, main, run_trial

SWEEP = """
method: bayes
metric: {name: score, goal: maximize}
parameters:
  fixed: {value: 3}
  size: {values: [16, 32, 64]}
  rate: {distribution: log_uniform_values, min: 0.0001, max: 0.01}
  share: {min: 0.0, max: 1.0}
  count: {distribution: int_uniform, min: 1, max: 9}
"""


@pytest.fixture
def file(tmp_path: Path) -> Path:
    (tmp_path / "sweep.yaml").write_text(SWEEP)
    return tmp_path / "sweep.yaml"


def test_the_file_that_ships_is_a_sweep_of_the_main_job() -> None:
    sweep = read_sweep(CONFIGS / "sweep.yaml")
    assert (sweep.metric, sweep.is_maximized) == ("rollout/ep_rew_mean", True)
    assert "ppo.learning_rate" in sweep.parameters


def test_names_are_no_markup(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file.write_text('metric: {name: "[red]x[/red]", goal: maximize}\nparameters: {"[b]a\\e[31m[/b]": {values: [1, 2]}}')
    sweep = read_sweep(file)
    train.sweep.print_trials(sweep, [{"number": 0, "values": {"[b]a\x1b[31m[/b]": "[/i]"}, "result": 0.5}])
    shown = capsys.readouterr().out
    assert "[red]x[/red]" in shown
    assert "[b]a?[31m[/b]" in shown
    assert "[/i]" in shown


def agents_command(values: dict[str, Any], program: str) -> list[str]:
    """What `wandb agent` starts for a choice of values, as `wandb_agent.Agent._command_run` puts it together."""
    # All of launch, which takes a second to import.
    from wandb.sdk.launch.sweeps.utils import create_sweep_command, create_sweep_command_args

    file = yaml.safe_load((CONFIGS / "sweep.yaml").read_text())
    parts: dict[str, Any] = create_sweep_command_args({"args": {n: {"value": v} for n, v in values.items()}})
    parts |= {"env": ["/usr/bin/env"], "interpreter": ["python"], "program": [program]}
    words: list[str] = []
    for word in create_sweep_command(list(file["command"])):
        words += parts[word[2:-1]] if word.startswith("${") and word.endswith("}") else [word]
    return words


@pytest.mark.parametrize("end", [0, -1])
@pytest.mark.slow
def test_the_main_job_understands_what_an_agent_starts(tmp_path: Path, end: int) -> None:
    """Both ends of every range, through the shell to the parser."""
    sweep = read_sweep(CONFIGS / "sweep.yaml")
    values = {
        name: spec["value"] if "value" in spec else (spec.get("values") or [spec["min"], spec["max"]])[end]
        for name, spec in sweep.parameters.items()
    }
    (tmp_path / "python").write_text('#!/bin/sh\nprintf "%s\\n" "$@"\n')
    (tmp_path / "python").chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "WANDB_RUN_ID": "abcd1234"}
    command = agents_command(values, "train/ppo.py")
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    program, *words = done.stdout.splitlines()
    assert program == "train/ppo.py"
    config = parse(TrainPPOConfig, "ppo.yaml", words)
    assert (config.out, config.wandb.mode) == (Path("runs/sweep_agent/abcd1234"), "online")
    flat = flatten(to_plain(config))
    assert {name: flat[name] for name in values} == values


def test_the_file_that_ships_is_what_wandb_takes() -> None:
    """The schema that W&B checks a sweep by (of its package `sweeps`, 0.3.0), as far as the file goes."""
    file = yaml.safe_load((CONFIGS / "sweep.yaml").read_text())
    assert set(file) == {"program", "command", "method", "metric", "parameters"}
    assert file["method"] in ("grid", "random", "bayes")
    assert set(file["metric"]) == {"name", "goal"}
    keys = {"log_uniform_values": {"distribution", "min", "max"}, "uniform": {"distribution", "min", "max"}}
    for name, spec in file["parameters"].items():
        assert re.fullmatch(r"[A-Za-z_][A-Za-z0-9_.-]*", name)
        assert set(spec) == keys.get(spec.get("distribution"), set(spec) & {"value", "values"}), name
        assert len(spec.get("values", [0])) > 0
        assert all(isinstance(spec[edge], float) for edge in ("min", "max") if edge in spec)  # YAML takes 5e-4 for text


class Asked:
    """Records what a trial is asked for and gives the lower end."""

    def __init__(self) -> None:
        self.calls: list[Any] = []

    def suggest_categorical(self, name: str, choices: list[int]) -> int:
        self.calls.append((name, choices))
        return choices[-1]

    def suggest_int(self, name: str, low: int, high: int) -> int:
        self.calls.append((name, low, high))
        return low

    def suggest_float(self, name: str, low: float, high: float, step: float | None, log: bool) -> float:
        self.calls.append((name, low, high, step, log))
        return low


def test_each_distribution_is_asked_for_as_it_is_written(file: Path) -> None:
    trial, sweep = Asked(), read_sweep(file)
    values = {name: suggest(trial, name, spec) for name, spec in sweep.parameters.items()}
    assert values == {"fixed": 3, "size": 64, "rate": 0.0001, "share": 0.0, "count": 1}
    assert trial.calls == [
        ("size", [0, 1, 2]),
        ("rate", 0.0001, 0.01, None, True),
        ("share", 0.0, 1.0, None, False),
        ("count", 1, 9),
    ]


def objective(values: dict[str, Any]) -> float:
    return -((values["share"] - 0.3) ** 2) + (values["size"] == 32)


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Replaces training by a known function; the list holds the folders trained."""
    folders: list[Path] = []

    def run(folder: Path, values: dict[str, Any], metric: str, wandb: dict[str, Any]) -> float:
        folders.append(folder)
        return objective(values)

    monkeypatch.setattr(train.sweep, "run_trial", run)
    monkeypatch.setattr(train.sweep, "evaluate_best", lambda *_: [])
    return folders


@pytest.mark.slow
def test_it_finds_what_is_best(tmp_path: Path, file: Path, trained: list[Path]) -> None:
    trials = main(SweepConfig(out=tmp_path / "out", file=file, trials=40))
    assert len(trials) == len(trained) == 40
    best = json.loads((tmp_path / "out" / "best.json").read_text())
    assert best["values"]["size"] == 32
    assert best["values"]["share"] == pytest.approx(0.3, abs=0.15)
    assert best["result"] == max(entry["result"] for entry in trials)


def test_a_killed_sweep_goes_on_as_if_it_had_not_been(tmp_path: Path, file: Path, trained: list[Path]) -> None:
    whole = main(SweepConfig(out=tmp_path / "whole", file=file, trials=14))
    config = SweepConfig(out=tmp_path / "parts", file=file, trials=5)
    main(config)
    with pytest.raises(UserError, match="not empty"):
        main(config)
    trained.clear()
    assert main(replace(config, trials=14, resume=True)) == whole
    assert [folder.name for folder in trained] == [f"trial_{n}" for n in range(5, 14)]


@pytest.mark.slow
def test_a_trial_trains_in_its_own_folder(tmp_path: Path) -> None:
    values = {
        "model.name": "toy",
        "env.tasks": ["copy"],
        "env.buffer_length": 8,
        "env.num_envs": 4,
        "ppo.n_steps": 8,
        "ppo.batch_size": 16,
        "total_timesteps": 64,
        "env.problems": None,
        "filter.learn": False,
        "evaluation.episodes": 1,
        "evaluation.rules": [],
        "policy.hidden_size": 8,
    }
    result = run_trial(tmp_path / "trial_0", values, "rollout/nfe", {"mode": "disabled"})
    assert result == last_value(tmp_path / "trial_0", "rollout/nfe")
    assert 1 <= result <= 8
    with pytest.raises(UserError, match=r"metric is 'reward': .*rollout/nfe"):
        last_value(tmp_path / "trial_0", "reward")


def test_trials_are_runs_of_one_group(tmp_path: Path, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given: list[dict[str, Any]] = []

    def run(folder: Path, values: dict[str, Any], metric: str, wandb: dict[str, Any]) -> float:
        given.append(wandb)
        return 0.0

    monkeypatch.setattr(train.sweep, "run_trial", run)
    monkeypatch.setattr(train.sweep, "evaluate_best", lambda *_: [])
    for name in ("WANDB_MODE", "WANDB_RUN_GROUP", "WANDB_RUN_ID"):
        monkeypatch.delenv(name, raising=False)
    config = SweepConfig(out=tmp_path / "lr_sweep", file=file, trials=1, wandb=WandbConfig(tags=["a"]))
    main(config)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_RUN_GROUP", "theirs")
    main(replace(config, out=tmp_path / "other"))
    assert [(w["mode"], w["group"], w["tags"]) for w in given] == [
        ("disabled", "lr_sweep", ["a"]),
        ("offline", "theirs", ["a"]),
    ]
    monkeypatch.setenv("WANDB_RUN_ID", "abcd1234")
    with pytest.raises(UserError, match="WANDB_RUN_ID is set: each trial is a run of its own"):
        main(replace(config, out=tmp_path / "third"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("method: bayes", "method: hyperband"), "method is 'hyperband'"),
        (("goal: maximize", "goal: best"), "not a sweep"),
        (("{min: 0.0, max: 1.0}", "{min: 0.0}"), "parameter share is"),
        (("int_uniform", "poisson"), "parameter count is"),
        (("metric:", "measure:"), "not a sweep"),
    ],
)
def test_what_is_no_sweep_is_refused(file: Path, change: tuple[str, str], message: str) -> None:
    file.write_text(SWEEP.replace(*change))
    with pytest.raises(UserError, match=message):
        read_sweep(file)
    with pytest.raises(UserError, match="nowhere"):
        read_sweep(file.with_name("nowhere.yaml"))


def test_a_sweeps_file_that_is_not_there_is_named_as_it_was_given() -> None:
    with pytest.raises(ConfigError, match=r"^file is 'nowhere\.yaml', which is not there"):
        main(SweepConfig(file=Path("nowhere.yaml")))
