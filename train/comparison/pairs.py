"""A policy against one rule on the same problems: what may be claimed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np

from train.command.progress import progress
from train.comparison.estimates import Row, describe, estimate, identity, same_place
from train.comparison.lines import Line, Replicate
from train.evaluation.measures import (
    LEVEL,
    Values,
    are_paired,
    bootstrap_interval,
    compare_accuracy,
    compare_forwards,
    difference_of_means,
    find_rival,
    holm,
    share_saved,
)
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record

ORACLE_TOLERANCE = 0.01
"""Within a point of the oracle's accuracy, forwards are compared with the oracle's."""


SOON = 2
"""Seconds after which a bar appears."""


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
    # At the same block length: in smaller blocks every rule takes more forwards, and any policy in large ones would
    # win.
    rivals = [other for other in same_place(line, lines) if is_rival(other, rules)]
    candidates = list(chain.from_iterable(rival.replicates for rival in rivals))
    if not candidates:
        return []
    # By identity: the rival that is found is one of the very records given.
    by_record = {id(candidate.record): candidate for candidate in candidates}
    records = [candidate.record for candidate in candidates]
    found = []
    for replicate in line.replicates:
        rival = find_rival(records, replicate.record["accuracy"])
        found.append(Match(replicate, by_record[id(rival.record)], rival.is_comparable))
    return found


def is_rival(line: Line, rules: Sequence[str]) -> bool:
    """Tell whether a line is of a rule to be compared with; the oracle knows the answer and is none."""
    return is_rule_of(line.name, rules)


def is_rule_of(name: PolicyName, rules: Sequence[str]) -> bool:
    """Tell whether a rule, with end-of-text prediction or without, is one of those named, or any where all count."""
    return not name.is_oracle and not name.is_learned and ("all" in rules or name.kind in rules)


def compare_pair(line: Line, match: Match) -> Row:
    """Test one seed of a learned line against a rule.

    Paired where both kept outcomes of the same problems: McNemar's exact test of who is right (of scores that are
    shares, Wilcoxon's), Wilcoxon's signed-rank test of forwards, bootstrap intervals over problems. Otherwise Fisher's
    exact and Welch's test, without intervals.
    """
    mine, other = match.mine, match.other
    first, second = mine.record, other.record
    # The problems pair the two: what both get right or wrong says nothing of which is better.
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
    # Without outcomes of the same problems there is nothing to draw anew.
    if not accuracy.is_paired:
        return row
    right, forwards = matching_columns("score", mine, other), matching_columns("nfe", mine, other)
    row["accuracy_difference"]["problems"] = bootstrap_interval(difference_of_means, *right)
    row["nfe_difference"]["problems"] = bootstrap_interval(difference_of_means, *forwards)
    if row["saved"] is not None:
        row["saved"]["problems"] = bootstrap_interval(share_saved, *forwards)
    return row


def is_paired(first: Replicate, second: Replicate) -> bool:
    """Tell whether both kept outcomes, and of the same problems."""
    return are_paired(first.outcomes, second.outcomes)


def matching_columns(name: str, *replicates: Replicate) -> list[Values]:
    """Return one list of outcomes, such as ``score``, of each replicate that has outcomes, as float64."""
    return [np.asarray(r.outcomes[name], np.float64) for r in replicates if r.outcomes]  # type: ignore[literal-required]


def significance(lines: Sequence[Line], rules: Sequence[str]) -> list[Row]:
    """Test every seed of every learned line against the rule that it is set against, with Holm's correction.

    The correction is over all rows, for accuracy and for forwards each on its own. A row's ``tests`` is their number.
    """
    rows = []
    for line in progress([line for line in lines if line.is_learned], desc="testing", unit="policy", delay=SOON):
        rows += [compare_pair(line, match) for match in matches(line, lines, rules)]
    # Each of accuracy and forwards is a family of tests: joined, the tests of one would make it harder
    # to show anything of the other.
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
        chosen = once(chosen)
        row["rule_accuracy"] = estimate([r["accuracy"] for r in chosen], [r["accuracy_ci95"] for r in chosen])
        row["rule_nfe"] = estimate([r["nfe"] for r in chosen], [r["nfe_ci95"] for r in chosen])
        row["is_comparable"] = all(match.is_comparable for match in matched)
        # Over the line's own seeds: with many of them, one below 5 % is to be expected.
        worse = holm([t["accuracy_p"] for t in own])
        row["is_less_accurate"] = any(
            p < LEVEL and t["accuracy_difference"]["mean"] < 0 for p, t in zip(worse, own, strict=True)
        )
        # Fewer forwards at a lower accuracy are for sale anywhere: any rule's knob gives them.
        is_claimed = row["is_comparable"] and not row["is_less_accurate"]
        row["saved"] = (
            estimate([t["saved"]["mean"] for t in own], [t["saved"]["problems"] for t in own]) if is_claimed else None
        )
        # Of one seed there is a test, after correction: an interval of few problems shows more than there is.
        row["nfe_holm"] = own[0]["nfe_holm"] if len(own) == 1 else None
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

    That is the one over seeds where there are several, else the one over problems, and then the test must show it too;
    without an interval nothing is known.
    """
    # Over seeds first: what holds of one trained policy on all problems need not hold of the next.
    edges = row["saved"]["seeds"] or row["saved"]["problems"]
    is_borne_out = row["saved"]["seeds"] is not None or row["nfe_holm"] is None or row["nfe_holm"] < LEVEL
    return edges is not None and edges[0] > 0 and is_borne_out


def once(records: Sequence[Record]) -> list[Record]:
    """Return one record if all are of the same rule: nothing varies with the seed then."""
    return list(records[:1] if len({record["policy"] for record in records}) == 1 else records)


def join_rules(names: Sequence[str]) -> str:
    """Name several settings of rules in short.

    >>> join_rules(["threshold:0.8", "threshold:0.78", "klass:0.9", "threshold:0.8"])
    'klass:0.9, threshold:0.78 / 0.8'
    """
    knobs: dict[str, list[str]] = {}
    for name in map(PolicyName.read, sorted(set(names))):
        knobs.setdefault(str(name.family), []).append(name.options)
    return ", ".join(f"{rule}:{' / '.join(values)}".removesuffix(":") for rule, values in knobs.items())
