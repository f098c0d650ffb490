"""What a filter does on held-out traces: precision, recall, false commits and calibration by threshold."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import nn

from train.filters.traces import Traces


@torch.inference_mode()
def report(network: nn.Module, traces: Sequence[Traces], thresholds: Sequence[float]) -> dict[str, Any]:
    """Measure a filter on held-out traces.

    Returns:
        ``calibration_error``: expected, 15 equal bins, in [0, 1]; and ``thresholds``, one mapping each of
        ``precision`` (committed positions that are final), ``recall`` (final positions that are committed),
        ``false_commit_rate`` (other positions that are committed) and ``wrong_steps`` (steps with a false commit).
    """
    probability, final, step_of = [], [], []
    seen = 0
    for part in traces:
        for rows in part.batches(4096):
            eligible = rows["eligible"] > 0
            probability.append(network(rows).sigmoid()[eligible])
            final.append(rows["oracle"][eligible] > 0)
            # Steps are numbered on over all batches, so that a step's positions can be found again.
            step_of.append(seen + eligible.nonzero()[:, 0])
            seen += len(eligible)
    p, y, step = (torch.cat(parts).numpy() for parts in (probability, final, step_of))
    # A probability that is rounded to 1 belongs to the last bin.
    bins = np.minimum((p * 15).astype(int), 14)
    gaps = [abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    found = []
    for threshold in thresholds:
        chosen = p >= threshold
        right, wrong = int((chosen & y).sum()), int((chosen & ~y).sum())
        found.append(
            {
                "threshold": threshold,
                "precision": right / max(1, right + wrong),
                "recall": right / max(1, int(y.sum())),
                "false_commit_rate": wrong / max(1, int((~y).sum())),
                "wrong_steps": len(np.unique(step[chosen & ~y])) / seen,
            }
        )
    return {"calibration_error": float(sum(gaps)), "positions": len(p), "steps": seen, "thresholds": found}


def print_report(filters: dict[str, Any]) -> None:
    """Print precision, recall and false commits by threshold."""
    table = Table(title="held-out traces", title_justify="left")
    for column in (
        "filter",
        "calibration error %",
        "threshold",
        "precision %",
        "recall %",
        "false commits %",
        "wrong steps %",
    ):
        table.add_column(column, justify="left" if column == "filter" else "right")
    for name, found in filters.items():
        for row in found["thresholds"]:
            shares = [row[key] for key in ("precision", "recall", "false_commit_rate", "wrong_steps")]
            error = f"{100 * found['calibration_error']:.2f}"
            table.add_row(name, error, f"{row['threshold']:g}", *(f"{100 * share:.2f}" for share in shares))
    # A file has no width, for which rich would take 80.
    Console(width=None if sys.stdout.isatty() else 110).print(table)
