"""4x4 sudoku: fill the blanks so that each row, column and 2x2 box holds 1 to 4."""

from __future__ import annotations

from functools import cache
from itertools import permutations, product

import numpy as np
import numpy.typing as npt

from envs.tasks.base import Problem, ProceduralTask, form

BLANK = "_"
UNITS = np.array(
    [[4 * r + c for c in range(4)] for r in range(4)]
    + [[4 * r + c for r in range(4)] for c in range(4)]
    + [[4 * (r + i) + c + j for i in range(2) for j in range(2)] for r in (0, 2) for c in (0, 2)]
)
"""(12, 4) int: the cells of each row, column and box."""


def is_solved(cells: npt.NDArray[np.int64]) -> bool:
    """Tell whether (16,) cells hold 1 to 4 once in each row, column and box."""
    return bool((np.sort(cells[UNITS], axis=1) == np.arange(1, 5)).all())


@cache
def all_grids() -> npt.NDArray[np.int64]:
    """Return the (288, 16) solved grids."""
    halves = [
        (top, bottom)
        for top, bottom in product(permutations(range(1, 5)), repeat=2)
        if len({*top[:2], *bottom[:2]}) == len({*top[2:], *bottom[2:]}) == 4
    ]
    grids = [np.array([*upper, *lower]).ravel() for upper, lower in product(halves, repeat=2)]
    return np.array([grid for grid in grids if is_solved(grid)])


class Sudoku(ProceduralTask):
    """``sudoku . . : 1 _ 3 _ ... =`` is answered by the 16 digits; every puzzle has one solution.

    Args:
        fewest: fewest blanks.
        most: most blanks, at most 12.
    """

    name = "sudoku"
    words = (*"1234", BLANK)

    def __init__(self, fewest: int = 11, most: int = 12) -> None:
        if not 1 <= fewest <= most <= 12:
            raise ValueError(f"blanks are {fewest} to {most}: they must satisfy 1 <= fewest <= most <= 12")
        self.fewest, self.most = fewest, most

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw a puzzle with exactly one solution."""
        grids = all_grids()
        blanks = int(rng.integers(self.fewest, self.most + 1))
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
