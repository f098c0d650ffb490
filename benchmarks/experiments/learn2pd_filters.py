"""Learn2PD filters as policies, and as the start of PPO."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from experiments.base import (
    FROM_SCRATCH,
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
    which,
)
from experiments.worlds import TRAIN_FILTERS, filter_of
from train.command.run_files import RunFiles
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record, read_records

WEIGHTED = filter_of("weighted")
TRANSFORMER = filter_of("transformer")

BLOCKS = (64, 32)
LEAST = (0.986, 0.989)
"""Accuracies to be reached with the fewest forwards."""

ROLES = {"none": "not used (threshold start)", "feature": "an input", "start": "the start", "both": "both"}
TRAIN = (
    *FROM_SCRATCH,
    "--env.alpha",
    "10",
    "--total_timesteps",
    "30000",
    "--evaluation.rules",
    "[]",
    "--wandb.mode",
    "disabled",
)


class Filters(Experiment):
    """`python train/learn2pd.py`: filters against thresholds on fresh problems."""

    name = "learn2pd"

    def steps(self) -> list[Step]:
        """Train the filters, then evaluate them at finely spaced thresholds."""
        filters = [f"{TRANSFORMER}@{t}" for t in (0.91, 0.92, 0.93, 0.94, 0.95, 0.96)]
        filters += [f"{WEIGHTED}@{t}" for t in (0.4, 0.45, 0.5, 0.55, 0.6)]
        rules = [f"threshold:{t / 100}" for t in range(82, 91)] + ["low_confidence:1"]
        chosen = [*repeat("--policy", [*filters, *rules]), *repeat("--block_length", BLOCKS)]
        fresh = ["--first", "100", "--episodes", "200", "--workers", "1"]
        return [TRAIN_FILTERS, Step("learn2pd/frontier", ["train/evaluate.py", *chosen, *fresh], ("--episodes", "2"))]

    def summarise(self, out: Path) -> Summary:
        """Keep the cheapest filter and threshold at each accuracy, and the published filter's results."""
        records = find(read_records(out / "learn2pd/frontier"), task="all", decision="deterministic")
        rows = []
        for block in BLOCKS:
            for least in LEAST:
                enough = find(records, block_length=block, accuracy=lambda a, least=least: a >= least)
                kinds = {"filter": of_kind("learned"), "threshold": of_kind("threshold")}
                best = {
                    kind: min(find(enough, policy=test), key=lambda r: r["nfe"], default=None)
                    for kind, test in kinds.items()
                }
                rows.append({"block_length": block, "least": least, **best})
        made = json.loads(RunFiles(out / TRAIN_FILTERS.folder).report.read_text())
        own = find(read_records(out / TRAIN_FILTERS.folder), task="all", decision="deterministic")
        return {
            "rows": rows,
            "one_per_step": find(records, policy="low_confidence:1", block_length=64)[0]["accuracy"],
            "published": find(own, policy=which("published")),
            "unweighted": find(own, policy="learned:transformer@0.5"),
            "minutes": made["minutes_to_collect_and_train"],
            "provenance": provenance(out, self.steps()),
        }

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        rows = []
        for row in summary["rows"]:
            cells = [row["block_length"], percent(row["least"])]
            for kind in ("filter", "threshold"):
                best = row[kind]
                cells += [_knob(best), percent(best["accuracy"]), f"{best['nfe']:.2f}"] if best else ["none", "-", "-"]
            rows.append(cells)
        published = "; ".join(
            f"{percent(r['accuracy'])} % in {r['nfe']:.2f} forwards at {PolicyName.read(r['policy']).setting}"
            for r in sorted(summary["published"], key=lambda record: float(record["nfe"]))
        )
        plain = summary["unweighted"][0]["accuracy"]
        columns = ["block", "accuracy % at least", "cheapest filter", "accuracy %", "NFE"]
        columns += ["cheapest threshold", "accuracy %", "NFE"]
        return f"""The published filter (a perceptron over one block of 32 confidences): {published}. The policy
network's transformer,
trained the same way, does better ({summary["minutes"]} minutes to collect and train all four on two cores).
Position-wise
cross-entropy alone still commits wrongly at 0.5 ({percent(plain)} % right), because one wrong commit loses the
sequence:
weighting false commits 16 times puts the useful range back around 0.5. On 200 fresh held-out problems a task
(one token per
step: {percent(summary["one_per_step"])} %), thresholds in steps of 0.01:

{table(columns, rows)}"""


class FilterStart(Experiment):
    """PPO from a Learn2PD filter, with a quarter of the default run's steps."""

    name = "filter_start"

    def steps(self) -> list[Step]:
        """Train each use of the filter with three seeds."""
        runs = []
        for role in ROLES:
            use = [] if role == "none" else ["--filter.folder", WEIGHTED, "--filter.role", role]
            for seed in SEEDS:
                command = ["train/ppo.py", "--seed", str(seed), *TRAIN, *use]
                runs.append(Step(f"filter_start/{role}_s{seed}", command, QUICK_TRAINING))
        return [TRAIN_FILTERS, *runs]

    def summarise(self, out: Path) -> Summary:
        """Keep accuracy and forwards of every seed."""
        roles: Summary = {}
        for role in ROLES:
            roles[role] = {}
            for decision in ("sample", "deterministic"):
                found = [
                    find(read_records(out / f"filter_start/{role}_s{seed}"), task="all", decision=decision)[0]
                    for seed in SEEDS
                ]
                roles[role][decision] = [[record["accuracy"], record["nfe"]] for record in found]
        return {"roles": roles, "provenance": provenance(out, self.steps()[1:])}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        rows = []
        for role, wording in ROLES.items():
            cells = [wording]
            for decision in ("sample", "deterministic"):
                seeds = summary["roles"][role][decision]
                cells += [over_seeds([100 * seed[0] for seed in seeds]), over_seeds([seed[1] for seed in seeds], 2)]
            rows.append(cells)
        start, none = (np.mean(summary["roles"][role]["deterministic"], axis=0) for role in ("start", "none"))
        columns = ["filter is", "sampled: accuracy %", "NFE", "deterministic: accuracy %", "NFE"]
        return f"""30,000 steps at alpha 10, new problems all the time, three seeds, 100 held-out problems a task (mean
and 95 % Student interval):

{table(columns, rows)}

From the filter, {percent(start[0])} % in {start[1]:.2f} forwards; from the threshold rule with the same steps,
{percent(none[0])} % in {none[1]:.2f}."""


def _knob(record: Record) -> str:
    """Return what tells a setting from others of its kind: a filter at a threshold, or a rule's threshold."""
    name = PolicyName.read(record["policy"])
    return f"`{name.options}@{name.setting}`" if name.is_learned else f"`{name.options}`"
