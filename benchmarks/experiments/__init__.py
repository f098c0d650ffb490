"""The experiments behind ``docs/results``, one file each (or one family)."""

from __future__ import annotations

from experiments.ablations import Ablations
from experiments.algorithms import Algorithms
from experiments.base import Experiment, Step, Summary
from experiments.budget import Budget
from experiments.caching import Caching
from experiments.caching_ahead import CachingAhead
from experiments.dial import Dial
from experiments.end_of_text import EndOfText
from experiments.every_rule import EveryRule
from experiments.fresh import Fresh
from experiments.learn2pd_filters import Filters, FilterStart
from experiments.longest import Longest
from experiments.main_job import FirstRun, MainJob
from experiments.recipes import Recipes
from experiments.serving import Serving
from experiments.shipped import Shipped
from experiments.transfer import Transfer
from experiments.worlds import LIST_WORLD, PROSE_WORLD

__all__ = ["EXPERIMENTS", "Experiment", "Step", "Summary"]

EXPERIMENTS: dict[str, Experiment] = {
    experiment.name: experiment
    for experiment in (
        *(FirstRun(), MainJob(), EveryRule(LIST_WORLD), EveryRule(PROSE_WORLD), Filters(), FilterStart()),
        *(Dial(PROSE_WORLD), Fresh(), Recipes(), Budget(), Longest(), Shipped(), Caching(), CachingAhead()),
        *(Dial(LIST_WORLD), Transfer(), EndOfText(), Algorithms(), Ablations(), Serving()),
    )
}
"""Every experiment by name, in the order they run; a new one is one class and one word here."""
