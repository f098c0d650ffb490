"""What an experiment leaves whose commands have all run."""

from __future__ import annotations

from pathlib import Path

from experiments.base import Experiment, marker

from train.command.files import write_json


def finish(experiment: Experiment, out: Path) -> None:
    """Write what every finished step of an experiment leaves, whatever its run."""
    for step in experiment.steps():
        # Resumed at another commit.
        starts = [{"at": "then"}, {"at": "later", "commit": "d"}]
        write_json(out / step.folder / "versions.json", {"commit": "c", "machine": "m", "starts": starts})
        write_json(marker(out, step), {"command": [], "seconds": 60})
