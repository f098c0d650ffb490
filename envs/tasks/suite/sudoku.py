"""4x4 sudoku: fill the blanks so that each row, column and 2x2 box holds 1 to 4."""

from __future__ import annotations

import math
from functools import cache
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

from envs.tasks.base import Problem
from envs.tasks.suite.form import FormTask, form

BLANK = "_"


def is_solved(cells: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
    """Tell which grids hold 1 to n once in each row, column and box.

    Args:
        cells: (..., n * n) int, row by row; n is 4, 9 or another square.

    Returns:
        (...) bool.

    >>> [bool(is_solved(np.array([int(digit) for digit in grid]))) for grid in ("1234341221434321", "1234341221434312")]
    [True, False]
    """
    side = math.isqrt(cells.shape[-1])
    box = math.isqrt(side)
    rows = cells.reshape(*cells.shape[:-1], side, side)
    # By band, row in it, stack and column in it; with the middle two swapped, a box's cells lie together.
    boxes = rows.reshape(*cells.shape[:-1], box, box, box, box).swapaxes(-3, -2).reshape(rows.shape)
    units = np.concatenate([rows, rows.swapaxes(-1, -2), boxes], axis=-2)
    solved: npt.NDArray[np.bool_] = (np.sort(units, axis=-1) == np.arange(1, side + 1)).all(axis=(-2, -1))
    return solved


@cache
def all_grids() -> npt.NDArray[np.int64]:
    """Return the (288, 16) solved grids."""
    # By halves whose boxes are whole: far fewer pairs of them than 24**4 choices of rows.
    halves = [
        (top, bottom)
        for top, bottom in product(permutations(range(1, 5)), repeat=2)
        if len({*top[:2], *bottom[:2]}) == len({*top[2:], *bottom[2:]}) == 4
    ]
    grids = np.array(list(product(halves, repeat=2))).reshape(-1, 16)
    return grids[is_solved(grids)]


class Sudoku(FormTask):
    """``sudoku . . : 1 _ 3 _ ... =`` is answered by the 16 digits; every puzzle has one solution.

    Args:
        fewest: fewest blanks.
        most: most blanks, at most 12.
    """

    name = "sudoku"
    words = (*"1234", BLANK)
    cells = words
    cell_counts = (16, 16)
    has_distinct_cells = False

    def __init__(self, fewest: int = 11, most: int = 12) -> None:
        # With three digits given, every 4x4 sudoku has several solutions.
        if not 1 <= fewest <= most <= 12:
            raise ValueError(f"blanks are {fewest} to {most}: they must satisfy 1 <= fewest <= most <= 12")
        self.fewest, self.most = fewest, most

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw a puzzle with exactly one solution."""
        grids = all_grids()
        blanks = int(rng.integers(self.fewest, self.most + 1))
        # Until there is one solution: every grid with blanks that has is as likely.
        while True:
            grid = grids[int(rng.integers(len(grids)))]
            known = np.sort(rng.permutation(16)[blanks:])
            if (grids[:, known] == grid[known]).all(axis=1).sum() == 1:
                break
        cells = [str(digit) if i in known else BLANK for i, digit in enumerate(grid)]
        return form(self.name, cells), " ".join(map(str, grid))

    def score(self, text: str, problem: Problem) -> float:
        """Return 1.0 if the grid is solved and keeps the puzzle's digits."""
        given, cells = text.split(), problem.prompt.split()[4:-1]
        if len(given) != 16 or not set(given) <= set("1234"):
            return 0.0
        kept = all(cell in (BLANK, word) for word, cell in zip(given, cells, strict=True))
        return float(kept and is_solved(np.array(given, dtype=np.int64)))
