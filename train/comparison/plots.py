"""Plots of several runs side by side."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from matplotlib import rc_context

from train.command.escaping import for_plot
from train.evaluation.plot import COSTS, draw_legend, stack, write_figure
from train.evaluation.styles import GREY, LETTERS, Style, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@rc_context(LETTERS)
def plot_curves(
    curves: Mapping[str, Sequence[Mapping[str, Any]]], file: Path, styles: Mapping[str, Style] | None = None
) -> None:
    """Draw training curves, a panel a metric: the mean over seeds, and its interval as a band.

    Args:
        curves: by metric, what `train.comparison.report.curves` returns.
        file: where.
        styles: of the labels, where other plots show them too.
    """
    styles = styles or styles_of(group["label"] for group in chain.from_iterable(curves.values()))
    figure, panels = stack(len(curves), 3.4)
    entries: dict[str, Any] = {}
    for axes, (metric, groups) in zip(panels, curves.items(), strict=True):
        for group in groups:
            style = styles[group["label"]]
            label = group["label"] + (f", {group['seeds']} seeds" if group["seeds"] > 1 else "")
            (entries[label],) = axes.plot(
                group["steps"], group["mean"], color=style.color, linestyle=style.line, linewidth=2
            )
            if group["seeds"] > 1:
                band: dict[str, Any] = {"color": style.color, "alpha": 0.15, "linewidth": 0}
                axes.fill_between(group["steps"], group["low"], group["high"], **band)
                for track in group["each"]:
                    axes.plot(group["steps"], track, color=style.color, linewidth=0.6, alpha=0.6)
        # An interval over few seeds is wide; what was measured says where to look.
        tracks = chain.from_iterable(group["each"] for group in groups)
        values = list(chain.from_iterable(tracks))
        # Never 0, which a curve that is level would give.
        margin = 0.1 * (max(values) - min(values)) + 1e-3
        axes.set_ylim(min(values) - margin, max(values) + margin)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value / 1000:g}k" if value else "0")
        axes.set(xlabel="environment steps", title=for_plot(metric))
        axes.grid(alpha=0.3)
    draw_legend(figure, entries)
    write_figure(figure, file)


@rc_context(LETTERS)
def plot_tasks(rows: Sequence[Mapping[str, Any]], file: Path, styles: Mapping[str, Style] | None = None) -> None:
    """Draw accuracy and forwards task by task: each policy beside the rule that it is set against.

    Args:
        rows: what `train.comparison.report.by_task` returns, each with a ``label``.
        file: where.
        styles: by family, where other plots show them too.
    """
    labels = list(dict.fromkeys(row["label"] for row in rows))
    tasks = list(dict.fromkeys(row["task"] for row in rows))
    styles = styles or styles_of(row["family"] for row in rows)
    figure, panels = stack(2, 0.5 + len(tasks) * (0.26 + 0.14 * len(labels)))
    costs = (("accuracy", "accuracy %", 100), ("nfe", COSTS["nfe"], 1))
    entries: dict[str, Any] = {}
    for axes, (name, title, scale) in zip(panels, costs, strict=True):
        for row in rows:
            i, style = labels.index(row["label"]), styles[row["family"]]
            # A task's policies share seven tenths of its line, so that tasks stand apart.
            height = tasks.index(row["task"]) + (i - (len(labels) - 1) / 2) * 0.7 / len(labels)
            entries[row["label"]] = _draw_pair(axes, row[name], row[f"rule_{name}"], height, scale, style)
        axes.set_xlabel(title)
        axes.set_yticks(range(len(tasks)), [for_plot(task, 24) for task in tasks])
        # From above, so that the first task is on top.
        axes.set_ylim(len(tasks) - 0.5, -0.5)
        axes.grid(alpha=0.3)
    (entries["the rule it is set against"],) = axes.plot([], [], "o", color=GREY, markerfacecolor="none")
    draw_legend(figure, entries)
    write_figure(figure, file)


def _draw_pair(
    axes: Axes, mine: Mapping[str, Any], other: Mapping[str, Any] | None, height: float, scale: float, style: Style
) -> Any:
    low, high = mine["problems"]
    axes.plot([scale * low, scale * high], [height, height], color=style.color, alpha=0.35, linewidth=4)
    if other is not None:
        axes.plot([scale * mine["mean"], scale * other["mean"]], [height, height], color=GREY, linewidth=1)
        axes.plot(scale * other["mean"], height, "o", color=style.color, markerfacecolor="none", markersize=7)
    place: dict[str, Any] = {"color": style.color, "marker": style.marker, "markersize": 8, "linestyle": "none"}
    return axes.plot(scale * mine["mean"], height, **place)[0]
