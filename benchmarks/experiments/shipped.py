"""The policy that ships for the prose world, two more seeds of its training, and the rules, on many fresh problems."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from experiments.base import SEEDS, Step, Summary, find, over_seeds, percent, table
from experiments.budget import Budget, longest_trainings
from experiments.fresh import DECODINGS, ONE, ORACLE, PART, Fresh
from experiments.plots import plot_frontiers
from experiments.worlds import PROSE_WORLD
from train.evaluation.naming import LEARNED, PolicyName
from train.evaluation.records import Record, read_records

PLACE = 0.125
"""Place on the dials that is shown task by task: the fastest that is within a point of one token per step."""

SHOWN = (PLACE, 0.25)
"""Places that the README shows."""

MOST_FORWARDS = 16
"""That are drawn: one token per step is far to the right."""


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
        """Compare each seed with the rules, in all and task by task, and keep what the oracle does."""
        summary = super().summarise(out)
        for name, found in summary["blocks"].items():
            [oracle] = find(read_records(out / self.name / f"oracle_{name}"), task="all")
            found["oracle"] = {"accuracy": oracle["accuracy"], "nfe": oracle["nfe"]}
            parts = [read_records(out / self.name / f"{name}{part}") for part in range(self.parts)]
            dials = [str(PolicyName(LEARNED, dial, f"speed={PLACE:g}")) for dial in self.names()]
            found["tasks"] = _by_task(parts, {"dials": dials, "rule": [found["nearly"][0]["rule"]], "one": [ONE]})
        return summary

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        oracles = " and ".join(
            f"{percent(found['oracle']['accuracy'])} % in {found['oracle']['nfe']:.2f} in {DECODINGS[name].wording}"
            for name, found in summary["blocks"].items()
        )
        by_task = "\n\n".join(
            f"**By task** in {DECODINGS[name].wording}, at {PLACE:g}, beside the rule above and one token per step:\n\n"
            + _task_table(found["tasks"], found["nearly"][0]["rule"])
            for name, found in summary["blocks"].items()
        )
        return f"""![Accuracy against forwards](../images/{self.name}.png)

{super().markdown(summary)}

{by_task}

The oracle, on the first {PART} problems a task alone: {oracles}."""

    def headline(self, summary: Summary) -> str:
        """Set two places on the dials beside the cheapest rule that is as accurate, in full diffusion."""
        found = summary["blocks"]["full"]
        rows = [
            [
                f'**what ships**, `policies.load("small")`, at `speed={place["speed"]:g}`',
                over_seeds([100 * value for value in place["accuracy"]]),
                over_seeds(place["nfe"], 2),
                over_seeds(place["share"], 2),
            ]
            for place in found["places"]
            if place["speed"] in SHOWN
        ]
        rule = found["nearly"][0]["rule"]
        [(_, accuracy, nfe)] = [one for one in found["others"] if one[0] == rule]
        about = f"`{rule}`, the cheapest setting of a published rule within a point of the next line"
        rows.append([about, percent(accuracy), f"{nfe:.2f}", ""])
        forwards = np.mean([groups["one"]["nfe"] for groups in found["tasks"].values()])
        rows.append(["one token per step", percent(found["one"]), f"{forwards:.0f}", ""])
        columns = ["decided by", "right %", "forwards an answer", "of the rules'"]
        return table(columns, rows)

    def draw(self, summary: Summary, folder: Path) -> None:
        """Draw seeds, rules and the oracle in both decodings."""
        panels = {}
        for name, found in summary["blocks"].items():
            rules = [(nfe, accuracy) for _, accuracy, nfe in found["others"]]
            places = [list(zip(place["nfe"], place["accuracy"], strict=True)) for place in found["places"]]
            panels[DECODINGS[name].wording] = {
                "published rules": [rules],
                "what ships, three seeds": list(zip(*places, strict=True)),
                f"the oracle, {PART} problems a task": [[(found["oracle"]["nfe"], found["oracle"]["accuracy"])]],
            }
        plot_frontiers(panels, MOST_FORWARDS, folder / f"{self.name}.png")

    def preface(self) -> str:
        """Say what is held against what, on which problems."""
        return f"""`policies.load("small")`, which is seed 0, two more seeds of its training, and {len(self.rules)}
settings of rules that came near the frontier before, with the dLLM in bfloat16, on problems from number {self.first}
on, which were looked at when all was chosen."""


def _by_task(parts: Sequence[Sequence[Record]], groups: Mapping[str, Sequence[str]]) -> Summary:
    """Return accuracy and forwards of some groups of policies on each task.

    Args:
        parts: records of each evaluation, of as many problems.
        groups: names of policies.
    """

    def means(policies: Sequence[str], task: str, field: str) -> list[float]:
        found = [[find(part, policy=policy, task=task)[0][field] for part in parts] for policy in policies]
        return [float(np.mean(values)) for values in found]

    tasks = dict.fromkeys(record["task"] for record in parts[0] if record["task"] != "all")
    return {
        task: {
            name: {field: means(policies, task, field) for field in ("accuracy", "nfe")}
            for name, policies in groups.items()
        }
        for task in tasks
    }


def _task_table(tasks: Summary, rule: str) -> str:
    """Write what the dials, the rule and one token per step do by task."""
    columns = ["task", "dial: accuracy %", "NFE", f"`{rule}`: accuracy %", "NFE", f"`{ONE}`: accuracy %", "NFE"]
    rows = []
    for task, groups in tasks.items():
        row = [task]
        for found in groups.values():
            row += [over_seeds([100 * value for value in found["accuracy"]]), over_seeds(found["nfe"], 2)]
        rows.append(row)
    return table(columns, rows)
