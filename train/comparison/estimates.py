"""A policy's accuracy and cost with their intervals, over problems and seeds."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.comparison.lines import Line
from train.comparison.runs import training_seconds
from train.evaluation.records import mean_interval

Estimate = dict[str, Any]
"""``{mean, problems, seeds}``: a mean, and its 95 % intervals over problems and over seeds, or None."""


Row = dict[str, Any]


def estimate(values: Sequence[float], problems: Sequence[Sequence[float] | None] = ()) -> Estimate:
    """Average seeds.

    Args:
        values: one a seed.
        problems: of each seed, its interval over problems, or None.

    Returns:
        The mean; the mean of the seeds' intervals over problems; Student's interval over two or more seeds.

    >>> estimate([1.0, 2.0, 3.0], [[0.0, 2.0], [1.0, 3.0], [2.0, 4.0]])["problems"]
    [1.0, 3.0]
    """
    known = [interval for interval in problems if interval is not None]
    return {
        "mean": float(np.mean(values)),
        # Intervals of some seeds would be of others than the mean is.
        "problems": [float(edge) for edge in np.mean(known, 0)] if known and len(known) == len(values) else None,
        "seeds": mean_interval(values) if len(values) > 1 else None,
    }


def describe(line: Line) -> Row:
    """Return what identifies a line, and its measures."""
    records = [replicate.record for replicate in line.replicates]
    length = line.problems.buffer_length
    known = [replicate.outcomes for replicate in line.replicates if replicate.outcomes is not None]
    # Records of older runs have the mean alone.
    positions = [mean_interval(entry["token_positions"]) for entry in known]
    spent = [r.get("token_positions") for r in records]
    training = [training_seconds(r.training) for r in line.replicates if r.training is not None]
    trained = [seconds for seconds in training if seconds is not None]
    return {
        **identity(line),
        "seeds": len(records),
        "accuracy": estimate([r["accuracy"] for r in records], [r["accuracy_ci95"] for r in records]),
        "nfe": estimate([r["nfe"] for r in records], [r["nfe_ci95"] for r in records]),
        "token_positions": None
        if None in spent
        else estimate([float(p) for p in spent if p is not None], positions if len(known) == len(records) else ()),
        "tokens_per_forward": estimate([r["tokens_per_forward"] for r in records], ())
        if all("tokens_per_forward" in r for r in records)
        else None,
        "buffer_per_forward": None
        if length is None
        else estimate(
            [length / r["nfe"] for r in records],
            # Fewer forwards are more positions each, so the edges change places; no answer takes less than one.
            [[length / r["nfe_ci95"][1], length / max(1.0, r["nfe_ci95"][0])] for r in records],
        ),
        "training_seconds": estimate(trained) if trained else None,
        "evaluation_seconds": estimate([e["seconds"] for e in known]) if known else None,
    }


def identity(line: Line) -> Row:
    """Return what tells a line from others."""
    return {
        "problems": line.problems.text,
        "block": line.block,
        "policy": line.policy,
        "family": line.family,
        "decision": line.decision,
        "is_learned": line.is_learned,
    }


def same_place(line: Line, lines: Sequence[Line]) -> list[Line]:
    """Return the lines on the same problems at the same block length."""
    return [other for other in lines if (other.problems, other.block) == (line.problems, line.block)]
