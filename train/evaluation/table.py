"""Records as a table for a terminal."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from itertools import chain

from rich.console import Console
from rich.table import Table

from train.command.escaping import for_terminal
from train.evaluation.frontiers import aups
from train.evaluation.records import Record


def make_table(records: Sequence[Record], title: str = "", per_task: bool = False) -> Table:
    """Lay records out as an aligned table: the suite's, and with `per_task` each task's.

    Intervals of an accuracy lie askew around it, so that both of their edges are shown. Columns of pass@k and of
    problems left out are there where a record has them. A task that has pass@k where the suite has none, because others
    are not scored by running code, is shown too.
    """
    table = Table(title=for_terminal(title) if title else None, title_justify="left")
    for column in ("policy", "decision", "block", "task"):
        # Whole on any width, since two settings may differ in how their names end.
        table.add_column(column, overflow="fold")
    for column in ("accuracy %", "NFE", "token positions"):
        table.add_column(column, justify="right")
    titles = {"unscored": "left out", "tokens_per_forward": "tokens / NFE"}
    names = dict.fromkeys(chain.from_iterable(records))
    extra = [name for name in names if name.startswith("pass@") or name in titles]
    for name in extra:
        table.add_column(titles.get(name, f"{name} %"), justify="right")
    # The suite has no pass@k where some of its tasks have none.
    is_mixed = not any("pass@1" in record for record in records if record["task"] == "all")
    for record in records:
        if per_task or record["task"] == "all" or (is_mixed and "pass@1" in record):
            low, high = (100 * edge for edge in record["accuracy_ci95"])
            half_nfe = (record["nfe_ci95"][1] - record["nfe_ci95"][0]) / 2
            cells = (
                record["policy"],
                record["decision"],
                str(record["block_length"]),
                record["task"],
                f"{100 * record['accuracy']:.1f} [{low:.1f}, {high:.1f}]",
                f"{record['nfe']:.2f} ± {half_nfe:.2f}",
                f"{record['token_positions']:.0f}",
                *(_extra_cell(record, name) for name in extra),
            )
            table.add_row(*map(for_terminal, cells))
    return table


def _extra_cell(record: Record, name: str) -> str:
    if name not in record:
        return ""
    if name == "tokens_per_forward":
        return f"{record[name]:.2f}"
    return str(record[name]) if name == "unscored" else f"{100 * record[name]:.1f}"


def print_table(records: Sequence[Record], title: str = "", per_task: bool = False) -> None:
    """Print `make_table`, and below it the accuracy under parallelism where there are several settings of a policy."""
    # A file has no width, for which rich would take 80: there it is as wide as it likes.
    console = Console(width=None if sys.stdout.isatty() else 120)
    table = make_table(records, title, per_task)
    if not sys.stdout.isatty():
        console.width = max(
            console.width, console.measure(table, options=console.options.update(max_width=1000)).maximum
        )
    console.print(table)
    for (block, family, decision), area in aups(records).items():
        console.print(
            for_terminal(f"AUP {area:.0f} (accuracy under parallelism): {family} ({decision}), blocks of {block}")
        )
