"""Which colour and mark each policy and rule has in every plot."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from policies import RULES
from train.evaluation.naming import LEARNED, PolicyName

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
"""Okabe and Ito's colours, without black, which is the oracle's, and yellow, which white swallows."""


RULE_PALETTE = ("#6b7680", "#a07f3e", "#6f93a8", "#97709a", "#7f9164", "#a8746a")
"""Of rules: duller, so that none is taken for a learned policy."""


MARKERS = ("*", "D", "P", "X", "p", "h", "8")


RULE_MARKERS = ("o", "s", "^", "v", "<", ">", "d")


LINES = ("-", "--", "-.", ":")


LETTERS = {"font.size": 12, "legend.fontsize": 10.5, "axes.titlesize": 12}


GREY = "#8a939c"
"""Of what is there for completeness."""


DARK = {
    **dict.fromkeys(("figure.facecolor", "axes.facecolor", "legend.facecolor"), "#14171a"),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), "#e4e8eb"),
    **dict.fromkeys(("grid.color", "legend.edgecolor"), "#98a2ab"),
}
"""Settings of matplotlib for a dark page, that of `train/comparison/report.html`."""


@dataclass(frozen=True)
class Style:
    """How a policy is drawn.

    Attributes:
        color: of `PALETTE`.
        marker: matplotlib's name.
        line: likewise.
    """

    color: str
    marker: str
    line: str


def styles_of(names: Iterable[str]) -> dict[str, Style]:
    """Choose each policy's style by its name, so that it is the same in every plot and in the next report too.

    Of two names that would have the same colour the later in the alphabet takes the next that is free. Records of
    several policies call a run's ``learned:RUN``, and comparisons RUN.

    >>> styles_of(["learned:ppo"])["learned:ppo"] == styles_of(["ppo"])["ppo"]
    True
    """
    found: dict[str, Style] = {}
    for name in sorted(set(names)):
        # Not hash(), which is salted anew in every process.
        code, used = zlib.crc32(name.removeprefix(f"{LEARNED}:").encode("utf-8", "replace")), list(found.values())
        found[name] = Style(
            _least_used(PALETTE, [style.color for style in used], code),
            _least_used(MARKERS, [style.marker for style in used], code // 7),
            _least_used(LINES, [style.line for style in used], 0),
        )
    return found


def style_of_run(name: str) -> dict[str, Style]:
    """Return the style of a run's policy where records call it ``learned``: that which the run has beside others."""
    return {LEARNED: styles_of([name])[name]}


def _least_used(choices: Sequence[str], used: Sequence[str], start: int) -> str:
    """Return the least used choice, of equals the first from a start on."""
    order = [choices[(start + i) % len(choices)] for i in range(len(choices))]
    return min(order, key=used.count)


def rule_style(family: str) -> Style:
    """Return the style of a rule, which its place among all rules decides."""
    place = list(RULES).index(kind) if (kind := PolicyName.read(family).kind) in RULES else 0
    return Style(RULE_PALETTE[place % len(RULE_PALETTE)], RULE_MARKERS[place % len(RULE_MARKERS)], "-")
