"""The time of day may be set at any moment, by an hour or by years: nothing counts seconds on it, or waits for it."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import time
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Any

import pytest
from folders import Config, finish

from envs.unmasking import UnmaskingVectorEnv
from train.command import progress as module
from train.command.config import parse
from train.command.errors import UserError
from train.command.lock import LOCK
from train.command.progress import progress
from train.command.run_folder import open_run
from train.command.wandb_config import WandbConfig
from train.job.build import make_env, make_model
from train.job.learning import learn
from train.job.ppo_config import TrainPPOConfig
from train.job.run import load_model
from train.ppo import algorithm
from train.tracking.tracker import Tracker

YEAR = 365 * 86_400


class Clock:
    """The time of day, as programs see it; `jump` sets it by another hour."""

    def __init__(self, direction: str) -> None:
        self.direction, self.began, self.jumps = direction, time.time(), 0

    def jump(self) -> None:
        self.jumps += 1

    def look(self) -> float:
        n = self.jumps
        return self.began + {"back": -n, "forward": n, "to and fro": n * (-1) ** n}[self.direction] * 3600


@pytest.fixture(params=["back", "forward", "to and fro"])
def clock(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock(request.param)
    monkeypatch.setattr("time.time", clock.look)
    monkeypatch.setattr("time.time_ns", lambda: int(clock.look() * 1e9))
    monkeypatch.setattr("tqdm.std.time", clock.look)
    return clock


def test_a_bar_goes_on(clock: Clock, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SECONDS", 0.05)
    with progress(total=40, desc="training") as bar:
        for _ in range(40):
            time.sleep(0.01)
            clock.jump()
            bar.update()
    shown = capsys.readouterr().err.splitlines()
    assert len(shown) >= 4
    assert all("[00:0" in line for line in shown)  # seconds since it began


def test_a_training_says_how_long_it_took(clock: Clock, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--model=toy", "--env.task=copy", "--env.num_envs=8", "--env.buffer_length=8", "--total_timesteps=192"]
    words += ["--filter.learn=false", "--ppo.n_steps=8", "--ppo.batch_size=32", "--evaluation.validations=0"]
    config = parse(TrainPPOConfig, None, [*words, f"--out={tmp_path}"])
    model = make_model(config, make_env(config, load_model(config), algorithm(config), None), algorithm(config), None)
    step = UnmaskingVectorEnv.step

    def step_and_jump(env: UnmaskingVectorEnv, actions: Any) -> Any:
        clock.jump()
        return step(env, actions)

    monkeypatch.setattr(UnmaskingVectorEnv, "step", step_and_jump)
    began = time.monotonic()
    with Tracker(WandbConfig(mode="disabled"), tmp_path, {}, "train") as tracker:
        learn(config, model, tracker)
    took = time.monotonic() - began
    with (tmp_path / "progress.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    assert [int(row["time/total_timesteps"]) for row in rows] == [64, 128, 192]
    for row in rows:
        assert 0 <= int(row["time/time_elapsed"]) <= took
        assert 64 / took <= int(row["time/fps"]) < 10**6


@pytest.mark.parametrize("seconds", [-50 * YEAR, 50 * YEAR])
def test_a_lock_is_as_old_as_it_is(tmp_path: Path, seconds: int) -> None:
    """A living holder's holds whatever its file says of the time, and a dead holder's does not."""
    config = Config(tmp_path / "a")
    then = time.time() + seconds
    with open_run(config.out, config, False):
        os.utime(config.out / LOCK, (then, then))
        with pytest.raises(UserError, match=f"which process {os.getpid()} "):
            finish(config)
    ended = subprocess.run([sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True)
    about = {"pid": int(ended.stdout), "host": os.uname().nodename, "command": "python", "started": "2999-01-01"}
    (config.out / LOCK).write_text(json.dumps(about))
    os.utime(config.out / LOCK, (then, then))
    finish(config)


def test_starts_are_in_the_order_in_which_they_were(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    years = ["2031", "1970", "2026"]
    for year in years:

        class Day(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None, year: int = int(year)) -> datetime:  # type: ignore[override]
                return datetime(year, 6, 1, tzinfo=tz)

        monkeypatch.setattr("train.command.run_folder.datetime", Day)
        finish(Config(tmp_path / "a", resume=year != years[0]))
    starts = json.loads((tmp_path / "a" / "versions.json").read_text())["starts"]
    assert [start["at"][:4] for start in starts] == years
