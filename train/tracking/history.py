"""``progress.csv``: written update by update, whole whenever it is read."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from stable_baselines3.common.logger import KVWriter

from policies.files import read_text, show
from train.command.errors import UserError
from train.command.files import write_atomic
from train.command.run_files import RunFiles

STEP = "time/total_timesteps"
"""The metric that every other is plotted against: environment steps."""


class ProgressWriter(KVWriter):
    """Keeps ``progress.csv`` whole: rows of a resumed run follow those it already holds.

    Args:
        file: the CSV file.
        upto: rows after this many environment steps are dropped (they came after the checkpoint resumed from).
    """

    def __init__(self, file: Path, upto: int = 0) -> None:
        self.file = file
        self.rows: list[dict[str, Any]] = []
        if file.is_file():
            rows = csv.DictReader(io.StringIO(file.read_text()))
            self.rows = [dict(row) for row in rows if int(row[STEP]) <= upto]

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Add one update's row, or what came later to the last one's, and rewrite the file."""
        # A validation logs after the update that it is of, at the same step: one row holds both.
        if self.rows and int(self.rows[-1][STEP]) == step:
            self.rows[-1] |= key_values
        else:
            self.rows.append({**key_values, STEP: step})
        write_rows(self.file, self.rows)


def write_rows(file: Path, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows as CSV, atomically; a column for every name that any of them has."""
    text = io.StringIO()
    # The columns of all rows: what is only logged now and then, as validations are, has one from the start.
    writer = csv.DictWriter(text, sorted(set(chain.from_iterable(rows))), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_atomic(file, text.getvalue())


ELAPSED = "time/time_elapsed"
"""The column of a ``progress.csv`` with the seconds since the training's start."""


MAX_PROGRESS = 2**27
"""Bytes of a ``progress.csv``: a row has some hundred, and there are thousands."""


def read_progress(path: Path) -> list[dict[str, float]]:
    """Read the numbers of a training run's ``progress.csv``; a run without one has no rows.

    Raises:
        UserError: if the file is damaged.
    """
    file = RunFiles(path).progress
    if not file.is_file():
        return []
    try:
        table = csv.DictReader(io.StringIO(read_text(file, MAX_PROGRESS), newline=""))
        rows = [_numbers(table.line_num, row) for row in table]
    except (OSError, ValueError, csv.Error) as error:
        raise UserError(f"{str(file)!r} can't be read: {error}") from error
    return [row for row in rows if STEP in row]


def _numbers(line: int, row: Mapping[Any, Any]) -> dict[str, float]:
    """Return a row's cells; a measure that was not taken is empty or NaN, but the axes must be finite."""
    # csv's own name for what lies beyond the header's columns.
    if None in row:
        raise ValueError(f"line {line} has more cells than there are columns")
    numbers = {}
    for name, cell in row.items():
        if not cell:
            continue
        try:
            numbers[name] = float(cell)
        except ValueError:
            raise ValueError(f"line {line} has {name} {show(cell)}: it must be a number") from None
        if name in (STEP, ELAPSED) and not 0 <= numbers[name] < math.inf:
            raise ValueError(f"line {line} has {name} {show(cell)}: it must be 0 or more, and finite")
    return numbers
