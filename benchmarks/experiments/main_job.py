"""The default run, on fresh held-out problems: how many forwards it saves at the same accuracy."""

from __future__ import annotations

from collections.abc import Sequence
from io import StringIO
from pathlib import Path

import numpy as np
from rich.console import Console

from experiments.base import (
    QUICK_TRAINING,
    SEEDS,
    Experiment,
    Step,
    Summary,
    find,
    of_kind,
    over_seeds,
    percent,
    provenance,
    repeat,
    table,
)
from train.evaluation.measures import ROUNDING, TOLERANCE, best_rule
from train.evaluation.records import Record, read_records
from train.evaluation.table import make_table

THRESHOLDS = (0.6, 0.7, 0.74, 0.76, 0.78, 0.8, 0.82, 0.84, 0.86, 0.88, 0.9, 0.92, 0.95, 0.97, 0.99)
BUDGETS = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7)
BLOCKS = (64, 16)
TRAIN_QUICK = (
    *(*QUICK_TRAINING, "--evaluation.rules", "[threshold:0.9]"),
    *("--filter.problems", "90", "--env.problems", "32"),
)


class MainJob(Experiment):
    """`python train/ppo.py`, three seeds, against the best threshold and the best entropy budget."""

    name = "main_job"

    def steps(self) -> list[Step]:
        """Train three seeds, then evaluate them and the rules on problems that nothing was tuned on."""
        training = [Step(f"main_job/s{s}", ["train/ppo.py", "--seed", str(s)], TRAIN_QUICK) for s in SEEDS]
        policies = [f"{{out}}/main_job/s{s}/policy" for s in SEEDS]
        policies += [f"threshold:{t}" for t in THRESHOLDS] + [f"eb_sampler:{b}" for b in BUDGETS]
        # After the problems that a run itself is evaluated on, before those from 1000 on that settings were chosen on.
        fresh = ["--first", "300", "--episodes", "200", "--workers", "2"]
        frontier = ["train/evaluate.py", *repeat("--policy", policies), *repeat("--block_length", BLOCKS), *fresh]
        return [*training, Step("main_job/frontier", frontier, ("--episodes", "2"))]

    def summarise(self, out: Path) -> Summary:
        """Compare each seed with the cheapest rule that is at most half a point less accurate."""
        records = read_records(out / "main_job/frontier")
        comparisons = []
        for block in BLOCKS:
            for decision in ("sample", "deterministic"):
                learned = find(records, block_length=block, decision=decision, task="all", policy=of_kind("learned"))
                rows = [_against_rules(records, record) for record in learned]
                comparisons.append({"block_length": block, "decision": decision, "seeds": rows})
        return {
            "comparisons": comparisons,
            "tasks": _by_task(records),
            "provenance": provenance(out, self.steps()),
        }

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        rows = []
        for entry in summary["comparisons"]:
            seeds = entry["seeds"]
            rows.append(
                [entry["block_length"], entry["decision"]]
                + [over_seeds([100 * seed["accuracy"] for seed in seeds])]
                + [over_seeds([seed["nfe"] for seed in seeds], 2)]
                + [over_seeds([seed[rule]["nfe"] for seed in seeds], 2) for rule in ("threshold", "eb_sampler")]
                + [_saved(seeds, rule) for rule in ("threshold", "eb_sampler")]
            )
        columns = ["block", "decision", "accuracy %", "NFE", "best threshold: NFE", "best `eb_sampler`: NFE"]
        columns += ["saved against threshold %", "against `eb_sampler` %"]
        full = next(e for e in summary["comparisons"] if e["block_length"] == 64 and e["decision"] == "deterministic")
        saved = {r: np.mean([100 * seed[r]["saved"] for seed in full["seeds"]]) for r in ("threshold", "eb_sampler")}
        tasks = [
            [
                task,
                over_seeds([100 * accuracy for accuracy in entry["accuracy"]]),
                over_seeds(entry["nfe"], 2),
                percent(entry["rule_accuracy"]),
                f"{entry['rule_nfe']:.2f}",
            ]
            for task, entry in summary["tasks"].items()
        ]
        weakest = min(summary["tasks"], key=lambda task: _behind(summary["tasks"][task]))
        behind = -_behind(summary["tasks"][weakest])
        return f"""Three seeds of the default run, on 200 held-out problems for each of nine tasks that nothing
was tuned on.
Mean and 95 % Student interval over seeds; a rule's column is the *cheapest* of its settings ({len(THRESHOLDS)}
thresholds,
{len(BUDGETS)} entropy budgets) that is at most half a point less accurate on the same problems, or its most
accurate one. Steps, alpha and the tasks' weights were chosen on other problems of the test split, the first 100
and those from 1000 on;
the policy that is exported was chosen on validation problems.

{table(columns, rows)}

At the same accuracy the learned policy needs {saved["threshold"]:.0f} % fewer forwards than the best threshold
in full diffusion,
and {saved["eb_sampler"]:.0f} % fewer than the best entropy budget, the best published rule here. It was trained
in full diffusion
only. By task (deterministic, full diffusion; the threshold is the one of the first table for the first seed):

{table(["task", "learned: accuracy %", "NFE", "threshold: accuracy %", "NFE"], tasks)}

The gain is where several answers are right: the policy commits an uncertain item in the same forward as everything
certain, and several items at once where their predictions differ. It reads the
dLLM's hidden states beside the confidences. It is furthest behind on *{weakest}*, {behind:.1f} points below the
threshold."""

    def headline(self, summary: Summary) -> str:
        """Compare with the rules at the same accuracy, in full diffusion."""
        full = next(e for e in summary["comparisons"] if e["block_length"] == 64 and e["decision"] == "deterministic")
        seeds = full["seeds"]
        rows = [["**`python train/ppo.py`**, about 5 minutes", *_headline_cells(seeds), ""]]
        for rule, name in (("threshold", "a threshold"), ("eb_sampler", "`eb_sampler`, the best published rule")):
            saved = _saved(seeds, rule)
            cells = _headline_cells([seed[rule] for seed in seeds])
            rows.append([f"{name}, at its cheapest setting that is as accurate", *cells, saved])
        return table(["decided by", "right %", "forwards an answer", "the policy saves %"], rows)


def _headline_cells(seeds: Sequence[Summary]) -> list[str]:
    return [over_seeds([100 * seed["accuracy"] for seed in seeds]), over_seeds([seed["nfe"] for seed in seeds], 2)]


class FirstRun(Experiment):
    """What the default run prints at its end."""

    name = "first_run"

    def steps(self) -> list[Step]:
        """Take the first seed's run."""
        return MainJob().steps()[:1]

    def summarise(self, out: Path) -> Summary:
        """Keep the records of all tasks."""
        records = find(read_records(out / "main_job/s0"), task="all")
        return {"records": records, "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Print the table into a code block."""
        console = Console(file=StringIO(), width=120)
        with console.capture() as captured:
            console.print(make_table(summary["records"], "100 held-out problems a task"))
        lines = [line.rstrip() for line in captured.get().splitlines()]
        return "\n".join(["```text", *lines, "```"])


def _saved(seeds: Sequence[Summary], rule: str) -> str:
    """Return what is saved in percent; nothing is claimed where some seed's rule is not just as accurate."""
    # Either way: a setting that is far more accurate is no equal either.
    apart = sum(abs(seed[rule]["accuracy"] - seed["accuracy"]) > TOLERANCE + ROUNDING for seed in seeds)
    if apart:
        return f"none claimed: no setting within half a point, {apart} of {len(seeds)} seeds"
    return over_seeds([100 * seed[rule]["saved"] for seed in seeds])


def _against_rules(records: list[Record], learned: Record) -> Summary:
    found: Summary = {"accuracy": learned["accuracy"], "nfe": learned["nfe"]}
    for rule in ("threshold", "eb_sampler"):
        curve = find(records, block_length=learned["block_length"], task="all", policy=of_kind(rule))
        best = best_rule(curve, learned["accuracy"])
        found[rule] = {
            "setting": best["policy"],
            "accuracy": best["accuracy"],
            "nfe": best["nfe"],
            "saved": 1 - learned["nfe"] / best["nfe"],
        }
    return found


def _by_task(records: list[Record]) -> Summary:
    ours = find(records, block_length=64, decision="deterministic", policy=of_kind("learned"))
    curve = find(records, block_length=64, task="all", policy=of_kind("threshold"))
    # One setting for all tasks and seeds: a knob chosen anew for each is none that one could deploy.
    rule = best_rule(curve, find(ours, task="all")[0]["accuracy"])["policy"]
    found = {}
    for task in dict.fromkeys(record["task"] for record in ours):
        theirs = find(records, block_length=64, policy=rule, task=task)[0]
        found[task] = {
            "accuracy": [record["accuracy"] for record in find(ours, task=task)],
            "nfe": [record["nfe"] for record in find(ours, task=task)],
            "rule": rule,
            "rule_accuracy": theirs["accuracy"],
            "rule_nfe": theirs["nfe"],
        }
    return found


def _behind(entry: Summary) -> float:
    """Return the points of accuracy that the policy is ahead of the rule."""
    return 100 * (float(np.mean(entry["accuracy"])) - float(entry["rule_accuracy"]))
