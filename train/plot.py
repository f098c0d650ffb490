"""The Pareto plot: accuracy against both costs, rules as curves and learned policies as points."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from train.records import Record

COSTS = {"nfe": "forwards per answer (NFE)", "token_positions": "token positions per answer"}
MARKERS = "os^vD<>P"


def plot_pareto(records: Sequence[Record], file: Path, title: str = "") -> None:
    """Draw a column a block length and a row a cost, and write it as PNG, atomically.

    Args:
        records: of `train.evaluate.evaluate`; only those of all tasks are drawn.
        file: where.
        title: above the panels.
    """
    suite = [record for record in records if record["task"] == "all"]
    blocks = sorted({record["block_length"] for record in suite}, reverse=True)
    families = list(dict.fromkeys(_family(record) for record in suite))
    figure = Figure(figsize=(4.6 * len(blocks) + 2.2, 8), dpi=110, layout="constrained")
    FigureCanvasAgg(figure)
    panels = figure.subplots(len(COSTS), len(blocks), squeeze=False, sharey=True)
    for row, cost in zip(panels, COSTS, strict=True):
        for axes, block in zip(row, blocks, strict=True):
            here = [record for record in suite if record["block_length"] == block]
            _draw_panel(axes, here, cost, families)
            axes.set_title(f"block length {block}", fontsize=10)
    handles, labels = panels[0][0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize=8)
    figure.suptitle(title, fontsize=11)
    partial = file.with_name(file.name + ".tmp")
    figure.savefig(partial, format="png")
    os.replace(partial, file)


def _family(record: Record) -> str:
    name = str(record["policy"]).partition("@")[0]
    return f"{name} ({record['decision']})" if name.startswith("learned") else name.partition(":")[0]


def _draw_panel(axes: Axes, records: Sequence[Record], cost: str, families: Sequence[str]) -> None:
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
            color="black" if family == "oracle" else colormaps["tab20"](i % 20),
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
    axes.set(xlabel=COSTS[cost], ylabel="accuracy %")
    axes.grid(alpha=0.3)
