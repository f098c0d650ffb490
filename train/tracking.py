"""Where a run's numbers go: Weights & Biases (offline unless asked), and a CSV file that survives a resume."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import shutil
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
from stable_baselines3.common.logger import KVWriter

from train import parallel
from train.headline import headline, is_learned
from train.records import Key, Outcomes, Record, read_outcomes
from train.run_folder import UserError, write_atomic

STEP = "time/total_timesteps"
"""The metric that every other is plotted against: environment steps."""


Mode = Literal["offline", "online", "disabled"]

PROJECT = "unmasking-policies"
"""Where runs go unless told otherwise."""

FILES = ("evaluation.json", "outcomes.json", "versions.json", "report.json")
"""Files of a run's folder that go along, so that `train.comparison.wandb_runs` can read the run back."""


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; offline runs need no account and can be sent later with `wandb sync`.

    A flag beats the ``WANDB_*`` variable, which beats the default. ``WANDB_DIR`` and, unless a run is resumed,
    ``WANDB_RUN_ID`` count too.
    """

    mode: Mode | None = None
    """offline writes to the run's folder, online sends (after `wandb login`), disabled does nothing; null takes
    WANDB_MODE, else offline for training and disabled for what only reads runs."""
    project: str | None = None
    """Project to file the run under; null takes WANDB_PROJECT, else unmasking-policies."""
    entity: str | None = None
    """User or team; null takes WANDB_ENTITY, else the account's default."""
    group: str | None = None
    """Runs to be compared as one, such as the seeds of a setting; null takes WANDB_RUN_GROUP."""
    job_type: str | None = None
    """Kind of run; null takes WANDB_JOB_TYPE, else what the program does: train, evaluate, compare."""
    name: str | None = None
    """What the run is called; null takes WANDB_NAME, else the name of its folder."""
    tags: list[str] = field(default_factory=list)
    """Labels to filter by; an empty list takes WANDB_TAGS, separated by commas."""


def chosen_mode(config: WandbConfig, default: Mode = "offline") -> Mode:
    """Return the mode that holds: the flag's, else WANDB_MODE, else the default.

    Raises:
        UserError: if WANDB_MODE is none of them.
    """
    mode = config.mode or os.environ.get("WANDB_MODE") or default
    for known in get_args(Mode):
        if mode == known:
            return known  # type: ignore[no-any-return]
    raise UserError(f"WANDB_MODE is {mode!r}: choose one of {', '.join(get_args(Mode))}")


class Tracker:
    """One run on Weights & Biases; everything is a no-op when disabled.

    Args:
        config: the wandb section of the configuration.
        folder: the run's folder; wandb's files and the run's id go there.
        settings: the resolved configuration, logged with the run.
        job_type: "train", "evaluate", ... unless the configuration or the environment says otherwise.
        default_mode: likewise.

    Raises:
        UserError: if wandb can't start: no login, no network, a setting or a variable that it refuses.
    """

    def __init__(
        self,
        config: WandbConfig,
        folder: Path,
        settings: Mapping[str, Any],
        job_type: str,
        default_mode: Mode = "offline",
    ) -> None:
        import wandb

        self._wandb = wandb
        self.folder = folder
        mode = chosen_mode(config, default_mode)
        id_file = folder / "wandb_id.txt"
        made = os.environ.get("WANDB_RUN_ID") or uuid.uuid4().hex[:8]
        run_id = id_file.read_text().strip() if id_file.is_file() else made
        try:
            self.run = wandb.init(
                project=config.project or os.environ.get("WANDB_PROJECT") or PROJECT,
                entity=config.entity,  # wandb reads WANDB_ENTITY, WANDB_RUN_GROUP and WANDB_TAGS where these are None
                group=config.group,
                tags=config.tags or None,
                name=config.name or os.environ.get("WANDB_NAME") or folder.resolve().name,
                job_type=config.job_type or os.environ.get("WANDB_JOB_TYPE") or job_type,
                dir=None if os.environ.get("WANDB_DIR") else folder,
                config=dict(settings),
                mode=mode,
                id=run_id,
                resume="allow" if mode == "online" else None,
                settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
            )
        except (wandb.Error, OSError, ValueError) as error:
            reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
            raise UserError(
                f"wandb.mode is {mode!r}, but W&B can't start ({reason}): log in with `wandb login`, check the WANDB_* "
                "variables, or pass --wandb.mode offline or disabled"
            ) from error
        if self.run.disabled:
            return
        write_atomic(id_file, run_id + "\n")
        self.run.define_metric(STEP)
        self.run.define_metric("*", step_metric=STEP)
        # Beside the last value: what the policy once reached says whether training went too far.
        self.run.define_metric("rollout/score", step_metric=STEP, summary="last,max")
        self.run.define_metric("rollout/nfe", step_metric=STEP, summary="last,min")

    @property
    def place(self) -> str:
        """Where the run is, for people: its address, or how to send it."""
        if self.run.disabled:
            return "disabled"
        folder = Path(self.run.dir).parent
        return f"offline; send it with: wandb sync {folder}" if self.run.offline else f"online, {self.run.url}"

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Log numbers; they must hold `STEP`."""
        self.run.log(dict(metrics))

    def finish(self, records: Sequence[Record], plot: Path, *policies: Path) -> None:
        """Log an evaluation, its plot and the exported policies, and close the run.

        Args:
            records: of ``evaluation.json``.
            plot: a PNG file.
            *policies: folders that `policies.save` wrote.
        """
        if self.run.disabled:
            self.run.finish()
            return
        outcomes = read_outcomes(self.folder)
        # Some records have more to say than others.
        columns = list(dict.fromkeys(name for record in records for name in record))
        values = [[record.get(name) for name in columns] for record in records]
        rows = [[str(v) if isinstance(v, list) else v for v in row] for row in values]
        self.run.log({"evaluation": self._wandb.Table(columns=columns, data=rows)})
        self.run.log({"pareto": self._wandb.Image(str(plot))})
        self.run.summary.update({f"eval/{name}": value for name, value in headline(records, outcomes).items()})
        for name in FILES:
            if (self.folder / name).is_file():
                # A copy, because wandb would leave a link, and a run is often moved before it is synced.
                shutil.copyfile(self.folder / name, Path(self.run.dir) / name)
                self.run.save(f"{self.run.dir}/{name}", base_path=self.run.dir, policy="now")
        for policy in policies:
            own = records if len(policies) == 1 else _without_others(records, policy.name)
            self.run.log_artifact(policy_artifact(policy, own, outcomes), aliases=["latest", _allowed(self.run.name)])
        self.run.finish()

    def abandon(self) -> None:
        """Close the run after a failure; what was logged is kept."""
        self.run.finish(exit_code=1)


def policy_artifact(policy: Path, records: Sequence[Record], outcomes: Mapping[Key, Outcomes]) -> Any:
    """Make an artifact of an exported policy, with its training and its evaluation as metadata.

    The name is that of the dLLM (and the filter), the same in all runs of a project, so that versions line up.

    Args:
        policy: a folder that `policies.save` wrote.
        records: of the policy, and of rules on the same problems.
        outcomes: of them, problem by problem, where they were kept.
    """
    import wandb

    trained = json.loads((policy / "config.json").read_text()).get("trained") or {}
    parts = ["policy", Path(str(trained.get("model", ""))).name, "" if policy.name == "policy" else policy.name]
    metadata = {"evaluation": headline(records, outcomes), "trained": trained}
    artifact = wandb.Artifact(_allowed("-".join(part for part in parts if part)), type="policy", metadata=metadata)
    for file in sorted(policy.iterdir()):
        artifact.add_file(str(file))
    return artifact


def _without_others(records: Sequence[Record], name: str) -> list[Record]:
    """Return the records of one of several learned policies, and of the rules."""
    others = [r for r in records if is_learned(r) and r["policy"].partition("@")[0] != f"learned:{name}"]
    return [record for record in records if record not in others]


def _allowed(name: str) -> str:
    """Replace what W&B allows in no name or alias of an artifact.

    >>> _allowed("runs/a:b s0")
    'runs_a_b_s0'
    """
    return re.sub(r"[^\w.-]", "_", name)


class TrackerWriter(KVWriter):
    """Sends what Stable-Baselines3 logs to a `Tracker`."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Send one update's numbers."""
        numbers = {key: float(v) for key, v in key_values.items() if isinstance(v, int | float | np.number)}
        self.tracker.log({**numbers, STEP: step})


class MeanWriter(KVWriter):
    """Hands numbers on as their means over the processes of a data-parallel training.

    Args:
        writers: what they go to; none in processes beside the first.
    """

    def __init__(self, writers: Sequence[KVWriter]) -> None:
        self.writers = writers

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Average one update's numbers and write them."""
        means = parallel.mean(key_values)
        for writer in self.writers:
            writer.write(means, key_excluded, step)


class ProgressWriter(KVWriter):
    """Keeps ``progress.csv`` whole: rows of a resumed run follow those it already holds.

    Args:
        file: the CSV file.
        upto: rows after this many environment steps are dropped (they came after the checkpoint resumed from).
    """

    def __init__(self, file: Path, upto: int = 0) -> None:
        self.file = file
        self.rows: list[dict[str, Any]] = []
        if file.is_file():
            rows = csv.DictReader(io.StringIO(file.read_text()))
            self.rows = [dict(row) for row in rows if int(row[STEP]) <= upto]

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Add one update's row and rewrite the file."""
        self.rows.append({**key_values, STEP: step})
        write_rows(self.file, self.rows)


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; a column for every name that any of them has."""
    text = io.StringIO()
    writer = csv.DictWriter(text, sorted({key for row in rows for key in row}), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(file, text.getvalue())
