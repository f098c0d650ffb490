"""The dial where it was not trained: longer lists, other tasks, longer buffers, other dLLMs."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.base import (
    FROM_SCRATCH,
    QUICK_DIAL,
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
from experiments.dial import dials
from experiments.worlds import LIST_WORLD, TRAIN_FILTERS
from train.evaluation.measures import best_rule
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record, read_records

SPEEDS = (0.0, 0.5)
RULES = [
    *(f"threshold:{t:g}" for t in (0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95)),
    *(f"eb_sampler:{b:g}" for b in (0.1, 0.2, 0.3, 0.5, 1)),
]
LISTS = ("copy", "reverse", "sort", "replace", "insert", "remove")
SHORT_LISTS = [*(f"{task}:longest=5" for task in LISTS), "shuffle:longest=4", "add", "sudoku"]
LONG_LISTS = [*(f"{task}:shortest=7,longest=8" for task in LISTS), "shuffle:shortest=6,longest=6"]
SEEN, UNSEEN = ["copy", "sort", "shuffle", "sudoku"], ["reverse", "replace", "insert", "remove", "add"]

SMALL = Step(
    "transfer/small_dllm",
    ["train/pretrain.py", "--seed", "7", "--hidden_size", "96", "--num_layers", "3", "--steps", "6000"],
    ("--steps", "20"),
    resume=(),
)
"""A dLLM of another seed and less than half the size, trained once and shorter than the one that ships."""


def dial_on(folder: str, tasks: Sequence[str]) -> Step:
    """Train a dial on some tasks only, from the threshold rule, because the filter has seen all."""
    command = ["train/ppo.py", "--config", "configs/ppo_dial.yaml", *FROM_SCRATCH, "--total_timesteps", "100000"]
    command += ["--wandb.mode", "disabled", "--evaluation.rules", "[]", "--env.tasks", f"[{', '.join(tasks)}]"]
    return Step(folder, command, QUICK_DIAL)


FEW_TASKS, SHORT = dial_on("transfer/few_tasks", SEEN), dial_on("transfer/short_lists", SHORT_LISTS)
"""Dials that have seen four tasks of nine, or only the shorter lists of all."""


OTHER = ("--any_dllm", "true")
"""Arguments that let a policy decode with a dLLM that it was not trained for."""


@dataclass(frozen=True)
class Place:
    """Where the dial is tried.

    Attributes:
        name: of its folder.
        wording: in the table.
        arguments: of the evaluation.
        policies: folders of the policies.
        rules: to compare with.
    """

    name: str
    wording: str
    arguments: Sequence[str]
    policies: Sequence[str] = tuple(step.folder for step in dials(LIST_WORLD))
    rules: Sequence[str] = tuple(RULES)


PLACES = (
    Place("long_lists", "lists of 7 or 8, trained on 3 to 5", ["--tasks", json.dumps(LONG_LISTS)], (SHORT.folder,)),
    Place("other_tasks", "5 tasks, trained on 4 others", ["--tasks", f"[{', '.join(UNSEEN)}]"], (FEW_TASKS.folder,)),
    Place("buffer_128", "buffers of 128, not 64", ["--buffer_length", "128", "--episodes", "20"]),
    Place("buffer_256", "buffers of 256", ["--buffer_length", "256", "--episodes", "10"]),
    Place("small_dllm", "another, smaller dLLM", ["--model", f"{{out}}/{SMALL.folder}/model", *OTHER]),
    Place(
        "antibodies",
        "residues of antibodies restored by Sapiens",
        ["--model", "sapiens:heavy", "--tasks", "antibody", "--buffer_length", "128", *OTHER],
        # Its confidences are lower.
        rules=(*RULES, *(f"threshold:{t:g}" for t in (0.2, 0.3, 0.4)), "eb_sampler:2", "eb_sampler:4", "eb_sampler:8"),
    ),
)


class Transfer(Experiment):
    """The dial against the rules away from what it was trained on."""

    name = "transfer"

    def steps(self) -> list[Step]:
        """Train what is not there yet and evaluate at each place."""
        runs = []
        for place in PLACES:
            policies = [f"{{out}}/{folder}/policy@speed={speed:g}" for folder in place.policies for speed in SPEEDS]
            policies += ["oracle:1", "low_confidence:1", *place.rules]
            about = ["--first", "100", "--episodes", "50", "--workers", "1", *place.arguments]
            command = ["train/evaluate.py", *repeat("--policy", policies), *about]
            runs.append(Step(f"transfer/on_{place.name}", command, ("--episodes", "1")))
        return [TRAIN_FILTERS, *dials(LIST_WORLD), SMALL, FEW_TASKS, SHORT, *runs]

    def summarise(self, out: Path) -> Summary:
        """Compare with the cheapest rule that is as accurate, place by place."""
        places = {}
        for place in PLACES:
            records = find(read_records(out / f"transfer/on_{place.name}"), task="all")
            speeds = {f"{speed:g}": _against_rules(records, f"speed={speed:g}") for speed in SPEEDS}
            places[place.name] = {
                "speeds": speeds,
                "one_per_step": find(records, policy="low_confidence:1")[0]["accuracy"],
                "oracle": find(records, policy=of_kind("oracle"))[0]["nfe"],
                "episodes": records[0]["episodes"],
            }
        return {"places": places, "provenance": provenance(out, self.steps()[-len(PLACES) :])}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        rows = []
        for place in PLACES:
            found = summary["places"][place.name]
            for speed, seeds in found["speeds"].items():
                saved = [100 * (1 - seed["nfe"] / seed["rule_nfe"]) for seed in seeds]
                rows.append(
                    [
                        place.wording,
                        f"{percent(found['one_per_step'])} / {found['oracle']:.2f}",
                        speed,
                        over_seeds([100 * seed["accuracy"] for seed in seeds], 1),
                        over_seeds([seed["nfe"] for seed in seeds], 2),
                        f"{np.mean([seed['rule_nfe'] for seed in seeds]):.2f}",
                        percent(float(np.mean([seed["rule_accuracy"] for seed in seeds]))),
                        over_seeds(saved, 0),
                    ]
                )
        columns = ["where", "one per step % / oracle NFE", "speed", "accuracy %", "NFE", "best rule: NFE"]
        columns += ["its accuracy %", "forwards saved %"]
        return f"""**Transfer**: the three seeds where they were not trained (on other tasks and on longer lists:
one seed, from the threshold rule), against the cheapest of {len(RULES)} settings of the threshold and the entropy
budget (on antibodies {len(PLACES[-1].rules)}) that is at most half a point less accurate on the same problems, or the
most accurate of them. {len(SEEDS)} seeds, ± 95 % Student intervals:

{table(columns, rows)}"""


def _against_rules(records: Sequence[Record], setting: str) -> list[Summary]:
    rules = find(records, policy=of_kind("threshold", "eb_sampler"))
    found = []
    for record in find(records, policy=lambda text: PolicyName.read(text).setting == setting):
        best = best_rule(rules, record["accuracy"])
        theirs = {"rule": best["policy"], "rule_accuracy": best["accuracy"], "rule_nfe": best["nfe"]}
        found.append({"accuracy": record["accuracy"], "nfe": record["nfe"], **theirs})
    return found
