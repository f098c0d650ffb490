"""The policy that ships for the prose world, and two more seeds of its training."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from experiments.base import QUICK_UNTRIED, SEEDS, Step, Summary, find, is_rule, over_seeds, percent, table
from experiments.dial import train
from experiments.fresh import DECODINGS, ONE, ORACLE, PART, SPEEDS, Decoded, join, of_some
from experiments.longest import Longest
from experiments.plots import plot_frontiers
from experiments.worlds import prose_training
from train.evaluation.naming import LEARNED, PolicyName
from train.evaluation.records import read_outcomes, read_records

THRESHOLDS = (0.5, 0.7, 0.9)
"""At which the filters alone are looked at."""

PLACE = 0.125
"""Place on the dials that is shown task by task: the fastest where what ships is within a point of one token a step."""

SHOWN = (PLACE, 0.25)
"""Places that the README shows."""

MOST_FORWARDS = 16
"""That are drawn: one token per step is far to the right."""

PROBLEMS = 5184
"""That each filter imitates."""

PROCESSES = 2
"""That share each training: one a core."""


def trainings() -> list[Step]:
    """Return the trainings, one a seed, each with a filter of its own."""
    command = prose_training("configs/grpo_prose.yaml")
    more = ["--filter.problems", str(PROBLEMS), "--model.dtype", "bfloat16", "--evaluation.rules", "[]"]
    quick = (*QUICK_UNTRIED, "--filter.problems", "90", "--evaluation.calibration_episodes", "1")
    return [
        Step(f"prose_shipped/s{seed}", train(command, None, "--seed", str(seed), *more), quick, processes=PROCESSES)
        for seed in SEEDS
    ]


class Shipped(Longest):
    """`policies.load("small")`, which is the first seed's, and two more, beside the same rules as those before."""

    name = "prose_shipped"

    def dials(self) -> list[Step]:
        """Return the trainings of the dials, one a seed."""
        return trainings()

    def steps(self) -> list[Step]:
        """Train dials and filters and evaluate them, and the oracle on a part of the problems.

        The rules were evaluated before.
        """
        found, problems = [*Longest().steps(), *self.dials()], self.parts * PART
        for seed, training in enumerate(self.dials()):
            places = [f"{{out}}/{training.folder}/policy@speed={s:g}" for s in SPEEDS]
            filters = [f"{{out}}/{training.folder}/filter@{t:g}" for t in THRESHOLDS]
            found += [self.evaluation(f"{name}_s{seed}", name, places, self.first, problems) for name in DECODINGS]
            found.append(self.evaluation(f"filter_s{seed}", "full", filters, self.first, problems))
        return found + [self.evaluation(f"oracle_{name}", name, [ORACLE], self.first, PART) for name in DECODINGS]

    def decoded(self, out: Path, decoding: str) -> Decoded:
        """Read what these did, and the rules before."""
        found = Longest().decoded(out, decoding).only(is_rule)
        for seed, dial in enumerate(self.names()):
            found = found.beside(self._seed(out, f"{decoding}_s{seed}", dial))
        return found

    def _seed(self, out: Path, name: str, dial: str) -> Decoded:
        """Read the evaluation of one run's policies, which names them by their settings alone, and name them by it."""
        found = join([read_outcomes(out / self.name / name).values()])
        settings = [PolicyName.read(policy).setting for policy in found.policies]
        return replace(found, policies=[str(PolicyName(LEARNED, dial, setting)) for setting in settings])

    def compare(self, decoded: Decoded) -> Summary:
        """Compare each seed with the rules in one decoding, in all and task by task."""
        found = super().compare(decoded)
        dials = [str(PolicyName(LEARNED, dial, f"speed={PLACE:g}")) for dial in self.names()]
        groups = {"dials": dials, "rule": [found["nearly"][0]["rule"]], "one": [ONE]}
        return {**found, "tasks": _by_task(decoded, groups)}

    def summarise(self, out: Path) -> Summary:
        """Compare each seed with the rules, and keep what filters and oracle do."""
        summary = super().summarise(out)
        for name, found in summary["blocks"].items():
            [oracle] = find(read_records(out / self.name / f"oracle_{name}"), task="all")
            found["oracle"] = {"accuracy": oracle["accuracy"], "nfe": oracle["nfe"]}
        filters = [find(read_records(out / self.name / f"filter_s{seed}"), task="all") for seed in SEEDS]
        summary["filters"] = [
            {"threshold": threshold} | {field: [record[field] for record in records] for field in ("accuracy", "nfe")}
            for threshold, *records in zip(THRESHOLDS, *filters, strict=True)
        ]
        return summary

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        oracles = " and ".join(
            f"{percent(found['oracle']['accuracy'])} % in {found['oracle']['nfe']:.2f} in {DECODINGS[name].wording}"
            for name, found in summary["blocks"].items()
        )
        filters = ", ".join(
            f"at {found['threshold']:g} {over_seeds([100 * value for value in found['accuracy']])} % in "
            f"{over_seeds(found['nfe'], 2)}"
            for found in summary["filters"]
        )
        by_task = "\n\n".join(
            f"**By task** in {DECODINGS[name].wording}, at {PLACE:g}, beside the rule above and one token per step:\n\n"
            + _task_table(found["tasks"], found["nearly"][0]["rule"])
            for name, found in summary["blocks"].items()
        )
        return f"""![Accuracy against forwards](../images/{self.name}.png)

{super().markdown(summary)}

{by_task}

**The filters alone**, in full diffusion, where they commit from some probability on: {filters}.

The oracle, on the first {PART} problems a task alone: {oracles}."""

    def headline(self, summary: Summary) -> str:
        """Set two places on the dials beside the cheapest rule that is as accurate, in full diffusion."""
        found = summary["blocks"]["full"]
        rows = [
            [
                f'**what ships**, `policies.load("small")`, at `speed={place["speed"]:g}`',
                over_seeds([100 * value for value in place["accuracy"]]),
                over_seeds(place["nfe"], 2),
                of_some(place["share"]),
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
        return f"""`policies.load("small")`, which is seed 0, two more seeds of its training, the filters that they
start from, and {len(self.rules)} settings of rules, with the dLLM in bfloat16, on problems from number {self.first}
on, on which nothing was chosen."""


def _by_task(decoded: Decoded, groups: Mapping[str, Sequence[str]]) -> Summary:
    """Return accuracy and forwards of some groups of policies on each task.

    Args:
        decoded: what they did.
        groups: names of policies.
    """
    found: Summary = {}
    for task in dict.fromkeys(decoded.tasks.tolist()):
        found[task] = {}
        for name, policies in groups.items():
            accuracy, nfe = zip(*(decoded.mean(policy, task) for policy in policies), strict=True)
            found[task][name] = {"accuracy": accuracy, "nfe": nfe}
    return found


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
