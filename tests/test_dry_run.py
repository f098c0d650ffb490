from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from policies import NetworkConfig
from train import grpo, ppo
from train.cli import run
from train.dry_run import dry_run
from train.grpo_config import GRPOSection, TrainGRPOConfig
from train.job_config import EnvConfig, ModelConfig
from train.ppo_config import PPOSection, TrainPPOConfig

FLAGS = ["--model.name=toy", "--env.num_envs=8", "--env.buffer_length=8", "--env.tasks=[copy]"]
SMALL: dict[str, Any] = {
    "model": ModelConfig("toy"),
    "env": EnvConfig(num_envs=8, tasks=["copy"], buffer_length=8),
    "policy": NetworkConfig(hidden_size=8, feedforward_size=8),
}


@pytest.mark.parametrize(("module", "config"), [(ppo, TrainPPOConfig), (grpo, TrainGRPOConfig)])
def test_a_dry_run_shows_an_estimate_and_leaves_nothing(
    module: Any, config: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["train", "--dry-run", f"--out={tmp_path / 'run'}", *FLAGS])
    run(module.train, config)
    shown = capsys.readouterr().out
    assert "the whole job, estimated" in shown
    assert "peak memory" in shown
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "made",
    [
        lambda: (TrainPPOConfig(**SMALL, ppo=PPOSection(n_steps=8, batch_size=16)), ppo.algorithm),
        lambda: (TrainGRPOConfig(**SMALL, grpo=GRPOSection(group_size=4)), grpo.algorithm),
    ],
)
def test_the_estimate_follows_from_what_is_measured(made: Any) -> None:
    config, algorithm = made()
    estimate = dry_run(config, algorithm(config))
    assert estimate.rows == 8
    assert 1 <= estimate.nfe <= 8
    assert estimate.score == 1.0  # the toy is always right
    per_step = estimate.step_seconds / 8 + estimate.update_seconds
    assert estimate.job_hours == pytest.approx(config.total_timesteps * per_step / 3600)
    assert estimate.memory_gib > 0.01


def test_a_dry_run_refuses_what_the_job_would(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["train/ppo.py", "--dry-run", *FLAGS, "--env.tasks=[juggle]"])
    with pytest.raises(SystemExit) as stop:
        run(ppo.train, TrainPPOConfig)
    assert stop.value.code == 2
    assert "'juggle'" in capsys.readouterr().err
