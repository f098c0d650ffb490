"""The Pareto plot: accuracy against forwards, rules as curves and learned policies as points."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from train.evaluate import Record


def plot_pareto(records: Sequence[Record], file: Path, title: str = "") -> None:
    """Draw one panel a block length and write it as PNG, atomically.

    Args:
        records: of `train.evaluate.evaluate`; only those of all tasks are drawn.
        file: where.
        title: above the panels.
    """
    suite = [record for record in records if record["task"] == "all"]
    blocks = sorted({record["block_length"] for record in suite}, reverse=True)
    figure = Figure(figsize=(5.2 * len(blocks), 4.4), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    for axes, block in zip(figure.subplots(1, len(blocks), squeeze=False)[0], blocks, strict=True):
        _draw_panel(axes, [record for record in suite if record["block_length"] == block])
        axes.set_title(f"block length {block}", fontsize=10)
    figure.suptitle(title, fontsize=11)
    partial = file.with_name(file.name + ".tmp")
    figure.savefig(partial, format="png")
    os.replace(partial, file)


def _draw_panel(axes: Axes, records: Sequence[Record]) -> None:
    families: dict[str, list[Record]] = {}
    for record in records:
        family = record["policy"].partition(":")[0]
        families.setdefault(f"{family} ({record['decision']})" if family == "learned" else family, []).append(record)
    for family, points in families.items():
        points = sorted(points, key=lambda record: record["nfe"])
        nfe = [record["nfe"] for record in points]
        accuracy = [100 * record["accuracy"] for record in points]
        errors = [
            [100 * (record["accuracy"] - record["accuracy_ci95"][0]) for record in points],
            [100 * (record["accuracy_ci95"][1] - record["accuracy"]) for record in points],
        ]
        learned = family.startswith("learned")
        axes.errorbar(
            nfe,
            accuracy,
            yerr=errors if learned else None,
            label=family,
            marker="*" if learned else "o",
            markersize=13 if learned else 4,
            linestyle="none" if learned else "-",
            linewidth=1,
            capsize=3,
            zorder=3 if learned else 2,
        )
    forwards = [record["nfe"] for record in records]
    if max(forwards) > 8 * min(forwards):  # a narrower range has too few powers of two to read
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set(xlabel="forwards per answer (NFE)", ylabel="accuracy %")
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
