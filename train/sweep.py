"""A hyper-parameter search without an account: the trials of a `wandb sweep` file, proposed by Optuna.

``python train/sweep.py`` runs `configs/sweep.yaml` on the main job. Each trial is a run folder ``OUT/trial_N`` of its
own; ``trials.jsonl`` remembers what was tried, and ``--resume`` goes on after a kill. The last lines are a table of the
trials. With ``--wandb.mode offline`` or ``online`` the trials are W&B runs, in a group named as the sweep's folder.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import importlib
import importlib.util
import json
import math
import os
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field
from rich.console import Console
from rich.table import Table

from policies.files import Checked, check, read_text, show
from train.command.config import find_file, parse
from train.command.errors import UserError
from train.command.escaping import for_terminal
from train.command.files import write_atomic, write_json
from train.command.model_config import ModelConfig
from train.command.ranges import check_count, check_seed
from train.command.run_files import RunFiles
from train.command.run_folder import open_run
from train.command.sweep_file import Sweep, read_sweep, suggest
from train.command.told import tell
from train.command.wandb_config import WandbConfig, chosen_mode
from train.evaluation.jobs import plan
from train.evaluation.plot import plot_pareto
from train.evaluation.records import Record
from train.evaluation.run import run_jobs
from train.evaluation.table import print_table
from train.job.finish import evaluation_of
from train.job.ppo_config import TrainPPOConfig
from train.tracking.history import read_progress

MAX_TRIALS = 2**26
"""Bytes of ``trials.jsonl``."""


@dataclass(frozen=True)
class SweepConfig:
    """Search for hyper-parameters without an account: the trials of a `wandb sweep` file, proposed by Optuna.

    Examples:
        python train/sweep.py
        python train/sweep.py --trials 5 --model path/to/checkpoint --out runs/my_sweep
    """

    out: Path = Path("runs/sweep")
    """Folder of the sweep; it must be new or empty."""
    resume: bool = False
    """Go on with the trials of this folder."""
    file: Path = Path("configs/sweep.yaml")
    """The sweep, in the format of `wandb sweep`."""
    trials: int = 20
    """Trials in all, those of a resumed sweep included."""
    seed: int = 0
    """Of the proposals; every trial trains with the same seed, that of its configuration."""
    buffer_length: int | None = None
    """Masks that a trial's sequences start from; null is what the sweep or configs/ppo.yaml says."""
    block_lengths: list[int] | None = None
    """Positions of a trial's blocks; null is what the sweep or configs/ppo.yaml says."""
    model: ModelConfig = field(default_factory=ModelConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        check_count(self, "trials", "buffer_length", "block_lengths")
        check_seed(self)


class _TrialForm(Checked):
    """What a line of ``trials.jsonl`` must hold; the metric may be NaN where a training came to none."""

    number: int
    values: dict[str, Any]
    result: Annotated[float, Field(allow_inf_nan=True)]


def last_value(folder: Path, metric: str) -> float:
    """Return a metric's last value in a trial's ``progress.csv``, NaN where the last row has none.

    Raises:
        UserError: if it has no such column, naming those it has.
    """
    rows = read_progress(folder)
    columns = dict.fromkeys(chain.from_iterable(rows))
    if metric not in columns:
        raise UserError(f"metric is {metric!r}: {RunFiles(folder).progress} holds {', '.join(columns) or 'nothing'}")
    return rows[-1].get(metric, math.nan)


def run_trial(folder: Path, values: Mapping[str, Any], metric: str, wandb: Mapping[str, Any]) -> float:
    """Train one configuration in its own folder and return the metric; a trial that was killed goes on.

    Args:
        folder: of the trial.
        values: by the entry point's flags.
        metric: a column of ``progress.csv``.
        wandb: fields of the trial's `WandbConfig`; what is null or empty is left out.
    """
    given = {**values, **{f"wandb.{name}": value for name, value in wandb.items() if value}, "out": str(folder)}
    words = _flags(given)
    # A trial that was killed has its configuration already; it goes on as any training does.
    resume = ["--resume"] if RunFiles(folder).config.is_file() else []
    config = parse(TrainPPOConfig, "ppo.yaml", [*words, *resume])
    # Held-out problems are for the best trial alone, and what a rule does to them is the same after every trial.
    config = replace(config, evaluation=replace(config.evaluation, rules=[], split="validation"))
    # By its name, when there is a trial: Stable-Baselines3 takes seconds to import, and a wrong file needs none of it.
    train: Callable[[TrainPPOConfig], Any] = importlib.import_module("train.ppo").train
    train(config)
    return last_value(folder, metric)


def model_settings(config: SweepConfig) -> dict[str, Any]:
    """Return what a sweep says of its trials' dLLM and lengths beyond the defaults, by the entry point's flags."""
    model, usual = asdict(config.model), asdict(ModelConfig())
    # Only what was asked for: all else is for ppo.yaml and the sweep's own file to say.
    found = {f"model.{name}": value for name, value in model.items() if value != usual[name]}
    for name in ("buffer_length", "block_lengths"):
        if getattr(config, name) is not None:
            found[f"env.{name}"] = getattr(config, name)
    return found


def evaluate_best(folder: Path, number: int, values: Mapping[str, Any]) -> list[Record]:
    """Evaluate a trial's policy once on held-out problems, against the rules that its configuration names.

    Args:
        folder: of the sweep; the results go to ``best_trial_N``.
        number: of the trial.
        values: by the entry point's flags.
    """
    # With the rules and the test split of the job's own defaults, which its trials were denied.
    config = parse(TrainPPOConfig, "ppo.yaml", [*_flags(values), f"--out={folder / f'trial_{number}'}"])
    about = evaluation_of(config, str(config.out / "policy"))
    file = RunFiles(folder / f"best_trial_{number}").evaluation
    records = run_jobs(about, plan(about.policy, about.block_length), file)
    plot_pareto(records, RunFiles(file.parent).plot, f"{config.model.name}, trial {number}")
    print_table(records, f"trial {number}, {config.evaluation.episodes} held-out problems a task")
    tell("evaluation", file, RunFiles(file.parent).plot)
    return records


def _flags(values: Mapping[str, Any]) -> list[str]:
    return [f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in values.items()]


def main(config: SweepConfig) -> list[dict[str, Any]]:
    """Run the trials.

    Returns:
        One mapping a trial: ``number``, ``values`` and the metric, ``result``.

    Raises:
        UserError: if Optuna is not installed, or the file is no sweep.
    """
    if importlib.util.find_spec("optuna") is None:
        raise UserError("optuna is not installed: pip install 'unmasking-policies[sweep]'")
    sweep = read_sweep(find_file(str(config.file), "file"))
    mode = chosen_mode(config.wandb, "disabled")
    if mode != "disabled" and "WANDB_RUN_ID" in os.environ:
        raise UserError("WANDB_RUN_ID is set: each trial is a run of its own, so unset it")
    group = config.wandb.group or os.environ.get("WANDB_RUN_GROUP") or config.out.resolve().name
    wandb = {**asdict(config.wandb), "mode": mode, "group": group}
    with open_run(config.out, config, config.resume, free=("trials",)):
        return search(config, sweep, wandb)


def read_trials(file: Path, sweep: Sweep) -> list[dict[str, Any]]:
    """Read what a killed sweep has tried; nothing where there is no such file.

    Raises:
        UserError: if the file is damaged.
    """
    done: list[dict[str, Any]] = []
    try:
        for line in read_text(file, MAX_TRIALS).splitlines() if file.is_file() else ():
            trial = json.loads(line)
            check(_TrialForm, trial, f"trial {len(done)}")
            # A trial of another sweep's file would be told as one of this.
            missing = sweep.parameters.keys() - trial["values"].keys()
            if missing:
                raise ValueError(f"trial {len(done)} has no value of {show(min(missing))}")
            done.append(trial)
    except (OSError, ValueError, RecursionError) as error:
        raise UserError(f"{str(file)!r} can't be read ({error}): choose another --out") from error
    return done


def search(config: SweepConfig, sweep: Sweep, wandb: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Run the trials that are missing, and evaluate the best.

    Args:
        config: of the search.
        sweep: what to search.
        wandb: fields of each trial's `WandbConfig`.

    Returns:
        One mapping a trial, as `main` returns it.
    """
    import optuna

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    file = config.out / "trials.jsonl"
    done = read_trials(file, sweep)
    # W&B's bayes is a search by what was tried; Optuna's own of that kind is TPE.
    sampler_class = optuna.samplers.TPESampler if sweep.method == "bayes" else optuna.samplers.RandomSampler
    direction = optuna.study.StudyDirection.MAXIMIZE if sweep.is_maximized else optuna.study.StudyDirection.MINIMIZE
    study = optuna.create_study(direction=direction, sampler=sampler_class(seed=config.seed))
    began, first = time.monotonic(), len(done)
    while len(done) < config.trials:
        number = len(done)
        # Replayed from the start, the proposals are those of the killed sweep: what was tried is told, not run again.
        for past in done[len(study.trials) :]:
            trial = study.ask()
            for name, spec in sweep.parameters.items():
                suggest(trial, name, spec)
            study.tell(trial, past["result"])
        trial = study.ask()
        values = {name: suggest(trial, name, spec) for name, spec in sweep.parameters.items()}
        tell("trial", f"{number} of {config.trials}{_remaining(began, number - first, config.trials - number)}")
        tell("", *(f"{name} {value}" for name, value in values.items()))
        given = {**model_settings(config), **values}
        result = run_trial(config.out / f"trial_{number}", given, sweep.metric, wandb)
        study.tell(trial, result)
        done.append({"number": number, "values": values, "result": result})
        write_atomic(file, "".join(json.dumps(entry) + "\n" for entry in done))
    best = (max if sweep.is_maximized else min)(done, key=lambda entry: float(entry["result"]))
    write_json(config.out / "best.json", best)
    print_trials(sweep, done)
    evaluate_best(config.out, best["number"], {**model_settings(config), **best["values"]})
    tell("best", f"trial {best['number']}", f"{sweep.metric} {best['result']:.4f}")
    tell("trials", file)
    return done


def _remaining(began: float, finished: int, left: int) -> str:
    """Say how long the trials left will take, once one has shown it."""
    if not finished:
        return ""
    each = (time.monotonic() - began) / finished / 60
    return f", {each:.1f} minutes a trial, about {each * left:.0f} minutes to go"


def print_trials(sweep: Sweep, trials: list[dict[str, Any]]) -> None:
    """Print the trials, best first."""
    varied = [name for name, spec in sweep.parameters.items() if "value" not in spec]
    table = Table()
    for column in ("trial", sweep.metric, *varied):
        table.add_column(for_terminal(column), justify="right")
    for entry in sorted(trials, key=lambda entry: float(entry["result"]), reverse=sweep.is_maximized):
        values = [entry["values"][name] for name in varied]
        shown = [f"{value:.4g}" if isinstance(value, float) else str(value) for value in values]
        table.add_row(str(entry["number"]), f"{entry['result']:.4f}", *map(for_terminal, shown))
    Console(width=None if sys.stdout.isatty() else 120).print(table)


if __name__ == "__main__":
    from train.command.cli import run

    run(main, SweepConfig)
