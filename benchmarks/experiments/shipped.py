"""The policy that ships for the prose world, two more seeds of its training, and the rules, on many fresh problems."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from experiments.base import SEEDS, Step, Summary, find, percent
from experiments.budget import Budget, longest_trainings
from experiments.fresh import DECODINGS, ORACLE, PART, Fresh
from experiments.worlds import PROSE_WORLD
from train.evaluation.records import read_records


class Shipped(Fresh):
    """`policies.load("small")`, which is the first seed's, two more, and the rules."""

    name = "prose_shipped"
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

    def steps(self) -> list[Step]:
        """Evaluate dials, rules and one token per step, and the oracle on a part of the problems."""
        found = super().steps()
        for name, decoding in DECODINGS.items():
            flags = (*decoding.flags, *self.flags)
            command = PROSE_WORLD.evaluation([ORACLE], (decoding.block,), *flags, first=self.first, episodes=PART)
            found.append(Step(f"{self.name}/oracle_{name}", command, ("--episodes", "1")))
        return found

    def summarise(self, out: Path) -> Summary:
        """Compare each seed with the rules, and keep what the oracle does."""
        summary = super().summarise(out)
        for name, found in summary["blocks"].items():
            [oracle] = find(read_records(out / self.name / f"oracle_{name}"), task="all")
            found["oracle"] = {"accuracy": oracle["accuracy"], "nfe": oracle["nfe"]}
        return summary

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        oracles = " and ".join(
            f"{percent(found['oracle']['accuracy'])} % in {found['oracle']['nfe']:.2f} in {DECODINGS[name].wording}"
            for name, found in summary["blocks"].items()
        )
        return f"""{super().markdown(summary)}

The oracle, on the first {PART} problems a task alone: {oracles}."""

    def preface(self) -> str:
        """Say what is held against what, on which problems."""
        return f"""`policies.load("small")`, which is seed 0, two more seeds of its training, and {len(self.rules)}
settings of rules that came near the frontier before, with the dLLM in bfloat16, on problems from number {self.first}
on, which were looked at when all was chosen."""
