"""4x4 sudoku with few digits given: any grid that keeps them and holds 1 to 4 in each row, column and box.

Most puzzles have many solutions, so digits that are each possible need not be possible together.
"""

from __future__ import annotations

import numpy as np

from envs.tasks.base import Problem, ProceduralTask
from envs.tasks.prose.words import MARKS, between, check_range
from envs.tasks.suite.sudoku import BLANK, all_grids, is_solved

SIDE = 4


def _write(cells: list[str]) -> str:
    return " ".join(f"{MARKS[row]} {' '.join(cells[SIDE * row : SIDE * (row + 1)])}" for row in range(SIDE))


class Puzzle(ProceduralTask):
    """``puzzle 1) 1 _ _ 3 2) _ _ _ _ 3) ... =`` is answered ``1) 1 2 4 3 2) ...``, every row after its number.

    Args:
        fewest: fewest digits given.
        most: most digits given, at most 16.
    """

    name = "puzzle"
    words = (*"1234", BLANK, *MARKS[:SIDE])

    def __init__(self, fewest: int = 2, most: int = 5) -> None:
        check_range("digits", fewest, most, 0, SIDE * SIDE)
        self.fewest, self.most = fewest, most

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one puzzle and one of its solutions, all as likely."""
        grids = all_grids()
        # From a whole grid, so there is a solution, and every one that keeps the digits was as likely.
        grid = [str(digit) for digit in grids[int(rng.integers(len(grids)))]]
        known = set(rng.permutation(SIDE * SIDE)[: between(rng, self.fewest, self.most)].tolist())
        cells = [digit if i in known else BLANK for i, digit in enumerate(grid)]
        return f"{self.name} {_write(cells)} =", _write(grid)

    def score(self, text: str, problem: Problem) -> float:
        """Return 1.0 if the grid is solved, laid out as asked and keeps the puzzle's digits."""
        words, asked = text.split(), problem.prompt.split()[1:-1]
        cells = [word for i, word in enumerate(words) if i % (SIDE + 1)]
        if len(words) != len(asked) or not set(cells) <= set("1234"):
            return 0.0
        # Row numbers are kept as given digits are.
        kept = all(word == old or old == BLANK for word, old in zip(words, asked, strict=True))
        return float(kept and is_solved(np.array(cells, dtype=np.int64)))
