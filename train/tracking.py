"""Where a run's numbers go: Weights & Biases (offline unless asked), and a CSV file that survives a resume."""

from __future__ import annotations

import csv
import io
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from stable_baselines3.common.logger import KVWriter

from train.records import Record
from train.run_folder import write_atomic

STEP = "time/total_timesteps"
"""The metric that every other is plotted against: environment steps."""


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; offline runs need no account and can be sent later with `wandb sync`."""

    mode: Literal["offline", "online", "disabled"] = "offline"
    """offline writes to the run's folder, online sends (after `wandb login`), disabled does nothing."""
    project: str = "unmasking-policies"
    """Project to file the run under."""
    entity: str | None = None
    """User or team; None takes the account's default."""
    group: str | None = None
    """Runs to be compared as one, such as the seeds of a setting."""
    tags: list[str] = field(default_factory=list)
    """Labels to filter by."""


class Tracker:
    """One run on Weights & Biases; everything is a no-op when disabled.

    Args:
        config: the wandb section of the configuration.
        folder: the run's folder; wandb's files and the run's id go there.
        settings: the resolved configuration, logged with the run.
        job_type: "train", "evaluate", ...
    """

    def __init__(self, config: WandbConfig, folder: Path, settings: Mapping[str, Any], job_type: str) -> None:
        import wandb

        self._wandb = wandb
        id_file = folder / "wandb_id.txt"
        run_id = id_file.read_text().strip() if id_file.is_file() else uuid.uuid4().hex[:8]
        self.run = wandb.init(
            project=config.project,
            entity=config.entity,
            group=config.group,
            tags=config.tags,
            name=folder.name,
            job_type=job_type,
            dir=folder,
            config=dict(settings),
            mode=config.mode,
            id=run_id,
            resume="allow" if config.mode == "online" else None,
            settings=wandb.Settings(silent=True, console="off", disable_git=True, x_disable_stats=True),
        )
        write_atomic(id_file, run_id + "\n")
        self.run.define_metric(STEP)
        self.run.define_metric("*", step_metric=STEP)

    def log(self, metrics: Mapping[str, Any]) -> None:
        """Log numbers; they must hold `STEP`."""
        self.run.log(dict(metrics))

    def finish(self, records: Sequence[Record], plot: Path, policy: Path) -> None:
        """Log the evaluation table, the plot and the exported policy, and close the run."""
        columns = list(records[0])
        rows = [[str(v) if isinstance(v, list) else v for v in record.values()] for record in records]
        self.run.log({"evaluation": self._wandb.Table(columns=columns, data=rows)})
        self.run.log({"pareto": self._wandb.Image(str(plot))})
        for record in records:
            if record["policy"] == "learned" and record["task"] == "all":
                place = f"eval/{record['decision']}/block{record['block_length']}"
                self.run.summary[f"{place}/accuracy"] = record["accuracy"]
                self.run.summary[f"{place}/nfe"] = record["nfe"]
        artifact = self._wandb.Artifact(f"policy-{self.run.id}", type="policy", metadata={"evaluation": len(records)})
        for file in sorted(policy.iterdir()):
            artifact.add_file(str(file))
        self.run.log_artifact(artifact)
        self.run.finish()

    def abandon(self) -> None:
        """Close the run after a failure; what was logged is kept."""
        self.run.finish(exit_code=1)


class TrackerWriter(KVWriter):
    """Sends what Stable-Baselines3 logs to a `Tracker`."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Send one update's numbers."""
        numbers = {key: float(v) for key, v in key_values.items() if isinstance(v, int | float | np.number)}
        self.tracker.log({**numbers, STEP: step})


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
        columns = sorted({key for row in self.rows for key in row})
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(self.rows)
        write_atomic(self.file, text.getvalue())
