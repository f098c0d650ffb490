"""Killed trainings that end as those that weren't: five kinds, each stopped again and again and resumed.

``python tests/helpers/kills.py --kills 40`` kills so many times in all and compares what every run leaves; ``--seed``
draws other moments. A child of this process, which has all libraries loaded, is a run: it costs a second or two. Each
start finds another time of day, up to a day before or after the last one's.

``python tests/helpers/kills.py --ends 40`` asks trainings on the embedded model, of the size that is their default, to
end by SIGTERM and SIGHUP, and says how long they take until all is saved.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import itertools
import json
import multiprocessing
import os
import random
import re
import shutil
import signal
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
import yaml
from forks import leave_parent, write_to
from tqdm import tqdm

from train import grpo, learn2pd, ppo, pretrain, sweep
from train.command import checkpoint
from train.command.config import parse
from train.command.files import write_atomic
from train.command.interrupt import Interrupted, raised
from train.pretraining.loop import STATE

PATIENCE = 300.0
"""Seconds that a run may take."""

TOY = ("--model.name=toy", "--env.tasks=[copy]", "--env.num_envs=8", "--env.buffer_length=8", "--env.block_lengths=[4]")
ENDING = ("--evaluation.episodes=3", "--evaluation.rules=['threshold:0.9']", "--evaluation.validation_episodes=3")
JOB = (*TOY, *ENDING, "--evaluation.beside_training=false", "--wandb.mode=disabled", "--checkpoint_every=2")
SMALL = ("--policy.hidden_size=8", "--policy.feedforward_size=8")


def train_ppo(out: Path, resume: bool) -> None:
    """Learn a filter, start from it, and train where tokens are sampled and episodes outlast a rollout."""
    words = (*JOB, *SMALL, "--ppo.n_steps=3", "--ppo.batch_size=12", "--ppo.n_epochs=2", "--total_timesteps=480")
    words += ("--filter.problems=18", "--env.problems=9", "--env.temperature=0.7", "--seed=3")
    ppo.train(parse(ppo.TrainPPOConfig, "ppo.yaml", [f"--out={out}", *words, *_resume(resume)]))


def train_grpo(out: Path, resume: bool) -> None:
    """Train in groups of four."""
    words = (*JOB, *SMALL, "--grpo.group_size=4", "--grpo.zero_variance=keep", "--total_timesteps=400")
    words += ("--policy.init=random", "--policy.bias=-1.0", "--env.temperature=0.7", "--grpo.learning_rate=1e-2")
    grpo.train(parse(grpo.TrainGRPOConfig, "grpo.yaml", [f"--out={out}", *words, *_resume(resume)]))


def train_filters(out: Path, resume: bool) -> None:
    """Learn the four Learn2PD filters."""
    words = ("--model.name=toy", "--tasks=[copy]", "--buffer_length=8", "--block_lengths=[8,4]", "--published_block=4")
    words += ("--problems=18", "--epochs=6", "--episodes=3", "--thresholds=[0.5,0.9]", "--rules=['threshold:0.9']")
    words += ("--workers=1", "--wandb.mode=disabled")
    learn2pd.main(parse(learn2pd.Learn2PDConfig, None, [f"--out={out}", *words, *_resume(resume)]))


def run_sweep(out: Path, resume: bool) -> None:
    """Search a learning rate over three trials."""
    fixed = {"env.tasks": ["copy"], "env.num_envs": 8, "env.buffer_length": 8, "env.problems": None}
    fixed |= {"filter.learn": False, "ppo.n_steps": 4, "ppo.batch_size": 16, "ppo.n_epochs": 1, "total_timesteps": 160}
    fixed |= {"evaluation.episodes": 3, "evaluation.rules": ["threshold:0.9"], "evaluation.beside_training": False}
    fixed |= {"evaluation.validation_episodes": 3, "policy.hidden_size": 8, "policy.feedforward_size": 8}
    rate = {"distribution": "log_uniform_values", "min": 1e-4, "max": 1e-2}
    parameters = {name: {"value": value} for name, value in fixed.items()} | {"ppo.learning_rate": rate}
    about = {"method": "bayes", "metric": {"name": "rollout/score", "goal": "maximize"}, "parameters": parameters}
    file = out.with_name(f"{out.name}.yaml")
    write_atomic(file, yaml.safe_dump(about))
    words = (f"--file={file}", "--trials=3", "--model.name=toy", "--wandb.mode=disabled")
    sweep.main(parse(sweep.SweepConfig, None, [f"--out={out}", *words, *_resume(resume)]))


def train_dllm(out: Path, resume: bool) -> None:
    """Pretrain a dLLM; it resumes by itself."""
    words = ("--steps=24", "--batch_size=8", "--group_size=4", "--hidden_size=16", "--num_layers=1", "--num_heads=2")
    words += ("--save_every=5", "--buffer_lengths=[[0, 0.9], [64, 0.1]]")
    pretrain.pretrain(parse(pretrain.PretrainConfig, None, [f"--out={out}", *words]))


# The same on the embedded model, as large as they are by default.

QUIET = "--wandb.mode=disabled"


def train_default_ppo(out: Path, resume: bool) -> None:
    """Train as ``python train/ppo.py`` does, its filter included."""
    ppo.train(parse(ppo.TrainPPOConfig, "ppo.yaml", [f"--out={out}", QUIET, *_resume(resume)]))


def train_default_grpo(out: Path, resume: bool) -> None:
    """Train as ``python train/grpo.py`` does."""
    grpo.train(parse(grpo.TrainGRPOConfig, "grpo.yaml", [f"--out={out}", QUIET, *_resume(resume)]))


def train_default_filters(out: Path, resume: bool) -> None:
    """Train as ``python train/learn2pd.py`` does, in one process."""
    words = [f"--out={out}", QUIET, "--workers=1", *_resume(resume)]
    learn2pd.main(parse(learn2pd.Learn2PDConfig, None, words))


def run_default_sweep(out: Path, resume: bool) -> None:
    """Search as ``python train/sweep.py`` does."""
    sweep.main(parse(sweep.SweepConfig, None, [f"--out={out}", QUIET, *_resume(resume)]))


def train_default_dllm(out: Path, resume: bool) -> None:
    """Train a dLLM of the embedded one's size, as ``python train/pretrain.py`` does."""
    pretrain.pretrain(parse(pretrain.PretrainConfig, None, [f"--out={out}"]))


def _resume(resume: bool) -> list[str]:
    return ["--resume"] if resume else []


Training = Callable[[Path, bool], None]
"""Trains in a folder, or goes on with what is there."""

TRAININGS: Mapping[str, Training] = {
    "pretrain": train_dllm,
    "grpo": train_grpo,
    "sweep": run_sweep,
    "ppo": train_ppo,
    "learn2pd": train_filters,
}

DEFAULTS: Mapping[str, Training] = {
    "pretrain": train_default_dllm,
    "grpo": train_default_grpo,
    "sweep": run_default_sweep,
    "ppo": train_default_ppo,
    "learn2pd": train_default_filters,
}


# A run and its end.


def start(train: Training, out: Path, rename: int | None = None) -> multiprocessing.Process:
    """Start a training, or go on with it, in a process of its own.

    Args:
        train: of `TRAININGS` or `DEFAULTS`.
        out: its folder.
        rename: the atomic rename before which it kills itself, from 0; None for none.
    """
    process = multiprocessing.get_context("fork").Process(target=_run, args=(train, out, rename))
    process.start()
    return process


def _run(train: Training, out: Path, rename: int | None) -> None:
    leave_parent()
    _set_clock()
    write_to(out.with_name(f"{out.name}.log"))
    torch.set_num_threads(1)
    os.cpu_count = lambda: 1  # type: ignore[method-assign] - filters are decoded in this process
    counter, replace = itertools.count(), os.replace

    def replace_or_die(*args: Any, **kwargs: Any) -> None:
        if next(counter) == rename:
            os.kill(os.getpid(), signal.SIGKILL)
        replace(*args, **kwargs)

    os.replace = replace_or_die
    status = 0
    try:
        with raised():
            train(out, (out / "config.yaml").is_file())
    except Interrupted as error:
        sys.stdout.write(f"error: {error}\n")
        status = error.status
    except BaseException:
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    os._exit(status)


def _set_clock() -> None:
    """Let this process find another time of day than it is, as if the clock had been set between two starts.

    What counts seconds on, for a timeout or a rate, must not look at it.
    """
    off = random.SystemRandom().randint(-86_400, 86_400)
    now, now_ns = time.time, time.time_ns
    time.time = lambda: now() + off
    time.time_ns = lambda: now_ns() + off * 10**9


def finish(train: Training, out: Path) -> float:
    """Let a run go on to its end; returns the seconds that it took.

    Raises:
        AssertionError: if it does not end well.
    """
    began, process = time.monotonic(), start(train, out)
    process.join(PATIENCE)
    if process.exitcode != 0:
        process.kill()
        raise AssertionError(f"{out.name} ended with {process.exitcode}:\n{log_of(out)}")
    return time.monotonic() - began


def log_of(out: Path) -> str:
    """Return what all starts of a run have printed."""
    return out.with_name(f"{out.name}.log").read_text(errors="replace")


def kill(train: Training, out: Path, seconds: float, signum: int, at_work: bool = False) -> float | None:
    """Let a run go on for some seconds and end it.

    Args:
        train: of `TRAININGS` or `DEFAULTS`.
        out: its folder.
        seconds: how many.
        signum: what ends it.
        at_work: whether they count from when it has logged an update.

    Returns:
        The seconds that it took to end, with all saved that it saves; None if it was not at work any more.
    """
    before = _lengths(out)
    process = start(train, out)
    while at_work and process.is_alive() and _lengths(out) == before:
        time.sleep(0.1)
    process.join(seconds)
    if not process.is_alive() or process.pid is None:
        return None
    began = time.monotonic()
    os.kill(process.pid, signum)
    process.join(PATIENCE)
    return time.monotonic() - began


def _lengths(out: Path) -> dict[Path, int]:
    return {file: file.stat().st_size for file in out.rglob("progress.csv")}


# What a run leaves.


def results(out: Path) -> dict[str, str]:
    """Return all that must be equal, by file: without clock times, and what says how often it was started."""
    found = {}
    for file in sorted(out.rglob("*")):
        name = str(file.relative_to(out))
        # What a training goes on from holds the seconds that it has taken.
        if file.suffix == ".safetensors" and "checkpoints" not in file.parts and file.name != STATE:
            found[name] = hashlib.sha256(file.read_bytes()).hexdigest()
        elif file.name in ("evaluation.json", "outcomes.json", "best.json", "report.json"):
            found[name] = json.dumps(_timeless(json.loads(file.read_text())))
        elif file.name == "trials.jsonl":
            found[name] = file.read_text()
        elif file.name == "progress.csv":
            with file.open() as lines:
                rows = [{k: v for k, v in row.items() if not _is_time(k)} for row in csv.DictReader(lines)]
            found[name] = json.dumps(rows)
    return found


CLOCK = ("seconds", "minutes_to_collect_and_train")
"""What JSON files say of the clock."""


def _timeless(value: Any) -> Any:
    if isinstance(value, list):
        return [_timeless(each) for each in value]
    if not isinstance(value, dict):
        return value
    return {key: _timeless(each) for key, each in value.items() if key not in CLOCK}


def _is_time(column: str) -> bool:
    return column in ("time/fps", "time/time_elapsed", "time/iterations")


def differences(one: Mapping[str, str], other: Mapping[str, str]) -> list[str]:
    """Return the files that differ, or that only one of two runs has."""
    return sorted(name for name in one.keys() | other.keys() if one.get(name) != other.get(name))


def killed(train: Training, folder: Path, seconds: float, kills: int, draw: random.Random) -> list[tuple[int, float]]:
    """Kill a run some times at random moments and let it end.

    Args:
        train: of `TRAININGS`.
        folder: of the run.
        seconds: that a whole run takes.
        kills: at most.
        draw: where moments and signals come from.

    Returns:
        The signal of each time that it was really killed, and the seconds that it took to end.
    """
    done = []
    for _ in range(kills):
        signum = draw.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM, signal.SIGHUP])
        took = kill(train, folder, draw.uniform(0, seconds), signum)
        if took is not None:
            done.append((signum, took))
    finish(train, folder)
    return done


def _say(line: str) -> None:
    tqdm.write(line)
    sys.stdout.flush()


def main() -> None:
    """Kill, resume, compare, and say what came of it."""
    parser = argparse.ArgumentParser(description=__doc__)
    wanted = parser.add_mutually_exclusive_group()
    wanted.add_argument("--kills", type=int, default=40, help="of small trainings, whose results are compared")
    wanted.add_argument("--ends", type=int, help="of trainings on the embedded model, whose last seconds are counted")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    place, draw = Path(tempfile.mkdtemp(prefix="kills-")), random.Random(arguments.seed)
    try:
        with raised():
            if arguments.ends is None:
                compare(place, arguments.kills, draw)
            else:
                time_ends(place, arguments.ends, draw)
    except Interrupted as stop:
        for training in multiprocessing.active_children():
            training.kill()
            training.join()
        shutil.rmtree(place, ignore_errors=True)
        sys.exit(stop.status)
    shutil.rmtree(place)


def time_ends(place: Path, ends: int, draw: random.Random) -> None:
    """Ask trainings to end and say how long they take; each goes on from there until it is asked again."""
    share = -(-ends // len(DEFAULTS))
    bar = tqdm(total=share * len(DEFAULTS), unit="end", leave=False)
    for name, train in DEFAULTS.items():
        out, took = place / name, list[float]()
        while len(took) < share:
            # Every other time when it has made an update at least, if it tells of them.
            at_work = len(took) % 2 == 1 and name in ("ppo", "grpo", "sweep")
            end = kill(train, out, draw.uniform(2, 15), draw.choice([signal.SIGTERM, signal.SIGHUP]), at_work)
            if end is None:
                sys.exit(f"{name} ended by itself:\n{log_of(out)}")
            took.append(end)
            bar.update()
            for file in out.rglob("latest.safetensors"):
                checkpoint.read(file)
        said = re.findall("error: interrupted by .*?; (.*?)(?:;|$)", log_of(out), re.MULTILINE)
        saved = sum(text.startswith("saved after") for text in said)
        _say(
            f"{name:9} asked to end {len(took)} times, {saved} of them in training itself: within {max(took):.1f} s "
            f"(median {statistics.median(took):.1f} s)"
        )
        for text in sorted({re.sub(r"[\d,]+", "N", text.replace(str(out), "OUT")) for text in said}):
            _say(f"          {text}")


def compare(place: Path, wanted: int, draw: random.Random) -> None:
    """Kill trainings, let them end, and compare what they leave with what one leaves that was not killed."""
    total, unequal = 0, 0
    share = -(-wanted // len(TRAININGS))
    bar = tqdm(total=share * len(TRAININGS), unit="kill", leave=False)
    for name, train in TRAININGS.items():
        whole = place / f"{name}_whole"
        seconds = finish(train, whole)
        expected, kills, runs, bad = results(whole), list[tuple[int, float]](), 0, 0
        while len(kills) < share:
            out = place / f"{name}_{runs}"
            done = killed(train, out, seconds, min(2, share - len(kills)), draw)
            kills += done
            bar.update(len(done))
            runs += 1
            found = differences(expected, results(out))
            if found:
                bad += 1
                _say(f"{name}: run {runs} differs in {', '.join(found)}; it is in {out}")
        total, unequal = total + len(kills), unequal + bad
        asked = [took for signum, took in kills if signum != signal.SIGKILL]
        slowest = f"; asked to end {len(asked)} times, ended within {max(asked):.1f} s" if asked else ""
        equal = f"{runs - bad} of {runs} equal in {len(expected)} files"
        _say(f"{name:9} {len(kills):2} kills in {runs} runs: {equal}{slowest}")
    _say(f"{total} kills, {unequal} runs that differ from the one that was not killed")
    if unequal:
        sys.exit(1)


if __name__ == "__main__":
    main()
