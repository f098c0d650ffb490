"""Where a run's folder has what: the one list of the files that commands share."""

from __future__ import annotations

from pathlib import Path


class RunFiles:
    """The files of a run's folder, whether they are there or not.

    Args:
        folder: the run's.
    """

    def __init__(self, folder: Path) -> None:
        self.config = folder / "config.yaml"
        """All settings; a folder that has it is a run."""
        self.command = folder / "command.txt"
        """The command line of its first start."""
        self.versions = folder / "versions.json"
        """Python, packages, machine and commit, and every start."""
        self.wandb_id = folder / "wandb_id.txt"
        """Its run at Weights & Biases."""
        self.policies = folder / "policies.json"
        """Which weights the evaluation is of."""
        self.progress = folder / "progress.csv"
        """A row an update of its training."""
        self.evaluation = folder / "evaluation.json"
        """A record of each policy, task, decision and block length."""
        self.outcomes = folder / "outcomes.json"
        """What each of them did on each problem."""
        self.plot = folder / "pareto.png"
        """The evaluation as a picture."""
        self.price = folder / "price.json"
        """What a forward costs on the machine of its training, where the reward prices milliseconds."""
        self.report = folder / "report.json"
        """What a filter's training or a comparison came to."""
