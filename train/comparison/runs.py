"""Run folders, read for a comparison: what they hold, and which of their policies are the same but for the seed.

A *line* is one policy with one decision rule and block length on one set of problems. Runs whose configurations differ
by seed only are *replicates* of the same lines.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from policies.files import Checked, check, read_settings, read_text, show
from train.command.decoding_config import what_differs
from train.command.errors import UserError
from train.command.run_files import RunFiles
from train.command.told import tell
from train.comparison.wandb_runs import DOWNLOADS, PREFIX, fetch
from train.evaluation.jobs import run_names
from train.evaluation.naming import LEARNED, PolicyName, is_folder, split_setting
from train.evaluation.records import Key, Outcomes, Record, key_of, read_outcomes, read_records
from train.tracking.history import ELAPSED, read_progress

NOT_COMPARED = ("seed", "out", "resume", "wandb", "workers")
"""Fields of a configuration in which replicates may differ."""


class _Model(Checked):
    name: str = "tiny"


class _Decoding(Checked):
    buffer_length: Annotated[int, Field(ge=1)] = 64
    temperature: Annotated[float, Field(ge=0)] = 0.0


class _Config(_Decoding):
    """What is read of a ``config.yaml``; the rest is only shown."""

    model: Any = None
    seed: int | None = None
    env: _Decoding | None = None
    split: str = "test"
    first: int = 0


class _Report(Checked):
    """What is read of Learn2PD's ``report.json``."""

    minutes_to_collect_and_train: Annotated[float, Field(ge=0)] | None = None


@dataclass(frozen=True)
class Run:
    """What one run's folder, or file of records, holds.

    Attributes:
        name: unique in a comparison.
        source: as the user gave it, a path or that of a run on W&B.
        path: where its files are.
        kind: "PPO", "GRPO", "Learn2PD", "evaluation" or "records".
        config: of ``config.yaml``.
        versions: of ``versions.json``.
        records: of ``evaluation.json``.
        outcomes: of ``outcomes.json``; older runs have none.
        progress: rows of ``progress.csv``.
        artifacts: the policies that a run on W&B logged.
    """

    name: str
    source: str
    path: Path
    kind: str
    config: dict[str, Any]
    versions: dict[str, str]
    records: list[Record]
    outcomes: dict[Key, Outcomes]
    progress: list[dict[str, float]]
    artifacts: Sequence[Any] = ()


@dataclass(frozen=True)
class Problems:
    """A set of problems and how they were decoded; only lines on the same are compared.

    Attributes:
        text: for people.
        buffer_length: L; None where it is not known.
    """

    text: str
    buffer_length: int | None = None


def read_runs(sources: Sequence[str], downloads: Path = DOWNLOADS) -> list[Run]:
    """Read run folders, files of records and runs on W&B; equal names are told apart by their parents.

    Args:
        sources: paths, or what `train.comparison.wandb_runs.fetch` takes.
        downloads: folder for what comes from W&B; it stays there, and is a run folder like any other.

    Raises:
        UserError: naming the first that can't be read, and why.
        ValueError: if none is given.
    """
    if not sources:
        raise ValueError("runs is empty: name one or more run folders")
    given: list[tuple[str, str, Path, Sequence[Any]]] = []
    for source in sources:
        if source.startswith(PREFIX):
            given += [(run.source, run.name, run.folder, run.artifacts) for run in fetch(source, downloads)]
        else:
            path = Path(source).parent if Path(source).name == RunFiles(Path()).evaluation.name else Path(source)
            given.append((str(path), path.resolve().name, path, ()))
    # Of a run that is given twice, the first counts; a copy that was evaluated again is another run.
    found: dict[str, tuple[str, str, Path, Sequence[Any]]] = {}
    for one in given:
        source, _, path, _ = one
        key = identity(path)
        first = found.get(key)
        if first is not None and not source.startswith(PREFIX) and not first[0].startswith(PREFIX):
            key = key if _evaluation_of(path) == _evaluation_of(first[2]) else str(path.resolve())
        if key in found and path.resolve() != found[key][2].resolve():
            tell("left out", f"{source}, which is the run {found[key][0]} again")
        found.setdefault(key, one)
    names = [name for _, name, _, _ in found.values()]
    return [
        read_run(path, name if names.count(name) == 1 else source, source, artifacts)
        for source, name, path, artifacts in found.values()
    ]


def _evaluation_of(path: Path) -> bytes:
    """Return a run's file of records as it lies there; nothing without one."""
    file = RunFiles(path).evaluation
    return file.read_bytes() if file.is_file() else b""


def identity(path: Path) -> str:
    """Return what tells a run from all others: its id on W&B, where it may be read from too, or its folder."""
    id_file = RunFiles(path).wandb_id
    try:
        known = read_text(id_file).strip() if id_file.is_file() else ""
        return known or str(path.resolve())
    except ValueError as error:
        raise UserError(f"{str(id_file)!r} can't be read: {error}") from error


def read_run(path: Path, name: str, source: str, artifacts: Sequence[Any] = ()) -> Run:
    """Read one run.

    Raises:
        UserError: if it has no records, or any of its files is damaged.
    """
    if not path.exists():
        raise UserError(f"run is {source!r}: there is no such folder or file")
    records = read_records(path)
    if not any(record["task"] == "all" for record in records):
        raise UserError(f"run is {source!r}: its evaluation has no record of all tasks; was it killed?")
    config = _read_config(RunFiles(path).config)
    outcomes = read_outcomes(path) if path.is_dir() else {}
    own = {key_of(record): record for record in records if record["task"] == "all"}
    for key, entry in outcomes.items():
        # One evaluation wrote both; otherwise one of them is left from another.
        if key in own and abs(float(np.mean(entry["score"])) - own[key]["accuracy"]) > 1e-9:
            raise UserError(
                f"run is {source!r}: its outcomes.json and evaluation.json disagree on {key[0]}; evaluate it again"
            )
    versions = {name: value for name, value in _read(RunFiles(path).versions).items() if name != "starts"}
    if not isinstance(versions.get("commit"), str | None):
        file = str(RunFiles(path).versions)
        raise UserError(f"{file!r} can't be read: its commit is {show(versions['commit'])}, which must be a text")
    progress = read_progress(path)
    return Run(name, source, path, _kind(config), config, versions, records, outcomes, progress, artifacts)


def _read_config(file: Path) -> dict[str, Any]:
    found = _read(file)
    try:
        form: _Config = check(_Config, found)
        if not isinstance(form.model, str | None):
            check(_Model, form.model, "model")
        # The policies that an evaluation names; a training run has a section of that name.
        if _kind(found) == "evaluation":
            check(list[str], found.get("policy", []), "policy")
    except ValueError as error:
        raise UserError(f"{str(file)!r} can't be read: {error}") from error
    return found


def _read(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = read_settings(file)
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} can't be read: {error}") from error
    return {key: _without_points(value) for key, value in found.items()}


def _without_points(value: Any) -> Any:
    """Write 10.0 as 10, in all that a configuration holds: W&B does, and the same setting should look the same."""
    if isinstance(value, dict):
        return {key: _without_points(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_points(inner) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


KINDS = {"ppo": "PPO", "grpo": "GRPO", "false_commit_weight": "Learn2PD", "episodes": "evaluation"}
"""Kinds of runs by a field that only their configuration has."""


def _kind(config: Mapping[str, Any]) -> str:
    return next((kind for key, kind in KINDS.items() if key in config), "records")


def training_seconds(run: Run) -> float | None:
    """Return the wall time that a run recorded of its training, resumptions added up."""
    if run.kind == "Learn2PD":
        file = RunFiles(run.path).report
        try:
            report: _Report = check(_Report, _read(file))
        except ValueError as error:
            raise UserError(f"{str(file)!r} can't be read: {error}") from error
        minutes = report.minutes_to_collect_and_train
        return None if minutes is None else 60 * minutes
    elapsed = [row[ELAPSED] for row in run.progress if ELAPSED in row]
    if not elapsed:
        return None
    # Each resumption counts from 0 again.
    ends = [before for before, after in itertools.pairwise(elapsed) if after < before]
    return sum(ends) + elapsed[-1]


def problems_of(run: Run) -> Problems:
    """Return which problems a run was evaluated on, as far as its configuration says."""
    config, tasks = run.config, [r for r in run.records if r["task"] != "all"]
    names = list(dict.fromkeys(record["task"] for record in tasks))
    episodes = (tasks or run.records)[0]["episodes"]
    if run.kind == "records":
        counted = "" if all(record.get("early_end", True) for record in run.records) else ", no early end"
        return Problems(f"{episodes} problems a task of {', '.join(names) or 'all tasks'} in {run.source}{counted}")
    model = config.get("model", "tiny")
    env = config.get("env") or config
    length, temperature = int(env.get("buffer_length", 64)), float(env.get("temperature", 0.0))
    name = model.get("name", "tiny") if isinstance(model, dict) else model or "tiny"
    text = (
        f"{episodes} {config.get('split', 'test')} problems a task, from number {config.get('first', 0)}, of "
        f"{', '.join(names)}; dLLM {name}, L = {length}, temperature {temperature:g}"
    )
    if config.get("samples", 1) > 1:
        text += f", {config['samples']} samples each"
    text += what_differs(env)
    return Problems(text, length)


def fingerprint(run: Run) -> str:
    """Return what replicates share: the configuration without `NOT_COMPARED`."""
    return json.dumps({k: v for k, v in run.config.items() if k not in NOT_COMPARED}, sort_keys=True, default=str)


def flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Name nested values by their path.

    >>> flatten({"a": {"b": 1}, "c": [2]})
    {'a.b': 1, 'c': '[2]'}
    """
    found: dict[str, Any] = {}
    for key, value in values.items():
        if isinstance(value, dict) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[prefix + key] = value if isinstance(value, bool | int | float | str | None) else str(value)
    return found


MISSING = "—"
"""Stands for a setting that a run doesn't have; that is not null, as an older run may lack the field."""


def differing(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return the names of the settings in which some runs differ, in the order in which they come.

    >>> differing([{"seed": 0, "alpha": 8, "cache": None}, {"seed": 0, "alpha": 9}])
    ['alpha', 'cache']
    """
    names = dict.fromkeys(itertools.chain.from_iterable(settings))
    # As texts: equal values of other types (1 and True) were written differently.
    return [name for name in names if len({repr(values.get(name, MISSING)) for values in settings}) > 1]


def policy_folders(run: Run) -> dict[str, Path]:
    """Return the folders of the learned policies that a run evaluated, by the names in its records."""
    if run.kind != "evaluation":
        return {}
    try:
        texts = [text for text in run.config.get("policy", []) if text != "all" and is_folder(text)]
        names = run_names(split_setting(text)[0] for text in texts)
    except ValueError as error:
        raise UserError(f"run is {run.source!r}: its config.yaml names a policy that none can be: {error}") from error
    return {str(PolicyName(LEARNED, name)): Path(folder) for folder, name in names.items()}


def training_run(run: Run, policy: str) -> Run | None:
    """Return the run that trained a policy of this run's records, where its folder can still be read."""
    if run.kind in ("PPO", "GRPO", "Learn2PD"):
        return run
    folder = policy_folders(run).get(policy)
    if folder is None:
        return None
    # A policy lies in RUN/policy, a filter in RUN/filters/NAME.
    path = folder.parent if folder.name == "policy" else folder.parent.parent
    config = RunFiles(path).config
    if not os.path.isfile(config):  # unlike Path's, False for what no name can be
        return None
    found = _read_config(config)
    return Run(path.resolve().name, str(path), path, _kind(found), found, {}, [], {}, read_progress(path))
