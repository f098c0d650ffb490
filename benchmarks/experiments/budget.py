"""What forwards of the dLLM buy in a training: imitation of few and of many problems, and reinforcement after it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from experiments.base import QUICK_DIAL, Experiment, Step, Summary, find, is_rule, percent, provenance, table
from experiments.dial import train
from experiments.fresh import FIRST, PART
from experiments.worlds import PROSE_WORLD
from train.command.config import ROOT
from train.evaluation.measures import TOLERANCE, best_rule
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record, read_records

THRESHOLDS = (0.5, 0.7, 0.9, 0.97)
"""At which filters are looked at."""

SPEEDS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Places on a dial that are looked at."""

FORWARDS = 53
"""Of imitation in two rounds, for each problem: 12.9 and 13.6 for its reference in the two decodings, 2.2 and 3.5 under
the oracle, and some 21 in which the first filter comes to the same answers."""

QUICK_UNTRIED = ("--total_timesteps", "1024")
QUICK_FILTER = ("--filter.problems", "90")
"""Arguments that make short a training that tries nothing on the way, and the filter before it."""

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
    quick = QUICK_UNTRIED if UNTRIED[0] in flags else QUICK_DIAL
    return Step(f"prose_budget/{name}_s{seed}", words, (*quick, *(() if amount.start else QUICK_FILTER)))


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
            forwards = FORWARDS * amount.problems
            for seed in amount.seeds:
                suite = find(read_records(out / f"prose_budget/{name}_s{seed}_places"), task="all")
                about: Summary = {"wording": amount.wording, "seed": seed, "forwards": forwards}
                if not amount.start:
                    rows.append({**about, "kind": "filter", "places": _places(suite, THRESHOLDS, rules, "")})
                if amount.steps:
                    about = {**about, "forwards": forwards + amount.steps}
                    rows.append({**about, "kind": "dial", "places": _places(suite, SPEEDS, rules, "speed=")})
        return {"rows": rows, "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        parts = []
        for kind, columns in (("filter", THRESHOLDS), ("dial", SPEEDS)):
            lines = [
                [f"{row['wording']}, seed {row['seed']}", f"{row['forwards']:,}", *map(_cell, row["places"])]
                for row in summary["rows"]
                if row["kind"] == kind
            ]
            what = "at" if kind == "filter" else "speed"
            parts.append(table(["learned from", "forwards", *(f"{what} {value:g}" for value in columns)], lines))
        filters, dials = parts
        return f"""{PART} problems a task from number {FIRST} on, full diffusion; accuracy in %, forwards an answer, and
in brackets their share of those of the cheapest rule above that is at most half a point less accurate, or of the most
accurate one; nothing where an answer is less often right than by the fastest of these rules, as faster ones were not
tried on these problems. Forwards are those of one sequence that the training took. **Filters of two rounds alone:**

{filters}

**Dials that GRPO learned from them, at their 0.9 and 0.7:**

{dials}"""


def _places(suite: Sequence[Record], settings: Sequence[float], rules: Sequence[Record], prefix: str) -> list[Summary]:
    """Return what is done at each setting, and the forwards of the cheapest rule that is as accurate, or None."""
    # Below it, rules that are faster and less accurate than these were left out, and would be the ones to compare with.
    least = min(rules, key=lambda rule: float(rule["nfe"]))["accuracy"] - TOLERANCE
    by_setting = {PolicyName.read(record["policy"]).setting: record for record in suite}
    found = []
    for record in (by_setting[f"{prefix}{setting:g}"] for setting in settings):
        rule = best_rule(rules, record["accuracy"])["nfe"] if record["accuracy"] >= least else None
        found.append({"accuracy": record["accuracy"], "nfe": record["nfe"], "rules_nfe": rule})
    return found


def _cell(place: Summary) -> str:
    share = "" if place["rules_nfe"] is None else f" ({place['nfe'] / place['rules_nfe']:.2f})"
    return f"{percent(place['accuracy'])} in {place['nfe']:.2f}{share}"
