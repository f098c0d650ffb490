"""The main results in a few sentences, as a report begins."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from train.comparison.estimates import Row
from train.comparison.pairs import is_shown


def headlines(found: Mapping[str, Any]) -> list[str]:
    """Say the main result of each learned family in a few sentences, and nothing that the tests do not bear out."""
    texts = []
    for lead in found["leads"]:
        # A lead is what identifies a line, which its rows hold besides all else.
        row = next((r for r in found["savings"] if lead.items() <= r.items()), None)
        if row is None:
            continue
        own = [t for t in found["tests"] if lead.items() <= t.items()]
        seeds = f" ({row['seeds']} seeds)" if row["seeds"] > 1 else ""
        several = len(found["problems"]) > 1
        where = f", problems {letter(found['problems'].index(row['problems']))}" if several else ""
        texts.append(
            f"{row['policy']}{seeds}, {row['decision']}, block length {row['block']}{where}: "
            f"{100 * row['accuracy']['mean']:.1f} % right in {row['nfe']['mean']:.2f} forwards. "
            f"{_against(row, own)} {_tested(own)}"
        )
    return texts


def _against(row: Row, tests: Sequence[Row]) -> str:
    """Say what a learned line saves, or why nothing is claimed."""
    rule, nfe = f"{row['rule']}; {100 * row['rule_accuracy']['mean']:.1f} %", f"{row['rule_nfe']['mean']:.2f}"
    apart = [test for test in tests if not test["is_comparable"]]
    if apart:
        whose = "" if len(apart) == len(tests) else f", for {len(apart)} of {len(tests)} seeds"
        return (
            f"No rule was measured within {HALF_A_POINT} of that accuracy{whose}: the nearest ({rule}) needs {nfe}, "
            "and no saving is claimed."
        )
    if row["is_less_accurate"]:
        return f"The rule beside it ({rule}) needs {nfe}, but is significantly more accurate: no saving is claimed."
    saved = row["saved"]["mean"]
    if saved <= 0:
        return f"The best rule at that accuracy ({rule}) needs {nfe}: nothing is saved."
    edges = row["saved"]["seeds"] or row["saved"]["problems"]
    within = f" (95 % interval {100 * edges[0]:.1f} to {100 * edges[1]:.1f})" if edges else ""
    text = f"The best rule at that accuracy ({rule}) needs {nfe}: {100 * saved:.1f} % of its forwards saved{within}"
    return f"{text}." if is_shown(row) else f"{text}, which could be chance."


def _tested(tests: Sequence[Row]) -> str:
    """Give the tests' p-values, before and after correction, and how many they are."""
    alone = [(t["only_policy"], t["only_rule"]) for t in tests if t["only_policy"] is not None]
    counts = ""
    if alone:
        mine, theirs = (sum(column) for column in zip(*alone, strict=True))
        counts = f", {plural(mine, 'problem')} solved by the policy alone and {theirs} by the rule alone"
    return (
        f"Accuracy: {_p_values(tests, 'accuracy')}{counts}; forwards: {_p_values(tests, 'nfe')}; corrected by Holm's "
        f"method for {plural(tests[0]['tests'], 'test')} each."
    )


def _p_values(tests: Sequence[Row], name: str) -> str:
    raw = [test[f"{name}_p"] for test in tests]
    corrected = [test[f"{name}_holm"] for test in tests]
    return f"p {_p_range(raw)}, corrected {_p_range(corrected)}"


def _p_range(values: Sequence[float]) -> str:
    """Write p-values in short.

    >>> _p_range([0.0078]), _p_range([0.0001, 0.04]), _p_range([0.0001])
    ('= 0.008', 'from < 0.001 to 0.040', '< 0.001')
    """
    # Compared as they are written: two that look alike are one.
    low, high = ("< 0.001" if value < 0.001 else f"{value:.3f}" for value in (min(values), max(values)))
    if low == high:
        return low if low.startswith("<") else f"= {low}"
    return f"from {low} to {high}"


def letter(i: int) -> str:
    """Name a set of problems."""
    return chr(ord("A") + i) if i < 26 else str(i + 1)


HALF_A_POINT = "half a point"
"""`train.evaluation.measures.TOLERANCE` in words."""


def plural(count: int, word: str) -> str:
    """Return a count with its word.

    >>> plural(1, "test"), plural(2, "test")
    ('1 test', '2 tests')
    """
    return f"{count} {word}{'' if count == 1 else 's'}"
