"""Plots that only the published results have."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import rc_context

from train.command.escaping import for_plot
from train.evaluation.plot import COSTS, draw_legend, stack, write_figure
from train.evaluation.styles import LETTERS, styles_of


@rc_context(LETTERS)
def plot_frontiers(
    panels: Mapping[str, Mapping[str, Sequence[Sequence[Sequence[float]]]]], most: float, file: Path
) -> None:
    """Draw accuracy against forwards for families of settings, a panel a way of decoding.

    Args:
        panels: by title and family, one list of (NFE, accuracy) points a seed. Dominated points are faint.
        most: forwards that are drawn; on a logarithmic scale where they are many.
        file: where.
    """
    styles = styles_of(family for families in panels.values() for family in families)
    figure, row = stack(len(panels), 4.2)
    entries: dict[str, Any] = {}
    for axes, (title, families) in zip(row, panels.items(), strict=True):
        for family, seeds in families.items():
            style = styles[family]
            for points in seeds:
                everything = sorted((nfe, 100 * accuracy) for nfe, accuracy in points)
                # Sorted by forwards, a point is on the frontier where it is more accurate than all that are cheaper.
                frontier = [p for k, p in enumerate(everything) if all(p[1] > q[1] for q in everything[:k])]
                axes.plot(*zip(*everything, strict=True), ".", color=style.color, alpha=0.25, markersize=4)
                (entries[family],) = axes.plot(
                    *zip(*frontier, strict=True), style.line, marker=style.marker, color=style.color, markersize=5
                )
        # One scale for all panels, from the least that an answer can take: one forward.
        axes.set(title=for_plot(title), xlabel=COSTS["nfe"], ylabel="accuracy %", xlim=(0.9, most))
        if most > 10:
            axes.set_xscale("log")
        axes.grid(alpha=0.3)
    draw_legend(figure, entries)
    write_figure(figure, file)
