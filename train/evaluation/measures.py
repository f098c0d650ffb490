"""What comparisons are made of: paired and unpaired tests, Holm's correction, bootstrap intervals, hypervolume.

The statistics are SciPy's; what is here says which one is used for what.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import scipy  # its stats are imported where they are first used, half a second

from train.evaluation.records import Key, Outcomes, Record, is_right_or_wrong, key_of

TOLERANCE = 0.005
"""Accuracies within half a point count as the same."""

ROUNDING = 1e-9
"""What two ways to add up the same accuracy may differ by."""

LEVEL = 0.05
"""Of significance."""

RESAMPLES = 2000
"""Of a bootstrap."""

Values = npt.NDArray[np.float64]


def best_rule(records: Sequence[Record], accuracy: float, tolerance: float = TOLERANCE) -> Record:
    """Return the cheapest of a rule's settings that is at least as accurate, or its most accurate one.

    Args:
        records: of one rule with several knobs, or of several rules, on the same problems.
        accuracy: to reach, in [0, 1].
        tolerance: how far below still counts.

    >>> curve = [{"accuracy": 0.9, "nfe": 2.0}, {"accuracy": 0.96, "nfe": 3.0}, {"accuracy": 0.97, "nfe": 5.0}]
    >>> best_rule(curve, 0.964)["nfe"], best_rule(curve, 0.99)["nfe"]
    (3.0, 5.0)
    """
    enough = [record for record in records if record["accuracy"] >= accuracy - tolerance - ROUNDING]
    if enough:
        return min(enough, key=lambda record: float(record["nfe"]))
    return max(records, key=lambda record: float(record["accuracy"]))


@dataclass(frozen=True)
class Rival:
    """A rule's setting that a policy is set against.

    Attributes:
        record: its record.
        is_comparable: whether a rule was measured at the policy's accuracy, so that their forwards can be compared.
    """

    record: Record
    is_comparable: bool


def find_rival(records: Sequence[Record], accuracy: float, tolerance: float = TOLERANCE) -> Rival:
    """Return what a policy of some accuracy is set against.

    That is the cheapest setting which is at most `tolerance` less accurate, if any was measured within `tolerance` of
    that accuracy. Otherwise there is no rule at that accuracy, and it is the nearest one, to be looked at only.

    Args:
        records: of one rule with several knobs, or of several rules, on the same problems; at least one.
        accuracy: the policy's, in [0, 1].
        tolerance: how far apart still counts as the same.

    >>> curve = [{"accuracy": 0.9, "nfe": 2.0}, {"accuracy": 0.983, "nfe": 3.0}]
    >>> find_rival(curve, 0.903)
    Rival(record={'accuracy': 0.9, 'nfe': 2.0}, is_comparable=True)
    >>> find_rival(curve, 0.95)
    Rival(record={'accuracy': 0.983, 'nfe': 3.0}, is_comparable=False)
    """
    distances = [abs(record["accuracy"] - accuracy) for record in records]
    if min(distances) <= tolerance + ROUNDING:
        return Rival(best_rule(records, accuracy, tolerance), True)
    # Of two that are as near, the more accurate one: it flatters less.
    nearest = min(records, key=lambda r: (abs(r["accuracy"] - accuracy), -float(r["accuracy"]), float(r["nfe"])))
    return Rival(nearest, False)


@dataclass(frozen=True)
class AccuracyTest:
    """Who of two is right more often, and could it be chance.

    Attributes:
        p: two-sided, of one test; nothing is corrected.
        is_paired: whether both kept what became of the same problems.
        only_first: problems that only the first solved; None where the test counts no problems.
        only_second: likewise.
    """

    p: float
    is_paired: bool
    only_first: int | None = None
    only_second: int | None = None


def are_paired(first: Outcomes | None, second: Outcomes | None) -> bool:
    """Tell whether both outcomes were kept, and are of the same problems."""
    if first is None or second is None:
        return False
    return first["task"] == second["task"] and first["index"] == second["index"]


def compare_accuracy(
    first: Record, second: Record, outcomes: tuple[Outcomes | None, Outcomes | None] = (None, None)
) -> AccuracyTest:
    """Test two accuracies.

    Paired where both kept outcomes of the same problems: McNemar's exact test, or Wilcoxon's of scores that are shares.
    Otherwise `fisher`'s.
    """
    mine, theirs = outcomes
    if mine is None or theirs is None or not are_paired(mine, theirs):
        return AccuracyTest(fisher(first, second), False)
    scores = [np.asarray(entry["score"], np.float64) for entry in (mine, theirs)]
    if not all(is_right_or_wrong(values.tolist()) for values in scores):
        return AccuracyTest(wilcoxon(*scores), True)
    solved = [values == 1 for values in scores]
    only = int((solved[0] & ~solved[1]).sum()), int((solved[1] & ~solved[0]).sum())
    return AccuracyTest(mcnemar(*only), True, *only)


def compare_forwards(
    first: Record, second: Record, outcomes: tuple[Outcomes | None, Outcomes | None] = (None, None)
) -> float:
    """Return the two-sided p-value of a test of forwards: `wilcoxon`'s on the same problems, otherwise `welch`'s."""
    mine, theirs = outcomes
    if mine is None or theirs is None or not are_paired(mine, theirs):
        return welch(first, second)
    return wilcoxon(np.asarray(mine["nfe"], np.float64), np.asarray(theirs["nfe"], np.float64))


@dataclass(frozen=True)
class Gain:
    """What a policy saves against a rule, if anything may be claimed.

    Attributes:
        record: the policy's.
        rule: the rule's record.
        is_comparable: see `Rival`.
        is_less_accurate: whether the policy is, significantly: p below 5 %, without any correction, as it is a warning.
        saved: share of the rule's forwards that the policy does without, negative if it needs more; None where nothing
            may be claimed, as no rule was measured at that accuracy or the policy is less accurate than it.
    """

    record: Record
    rule: Record
    is_comparable: bool
    is_less_accurate: bool
    saved: float | None


def gain(record: Record, rules: Sequence[Record], outcomes: Mapping[Key, Outcomes] | None = None) -> Gain:
    """Set a policy against the best rule at its accuracy.

    Args:
        record: of the policy.
        rules: records of rules on the same problems; at least one.
        outcomes: problem by problem, where they were kept.
    """
    known = outcomes or {}
    rival = find_rival(rules, record["accuracy"])
    is_less = False
    if record["accuracy"] < rival.record["accuracy"]:
        pair = known.get(key_of(record)), known.get(key_of(rival.record))
        is_less = compare_accuracy(record, rival.record, pair).p < LEVEL
    is_claimed = rival.is_comparable and not is_less
    saved = 1 - record["nfe"] / rival.record["nfe"] if is_claimed else None
    return Gain(record, rival.record, rival.is_comparable, is_less, saved)


def mcnemar(only_first: int, only_second: int) -> float:
    """Return the exact two-sided p-value of McNemar's test.

    Args:
        only_first: problems that only the first policy solved.
        only_second: problems that only the second solved.

    >>> round(mcnemar(8, 2), 4)
    0.1094
    """
    differing = only_first + only_second
    return float(scipy.stats.binomtest(only_first, differing).pvalue) if differing else 1.0


def wilcoxon(first: Values, second: Values) -> float:
    """Return the two-sided p-value of Wilcoxon's signed-rank test; 1 if no pair differs."""
    difference = first - second
    # SciPy's p-value of pairs that are all equal is NaN.
    return float(scipy.stats.wilcoxon(difference).pvalue) if difference.any() else 1.0


def fisher(first: Record, second: Record) -> float:
    """Return the two-sided p-value of Fisher's exact test of two accuracies on unpaired problems.

    Where they are no numbers of right answers (a task can score a share, and so can the samples of a problem), it is
    Welch's test's.
    """
    sums = [record["accuracy"] * record["episodes"] for record in (first, second)]
    right = [round(value) for value in sums]
    # A mean times its number is whole but for rounding.
    if not np.allclose(sums, right, atol=1e-6) or any(record.get("samples", 1) > 1 for record in (first, second)):
        return welch(first, second, "accuracy")
    wrong = [record["episodes"] - count for record, count in zip((first, second), right, strict=True)]
    return float(scipy.stats.fisher_exact(np.array([right, wrong]))[1])


def welch(first: Record, second: Record, name: str = "nfe") -> float:
    """Return the two-sided p-value of Welch's test of two means, of forwards unless told, on unpaired problems."""
    if all(record[f"{name}_ci95"][0] == record[f"{name}_ci95"][1] for record in (first, second)):
        return float(first[name] == second[name])  # neither varies
    test = scipy.stats.ttest_ind_from_stats(*_moments(first, name), *_moments(second, name), equal_var=False)
    return float(test.pvalue)


def _moments(record: Record, name: str) -> tuple[float, float, int]:
    """Return the mean, standard deviation and number of what a record summarises."""
    n, edges = record["episodes"], record[f"{name}_ci95"]
    # An edge that is cut at 0 or 1 leaves the other one to tell the spread.
    half = max(edges[1] - record[name], record[name] - edges[0])
    return record[name], half / float(scipy.stats.t.ppf(0.975, max(1, n - 1))) * float(np.sqrt(n)), n


def holm(p_values: Sequence[float]) -> list[float]:
    """Return Holm's adjusted p-values: below 0.05, they keep the chance of any false finding below 5 %.

    Source: Holm, "A simple sequentially rejective multiple test procedure", 1979.

    >>> holm([0.01, 0.04, 0.03, 0.005])
    [0.03, 0.06, 0.06, 0.02]
    """
    order = np.argsort(p_values)
    scaled = np.asarray(p_values)[order] * np.arange(len(p_values), 0, -1)
    adjusted = np.empty(len(p_values))
    adjusted[order] = np.minimum(1.0, np.maximum.accumulate(scaled))
    return [float(value) for value in adjusted]


def bootstrap_interval(statistic: Callable[..., Any], *samples: Values) -> list[float]:
    """Return the 95 % percentile bootstrap interval over problems.

    Args:
        statistic: of the samples and ``axis``; vectorised.
        *samples: one value a problem each; a problem's values stay together.
    """
    if len(samples[0]) < 2:
        value = np.asarray(statistic(*samples, axis=-1)).item()
        return [value, value]
    interval = scipy.stats.bootstrap(
        samples,
        statistic,
        n_resamples=RESAMPLES,
        # Not all resamples at once, which would take 2000 times the samples' memory.
        batch=250,
        vectorized=True,
        paired=True,
        method="percentile",
        # The same records give the same interval.
        random_state=0,
    ).confidence_interval
    return [float(interval.low), float(interval.high)]


def difference_of_means(first: Values, second: Values, axis: int = -1) -> Values:
    """Return the first's mean minus the second's."""
    return np.asarray(first.mean(axis) - second.mean(axis))


def share_saved(first: Values, second: Values, axis: int = -1) -> Values:
    """Return the share of the second's forwards that the first does without."""
    return np.asarray(1 - first.mean(axis) / second.mean(axis))
