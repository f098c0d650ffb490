"""Compare runs that differ by seed: is the learned policy cheaper than the best threshold at the same accuracy?

``python train/compare.py '[runs/ppo, runs/ppo_s1, runs/ppo_s2]'`` reads each run's ``evaluation.json`` and prints
Markdown: the learned policies' accuracy and forwards as mean and 95 % interval over the runs, against the threshold
rule's curve measured on the same problems.
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

    runs: list[Path]
    """Run folders, or files of records."""
    rule: str = "threshold"
    """The rule to compare with; all its evaluated knobs count."""
    rule_records: Path | None = None
    """File of the rule's records on the same problems; null takes those of each run."""
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


def compare(runs: Sequence[Sequence[Record]], rule: str = "threshold") -> str:
    """Write the comparison as a Markdown table, one row a block length and decision rule.

    Args:
        runs: each run's records.
        rule: the rule to compare with.
    """
    lines = [
        f"| block | decision | accuracy % | NFE | best {rule} at that accuracy: NFE | forwards saved % |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    suite = [[record for record in run if record["task"] == "all"] for run in runs]
    settings = [(r["block_length"], r["decision"]) for r in suite[0] if r["policy"] == "learned"]
    for block, decision in sorted(settings, reverse=True):
        accuracies, forwards, best, saved = [], [], [], []
        for records in suite:
            here = [record for record in records if record["block_length"] == block]
            learned = next(r for r in here if r["policy"] == "learned" and r["decision"] == decision)
            rival = best_rule([r for r in here if r["policy"].startswith(f"{rule}:")], learned["accuracy"])
            accuracies.append(100 * learned["accuracy"])
            forwards.append(learned["nfe"])
            best.append(rival["nfe"])
            saved.append(100 * (1 - learned["nfe"] / rival["nfe"]))
        cells = [_interval(accuracies, 1), _interval(forwards, 2), _interval(best, 2), _interval(saved, 1)]
        lines.append(f"| {block} | {decision} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def per_task(runs: Sequence[Sequence[Record]], rule: str = "threshold") -> str:
    """Write a Markdown table of tasks in full diffusion: the deterministic policy against the rule.

    The rule's setting is the one that `best_rule` chooses for the whole suite.

    Args:
        runs: each run's records.
        rule: the rule to compare with.
    """
    lines = [f"| task | learned: accuracy % | NFE | best {rule}: accuracy % | NFE |", "| --- | --- | --- | --- | --- |"]
    found: dict[str, list[tuple[float, float, float, float]]] = {}
    for run in runs:
        block = max(record["block_length"] for record in run)
        here = [record for record in run if record["block_length"] == block]
        learned = {r["task"]: r for r in here if r["policy"] == "learned" and r["decision"] == "deterministic"}
        rules = [r for r in here if r["policy"].startswith(f"{rule}:")]
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
    """Print the comparison of the runs."""
    shared = read_records(config.rule_records) if config.rule_records is not None else []
    runs = [read_records(run) + shared for run in config.runs]
    text = compare(runs, config.rule) + "\n" + per_task(runs, config.rule)
    if config.out is not None:
        write_atomic(config.out, text)
    print(text)


if __name__ == "__main__":
    from train.cli import run

    run(main, CompareConfig)
