"""Plots of evaluations and comparisons, as PNG files that appear whole or not at all.

Panels stand one above the other and letters are large, so that a phone shows them. A policy has the same colour,
marker and line in every plot, told apart by all three; colours are those of Okabe and Ito, which the colour-blind can
tell apart. The plots follow matplotlib's settings: ``with rc_context(DARK)`` draws for a dark page.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import rc_context, rcParams

from train.command.escaping import for_plot
from train.command.files import replaced
from train.evaluation.headline import gains, is_learned, is_oracle
from train.evaluation.measures import LEVEL, compare_forwards
from train.evaluation.naming import PolicyName
from train.evaluation.records import Key, Outcomes, Record, key_of
from train.evaluation.styles import GREY, LETTERS, Style, rule_style, styles_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

COSTS = {"nfe": "forwards per answer (NFE)", "token_positions": "token positions per answer"}


WIDTH, DPI = 6.4, 150
LEGEND_LINES, LEGEND_LINE = 4, 0.26
"""Lines of a legend that every figure has room for, and the inches that each further one takes."""
"""Of a panel, in inches, and pixels per inch: a third of the width still has letters to read."""


@dataclass(frozen=True)
class Arrow:
    """A gain to point out: from a rule to the policy that needs fewer forwards at its accuracy.

    Attributes:
        block: block length.
        decision: of the policy.
        rule: (NFE, accuracy) of the rule.
        policy: likewise.
        saved: share of the rule's forwards.
    """

    block: int
    decision: str
    rule: tuple[float, float]
    policy: tuple[float, float]
    saved: float


def arrows_of(records: Sequence[Record], outcomes: Mapping[Key, Outcomes] | None = None) -> list[Arrow]:
    """Return an arrow for each gain that may be claimed, and that chance does not explain at the 5 % level."""
    known, found = outcomes or {}, []
    for one in gains(records, known):
        if one.saved is None or one.saved <= 0:
            continue
        if compare_forwards(one.record, one.rule, (known.get(key_of(one.record)), known.get(key_of(one.rule)))) < LEVEL:
            rule, policy = ((record["nfe"], record["accuracy"]) for record in (one.rule, one.record))
            found.append(Arrow(one.record["block_length"], one.record["decision"], rule, policy, one.saved))
    return found


@rc_context(LETTERS)
def plot_pareto(
    records: Sequence[Record],
    file: Path,
    title: str = "",
    outcomes: Mapping[Key, Outcomes] | None = None,
    arrows: Sequence[Arrow] | None = None,
    styles: Mapping[str, Style] | None = None,
) -> None:
    """Draw accuracy against cost, a panel for each block length and cost, and write it as PNG, atomically.

    Learned policies stand out, the frontier of all rules is a line, and the largest gain that may be claimed is pointed
    out. Where token positions say the same as forwards they have no panel.

    Args:
        records: of `train.evaluation.measure.evaluate`; only those of all tasks are drawn. A learned policy's may have
            a ``series``, what it is called; seeds share it.
        file: where.
        title: above the panels.
        outcomes: problem by problem, for a sharper test of what may be claimed.
        arrows: the gains, where they are known already.
        styles: of the series, where other plots show them too.
    """
    suite = [record for record in records if record["task"] == "all"]
    styles = {**styles_of(_series(record) for record in suite if is_learned(record)), **(styles or {})}
    arrows = arrows_of(suite, outcomes) if arrows is None else arrows
    panels = [
        (block, cost)
        for block in sorted({record["block_length"] for record in suite}, reverse=True)
        for cost in COSTS
        if cost == "nfe" or not _says_the_same([r for r in suite if r["block_length"] == block])
    ]
    figure, rows = stack(len(panels), 4.4)
    entries: dict[str, Any] = {}
    for axes, (block, cost) in zip(rows, panels, strict=True):
        here = [record for record in suite if record["block_length"] == block]
        entries |= _draw_panel(axes, here, cost, styles, entries)
        shown = [arrow for arrow in arrows if arrow.block == block]
        if cost == "nfe" and shown:
            best = max(shown, key=lambda arrow: (arrow.decision == "deterministic", arrow.saved))
            _point_out(axes, best, [mark for record in here for mark in _marks_of(record, cost)])
        axes.set_title(f"block length {block}" if len(panels) > 1 else "", fontsize=12)
    figure.suptitle(for_plot(title, 64), fontsize=13)
    draw_legend(figure, entries)
    write_figure(figure, file)


def _series(record: Record) -> str:
    """Return what a policy's settings have in common: a rule's name, or the learned policy's without its setting."""
    return str(record.get("series") or PolicyName.read(record["policy"]).family)


def _says_the_same(records: Sequence[Record]) -> bool:
    """Tell whether token positions are, within a tenth, in proportion to forwards."""
    ratios = [record["token_positions"] / record["nfe"] for record in records]
    return bool(max(ratios) <= 1.1 * min(ratios))


def frontier_of(records: Sequence[Record], cost: str) -> list[Record]:
    """Return the records that no other beats in accuracy at its cost or less, from cheap to dear."""
    found: list[Record] = []
    for record in sorted(records, key=lambda r: (r[cost], -r["accuracy"])):
        if not found or record["accuracy"] > found[-1]["accuracy"]:
            found.append(record)
    return found


def _draw_panel(
    axes: Axes, records: Sequence[Record], cost: str, styles: Mapping[str, Style], known: Mapping[str, Any]
) -> dict[str, Any]:
    """Draw one panel; return the legend's entries by label."""
    entries: dict[str, Any] = {}
    rules = [record for record in records if not is_learned(record) and not is_oracle(record)]
    frontier = frontier_of(rules, cost)
    _focus(axes, records, cost, frontier)
    on_it = {_series(record) for record in frontier} | set(known)
    for record in rules:
        family = _series(record)
        style, is_shown = rule_style(family), family in on_it
        # By identity, as two settings may have equal numbers.
        is_best = any(record is one for one in frontier)
        (handle,) = axes.plot(
            record[cost],
            100 * record["accuracy"],
            marker=style.marker if is_shown else ".",
            color=style.color if is_shown else GREY,
            markerfacecolor="none" if PolicyName.read(family).has_eotp else None,
            markersize=7 if is_best else 5,
            alpha=1 if is_best else 0.55,
            linestyle="none",
            zorder=3 if is_best else 2,
        )
        label = family if is_shown else "other rules"
        if is_best or label not in entries:
            entries[label] = handle
    if len(frontier) > 1:
        points = [record[cost] for record in frontier], [100 * record["accuracy"] for record in frontier]
        (entries["frontier of the rules"],) = axes.plot(*points, color=GREY, linewidth=2, zorder=1)
    for record in records:
        if is_oracle(record):
            entries["oracle (knows the answer)"] = axes.plot(
                record[cost],
                100 * record["accuracy"],
                marker="d",
                color=rcParams["text.color"],
                markerfacecolor="none",
                markersize=10,
                linestyle="none",
                zorder=3,
            )[0]
    entries |= _draw_learned(axes, [record for record in records if is_learned(record)], cost, styles)
    axes.set(xlabel=COSTS[cost], ylabel="accuracy %")
    axes.grid(alpha=0.3)
    return entries


def _draw_learned(axes: Axes, records: Sequence[Record], cost: str, styles: Mapping[str, Style]) -> dict[str, Any]:
    entries: dict[str, Any] = {}
    for series, decision in dict.fromkeys((_series(record), record["decision"]) for record in records):
        own = [record for record in records if (_series(record), record["decision"]) == (series, decision)]
        own.sort(key=lambda record: float(record[cost]))
        style = styles[series]
        accuracy = [100 * record["accuracy"] for record in own]
        edges = (100 * np.array([record["accuracy_ci95"] for record in own])).tolist()
        has_settings = len({record["policy"] for record in own}) > 1
        entries[f"{series} ({decision})"] = axes.errorbar(
            [record[cost] for record in own],
            accuracy,
            yerr=[
                # matplotlib takes no negative bar, which rounding makes of an interval that ends at its mean.
                [max(0.0, mean - low) for mean, (low, _) in zip(accuracy, edges, strict=True)],
                [max(0.0, high - mean) for mean, (_, high) in zip(accuracy, edges, strict=True)],
            ],
            color=style.color,
            marker=style.marker,
            markersize=15,
            # Filled is deterministic: the colour is the policy's under both decisions.
            markerfacecolor=style.color if decision == "deterministic" else rcParams["axes.facecolor"],
            markeredgecolor=style.color if decision == "sample" else rcParams["axes.facecolor"],
            markeredgewidth=1.6,
            linestyle=style.line if has_settings else "none",
            linewidth=1.2,
            elinewidth=1,
            capsize=3,
            zorder=5,
        )
    return entries


def _marks_of(record: Record, cost: str) -> list[tuple[float, float]]:
    """Return points (cost, accuracy) that are drawn of a setting: its marker, and along a learned one's interval."""
    low, high = record["accuracy_ci95"]
    heights = np.linspace(low, high, BAR_POINTS).tolist() if is_learned(record) else []
    return [(record[cost], height) for height in (record["accuracy"], *heights)]


def _focus(axes: Axes, records: Sequence[Record], cost: str, frontier: Sequence[Record]) -> None:
    """Choose the part of the plane that tells most, and say what lies outside.

    With learned policies it is around them: sloppy rules, and those of many forwards, would leave them a corner.
    """
    learned = [record for record in records if is_learned(record)]
    costs = np.array([record[cost] for record in records])
    accuracies = 100 * np.array([record["accuracy"] for record in records])
    left, right, bottom, top = costs.min(), costs.max(), accuracies.min(), accuracies.max()
    if learned:
        lowest = 100 * min(record["accuracy"] for record in learned)
        bottom = max(bottom, lowest - max(8.0, 1.2 * (100 - lowest)))
        # Their intervals are whole.
        bottom = min(bottom, *(100 * record["accuracy_ci95"][0] for record in learned))
        # Up to the first rule that is as accurate as the best of them, or the dearest of them, and some more.
        as_good = [
            record for record in frontier if 100 * record["accuracy"] >= 100 * max(r["accuracy"] for r in learned)
        ]
        right = min(right, 1.7 * max(float(record[cost]) for record in [*learned, *as_good[:1]]))
        right = costs[costs <= right].max()
    is_wide = right > 8 * left
    if is_wide:
        axes.set_xscale("log", base=2)
        axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
        axes.xaxis.set_minor_formatter(lambda value, _: "")
    # Room for what is written beside the leftmost policy.
    margin, side = 0.06 * (top - bottom) + 0.3, 0.12 * (right - left) + 0.02 * left
    # A little above 100 %, where markers of policies that are always right must fit.
    axes.set_ylim(bottom - margin, min(top + margin, 100.9))
    axes.set_xlim((left / 1.25, 1.1 * right) if is_wide else (left - side, right + side / 2))
    outside = int(((costs > right) | (accuracies < bottom - margin)).sum())
    if outside:
        what = "setting lies" if outside == 1 else "settings lie"
        text = f"{outside} {what} outside, at up to {costs.max():.4g} or down to {accuracies.min():.0f} %"
        axes.text(0.99, 0.02, text, transform=axes.transAxes, ha="right", fontsize=9.5, color=GREY)


LABEL_PLACES = [(0, sign * distance) for distance in (36, 60, 90) for sign in (-1, 1)]
"""Where a label may stand beside the middle of its arrow, in points, the best first."""

BAR_POINTS = 17
"""Points of an interval's bar that a label is not to cover."""

LABEL_SIZE = (165, 42)
"""Of a label of two lines, in points."""


def _room(
    axes: Axes, middle: tuple[float, float], offset: tuple[int, int], taken: Sequence[tuple[float, float]]
) -> int:
    """Return minus the number of points that a label at a place would cover, where it lies outside that of all."""
    scale = axes.figure.dpi / 72
    half = np.array(LABEL_SIZE) * scale / 2
    center = axes.transData.transform(middle) + np.array(offset) * scale
    (left, bottom), (right, top) = axes.bbox.get_points()
    is_inside = left < center[0] - half[0] < center[0] + half[0] < right
    is_inside = is_inside and bottom < center[1] - half[1] < center[1] + half[1] < top
    return -int((abs(axes.transData.transform(taken) - center) < half).all(1).sum()) if is_inside else -len(taken)


def _point_out(axes: Axes, arrow: Arrow, taken: Sequence[tuple[float, float]]) -> None:
    """Draw an arrow and its label, beside the points (cost, accuracy) that are drawn already."""
    (start, low), (end, high) = arrow.rule, arrow.policy
    color = rcParams["text.color"]
    axes.annotate(
        "",
        (end, 100 * high),
        (start, 100 * low),
        arrowprops={"arrowstyle": "-|>", "color": color, "linewidth": 1.8, "shrinkA": 5, "shrinkB": 10},
        zorder=6,
    )
    middle, points = ((start + end) / 2, 50 * (low + high)), [(x, 100 * y) for x, y in taken]
    place = max(LABEL_PLACES, key=lambda offset: _room(axes, middle, offset, points))
    axes.annotate(
        f"{-100 * arrow.saved:.0f} % forwards\nat the same accuracy".replace("-", "\N{MINUS SIGN}"),
        middle,
        xytext=place,
        textcoords="offset points",
        ha="center",
        va="center",
        fontweight="bold",
        fontsize=11.5,
        color=color,
        bbox={"facecolor": rcParams["axes.facecolor"], "edgecolor": "none", "alpha": 0.8, "pad": 1.5},
        zorder=6,
    )


def stack(count: int, height: float) -> tuple[Figure, list[Axes]]:
    """Return a figure of some panels, one above the other."""
    # Half a second that a command which draws nothing, as --help, can do without.
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(WIDTH, height * count + 1.3), dpi=DPI, layout="constrained")
    # Without pyplot, which would keep every figure alive and choose a backend for the whole process.
    FigureCanvasAgg(figure)
    return figure, list(figure.subplots(count, 1, squeeze=False)[:, 0])


def draw_legend(figure: Figure, entries: Mapping[str, Any]) -> None:
    """Draw a legend below all panels: marks by label."""
    labels = [for_plot(label, 40) for label in entries]
    columns = 1 if max(map(len, labels), default=0) > 32 else 2
    # As high as the panels are already: they would shrink to nothing beside many labels.
    lines = math.ceil(len(labels) / columns)
    figure.set_figheight(figure.get_figheight() + LEGEND_LINE * max(0, lines - LEGEND_LINES))
    figure.legend(list(entries.values()), labels, loc="outside lower center", ncols=columns, frameon=False)


def write_figure(figure: Figure, file: Path) -> None:
    """Write a figure as a PNG that appears whole or not at all."""
    with replaced(file) as partial, warnings.catch_warnings():
        # A name may have letters that matplotlib's own font lacks: they are drawn as boxes.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        figure.savefig(partial, format="png")
