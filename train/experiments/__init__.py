"""The experiments behind ``docs/results.md``, one file each (or one family)."""

from __future__ import annotations

from train.experiments.ablations import Ablations
from train.experiments.algorithms import Algorithms
from train.experiments.base import Experiment, Step, Summary
from train.experiments.dial import Dial
from train.experiments.end_of_text import EndOfText
from train.experiments.every_rule import EveryRule
from train.experiments.learn2pd_filters import Filters, FilterStart
from train.experiments.main_job import FirstRun, MainJob
from train.experiments.serving import Serving
from train.experiments.transfer import Transfer

__all__ = ["EXPERIMENTS", "Experiment", "Step", "Summary"]

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        *(FirstRun(), MainJob(), EveryRule(), Filters(), FilterStart()),
        *(Dial(), Transfer(), EndOfText(), Algorithms(), Ablations(), Serving()),
    )
}
"""Every experiment by name, in the order they run; a new one is one class and one word here."""
