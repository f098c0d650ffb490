"""What forwards of the dLLM buy in a training: imitation of few and of many problems, and reinforcement after it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.base import (
    QUICK_DIAL,
    QUICK_UNTRIED,
    Experiment,
    Step,
    Summary,
    beside_rules,
    cell_of,
    find,
    provenance,
    setting_of,
    table,
)
from experiments.dial import train
from experiments.fresh import FIRST, PART, published_rules
from experiments.worlds import PROSE_WORLD, ROUNDS, prose_training
from train.evaluation.records import read_records

SPEEDS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Places on a dial that are looked at."""

COLUMNS = {
    "filter": [f"{threshold:g}" for threshold in PROSE_WORLD.filter_thresholds],
    "dial": [f"speed={speed:g}" for speed in SPEEDS],
}
"""Settings of either kind of policy, as their names say it."""

FORWARDS = 53
"""Of imitation in two rounds, for each problem: 12.9 and 13.6 for its reference in the two decodings, 2.2 and 3.5 under
the oracle, and some 21 in which the first filter comes to the same answers."""

QUICK_FILTER = ("--filter.problems", "90")
"""Arguments that make a filter soon learned."""

UNTRIED = ("--evaluation.validations", "0", "--evaluation.calibration_episodes", "2")
"""Arguments of a training whose last weights count."""

UPDATE = 2048
"""Environment steps of one update, after which a training ends whose filter alone is looked at."""


@dataclass(frozen=True)
class Amount:
    """How much a training learns from.

    Attributes:
        problems: that its filter imitates.
        threshold: of the filter, at which the second round is collected and reinforcement starts.
        steps: of reinforcement after it; None looks at the filter alone.
        seeds: that it is done with.
        start: folder of the training whose filter it starts from; empty learns its own.
        is_tried: whether it tries its policy on validation problems.
        more: what else it is told.
    """

    problems: int
    threshold: float
    steps: int | None
    seeds: Sequence[int]
    start: str = ""
    is_tried: bool = False
    more: Sequence[str] = ()


LONG = (
    *("--env.num_envs", "512", "--env.alpha_range", "[0.5, 128]", "--grpo.learning_rate", "1e-3"),
    *("--evaluation.calibration_episodes", "17", "--evaluation.validation_episodes", "34"),
    *("--evaluation.decision_thresholds", "[0.5, 0.7, 0.9]"),
)
"""Arguments of reinforcement as configs/grpo_prose_gpu.yaml has it, finished in earnest: this policy ships."""

QUICK_LONG = ("--evaluation.calibration_episodes", "1", "--evaluation.validation_episodes", "1")
"""Arguments that make its end short."""

AMOUNTS = {
    "few": Amount(576, 0.9, 98_304, (0, 1), is_tried=True),
    "many": Amount(1728, 0.9, None, (0,)),
    "both": Amount(1728, 0.7, 49_152, (0,), start="many_s0"),
    "long": Amount(1728, 0.5, 245_760, (0,), start="many_s0", more=LONG),
    "half": Amount(1728, 0.5, 245_760, (1, 2), start="many_s0", more=(*LONG, "--model.dtype", "bfloat16")),
}
"""Trainings by the name of their folders."""


def _training(name: str, seed: int) -> Step:
    amount = AMOUNTS[name]
    start = f"{{out}}/prose_budget/{amount.start}/filter" if amount.start else None
    flags = ["--seed", str(seed), "--evaluation.rules", "[]", "--filter.threshold", str(amount.threshold)]
    flags += ["--total_timesteps", str(amount.steps or UPDATE)]
    flags += () if amount.start else ("--filter.problems", str(amount.problems))
    flags += [*(() if amount.is_tried else UNTRIED), *amount.more]
    quick = [*(QUICK_DIAL if amount.is_tried else QUICK_UNTRIED), *(() if amount.start else QUICK_FILTER)]
    quick += QUICK_LONG if amount.more else ()
    return Step(f"prose_budget/{name}_s{seed}", train(prose_training(ROUNDS), start, *flags), quick)


def longest_trainings() -> dict[int, Step]:
    """Return the trainings with the most forwards, by seed."""
    most = max(amount.steps or 0 for amount in AMOUNTS.values())
    return {
        seed: _training(name, seed) for name, amount in AMOUNTS.items() if amount.steps == most for seed in amount.seeds
    }


def _evaluation(name: str, seed: int) -> Step:
    amount, folder = AMOUNTS[name], f"{{out}}/{_training(name, seed).folder}"
    policies = [] if amount.start else [f"{folder}/filter@{setting}" for setting in COLUMNS["filter"]]
    if amount.steps:
        policies += [f"{folder}/policy@{setting}" for setting in COLUMNS["dial"]]
    command = PROSE_WORLD.evaluation(policies, PROSE_WORLD.blocks[:1], first=FIRST, episodes=PART)
    return Step(f"prose_budget/{name}_s{seed}_places", command, ("--episodes", "1"))


class Budget(Experiment):
    """Filters of two rounds and what reinforcement makes of one, on the problems that nothing was chosen on."""

    name = "prose_budget"

    def steps(self) -> list[Step]:
        """Train, and look at what came of it."""
        tries = [(name, seed) for name, amount in AMOUNTS.items() for seed in amount.seeds]
        return [_training(*one) for one in tries] + [_evaluation(*one) for one in tries]

    def summarise(self, out: Path) -> Summary:
        """Keep each place beside the cheapest rule that is as accurate."""
        rules, rows = published_rules("full"), []
        for name, amount in AMOUNTS.items():
            for seed in amount.seeds:
                suite = find(read_records(out / f"prose_budget/{name}_s{seed}_places"), task="all")
                by_setting = {setting_of(record): beside_rules(record, rules) for record in suite}
                for kind, settings in COLUMNS.items():
                    about = {"kind": kind, "problems": amount.problems, "seed": seed}
                    forwards = FORWARDS * amount.problems + ((amount.steps or 0) if kind == "dial" else 0)
                    places = [by_setting[setting] for setting in settings if setting in by_setting]
                    rows += [{**about, "forwards": forwards, "places": places}] if places else []
        return {"rows": rows, "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        parts = []
        for kind, settings in COLUMNS.items():
            rows = [row for row in summary["rows"] if row["kind"] == kind]
            lines = [_line(f"seed {row['seed']}", [row]) for row in rows]
            alike = [
                [row for row in rows if row["forwards"] == forwards]
                for forwards in sorted({r["forwards"] for r in rows})
            ]
            lines += [_line(f"all {len(seeds)} seeds", seeds) for seeds in alike if len(seeds) >= 3]
            parts.append(table(["learned from", "forwards", *map(_heading, settings)], lines))
        filters, dials = parts
        return f"""{PART} problems a task from number {FIRST} on, full diffusion; accuracy in %, forwards an answer, and
in brackets their share of those of the cheapest of the
[rules tried there](prose.md#on-problems-that-nothing-was-chosen-on) that is at most half a point less accurate, or of
the most accurate one; nothing where an answer is less often right than by the fastest of these rules, as faster ones
were not tried on these problems. Forwards are those of one sequence that the training took. **Filters of two rounds
alone:**

{filters}

**Dials that GRPO learned from them**, begun at their 0.9 (576 problems), 0.7 and 0.5; the last three in rounds of 512
attempts instead of 256, at a rate of 1e-3, with alpha to 128, as a GPU's configuration has it. Seeds 1 and 2 of these
started from the filter of seed 0 and learned on the dLLM in bfloat16; these three commit where their probability is
0.5, 0.7 or 0.9, whichever earned most on validation problems. ± is a 95 % Student interval over seeds:

{dials}"""


def _line(seeds: str, rows: Sequence[Summary]) -> list[str]:
    """Return the cells of trainings that learned from as much, together."""
    first = rows[0]
    cells = [cell_of(places) for places in zip(*(row["places"] for row in rows), strict=True)]
    return [f"{first['problems']:,} problems, {seeds}", f"{first['forwards']:,}", *cells]


def _heading(setting: str) -> str:
    return setting.replace("=", " ") if "=" in setting else f"at {setting}"
