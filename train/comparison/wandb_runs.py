"""Runs of Weights & Biases, read back as run folders.

``wandb:ENTITY/PROJECT/RUN_ID`` is one run, ``wandb:ENTITY/PROJECT?group=NAME`` are those of a group that hold an
evaluation. `wandb.Api` returns the configuration, the history and the logged policies; the records and what became of
each problem come from the files that a tracker sends with a run (`train.tracking.tracker.files_along`). They are files
of the run, not an artifact: an artifact that is logged offline has no address until it is synced, and one request finds
a run's files by name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from train.command.config import to_yaml
from train.command.errors import UserError
from train.command.files import write_atomic
from train.command.run_files import RunFiles
from train.tracking.history import STEP, write_rows
from train.tracking.tracker import files_along

EVALUATION = RunFiles(Path()).evaluation.name

PREFIX = "wandb:"
"""What a run's path begins with."""

DOWNLOADS = Path("runs/from_wandb")
"""Where runs are read to, as ENTITY/PROJECT/RUN_ID."""

MAX_ROWS = 100_000
"""Of a history; W&B samples longer ones."""


@dataclass(frozen=True)
class FetchedRun:
    """One run of Weights & Biases.

    Attributes:
        source: its path.
        name: that W&B shows.
        folder: where its files are now.
        artifacts: the policies it logged, as `wandb.Api` returns them.
    """

    source: str
    name: str
    folder: Path
    artifacts: list[Any]


def fetch(source: str, place: Path) -> list[FetchedRun]:
    """Read one run, or a group, into folders.

    Args:
        source: a path, as in the module's description.
        place: folder for them, such as `DOWNLOADS`; what is there of an earlier time is replaced.

    Raises:
        UserError: if it is no such path, or W&B doesn't give the runs.
    """
    matched = re.fullmatch(r"([^/?]+/[^/?]+)(?:/([^/?]+)|\?group=(.+))", source.removeprefix(PREFIX))
    if matched is None:
        raise UserError(f"run is {source!r}: write {PREFIX}ENTITY/PROJECT/RUN_ID or {PREFIX}ENTITY/PROJECT?group=NAME")
    import wandb

    project, run_id, group = matched.groups()
    try:
        api = wandb.Api()
        if run_id:
            return [_fetch_run(api.run(f"{project}/{run_id}"), project, place)]
        runs = [run for run in api.runs(project, filters={"group": group}) if list(run.files(names=[EVALUATION]))]
        found = [_fetch_run(run, project, place) for run in runs]
    except (wandb.Error, ValueError, OSError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"run is {source!r}: W&B says: {reason}") from error
    if not found:
        raise UserError(f"run is {source!r}: no run of that group holds an {EVALUATION}")
    return found


def _fetch_run(run: Any, project: str, place: Path) -> FetchedRun:
    """Write what a run's folder holds: configuration, history as progress, files, and the id."""
    folder, source = place.resolve() / project / run.id, f"{PREFIX}{project}/{run.id}"
    # A sweep's own parameters are named by their path; they are in the configuration proper, too.
    write_atomic(RunFiles(folder).config, to_yaml({k: v for k, v in run.config.items() if "." not in k}))
    write_atomic(RunFiles(folder).wandb_id, run.id + "\n")
    rows: dict[float, dict[str, float]] = {}
    for row in run.history(samples=MAX_ROWS, pandas=False):
        # W&B's own columns, such as _step and _runtime, begin with an underscore.
        numbers = {k: v for k, v in row.items() if isinstance(v, int | float) and not k.startswith("_")}
        if STEP in numbers:
            # A resumed run repeats what came after its checkpoint: the later value holds. And W&B gives what is logged
            # without a step, such as a table, the step before it.
            rows.setdefault(numbers[STEP], {}).update(numbers)
    if rows:
        write_rows(RunFiles(folder).progress, [rows[step] for step in sorted(rows)])
    for file in run.files(names=[file.name for file in files_along(folder)]):
        file.download(root=str(folder), replace=True).close()
    if not RunFiles(folder).evaluation.is_file():
        raise UserError(f"run is {source!r}: it holds no {EVALUATION}; is it a finished run of this library?")
    return FetchedRun(source, run.name, folder, _policies(run))


def logged_policies(path: str) -> list[Any]:
    """Return the policies that a run logged, as `wandb.Api` gives them; none if W&B has no such run.

    Args:
        path: ENTITY/PROJECT/RUN_ID.
    """
    import wandb

    try:
        return _policies(wandb.Api().run(path))
    except (wandb.Error, ValueError):
        return []  # it was never synced, or to another project


def _policies(run: Any) -> list[Any]:
    return [artifact for artifact in run.logged_artifacts() if artifact.type == "policy"]
