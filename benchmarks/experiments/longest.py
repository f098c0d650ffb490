"""The longest trainings after filters that read no hidden states, and the rules, on many fresh problems."""

from __future__ import annotations

from collections.abc import Sequence

from experiments.base import SEEDS, Step
from experiments.budget import Budget, longest_trainings
from experiments.fresh import Fresh


class Longest(Fresh):
    """Three seeds of the longest training of the budget, and the rules."""

    name = "prose_longest"
    first = 2000
    parts = 4
    rules: Sequence[str] = (
        *("threshold:0.9", "threshold:0.95", "threshold:0.98"),
        *("eb_sampler:0.01", "eb_sampler:0.02", "eb_sampler:0.05", "eb_sampler:0.1"),
        *("credit:0.9", "factor:0.5", "ete:0.8", "ete:0.85", "dawn:0.85"),
    )
    others: Sequence[str] = ()
    flags: Sequence[str] = ("--model.dtype", "bfloat16")
    has_oracle = False

    def dials(self) -> list[Step]:
        """Return the longest trainings of the budget, one a seed."""
        return [longest_trainings()[seed] for seed in SEEDS]

    def before(self) -> list[Step]:
        """Return all that comes before the evaluation, with the trainings."""
        return Budget().steps()

    def preface(self) -> str:
        """Say what is held against what, on which problems."""
        return f"""Three seeds of the last line above, and {len(self.rules)} settings of rules that came near the
frontier before, with the dLLM in bfloat16, on problems from number {self.first} on, which were looked at when all was
chosen."""
