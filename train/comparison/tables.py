"""Seeds of a policy against a rule, as tables for a README."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from train.command.escaping import for_markdown
from train.comparison.lines import Line
from train.comparison.pairs import is_rival, is_rule_of
from train.evaluation.headline import is_learned
from train.evaluation.measures import Gain, find_rival, gain
from train.evaluation.naming import LEARNED, PolicyName
from train.evaluation.records import Key, Outcomes, Record, mean_interval


def _interval(values: Sequence[float], digits: int) -> str:
    low, high = mean_interval(values)
    mean = f"{sum(values) / len(values):.{digits}f}"
    return f"{mean} ± {(high - low) / 2:.{digits}f}" if len(values) > 1 else mean


def learned_policies(records: Sequence[Record]) -> list[str]:
    """Return the names of the learned policies, one a seed."""
    return list(dict.fromkeys(r["policy"] for r in records if is_learned(r)))


def _rules_among(records: Sequence[Record], rules: Sequence[str]) -> list[Record]:
    return [record for record in records if is_rule_of(PolicyName.read(record["policy"]), rules)]


def compare(
    records: Sequence[Record], rules: Sequence[str] = ("threshold",), outcomes: Mapping[Key, Outcomes] | None = None
) -> str:
    """Write what learned policies save as a Markdown table, one row a block length and decision rule.

    Args:
        records: of learned policies that differ by seed, and of rules, on the same problems.
        rules: names of the rules to compare with, or all.
        outcomes: of the same, problem by problem, where they were kept.
    """
    lines = [
        f"| block | decision | accuracy % | NFE | {_named(rules)} at that accuracy: accuracy % | NFE "
        "| forwards saved % |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    suite = [record for record in records if record["task"] == "all"]
    seeds = learned_policies(suite)
    settings = dict.fromkeys((r["block_length"], r["decision"]) for r in suite if r["policy"] in seeds)
    for block, decision in sorted(settings, reverse=True):
        # The best rule of the same blocks, as anywhere in a comparison.
        here = _rules_among([record for record in suite if record["block_length"] == block], rules)
        own = [r for r in suite if (r["block_length"], r["decision"]) == (block, decision) and r["policy"] in seeds]
        gains = [gain(record, here, outcomes) for record in own]
        cells = [
            _interval([100 * one.record["accuracy"] for one in gains], 1),
            _interval([one.record["nfe"] for one in gains], 2),
            _interval([100 * one.rule["accuracy"] for one in gains], 1),
            _interval([one.rule["nfe"] for one in gains], 2),
            _saved(gains),
        ]
        lines.append(f"| {block} | {decision} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def _saved(gains: Sequence[Gain]) -> str:
    """Say what is saved, or why nothing is claimed."""
    apart = sum(not one.is_comparable for one in gains)
    if apart:
        return f"none claimed: no rule within half a point{_of(apart, len(gains))}; the nearest is shown"
    worse = sum(one.is_less_accurate for one in gains)
    if worse:
        return f"none claimed: significantly less accurate{_of(worse, len(gains))}"
    return _interval([100 * one.saved for one in gains if one.saved is not None], 1)


def _of(count: int, total: int) -> str:
    return f", {count} of {total} seeds" if total > 1 else ""


def _named(rules: Sequence[str]) -> str:
    return "best rule" if "all" in rules else f"best {' or '.join(rules)}"


def per_task(records: Sequence[Record], rules: Sequence[str] = ("threshold",)) -> str:
    """Write a Markdown table of tasks in full diffusion: the deterministic policies against a rule.

    The rule's setting is, for each seed, the one that `train.evaluation.measures.find_rival` chooses for the whole
    suite.

    Args:
        records: of learned policies that differ by seed, and of rules, on the same problems.
        rules: names of the rules to compare with, or all.
    """
    name = _named(rules)
    lines = [f"| task | learned: accuracy % | NFE | {name}: accuracy % | NFE |", "| --- | --- | --- | --- | --- |"]
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    block = max(record["block_length"] for record in records)
    here = [record for record in records if record["block_length"] == block]
    others = _rules_among(here, rules)
    for seed in learned_policies(here):
        learned = {r["task"]: r for r in here if r["policy"] == seed and r["decision"] == "deterministic"}
        # Of the whole suite, not of each task: a knob chosen anew for every task is none that one could deploy.
        rival = find_rival([r for r in others if r["task"] == "all"], learned["all"]["accuracy"]).record["policy"]
        theirs = {r["task"]: r for r in others if r["policy"] == rival}
        for task, mine in learned.items():
            other = theirs[task]
            numbers = (100 * mine["accuracy"], mine["nfe"], 100 * other["accuracy"], other["nfe"])
            found.setdefault(task, []).append(numbers)
    for task, rows in found.items():
        columns = zip(*rows, strict=True)
        cells = [_interval(column, digits) for column, digits in zip(columns, (1, 2, 1, 2), strict=True)]
        lines.append(f"| {for_markdown(task)} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def seed_tables(lines: Sequence[Line], rules: Sequence[str]) -> str:
    """Write `compare` and `per_task` of each learned policy, for a README or a paper.

    Against each rule named, or, where all count, against the best of all.
    """
    parts = []
    for line in {(x.problems, x.policy): x for x in lines if x.is_learned}.values():
        own = [x for x in lines if x.is_learned and (x.problems, x.policy) == (line.problems, line.policy)]
        for chosen in [["all"]] if "all" in rules else [[rule] for rule in dict.fromkeys(rules)]:
            others = [x for x in lines if x.problems == line.problems and is_rival(x, chosen)]
            # A block length that no rule was measured at has nothing to stand against.
            blocks = {other.block for other in others}
            shown = [x for x in own if x.block in blocks]
            if shown:
                parts += _tables_of(line, shown, others, chosen)
    return "\n".join(parts) or f"No learned policy, or no {_named(rules)}, on the same problems.\n"


def _tables_of(line: Line, own: Sequence[Line], others: Sequence[Line], rules: Sequence[str]) -> list[str]:
    """Return the tables of one learned policy's lines against lines of rules, with what they are above them."""
    records, outcomes = [], {}
    for x in (*own, *others):
        # A rule is the same under every seed, unless it draws lots: then any seed tells of it.
        for replicate in x.replicates if x.is_learned else x.replicates[:1]:
            name = str(PolicyName(LEARNED, replicate.source)) if x.is_learned else replicate.record["policy"]
            records += [{**record, "policy": name} for record in replicate.tasks.values()]
            if replicate.outcomes is not None:
                outcomes[name, x.decision, x.block] = replicate.outcomes
    about = f"{line.policy} against {_named(rules)}, {line.problems.text}. Mean ± half the interval over seeds."
    tables = [for_markdown(about) + "\n", compare(records, rules, outcomes)]
    largest = max(record["block_length"] for record in records)
    # The last table is of the deterministic decision in the largest blocks, which may not have been evaluated.
    if any(x.decision == "deterministic" and x.block == largest for x in own):
        tables.append(per_task(records, rules))
    return tables
