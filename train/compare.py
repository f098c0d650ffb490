"""Compare policies that differ by seed: is learning cheaper than the best threshold at the same accuracy?

``python train/compare.py runs/evaluate`` reads an evaluation of several policy folders and of the threshold rule on
the same problems, and prints Markdown: the learned policies' accuracy and forwards as mean and 95 % interval over the
seeds, against the rule's curve.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from train.records import Record, mean_interval, read_records
from train.run_folder import write_atomic

TOLERANCE = 0.005
"""Accuracies within half a point count as the same."""


@dataclass(frozen=True)
class CompareConfig:
    """What `python train/compare.py` does."""

    run: Path
    """Folder of the evaluation, or a file of records."""
    rule: str = "threshold"
    """The rule to compare with; all its evaluated knobs count."""
    out: Path | None = None
    """File for the Markdown."""


def best_rule(records: Sequence[Record], accuracy: float, tolerance: float = TOLERANCE) -> Record:
    """Return the cheapest of a rule's settings that is at least as accurate, or its most accurate one.

    Args:
        records: of one rule with several knobs, on the same problems.
        accuracy: to reach, in [0, 1].
        tolerance: how far below still counts.

    >>> curve = [{"accuracy": 0.9, "nfe": 2.0}, {"accuracy": 0.96, "nfe": 3.0}, {"accuracy": 0.97, "nfe": 5.0}]
    >>> best_rule(curve, 0.964)["nfe"], best_rule(curve, 0.99)["nfe"]
    (3.0, 5.0)
    """
    enough = [record for record in records if record["accuracy"] >= accuracy - tolerance]
    if enough:
        return min(enough, key=lambda record: float(record["nfe"]))
    return max(records, key=lambda record: float(record["accuracy"]))


def _interval(values: Sequence[float], digits: int) -> str:
    low, high = mean_interval(values)
    return f"{sum(values) / len(values):.{digits}f} ± {(high - low) / 2:.{digits}f}"


def learned_policies(records: Sequence[Record]) -> list[str]:
    """Return the names of the learned policies, one a seed."""
    return list(dict.fromkeys(r["policy"] for r in records if r["policy"].startswith("learned")))


def compare(records: Sequence[Record], rule: str = "threshold") -> str:
    """Write the comparison as a Markdown table, one row a block length and decision rule.

    Args:
        records: of learned policies that differ by seed, and of the rule, on the same problems.
        rule: the rule to compare with.
    """
    lines = [
        f"| block | decision | accuracy % | NFE | best {rule} at that accuracy: NFE | forwards saved % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    suite = [record for record in records if record["task"] == "all"]
    seeds = learned_policies(suite)
    settings = dict.fromkeys((r["block_length"], r["decision"]) for r in suite if r["policy"] in seeds)
    for block, decision in sorted(settings, reverse=True):
        here = [record for record in suite if record["block_length"] == block]
        rules = [r for r in here if r["policy"].startswith(f"{rule}:")]
        learned = [r for r in here if r["policy"] in seeds and r["decision"] == decision]
        best = [best_rule(rules, r["accuracy"])["nfe"] for r in learned]
        saved = [100 * (1 - r["nfe"] / nfe) for r, nfe in zip(learned, best, strict=True)]
        cells = [
            _interval([100 * r["accuracy"] for r in learned], 1),
            _interval([r["nfe"] for r in learned], 2),
            _interval(best, 2),
            _interval(saved, 1),
        ]
        lines.append(f"| {block} | {decision} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def per_task(records: Sequence[Record], rule: str = "threshold") -> str:
    """Write a Markdown table of tasks in full diffusion: the deterministic policies against the rule.

    The rule's setting is, for each seed, the one that `best_rule` chooses for the whole suite.

    Args:
        records: of learned policies that differ by seed, and of the rule, on the same problems.
        rule: the rule to compare with.
    """
    lines = [f"| task | learned: accuracy % | NFE | best {rule}: accuracy % | NFE |", "| --- | --- | --- | --- | --- |"]
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    block = max(record["block_length"] for record in records)
    here = [record for record in records if record["block_length"] == block]
    rules = [r for r in here if r["policy"].startswith(f"{rule}:")]
    for seed in learned_policies(here):
        learned = {r["task"]: r for r in here if r["policy"] == seed and r["decision"] == "deterministic"}
        name = best_rule([r for r in rules if r["task"] == "all"], learned["all"]["accuracy"])["policy"]
        rival = {r["task"]: r for r in rules if r["policy"] == name}
        for task, mine in learned.items():
            other = rival[task]
            numbers = (100 * mine["accuracy"], mine["nfe"], 100 * other["accuracy"], other["nfe"])
            found.setdefault(task, []).append(numbers)
    for task, rows in found.items():
        cells = [
            _interval(column, digits) for column, digits in zip(zip(*rows, strict=True), (1, 2, 1, 2), strict=True)
        ]
        lines.append(f"| {task} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main(config: CompareConfig) -> None:
    """Print the comparison."""
    records = read_records(config.run)
    text = compare(records, config.rule) + "\n" + per_task(records, config.rule)
    if config.out is not None:
        write_atomic(config.out, text)
    print(text)


if __name__ == "__main__":
    from train.cli import run

    run(main, CompareConfig)
