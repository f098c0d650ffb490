"""A comparison in the order of reading: what `train.comparison.report` found, as titles, sentences and tables."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import chain
from typing import Any

from train.comparison.estimates import Row
from train.comparison.headlines import HALF_A_POINT, headlines, letter, plural
from train.comparison.page import Column, Section, Table
from train.comparison.pairs import ORACLE_TOLERANCE

SET = Column("set", "problems")
BLOCK = Column("block", "block", 0)
POLICY = Column("policy", "policy")
DECISION = Column("decision", "decision")
SEEDS = Column("seeds", "seeds", 0)
ACCURACY = Column("accuracy", "accuracy %", 1, 100, limits=(0, 100))
NFE = Column("nfe", "NFE", 2)
RULE = Column("rule", "set against")
SAVED = Column("saved", "forwards saved %", 1, 100)
LINE = (SET, BLOCK, POLICY, DECISION)

SUMMARY = (
    *LINE,
    SEEDS,
    ACCURACY,
    NFE,
    Column("token_positions", "token positions", 0),
    Column("tokens_per_forward", "tokens per forward", 2),
    Column("buffer_per_forward", "with padding", 1),
    Column("training_seconds", "training min", 1, 1 / 60, limits=(0, math.inf)),
    Column("evaluation_seconds", "evaluation s", 1, limits=(0, math.inf)),
)
SAVINGS = (
    *LINE,
    SEEDS,
    ACCURACY,
    NFE,
    RULE,
    Column("rule_accuracy", "its accuracy %", 1, 100, limits=(0, 100)),
    Column("rule_nfe", "its NFE", 2),
    SAVED,
    Column("claim", "what may be claimed"),
)
TESTS = (
    *LINE,
    Column("seed", "seed"),
    RULE,
    Column("verdict", "policy is"),
    Column("n", "n", 0),
    Column("right_alone", "right alone: policy, rule"),
    Column("accuracy_difference", "accuracy: points", 1, 100),
    Column("accuracy_p", "accuracy: p", 3, is_p=True),
    Column("accuracy_holm", "accuracy: Holm's p", 3, is_p=True),
    Column("nfe_difference", "NFE: forwards", 2),
    Column("nfe_p", "NFE: p", 3, is_p=True),
    Column("nfe_holm", "NFE: Holm's p", 3, is_p=True),
)
TASKS = (
    *LINE,
    Column("task", "task"),
    ACCURACY,
    NFE,
    Column("rule_accuracy", "its rule: accuracy %", 1, 100, limits=(0, 100)),
    Column("rule_nfe", "its rule: NFE", 2),
)
HYPERVOLUME = (
    SET,
    BLOCK,
    Column("family", "family"),
    Column("settings", "settings", 0),
    Column("hypervolume", "hypervolume", 3),
    Column("aup", "AUP", 0),
)
ORACLE = (
    *LINE,
    ACCURACY,
    Column("oracle_accuracy", "oracle's accuracy %", 1, 100),
    Column("oracle_nfe", "oracle's NFE", 2),
    Column("ratio", "NFE / oracle's NFE", 2),
)
RUNS = (
    Column("run", "run"),
    Column("kind", "kind"),
    Column("seed", "seed"),
    Column("commit", "commit"),
    SET,
    Column("policies", "settings", 0),
    Column("outcomes", "outcomes"),
    Column("path", "folder"),
)


AGAINST = "Against the best rule at the same accuracy"
"""Title of the section that says what is saved."""


def table(found: Mapping[str, Any], columns: Sequence[Column], rows: Sequence[Row]) -> Table:
    """Choose what a table shows: no column that is empty, and the set of problems only where there are several."""
    sets = {text: letter(i) for i, text in enumerate(found["problems"])}
    lettered = [{**row, "set": sets.get(row.get("problems", ""))} for row in rows]
    cells = chain.from_iterable(row.items() for row in lettered)
    filled = {key for key, value in cells if value is not None}
    shown = [column for column in columns if column.key in filled]
    return Table([column for column in shown if column is not SET or len(sets) > 1], lettered)


def sections_of(found: Mapping[str, Any], rules: Sequence[str], images: Sequence[str]) -> list[Section]:
    """Arrange everything.

    Args:
        found: what `train.comparison.report.find` returns.
        rules: that policies were compared with.
        images: names of the plots.
    """
    parts = [
        Section("Findings", headlines(found), notes(found, rules)),
        Section(
            "Runs",
            [f"Problems {letter(i)}: {text}." for i, text in enumerate(found["problems"])],
            tables=[table(found, RUNS, found["runs"])],
        ),
        Section(
            "Accuracy against cost",
            [
                "Up and to the left is better. Large markers are learned policies, one a seed, filled where the "
                "decision is deterministic; bars are 95 % intervals over problems. The line is the frontier of all "
                "rules here; an arrow points out the largest saving that is more than chance."
            ],
            images=_drawn(images, "pareto"),
        ),
        _summary(found),
        *([*_against_rules(found, rules)] if found["savings"] else []),
    ]
    if found["tasks"]:
        parts.append(_tasks(found, images))
    parts.append(_hypervolume(found))
    if found["oracle"]:
        parts.append(_oracle(found))
    if _drawn(images, "curves"):
        text = "Training episodes, sampled; thin lines are seeds, the band is Student's 95 % interval over them."
        parts.append(Section("Learning curves", [text], images=_drawn(images, "curves")))
    if found["differences"]:
        parts.append(_differences(found))
    return [*parts, Section("All settings", tables=[table(found, SUMMARY, found["settings"])], folded=True)]


def _drawn(images: Sequence[str], prefix: str) -> list[str]:
    return [name for name in images if name.startswith(prefix)]


def _summary(found: Mapping[str, Any]) -> Section:
    beaten = {(row["problems"], row["block"], row["rule"]) for row in found["tests"]}
    # All settings stand at the end: here only rules that a policy is set against, or all where there is none.
    rows = [
        row
        for row in found["settings"]
        if row["is_learned"]
        or row["family"] == "oracle"
        or (row["problems"], row["block"], row["policy"]) in beaten
        or not beaten
    ]
    text = [
        "Learned policies, the rules they are compared with, and the oracle. [ ] is the 95 % interval over problems, "
        "the mean of the seeds' own; { } is Student's over seeds.",
        "NFE: forwards of the dLLM per answer. Token positions: prompt and buffer positions computed, summed over an "
        "answer's forwards. Tokens per forward: the tokens of all answers over their forwards, end-of-text and padding "
        "not counted; with padding: positions of the buffer (L) over the mean NFE. Wall times are of whatever machine "
        "it was; evaluation: of decoding and scoring all problems.",
    ]
    return Section("Summary", text, tables=[table(found, SUMMARY, rows)])


def _against_rules(found: Mapping[str, Any], rules: Sequence[str]) -> tuple[Section, Section]:
    named = "any rule" if "all" in rules else " or ".join(rules)
    tests = [{**test, "right_alone": _right_alone(test)} for test in found["tests"]]
    return (
        Section(
            AGAINST,
            [
                f"For each seed, the cheapest setting of {named} that is at most {HALF_A_POINT} less accurate on the "
                f"same problems, if any was measured within {HALF_A_POINT} of the seed's accuracy. If none was, the "
                "nearest one is shown and nothing is claimed; nor is anything where the policy is significantly less "
                "accurate than the rule. Choosing the rule's setting on these problems favours the rule."
            ],
            tables=[table(found, SAVINGS, found["savings"])],
        ),
        Section(
            "Tests",
            [
                f"Each seed and the rule that it is set against: {plural(len(tests), 'test')} of accuracy and as many "
                "of forwards; Holm's correction is over each of the two. Paired, on the same problems: McNemar's exact "
                "test of who is right (of scores that are shares, Wilcoxon's), Wilcoxon's signed-rank test of "
                "forwards, bootstrap intervals. Unpaired, from the records only: Fisher's exact and Welch's test, "
                "which are weaker. What the policy is said to be holds at 5 % after the correction, but for a loss of "
                "accuracy, which counts before it. A test takes the trained policy as it is: how training varies is "
                "in the intervals over seeds."
            ],
            tables=[table(found, TESTS, tests)],
        ),
    )


def _right_alone(test: Row) -> str:
    """Say how many problems only the policy, and only the rule, solved, or how they were tested without counting."""
    if not test["paired"]:
        return "unpaired"
    return "paired" if test["only_policy"] is None else f"{test['only_policy']}, {test['only_rule']}"


def _tasks(found: Mapping[str, Any], images: Sequence[str]) -> Section:
    text = (
        "The learned family's setting that saves most at the largest block length, and the rule that it is set "
        "against on all tasks together. Bars are 95 % intervals over problems."
    )
    return Section("By task", [text], tables=[table(found, TASKS, found["tasks"])], images=_drawn(images, "tasks"))


def _hypervolume(found: Mapping[str, Any]) -> Section:
    text = (
        "The share of the plane of accuracy and speed (1 / NFE) that a family's settings dominate, down to the "
        f"reference point of accuracy {100 * found['reference_accuracy']:g} % and speed 0: 1 would be always right in "
        "one forward. "
        "A family with more settings covers more, so mind their number; and a fast, sloppy setting counts too."
    )
    return Section("Hypervolume", [text], tables=[table(found, HYPERVOLUME, found["hypervolume"])])


def _oracle(found: Mapping[str, Any]) -> Section:
    text = (
        "The oracle commits whatever agrees with one-token-a-step decoding, which it knows. The ratio is given where "
        f"accuracies are within {100 * ORACLE_TOLERANCE:g} point; a policy may beat the oracle where several answers "
        "are right."
    )
    return Section("Distance to the oracle", [text], tables=[table(found, ORACLE, found["oracle"])])


def _differences(found: Mapping[str, Any]) -> Section:
    text = "Fields of the configuration and versions, where runs of a kind differ; everything else is equal."
    kinds = found["differences"].values()
    tables = []
    for rows in kinds:
        # Every row of a kind has the same fields, whether the run has them or not.
        columns = [Column(name, name) for name in rows[0]]
        tables.append(table(found, columns, rows))
    return Section("What differs between the runs", [text], tables=tables)


def notes(found: Mapping[str, Any], rules: Sequence[str]) -> list[str]:
    """Say what the reader should not overlook."""
    texts = []
    without = [row["run"] for row in found["runs"] if row["outcomes"] == "no"]
    if without:
        texts.append(
            f"Unpaired: {', '.join(without)} kept no outcomes.json (made before there was one), so tests against them "
            "use the records only; evaluate again to have paired tests."
        )
    if len(found["problems"]) > 1:
        sets = "; ".join(f"{letter(i)}: {text}" for i, text in enumerate(found["problems"]))
        texts.append(
            f"Runs differ in their problems or in how they decode, and only like is compared with like. {sets}."
        )
    is_learned = any(row["is_learned"] for row in found["settings"])
    if not is_learned:
        texts.append("No learned policy is among the records, so nothing is tested.")
    elif not found["savings"]:
        texts.append(f"No records of {', '.join(rules)} on the learned policies' problems: nothing to compare with.")
    one_seed = list(dict.fromkeys(r["policy"] for r in found["settings"] if r["is_learned"] and r["seeds"] == 1))
    if one_seed:
        texts.append(
            f"One seed only: {', '.join(one_seed)}. Intervals over problems say nothing of how training would vary."
        )
    return texts
