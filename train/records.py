"""Evaluation records: what one policy did on one task, with intervals. Every later tool reads and writes them."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.table import Table
from scipy import stats

from train.run_folder import UserError

Record = dict[str, Any]
"""``{policy, decision, task, block_length, accuracy, accuracy_ci95, nfe, nfe_ci95, token_positions, episodes, seed}``:
one policy with one decision rule on one task, or on ``"all"`` of them; accuracy is in [0, 1]."""


def accuracy_interval(scores: Sequence[float]) -> list[float]:
    """Return the 95 % Wilson interval of a mean of 0/1 scores.

    >>> [round(edge, 3) for edge in accuracy_interval([1.0] * 8 + [0.0] * 2)]
    [0.49, 0.943]
    """
    interval = stats.binomtest(round(sum(scores)), len(scores)).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def mean_interval(values: Sequence[float]) -> list[float]:
    """Return the 95 % Student interval of a mean; a single value is its own interval.

    >>> [round(edge, 3) for edge in mean_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    mean, error = float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else 0.0
    half = float(stats.t.ppf(0.975, max(1, len(values) - 1))) * error
    return [mean - half, mean + half]


def make_record(name: str, decision: str, task: str, block: int, seed: int, rows: Sequence[Sequence[float]]) -> Record:
    """Summarise one policy's episodes.

    Args:
        name: of the policy.
        decision: "sample" or "deterministic".
        task: name, or "all".
        block: block length.
        seed: of the evaluation.
        rows: (score, NFE, token positions) of each episode.
    """
    scores, nfe, positions = (list(column) for column in zip(*rows, strict=True))
    return {
        "policy": name,
        "decision": decision,
        "task": task,
        "block_length": block,
        "accuracy": float(np.mean(scores)),
        "accuracy_ci95": accuracy_interval(scores),
        "nfe": float(np.mean(nfe)),
        "nfe_ci95": mean_interval(nfe),
        "token_positions": float(np.mean(positions)),
        "episodes": len(rows),
        "seed": seed,
    }


def read_records(source: Path) -> list[Record]:
    """Read the records of a run's folder, or of a file.

    Raises:
        UserError: if there are none.
    """
    file = source / "evaluation.json" if source.is_dir() else source
    try:
        records: list[Record] = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise UserError(f"run is {str(source)!r}: its evaluation can't be read ({error})") from error
    return records


def print_table(records: Sequence[Record], title: str = "", per_task: bool = False) -> None:
    """Print records as an aligned table: the suite's, and with `per_task` each task's."""
    table = Table(title=title or None, title_justify="left")
    for column in ("policy", "decision", "block", "task"):
        table.add_column(column)
    for column in ("accuracy %", "NFE", "token positions"):
        table.add_column(column, justify="right")
    for record in records:
        if per_task or record["task"] == "all":
            half = 100 * (record["accuracy_ci95"][1] - record["accuracy_ci95"][0]) / 2
            half_nfe = (record["nfe_ci95"][1] - record["nfe_ci95"][0]) / 2
            table.add_row(
                record["policy"],
                record["decision"],
                str(record["block_length"]),
                record["task"],
                f"{100 * record['accuracy']:.1f} ± {half:.1f}",
                f"{record['nfe']:.2f} ± {half_nfe:.2f}",
                f"{record['token_positions']:.0f}",
            )
    Console(width=None if sys.stdout.isatty() else 120).print(table)
