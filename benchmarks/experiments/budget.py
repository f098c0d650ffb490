"""What forwards of the dLLM buy in a training: imitation of few and of many problems, and reinforcement after it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.base import QUICK_DIAL, Experiment, Step, Summary, find, is_rule, over_seeds, provenance, table
from experiments.dial import train
from experiments.fresh import FIRST, PART
from experiments.worlds import PROSE_WORLD
from train.command.config import ROOT
from train.evaluation.measures import best_rule
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record, read_records

THRESHOLDS = (0.5, 0.7, 0.9, 0.97)
"""At which filters are looked at."""

SPEEDS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Places on a dial that are looked at."""

FORWARDS = 53
"""Of imitation in two rounds, for each problem: 12.9 and 13.6 for its reference in the two decodings, 2.2 and 3.5 under
the oracle, and some 21 in which the first filter comes to the same answers."""

QUICK_FILTER = (*QUICK_DIAL, "--filter.problems", "90")
"""Arguments that make a training with a filter short."""

COMMAND = ("train/grpo.py", "--config", "configs/grpo_prose.yaml", "--evaluation.episodes", "1")

UNTRIED = ("--evaluation.validations", "0", "--evaluation.calibration_episodes", "2")
"""Arguments of a training whose last weights count."""


@dataclass(frozen=True)
class Amount:
    """How much a training learns from.

    Attributes:
        wording: in the tables.
        problems: that its filter imitates.
        steps: of reinforcement after it; None leaves its dial out, which learns for an update only.
        seeds: that it is done with.
        flags: what the command is told beside the configuration.
        start: training of the same seeds whose filter it starts from; empty learns its own.
    """

    wording: str
    problems: int
    steps: int | None
    seeds: Sequence[int]
    flags: Sequence[str]
    start: str = ""


AMOUNTS = {
    "few": Amount(
        "576 problems",
        576,
        98_304,
        (0, 1),
        ("--filter.problems", "576", "--filter.threshold", "0.9"),
    ),
    "many": Amount(
        "1,728 problems", 1728, None, (0,), ("--filter.problems", "1728", "--filter.threshold", "0.9", *UNTRIED)
    ),
    "both": Amount("1,728 problems", 1728, 49_152, (0,), ("--filter.threshold", "0.7", *UNTRIED), start="many"),
}
"""Trainings by the name of their folders."""


def _training(name: str, seed: int) -> Step:
    amount = AMOUNTS[name]
    start = f"{{out}}/prose_budget/{amount.start}_s{seed}/filter" if amount.start else None
    flags = ("--total_timesteps", str(amount.steps or 2048), *amount.flags)
    words = train(COMMAND, start, "--seed", str(seed), "--evaluation.rules", "[]", *flags)
    return Step(f"prose_budget/{name}_s{seed}", words, QUICK_DIAL if amount.start else QUICK_FILTER)


def _evaluation(name: str, seed: int) -> Step:
    amount, folder = AMOUNTS[name], f"{{out}}/{_training(name, seed).folder}"
    policies = [] if amount.start else [f"{folder}/filter@{threshold:g}" for threshold in THRESHOLDS]
    if amount.steps:
        policies += [f"{folder}/policy@speed={speed:g}" for speed in SPEEDS]
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
        """Keep each place beside the cheapest rule that is as accurate.

        What the rules do on these problems is taken from the published results of `experiments.fresh`.
        """
        fresh = json.loads((ROOT / "benchmarks" / "results" / "prose_fresh.json").read_text())["blocks"]["full"]
        rules = [
            {"policy": policy, "accuracy": accuracy, "nfe": nfe}
            for policy, accuracy, nfe in fresh["others"]
            if is_rule(policy)
        ]
        rows = []
        for name, amount in AMOUNTS.items():
            suites = [
                find(read_records(out / f"prose_budget/{name}_s{seed}_places"), task="all") for seed in amount.seeds
            ]
            forwards = FORWARDS * amount.problems
            if not amount.start:
                about = {"wording": amount.wording, "forwards": forwards}
                rows.append({**about, "places": _places(suites, THRESHOLDS, rules, "filter")})
            if amount.steps:
                about = {"wording": f"{amount.wording}, then GRPO", "forwards": forwards + amount.steps}
                rows.append({**about, "places": _places(suites, SPEEDS, rules, "dial")})
        return {"rows": rows, "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        parts = []
        for kind, columns in (("filter", THRESHOLDS), ("dial", SPEEDS)):
            rows = [row for row in summary["rows"] if row["places"][0]["kind"] == kind]
            lines = [
                [row["wording"], f"{row['forwards']:,}", *(_cell(place) for place in row["places"])] for row in rows
            ]
            what = "at" if kind == "filter" else "speed"
            parts.append(table(["learned from", "forwards", *(f"{what} {value:g}" for value in columns)], lines))
        filters, dials = parts
        return f"""{PART} problems a task from number {FIRST} on, full diffusion; accuracy in %, forwards an answer, and
in brackets their share of those of the cheapest rule above that is at most half a point less accurate, or of the most
accurate one. ± is the 95 % Student interval of two seeds, which is wide; without it, there is one. Forwards are those
of one sequence that the training took. **Filters of two rounds alone:**

{filters}

**A dial that starts from one:**

{dials}"""


def _places(
    suites: Sequence[Sequence[Record]], settings: Sequence[float], rules: Sequence[Record], kind: str
) -> list[Summary]:
    """Return what each seed does at each setting, and the forwards of the cheapest rule that is as accurate."""
    found = []
    for setting in settings:
        wanted = f"{setting:g}" if kind == "filter" else f"speed={setting:g}"
        records = [
            next(record for record in suite if PolicyName.read(record["policy"]).setting == wanted) for suite in suites
        ]
        found.append(
            {
                "kind": kind,
                "setting": setting,
                "accuracy": [record["accuracy"] for record in records],
                "nfe": [record["nfe"] for record in records],
                "rules_nfe": [best_rule(rules, record["accuracy"])["nfe"] for record in records],
            }
        )
    return found


def _cell(place: Summary) -> str:
    accuracy = over_seeds([100 * value for value in place["accuracy"]])
    shares = over_seeds([own / rule for own, rule in zip(place["nfe"], place["rules_nfe"], strict=True)], 2)
    return f"{accuracy} in {over_seeds(place['nfe'], 2)} ({shares})"
