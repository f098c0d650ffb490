"""What run folders say side by side: who solved what, at which cost, and whether the difference could be chance.

`find` returns plain data; `train/compare.py` shows it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from train.comparison.runs import (
    Line,
    Replicate,
    Run,
    common_name,
    fingerprint,
    flatten,
    problems_of,
    training_seconds,
)
from train.measures import (
    LEVEL,
    Values,
    are_paired,
    aup,
    best_rule,
    bootstrap_interval,
    compare_accuracy,
    compare_forwards,
    difference_of_means,
    find_rival,
    holm,
    hypervolume,
    mean_curve,
    share_saved,
)
from train.progress import progress
from train.records import Record, key_of, mean_interval
from train.tracking import STEP

ORACLE_TOLERANCE = 0.01
"""Within a point of the oracle's accuracy, forwards are compared with the oracle's."""

SOON = 2
"""Seconds after which a bar appears."""

Estimate = dict[str, Any]
"""``{mean, problems, seeds}``: a mean, and its 95 % intervals over problems and over seeds, or None."""

Row = dict[str, Any]


def estimate(values: Sequence[float], problems: Sequence[Sequence[float] | None] = ()) -> Estimate:
    """Average seeds.

    Args:
        values: one a seed.
        problems: of each seed, its interval over problems, or None.

    Returns:
        The mean; the mean of the seeds' intervals over problems; Student's interval over two or more seeds.

    >>> estimate([1.0, 2.0, 3.0], [[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]])["problems"]
    [1.0, 3.0]
    """
    known = [interval for interval in problems if interval is not None]
    return {
        "mean": float(np.mean(values)),
        "problems": [float(edge) for edge in np.mean(known, 0)] if known and len(known) == len(values) else None,
        "seeds": mean_interval(values) if len(values) > 1 else None,
    }


def describe(line: Line) -> Row:
    """Return what identifies a line, and its measures."""
    records = [replicate.record for replicate in line.replicates]
    length = line.problems.buffer_length
    known = [replicate.outcomes for replicate in line.replicates if replicate.outcomes is not None]
    positions = [mean_interval([float(value) for value in entry["token_positions"]]) for entry in known]
    spent = [r.get("token_positions") for r in records]
    training = [training_seconds(r.training) for r in line.replicates if r.training is not None]
    trained = [seconds for seconds in training if seconds is not None]
    return {
        **identity(line),
        "seeds": len(records),
        "accuracy": estimate([r["accuracy"] for r in records], [r["accuracy_ci95"] for r in records]),
        "nfe": estimate([r["nfe"] for r in records], [r["nfe_ci95"] for r in records]),
        "token_positions": None
        if None in spent
        else estimate([float(p) for p in spent if p is not None], positions if len(known) == len(records) else ()),
        "tokens_per_forward": estimate([r["tokens_per_forward"] for r in records], ())
        if all("tokens_per_forward" in r for r in records)
        else None,
        "buffer_per_forward": None
        if length is None
        else estimate(
            [length / r["nfe"] for r in records],
            [[length / r["nfe_ci95"][1], length / max(1.0, r["nfe_ci95"][0])] for r in records],
        ),
        "training_seconds": estimate(trained) if trained else None,
        "evaluation_seconds": estimate([e["seconds"] for e in known]) if known else None,
    }


def identity(line: Line) -> Row:
    """Return what tells a line from others."""
    return {
        "problems": line.problems.text,
        "block": line.block,
        "policy": line.policy,
        "family": line.family,
        "decision": line.decision,
        "is_learned": line.is_learned,
    }


def same_place(line: Line, lines: Sequence[Line]) -> list[Line]:
    """Return the lines on the same problems at the same block length."""
    return [other for other in lines if (other.problems, other.block) == (line.problems, line.block)]


@dataclass(frozen=True)
class Match:
    """One seed of a learned line and the rule that it is set against.

    Attributes:
        mine: the seed.
        other: the rule's setting.
        is_comparable: whether a rule was measured at the seed's accuracy; otherwise `other` is the nearest one.
    """

    mine: Replicate
    other: Replicate
    is_comparable: bool


def matches(line: Line, lines: Sequence[Line], rules: Sequence[str]) -> list[Match]:
    """Return for each seed of a learned line the rule that it is set against; none where there is no rule."""
    candidates = [r for other in same_place(line, lines) if is_rival(other, rules) for r in other.replicates]
    if not candidates:
        return []
    by_record = {id(candidate.record): candidate for candidate in candidates}
    records = [candidate.record for candidate in candidates]
    found = []
    for replicate in line.replicates:
        rival = find_rival(records, replicate.record["accuracy"])
        found.append(Match(replicate, by_record[id(rival.record)], rival.is_comparable))
    return found


def is_rival(line: Line, rules: Sequence[str]) -> bool:
    """Tell whether a line is of a rule to be compared with; the oracle knows the answer and is none."""
    return not line.is_learned and is_rule_of(line.family, rules)


def is_rule_of(family: str, rules: Sequence[str]) -> bool:
    """Tell whether a rule, with end-of-text prediction or without, is one of those named, or any where all count."""
    name = family.removesuffix("+eotp")
    return name != "oracle" and not name.startswith("learned") and ("all" in rules or name in rules)


def compare_pair(line: Line, match: Match) -> Row:
    """Test one seed of a learned line against a rule.

    Paired where both kept outcomes of the same problems: McNemar's exact test of who is right (of scores that are
    shares, Wilcoxon's), Wilcoxon's signed-rank test of forwards, bootstrap intervals over problems. Otherwise Fisher's
    exact and Welch's test, without intervals.
    """
    mine, other = match.mine, match.other
    first, second = mine.record, other.record
    accuracy = compare_accuracy(first, second, (mine.outcomes, other.outcomes))
    row: Row = {
        **identity(line),
        "seed": mine.name,
        "rule": second["policy"],
        "is_comparable": match.is_comparable,
        "paired": accuracy.is_paired,
        "n": first["episodes"],
        "only_policy": accuracy.only_first,
        "only_rule": accuracy.only_second,
        "accuracy_difference": estimate([first["accuracy"] - second["accuracy"]]),
        "accuracy_p": accuracy.p,
        "nfe_difference": estimate([first["nfe"] - second["nfe"]]),
        "saved": estimate([1 - first["nfe"] / second["nfe"]]) if match.is_comparable else None,
    }
    row["nfe_p"] = compare_forwards(first, second, (mine.outcomes, other.outcomes))
    if not accuracy.is_paired:
        return row
    right, forwards = _columns("score", mine, other), _columns("nfe", mine, other)
    row["accuracy_difference"]["problems"] = bootstrap_interval(difference_of_means, *right)
    row["nfe_difference"]["problems"] = bootstrap_interval(difference_of_means, *forwards)
    if row["saved"] is not None:
        row["saved"]["problems"] = bootstrap_interval(share_saved, *forwards)
    return row


def is_paired(first: Replicate, second: Replicate) -> bool:
    """Tell whether both kept outcomes, and of the same problems."""
    return are_paired(first.outcomes, second.outcomes)


def _columns(name: str, *replicates: Replicate) -> list[Values]:
    return [np.asarray(r.outcomes[name], np.float64) for r in replicates if r.outcomes]  # type: ignore[literal-required]


def significance(lines: Sequence[Line], rules: Sequence[str]) -> list[Row]:
    """Test every seed of every learned line against the rule that it is set against, with Holm's correction.

    The correction is over all rows, for accuracy and for forwards each on its own. A row's ``tests`` is their number.
    """
    rows = []
    for line in progress([line for line in lines if line.is_learned], desc="testing", unit="policy", delay=SOON):
        rows += [compare_pair(line, match) for match in matches(line, lines, rules)]
    for name in ("accuracy", "nfe"):
        for row, adjusted in zip(rows, holm([row[f"{name}_p"] for row in rows]), strict=True):
            row[f"{name}_holm"] = adjusted
    for row in rows:
        row["tests"] = len(rows)
        # A warning needs no correction: missing a loss of accuracy is what would mislead.
        row["is_less_accurate"] = row["accuracy_difference"]["mean"] < 0 and row["accuracy_p"] < LEVEL
        row["verdict"] = verdict(row)
    return rows


def verdict(row: Row) -> str:
    """Say in words what a test found at the 5 % level.

    After Holm's correction, except that a policy which is less accurate before it is never called anything better.
    """
    words = []
    if row["is_less_accurate"]:
        words.append("less accurate" if row["accuracy_holm"] < LEVEL else "less accurate before Holm's correction")
    elif row["accuracy_holm"] < LEVEL:
        words.append("more accurate")
    if row["nfe_holm"] < LEVEL:
        needs_fewer = row["nfe_difference"]["mean"] < 0
        if not needs_fewer:
            words.append("slower")
        elif row["is_comparable"] and not row["is_less_accurate"]:
            words.append("faster")
    if not row["is_comparable"]:
        words.append("no rule at its accuracy")
    return ", ".join(words) or "no difference shown"


def savings(lines: Sequence[Line], rules: Sequence[str], tests: Sequence[Row]) -> list[Row]:
    """Average over seeds what learned lines save against the rules that they are set against.

    ``saved`` is None where nothing may be claimed: for some seed no rule was measured at its accuracy
    (``is_comparable``), or some seed is significantly less accurate than its rule (``is_less_accurate``).
    """
    rows = []
    for line in lines:
        matched = matches(line, lines, rules) if line.is_learned else []
        if not matched:
            continue
        own = [t for t in tests if identity(line).items() <= t.items()]
        chosen = [match.other.record for match in matched]
        row = describe(line)
        row["rule"] = join_rules([record["policy"] for record in chosen])
        chosen = _once(chosen)
        row["rule_accuracy"] = estimate([r["accuracy"] for r in chosen], [r["accuracy_ci95"] for r in chosen])
        row["rule_nfe"] = estimate([r["nfe"] for r in chosen], [r["nfe_ci95"] for r in chosen])
        row["is_comparable"] = all(match.is_comparable for match in matched)
        # Over the line's own seeds: with many of them, one below 5 % is to be expected.
        worse = holm([t["accuracy_p"] for t in own])
        row["is_less_accurate"] = any(
            p < LEVEL and t["accuracy_difference"]["mean"] < 0 for p, t in zip(worse, own, strict=True)
        )
        is_claimed = row["is_comparable"] and not row["is_less_accurate"]
        row["saved"] = (
            estimate([t["saved"]["mean"] for t in own], [t["saved"]["problems"] for t in own]) if is_claimed else None
        )
        row["claim"] = claim(row)
        rows.append(row)
    return rows


def claim(row: Row) -> str:
    """Say in a few words what may be claimed of a learned line."""
    if row["is_less_accurate"]:
        return "none: less accurate than the rule"
    if not row["is_comparable"]:
        return "none: no rule measured at this accuracy"
    if row["saved"]["mean"] <= 0:
        return "none: no fewer forwards"
    return "fewer forwards" if is_shown(row) else "none: could be chance"


def is_shown(row: Row) -> bool:
    """Tell whether what a learned line saves is more than chance: its 95 % interval lies above 0.

    That is the one over seeds where there are several, else the one over problems; without either nothing is known.
    """
    edges = row["saved"]["seeds"] or row["saved"]["problems"]
    return edges is not None and edges[0] > 0


def _once(records: Sequence[Record]) -> list[Record]:
    """Return one record if all are of the same rule: nothing varies with the seed then."""
    return list(records[:1] if len({record["policy"] for record in records}) == 1 else records)


def join_rules(names: Sequence[str]) -> str:
    """Name several settings of rules in short.

    >>> join_rules(["threshold:0.8", "threshold:0.78", "klass:0.9", "threshold:0.8"])
    'klass:0.9, threshold:0.78 / 0.8'
    """
    knobs: dict[str, list[str]] = {}
    for name in sorted(set(names)):
        rule, _, knob = name.partition(":")
        knobs.setdefault(rule, []).append(knob)
    return ", ".join(f"{rule}:{' / '.join(values)}".removesuffix(":") for rule, values in knobs.items())


def leads(lines: Sequence[Line], saved: Sequence[Row]) -> list[Line]:
    """Choose one line a learned family and set of problems, to be looked at closely.

    It is the one with the largest share of forwards saved among those at the largest block length, decided
    deterministically if any is.
    """
    found = []
    for key in dict.fromkeys((line.problems, line.family) for line in lines if line.is_learned):
        own = [line for line in lines if line.is_learned and (line.problems, line.family) == key]
        own = [line for line in own if line.block == max(o.block for o in own)]
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
            theirs = _once([r.tasks[task] for r in others if task in r.tasks])
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
        names = list(dict.fromkeys(r.source for line in own for r in line.replicates)) if own[0].is_learned else [""]
        seeds = [[r for line in own for r in line.replicates if name in ("", r.source)] for name in names]
        points = [[(r.record["accuracy"], r.record["nfe"]) for r in seed] for seed in seeds]
        here = [r.record for line in lines if (line.problems, line.block) == (problems, block) for r in line.replicates]
        speeds = [[(r.record["accuracy"], r.record.get("tokens_per_forward")) for r in seed] for seed in seeds]
        is_known = all(speed is not None for seed in speeds for _, speed in seed)
        rows.append(
            {
                "problems": problems.text,
                "block": block,
                "family": family,
                "is_learned": own[0].is_learned,
                "settings": len(own),
                "hypervolume": estimate(
                    [hypervolume(seed, reference_accuracy) for seed in points],
                    [_hypervolume_interval(seed, reference_accuracy) for seed in seeds],
                ),
                "aup": estimate([aup(seed, max(r["accuracy"] for r in here)) for seed in speeds], ())
                if is_known
                else None,
            }
        )
    order = list(dict.fromkeys(row["problems"] for row in rows))
    return sorted(rows, key=lambda row: (order.index(row["problems"]), -row["block"], -row["hypervolume"]["mean"]))


def _hypervolume_interval(settings: Sequence[Replicate], reference_accuracy: float) -> list[float] | None:
    if not all(is_paired(settings[0], other) for other in settings):
        return None
    score, nfe = np.stack(_columns("score", *settings)), np.stack(_columns("nfe", *settings))

    def volumes(drawn: Values, axis: int = -1) -> Values:
        rows = np.atleast_2d(drawn).astype(np.int64)
        means = [(score[:, row].mean(1), nfe[:, row].mean(1)) for row in rows]
        return np.array([hypervolume(list(zip(*mean, strict=True)), reference_accuracy) for mean in means])

    return bootstrap_interval(volumes, np.arange(score.shape[1], dtype=np.float64))


def oracle_distances(lines: Sequence[Line], rules: Sequence[str]) -> list[Row]:
    """Return how many times the oracle's forwards are spent, at its accuracy within a point.

    For each learned line, and the cheapest rule that is within a point of the oracle or better.
    """
    rows = []
    for oracle in [line for line in lines if line.family == "oracle"]:
        limit = oracle.replicates[0].record
        here = same_place(oracle, lines)
        near = [line for line in here if line.is_learned]
        candidates = [line for line in here if is_rival(line, rules)]
        if candidates:
            best = best_rule([c.replicates[0].record for c in candidates], limit["accuracy"], ORACLE_TOLERANCE)
            near += [line for line in candidates if line.replicates[0].record is best]
        for line in near:
            records = [r.record for r in line.replicates]
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
        names = [name for name in dict.fromkeys(n for values in flat for n in values) if name not in ("out", "resume")]
        different = [name for name in names if len({repr(values.get(name, "—")) for values in flat}) > 1]
        if different:
            found[kind] = [
                {"run": run.name, **{name: values.get(name, "—") for name in different}}
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
        One `train.measures.mean_curve` a group of seeds.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        if any(metric in row for row in run.progress):
            groups.setdefault(fingerprint(run), []).append(run)
    known = {r.training.path: line.family for line in lines for r in line.replicates if r.training is not None}
    found = []
    for own in groups.values():
        name = known.get(own[0].path) or common_name([run.name for run in own])
        tracks = [
            np.array([(row[STEP], row[metric]) for row in run.progress if metric in row], np.float64).T for run in own
        ]
        first, last = max(track[0][0] for track in tracks), min(track[0][-1] for track in tracks)
        steps = tracks[0][0][(tracks[0][0] >= first) & (tracks[0][0] <= last)]
        values = [np.interp(steps, *track) for track in tracks]
        found.append(mean_curve(name, steps.tolist(), [v.tolist() for v in values]))
    return found


def find(runs: Sequence[Run], lines: Sequence[Line], rules: Sequence[str], reference_accuracy: float) -> dict[str, Any]:
    """Compute what ``report.json`` holds, as numbers; shares and accuracies are in [0, 1]."""
    shown = [line for line in lines if line.is_learned or line.family == "oracle" or is_rival(line, rules)]
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
