"""What run folders say side by side: who solved what, at which cost, and whether the difference could be chance.

`find` returns plain data; `train/compare.py` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, get_args

import numpy as np

from policies.base import Decision
from train.command.progress import progress
from train.comparison.estimates import Row, describe, estimate, identity, same_place
from train.comparison.lines import Line, Replicate, common_name
from train.comparison.pairs import (
    ORACLE_TOLERANCE,
    SOON,
    is_paired,
    is_rival,
    matches,
    matching_columns,
    once,
    savings,
    significance,
)
from train.comparison.runs import MISSING, Run, differing, fingerprint, flatten, problems_of
from train.evaluation.frontiers import aup, hypervolume, mean_curve
from train.evaluation.measures import (
    Values,
    best_rule,
    bootstrap_interval,
)
from train.evaluation.records import key_of
from train.tracking.history import STEP


def leads(lines: Sequence[Line], saved: Sequence[Row]) -> list[Line]:
    """Choose one line a learned family and set of problems, to be looked at closely.

    It is the one with the largest share of forwards saved among those at the largest block length, decided
    deterministically if any is.
    """
    found = []
    for key in dict.fromkeys((line.problems, line.family) for line in lines if line.is_learned):
        own = [line for line in lines if line.is_learned and (line.problems, line.family) == key]
        largest = max(line.block for line in own)
        own = [line for line in own if line.block == largest]
        own = [line for line in own if line.decision == "deterministic"] or own
        score = {
            i: next((r["saved"]["mean"] for r in saved if r["saved"] and identity(o).items() <= r.items()), 0.0)
            for i, o in enumerate(own)
        }
        found.append(own[max(score, key=lambda i: score[i])])
    return found


def by_task(lines: Sequence[Line], rules: Sequence[str], chosen: Sequence[Line]) -> list[Row]:
    """Split some learned lines by task, against the one rule that is the best at their accuracy on all tasks."""
    rows = []
    for line in chosen:
        others = [match.other for match in matches(line, lines, rules)]
        for task in line.replicates[0].tasks:
            mine = [r.tasks[task] for r in line.replicates if task in r.tasks]
            theirs = once([r.tasks[task] for r in others if task in r.tasks])
            row = {**identity(line), "task": task}
            for prefix, records in (("", mine), ("rule_", theirs)):
                for name in ("accuracy", "nfe"):
                    values = (
                        estimate([r[name] for r in records], [r[f"{name}_ci95"] for r in records]) if records else None
                    )
                    row[prefix + name] = values
            rows.append(row)
    return rows


def hypervolumes(lines: Sequence[Line], rules: Sequence[str], reference_accuracy: float) -> list[Row]:
    """Return each family's hypervolume, by problems and block length, the largest first."""
    families: dict[tuple[Any, ...], list[Line]] = {}
    for line in lines:
        if line.is_learned or is_rival(line, rules):
            families.setdefault((line.problems, line.block, line.family), []).append(line)
    rows = []
    for (problems, block, family), own in progress(families.items(), desc="resampling", unit="family", delay=SOON):
        seeds = _seeds(own)
        beside = chain.from_iterable(line.replicates for line in same_place(own[0], lines))
        # Of any policy or rule there: AUP is relative to the best that is known on these problems.
        best = max(replicate.record["accuracy"] for replicate in beside)
        # A curve is of one way to decode as its knob turns: sampled and rounded are two.
        curves = [[line for line in own if line.decision == decision] for decision in get_args(Decision)]
        areas = [area for curve in curves if curve and (area := _aup(curve, best)) is not None]
        rows.append(
            {
                "problems": problems.text,
                "block": block,
                "family": family,
                "is_learned": own[0].is_learned,
                "settings": len(own),
                "hypervolume": estimate(
                    [hypervolume(_points(seed, "nfe"), reference_accuracy) for seed in seeds],
                    [_hypervolume_interval(seed, reference_accuracy) for seed in seeds],
                ),
                "aup": max(areas, key=lambda area: area["mean"], default=None),
            }
        )
    order = list(dict.fromkeys(row["problems"] for row in rows))
    return sorted(rows, key=lambda row: (order.index(row["problems"]), -row["block"], -row["hypervolume"]["mean"]))


def _seeds(lines: Sequence[Line]) -> list[list[Replicate]]:
    """Return the settings of a family, a list a seed."""
    by_source: dict[str, list[Replicate]] = {}
    for replicate in chain.from_iterable(line.replicates for line in lines):
        # The settings of a rule are one family whoever evaluated them: no seed made them.
        source = replicate.source if lines[0].is_learned else ""
        by_source.setdefault(source, []).append(replicate)
    return list(by_source.values())


def _aup(curve: Sequence[Line], best: float) -> Row | None:
    """Return the accuracy under parallelism of a family's settings; None if a record says no tokens per forward."""
    seeds = [_points(seed, "tokens_per_forward") for seed in _seeds(curve)]
    if None in [speed for _, speed in chain.from_iterable(seeds)]:
        return None
    return estimate([aup(seed, best) for seed in seeds], ())


def _points(settings: Sequence[Replicate], measure: str) -> list[tuple[float, Any]]:
    """Return each setting's accuracy and one of its measures, None where its record lacks it."""
    return [(one.record["accuracy"], one.record.get(measure)) for one in settings]


def _hypervolume_interval(settings: Sequence[Replicate], reference_accuracy: float) -> list[float] | None:
    if not all(is_paired(settings[0], other) for other in settings):
        return None
    score, nfe = np.stack(matching_columns("score", *settings)), np.stack(matching_columns("nfe", *settings))

    def volumes(drawn: Values, axis: int = -1) -> Values:
        # Problems are drawn by number, so that what became of one under all settings stays together.
        rows = np.atleast_2d(drawn).astype(np.int64)
        means = [(score[:, row].mean(1), nfe[:, row].mean(1)) for row in rows]
        return np.array([hypervolume(list(zip(*mean, strict=True)), reference_accuracy) for mean in means])

    return bootstrap_interval(volumes, np.arange(score.shape[1], dtype=np.float64))


def oracle_distances(lines: Sequence[Line], rules: Sequence[str]) -> list[Row]:
    """Return how many times the oracle's forwards are spent, at its accuracy within a point.

    For each learned line, and the cheapest rule that is within a point of the oracle or better.
    """
    rows = []
    for oracle in [line for line in lines if line.name.is_oracle]:
        limit = oracle.replicates[0].record
        here = same_place(oracle, lines)
        near = [line for line in here if line.is_learned]
        candidates = [line for line in here if is_rival(line, rules)]
        if candidates:
            best = best_rule([c.replicates[0].record for c in candidates], limit["accuracy"], ORACLE_TOLERANCE)
            near += [line for line in candidates if line.replicates[0].record is best]
        for line in near:
            records = [r.record for r in line.replicates]
            # In floats 0.97 - 0.96 is a hair more than 0.01.
            is_near = abs(np.mean([r["accuracy"] for r in records]) - limit["accuracy"]) <= ORACLE_TOLERANCE + 1e-9
            ratios = [r["nfe"] / limit["nfe"] for r in records]
            rows.append(
                {
                    **identity(line),
                    "accuracy": estimate([r["accuracy"] for r in records]),
                    "oracle_accuracy": limit["accuracy"],
                    "oracle_nfe": limit["nfe"],
                    "ratio": estimate(ratios) if is_near else None,
                }
            )
    return rows


def differences(runs: Sequence[Run]) -> dict[str, list[Row]]:
    """Return, for each kind of run, the fields in which its runs differ, one row a run.

    The configuration's, except `out`, and of ``versions.json``, as ``versions.*``.
    """
    found = {}
    for kind in dict.fromkeys(run.kind for run in runs):
        own = [run for run in runs if run.kind == kind]
        flat = [flatten({**run.config, "versions": run.versions}) for run in own]
        # Where a run was written says nothing of what came of it.
        different = [name for name in differing(flat) if name not in ("out", "resume")]
        if different:
            found[kind] = [
                {"run": run.name, **{name: values.get(name, MISSING) for name in different}}
                for run, values in zip(own, flat, strict=True)
            ]
    return found


def curves(runs: Sequence[Run], metric: str, lines: Sequence[Line] = ()) -> list[Row]:
    """Return a training metric by environment steps, seeds averaged.

    Args:
        runs: to read it from.
        metric: a column of their progress.
        lines: whose learned ones give runs the names that they have elsewhere in the report.

    Returns:
        One `train.evaluation.frontiers.mean_curve` a group of seeds.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if any(metric in row for row in run.progress):
            groups.setdefault(fingerprint(run), []).append(run)
    known: dict[Path, str] = {}
    for line in lines:
        known |= {r.training.path: line.family for r in line.replicates if r.training is not None}
    found = []
    for own in groups.values():
        name = known.get(own[0].path) or common_name([run.name for run in own])
        tracks = [
            np.array([(row[STEP], row[metric]) for row in run.progress if metric in row], np.float64).T for run in own
        ]
        first, last = max(track[0][0] for track in tracks), min(track[0][-1] for track in tracks)
        # Seeds log at steps of their own: all are read at the first one's, where each has values on both sides.
        steps = tracks[0][0][(tracks[0][0] >= first) & (tracks[0][0] <= last)]
        values = [np.interp(steps, *track) for track in tracks]
        found.append(mean_curve(name, steps.tolist(), [v.tolist() for v in values]))
    return found


def find(runs: Sequence[Run], lines: Sequence[Line], rules: Sequence[str], reference_accuracy: float) -> dict[str, Any]:
    """Compute what ``report.json`` holds, as numbers; shares and accuracies are in [0, 1]."""
    shown = [line for line in lines if line.is_learned or line.name.is_oracle or is_rival(line, rules)]
    tests = significance(shown, rules)
    saved = savings(shown, rules, tests)
    chosen = leads(shown, saved)
    return {
        "runs": [
            {
                "run": run.name,
                "kind": run.kind,
                "seed": run.config.get("seed"),
                "commit": run.versions.get("commit"),
                "problems": problems_of(run).text,
                "policies": len({key_of(record) for record in run.records}),
                "outcomes": "yes" if run.outcomes else "no",
                "path": run.source,
            }
            for run in runs
        ],
        "problems": list(dict.fromkeys(line.problems.text for line in shown)),
        "leads": [identity(line) for line in chosen],
        "savings": saved,
        "tests": tests,
        "tasks": by_task(shown, rules, chosen),
        "hypervolume": hypervolumes(shown, rules, reference_accuracy),
        "reference_accuracy": reference_accuracy,
        "oracle": oracle_distances(shown, rules),
        "differences": differences(runs),
        "curves": {metric: curves(runs, metric, lines) for metric in ("rollout/score", "rollout/nfe")},
        "settings": [describe(line) for line in shown],
    }
