"""What a whole frontier of accuracy and cost is worth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from train.evaluation.measures import ROUNDING
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record, mean_interval

AUP_WEIGHT, AUP_RANGE = 3.0, 0.05
"""Of `aup`: how steeply lost accuracy is punished, and how much of it may be lost at all."""


def aup(points: Sequence[tuple[float, float]], best: float) -> float:
    """Return the accuracy under parallelism of a policy's settings.

    The area below accuracy (in percent) over tokens per forward, each accuracy y weighted by
    ``exp(-3 (1 - y / best))``, a trapezoid between neighbours, and a rectangle below the slowest setting. Settings more
    than five points below the slowest one are left out.

    Args:
        points: accuracy in [0, 1] and tokens per forward of each setting, at least one.
        best: the highest accuracy of any policy on these problems.

    Source: arXiv 2601.07568 (d3LLM). Departure: tokens are counted up to the end-of-text, see
    `train.evaluation.records.Record`.

    >>> aup([(0.8, 2.0)], 0.8), round(aup([(0.8, 2.0), (0.8, 3.0), (0.5, 9.0)], 0.8))
    (160.0, 240)
    """
    ordered = sorted(points, key=lambda point: point[1])
    # Settings that buy speed by failing add no area.
    kept = [point for point in ordered if point[0] >= ordered[0][0] - AUP_RANGE - ROUNDING]
    weighed = [y * min(1.0, float(np.exp(-AUP_WEIGHT * (1 - y / best)))) if best > 0 else 0.0 for y, _ in kept]
    # Unweighted, as in the paper: the slowest setting is what the others may lose from.
    area = kept[0][0] * kept[0][1]
    for i in range(1, len(kept)):
        area += (kept[i][1] - kept[i - 1][1]) * (weighed[i] + weighed[i - 1]) / 2
    return 100 * area


def aups(records: Sequence[Record]) -> dict[tuple[int, str, str], float]:
    """Return the accuracy under parallelism of each policy that was evaluated at several settings.

    A curve is that of one way to decode as its knob turns, so a policy's sampled and deterministic decisions make two.

    Args:
        records: of an evaluation; only those of all tasks that hold ``tokens_per_forward`` count.

    Returns:
        By block length, family (`PolicyName.family`) and decision; a comparison of the same records has the larger of
        a family's two.
    """
    families: dict[tuple[int, str, str], list[tuple[float, float]]] = {}
    best: dict[int, float] = {}
    for record in records:
        if record["task"] == "all" and "tokens_per_forward" in record:
            block, name = record["block_length"], PolicyName.read(record["policy"])
            point = record["accuracy"], record["tokens_per_forward"]
            families.setdefault((block, str(name.family), record["decision"]), []).append(point)
            best[block] = max(best.get(block, 0.0), record["accuracy"])
    return {key: aup(points, best[key[0]]) for key, points in families.items() if len(points) > 1}


def hypervolume(points: Sequence[tuple[float, float]], reference_accuracy: float) -> float:
    """Return what a policy family covers of the plane of accuracy and speed, in [0, 1].

    Speed is 1 / NFE. A setting covers everything that is at most as accurate and at most as fast, down to the
    reference point of speed 0 and the given accuracy; 1 is an always right answer in a single forward.

    Args:
        points: (accuracy, NFE) of each setting.
        reference_accuracy: that counts as nothing, in [0, 1).

    >>> hypervolume([(1.0, 4.0), (0.75, 2.0)], 0.5)  # 1/4 of it, and half of what lies between speeds 1/4 and 1/2
    0.375
    """
    area, best = 0.0, reference_accuracy
    # From fast to slow; each point adds the accuracy that no faster one has.
    for accuracy, nfe in sorted(points, key=lambda point: (point[1], -point[0])):
        if accuracy > best:
            area += (accuracy - best) / nfe
            best = accuracy
    return area / (1 - reference_accuracy)


def mean_curve(label: str, steps: Sequence[float], tracks: Sequence[Sequence[float]]) -> dict[str, Any]:
    """Average the learning curves of some seeds, as `train.comparison.plots.plot_curves` takes them.

    Args:
        label: of the curve.
        steps: environment steps.
        tracks: one a seed, its values at these steps.

    Returns:
        ``label``, ``seeds``, the lists ``steps``, ``mean``, ``low`` and ``high`` (these two are Student's 95 %
        interval), and ``each``, the seeds' own.

    >>> mean_curve("net", [10, 20], [[1.0, 2.0], [3.0, 2.0]])["mean"]
    [2.0, 2.0]
    """
    edges = [mean_interval(column) for column in zip(*tracks, strict=True)]
    return {
        "label": label,
        "seeds": len(tracks),
        "steps": list(steps),
        "mean": np.mean(tracks, axis=0).tolist(),
        "each": [list(track) for track in tracks],
        "low": [low for low, _ in edges],
        "high": [high for _, high in edges],
    }
