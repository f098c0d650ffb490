"""Tests of two policies, on the same problems and on others, by values that are known."""

from __future__ import annotations

from typing import Any

import pytest
from scipy import stats

from train.evaluation.measures import AccuracyTest, are_paired, compare_accuracy, compare_forwards
from train.evaluation.records import Outcomes, Record, summarise


def evaluated(scores: list[float], nfe: list[int], first: int = 0) -> tuple[Record, Outcomes]:
    """The record of all tasks, and the outcomes, of problems from a number on."""
    made: dict[str, Any] = {"policy": "p", "decision": "deterministic", "block_length": 8, "seed": 0, "seconds": 1.0}
    made |= {"task": ["copy"] * len(scores), "index": list(range(first, first + len(scores))), "score": scores}
    outcomes: Any = {**made, "nfe": [float(count) for count in nfe], "token_positions": [8.0 * count for count in nfe]}
    return summarise(outcomes)[-1], outcomes


RIGHT_8, RIGHT_2 = [1.0] * 8 + [0.0] * 2, [0.0] * 8 + [1.0] * 2
FEW, MANY = [1, 2, 1, 3, 2, 1, 2, 2, 1, 1], [4, 6, 6, 9, 9, 9, 11, 12, 12, 13]


def test_outcomes_are_paired_where_both_are_of_the_same_problems() -> None:
    _, mine = evaluated(RIGHT_8, FEW)
    _, same = evaluated(RIGHT_2, MANY)
    _, others = evaluated(RIGHT_8, FEW, first=10)
    _, of_another_task = evaluated(RIGHT_8, FEW)
    of_another_task["task"] = ["sort"] * 10
    assert are_paired(mine, same)
    assert [are_paired(mine, other) for other in (others, of_another_task, None)] == [False] * 3
    assert [are_paired(None, other) for other in (mine, None)] == [False] * 2


def test_accuracies_of_the_same_problems() -> None:
    """Of ten problems one solved eight and the other the two that it did not: p is that of 8 heads in 10."""
    (first, mine), (second, theirs) = evaluated(RIGHT_8, FEW), evaluated(RIGHT_2, MANY)
    assert compare_accuracy(first, second, (mine, theirs)) == AccuracyTest(pytest.approx(0.109375), True, 8, 2)


def test_shares_of_the_same_problems() -> None:
    """Six that are all higher, by different amounts: two of 64 signs are as far out."""
    shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6]
    (first, mine), (second, theirs) = evaluated(shares, [1] * 6), evaluated([0.0] * 6, [1] * 6)
    for one, other in (mine, theirs), (theirs, mine):
        assert compare_accuracy(first, second, (one, other)) == AccuracyTest(pytest.approx(2 / 64), True)


@pytest.mark.parametrize("kept", ["other", "first", "second", "none"])
def test_accuracies_of_other_problems(kept: str) -> None:
    """Fisher's: of all tables with ten each and ten right, those with 8 or more and 2 or fewer."""
    (first, mine), (second, theirs) = evaluated(RIGHT_8, FEW), evaluated(RIGHT_2, MANY, first=10)
    outcomes = {"other": (mine, theirs), "first": (mine, None), "second": (None, theirs), "none": (None, None)}[kept]
    # 2 (45² + 10² + 1) of 184,756.
    assert compare_accuracy(first, second, outcomes) == AccuracyTest(pytest.approx(2 * 2126 / 184756), False)


def test_forwards_of_the_same_problems_and_of_others() -> None:
    (first, mine), (second, theirs) = evaluated(RIGHT_8, FEW), evaluated(RIGHT_8, MANY)
    assert compare_forwards(first, second, (mine, theirs)) == pytest.approx(stats.wilcoxon(FEW, MANY).pvalue)
    welch = stats.ttest_ind(FEW, MANY, equal_var=False).pvalue
    _, others = evaluated(RIGHT_8, MANY, first=10)
    for outcomes in (mine, others), (mine, None), (None, theirs), (None, None):
        assert compare_forwards(first, second, outcomes) == pytest.approx(welch)
    # Of two problems too, with one degree of freedom each.
    (first, _), (second, _) = evaluated([1.0] * 2, [1, 3]), evaluated([1.0] * 2, [4, 8])
    assert compare_forwards(first, second) == pytest.approx(stats.ttest_ind([1, 3], [4, 8], equal_var=False).pvalue)
