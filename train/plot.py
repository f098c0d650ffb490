"""Plots of evaluations and comparisons, as PNG files that appear whole or not at all.

They follow matplotlib's settings: ``with rc_context(DARK)`` draws for a dark page.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import colormaps, rcParams
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from train.records import Record

COSTS = {"nfe": "forwards per answer (NFE)", "token_positions": "token positions per answer"}
MARKERS = "os^vD<>P"

DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), "#14171a"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#e4e8eb"),
    **dict.fromkeys(("grid.color", "legend.edgecolor"), "#98a2ab"),
}
"""Settings of matplotlib for a dark page, that of `train/comparison/report.html`."""


def plot_pareto(records: Sequence[Record], file: Path, title: str = "") -> None:
    """Draw a panel for each block length and cost, and write it as PNG, atomically.

    Args:
        records: of `train.evaluate.evaluate`; only those of all tasks are drawn.
        file: where.
        title: above the panels.
    """
    suite = [record for record in records if record["task"] == "all"]
    blocks = sorted({record["block_length"] for record in suite}, reverse=True)
    families = list(dict.fromkeys(_family(record) for record in suite))
    is_one = len(blocks) == 1  # then the costs are side by side
    shape = (1, len(COSTS)) if is_one else (len(COSTS), len(blocks))
    figure = Figure(figsize=(4.6 * shape[1] + 2.4, 4.1 * shape[0]), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(*shape, squeeze=False, sharey=True)
    for row, cost in zip(panels.T if is_one else panels, COSTS, strict=True):
        for axes, block in zip(row, blocks, strict=True):
            here = [record for record in suite if record["block_length"] == block]
            _draw_panel(axes, here, cost, families)
            axes.set_title(f"block length {block}", fontsize=10)
    for row in panels:
        row[0].set_ylabel("accuracy %")
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    figure.suptitle(title, fontsize=11)
    _write(figure, file)


def _write(figure: Figure, file: Path) -> None:
    partial = file.with_name(file.name + ".tmp")
    figure.savefig(partial, format="png")
    os.replace(partial, file)


def _family(record: Record) -> str:
    policy = str(record["policy"])
    eotp = "+eotp" if policy.endswith("+eotp") else ""
    name = policy.removesuffix("+eotp").partition("@")[0]
    return f"{name}{eotp} ({record['decision']})" if name.startswith("learned") else name.partition(":")[0] + eotp


def _draw_panel(axes: Axes, records: Sequence[Record], cost: str, families: Sequence[str]) -> None:
    colors = colormaps["tab10" if len(families) <= 10 else "tab20"]
    for i, family in enumerate(families):
        points = sorted((record for record in records if _family(record) == family), key=lambda record: record[cost])
        accuracy = [100 * record["accuracy"] for record in points]
        errors = [
            [100 * (record["accuracy"] - record["accuracy_ci95"][0]) for record in points],
            [100 * (record["accuracy_ci95"][1] - record["accuracy"]) for record in points],
        ]
        stands_out = family.startswith(("learned", "oracle"))
        axes.errorbar(
            [record[cost] for record in points],
            accuracy,
            yerr=errors if family.startswith("learned") else None,
            label=family,
            color=rcParams["text.color"] if family == "oracle" else colors(i % colors.N),
            marker="*" if stands_out else MARKERS[i % len(MARKERS)],
            markersize=13 if stands_out else 4,
            linestyle="none" if stands_out else "-",
            linewidth=1,
            capsize=3,
            zorder=3 if stands_out else 2,
        )
    spent = [record[cost] for record in records]
    if max(spent) > 8 * min(spent):  # a narrower range has too few powers of two to read
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.set_xlabel(COSTS[cost])
    axes.grid(alpha=0.3)


def plot_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]], file: Path) -> None:
    """Draw training curves, a panel a metric: the mean over seeds, and its interval as a band.

    Args:
        curves: by metric, what `train.comparison.report.curves` returns.
        file: where.
    """
    columns = len(curves) if len(curves) < 4 else 2
    rows = -(-len(curves) // columns)
    figure = Figure(figsize=(5.2 * columns + 2, 4 * rows), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(rows, columns, squeeze=False).ravel()[: len(curves)]
    for axes, (metric, groups) in zip(panels, curves.items(), strict=True):
        for i, group in enumerate(groups):
            color = colormaps["tab10"](i % 10)
            label = group["label"] + (f", {group['seeds']} seeds" if group["seeds"] > 1 else "")
            axes.plot(group["steps"], group["mean"], color=color, label=label, linewidth=2)
            if group["seeds"] > 1:
                axes.fill_between(group["steps"], group["low"], group["high"], color=color, alpha=0.15, linewidth=0)
                for track in group["each"]:
                    axes.plot(group["steps"], track, color=color, linewidth=0.6, alpha=0.6)
        # An interval over few seeds is wide; what was measured says where to look.
        values = [value for group in groups for track in group["each"] for value in track]
        margin = 0.1 * (max(values) - min(values)) + 1e-3
        axes.set_ylim(min(values) - margin, max(values) + margin)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        axes.set(xlabel="environment steps", title=metric)
        axes.grid(alpha=0.3)
    handles, labels = panels[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    _write(figure, file)


def plot_tasks(rows: Sequence[Mapping[str, Any]], file: Path) -> None:
    """Draw accuracy and forwards task by task: each policy beside the rule it is compared with.

    Args:
        rows: what `train.comparison.report.by_task` returns, each with a ``label``.
        file: where.
    """
    labels = list(dict.fromkeys(row["label"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    figure = Figure(figsize=(12, 1.2 + len(tasks) * (0.3 + 0.16 * len(labels))), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(1, 2, sharey=True)
    for axes, (name, title, scale) in zip(
        panels, (("accuracy", "accuracy %", 100), ("nfe", COSTS["nfe"], 1)), strict=True
    ):
        for row in rows:
            i = labels.index(row["label"])
            height = tasks.index(row["task"]) + (i - (len(labels) - 1) / 2) * 0.7 / len(labels)
            _draw_pair(axes, row[name], row[f"rule_{name}"], height, scale, colormaps["tab10"](i % 10))
        axes.set_xlabel(title)
        axes.grid(alpha=0.3)
    panels[0].set_yticks(range(len(tasks)), tasks)
    panels[0].set_ylim(len(tasks) - 0.5, -0.5)
    for i, label in enumerate(labels):
        panels[0].plot([], [], "o", color=colormaps["tab10"](i % 10), label=label)
    panels[0].plot([], [], "o", color="gray", markerfacecolor="none", label="its best rule")
    figure.legend(loc="outside upper center", ncols=min(4, len(labels) + 1), fontsize=8)
    _write(figure, file)


def _draw_pair(
    axes: Axes,
    mine: Mapping[str, Any],
    other: Mapping[str, Any] | None,
    height: float,
    scale: float,
    color: tuple[float, ...],
) -> None:
    low, high = mine["problems"]
    axes.plot([scale * low, scale * high], [height, height], color=color, alpha=0.35, linewidth=4)
    if other is not None:
        axes.plot([scale * mine["mean"], scale * other["mean"]], [height, height], color="gray", linewidth=1)
        axes.plot(scale * other["mean"], height, "o", color=color, markerfacecolor="none", markersize=6)
    axes.plot(scale * mine["mean"], height, "o", color=color, markersize=6)


def plot_frontiers(panels: Mapping[str, Mapping[str, Sequence[Sequence[Sequence[float]]]]], file: Path) -> None:
    """Draw accuracy against forwards for families of settings, a panel a way of decoding.

    Args:
        panels: by title and family, one list of (NFE, accuracy) points a seed. Dominated points are faint.
        file: where.
    """
    figure = Figure(figsize=(5.4 * len(panels) + 2.6, 4.6), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    row = figure.subplots(1, len(panels), sharey=True, squeeze=False)[0]
    for axes, (title, families) in zip(row, panels.items(), strict=True):
        for i, (family, seeds) in enumerate(families.items()):
            color = colormaps["tab10"](i % 10)
            for j, points in enumerate(seeds):
                everything = sorted((nfe, 100 * accuracy) for nfe, accuracy in points)
                frontier = [p for k, p in enumerate(everything) if all(p[1] > q[1] for q in everything[:k])]
                axes.plot(*zip(*everything, strict=True), ".", color=color, alpha=0.25, markersize=4)
                label = family if j == 0 else None
                axes.plot(*zip(*frontier, strict=True), "o-", color=color, markersize=4, linewidth=1, label=label)
        axes.set(title=title, xlabel=COSTS["nfe"], xlim=(0.9, 3.2))
        axes.grid(alpha=0.3)
    row[0].set_ylabel("accuracy %")
    handles, labels = row[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    _write(figure, file)
