"""Sudoku as a string of digits, 4x4 and 9x9, from files: the puzzles of d1 and others."""

from __future__ import annotations

import re

import numpy as np

from envs.tasks.benchmarks.files import FileTask, Row
from envs.tasks.scoring.answers import before_end, slots
from envs.tasks.suite.sudoku import is_solved

PROMPT = """Please solve the following {n}x{n} Sudoku puzzle. The puzzle is provided as a {cells}-character string \
reading left-to-right, top-to-bottom, where '0' represents empty cells.

Rules:
- Fill empty cells with digits 1-{n}
- Each row must contain digits 1-{n} exactly once
- Each column must contain digits 1-{n} exactly once
- Each {box}x{box} box must contain digits 1-{n} exactly once

Important: Your solution must be a COMPLETE {cells}-character string with only the digits 1-{n}, representing your \
final solved grid.

Respond in this exact format:
<reasoning>
Your step-by-step solving process
</reasoning>
<answer>
[{cells}-character solution string with no spaces or separators]
</answer>

Solve the following Sudoku puzzle: {puzzle}"""
"""Source: d1 (arXiv 2504.12216), whose 4x4 puzzles these are; its evaluation puts solved examples before them."""

SCORES = ("solved", "cells")


def final_grid(text: str, cells: int) -> str:
    r"""Return the digits of the grid that a solution gives; "" if it gives none.

    It is sought in the last slot that has a digit, or in the whole text if there is no slot; what stands elsewhere,
    such as the puzzle or a draft, is no answer. There it is the last run of exactly that many digits; else the
    last rows, a line each; else, in a slot, all digits, whatever stands between them and however many there are.

    >>> final_grid("<answer>1 2 3 4\n3412 | 2143\n4321</answer>", 16)
    '1234341221434321'
    >>> final_grid("I see 1030341200000020. <answer>12343412</answer>", 16)
    '12343412'
    """
    text = before_end(text)
    places = slots(text)
    fragment = next((place for place in places if re.search(r"\d", place)), "") if places else text
    runs = re.findall(rf"(?<!\d)\d{{{cells}}}(?!\d)", fragment)
    if runs:
        return str(runs[-1])
    side = round(cells**0.5)
    rows = [digits for line in fragment.split("\n") if len(digits := _row(line)) == side]
    if len(rows) >= side:
        return "".join(rows[-side:])
    return "".join(re.findall(r"\d", fragment)) if places else ""


def _row(line: str) -> str:
    """Return the digits of a line that holds nothing but digits and signs after its label, such as "Row 1:"."""
    cells = line.rpartition(":")[2]
    return "".join(re.findall(r"\d", cells)) if re.fullmatch(r"[\d\W_]*", cells) else ""


def score_sudoku(text: str, puzzle: str) -> float:
    """Return 1.0 if a solution's grid is solved and keeps the puzzle's digits, else 0.0.

    Args:
        text: what the model wrote.
        puzzle: its cells row by row, 0 where empty.

    >>> score_sudoku("<answer>1234341221434321</answer>", "1030341200000020")
    1.0
    """
    grid = final_grid(text, len(puzzle))
    # A digit given must be kept; 0 is whatever the grid has.
    kept = len(grid) == len(puzzle) and all(a in ("0", b) for a, b in zip(puzzle, grid, strict=True))
    return float(kept and is_solved(np.array([int(digit) for digit in grid])))


def score_cells(text: str, puzzle: str, solution: str) -> float:
    """Return the share of empty cells that a solution's grid fills as the stored solution does.

    Source: d1 (arXiv 2504.12216), which scores so; what is too long is cut, what is missing is wrong.

    >>> score_cells("<answer>1234341221434312</answer>", "1030341221434300", "1234341221434321")
    0.5
    """
    grid = final_grid(text, len(puzzle))[: len(puzzle)].ljust(len(puzzle), "0")
    empty = [i for i, cell in enumerate(puzzle) if cell == "0"]
    return sum(grid[i] == solution[i] for i in empty) / len(empty)


class SudokuText(FileTask):
    """A sudoku of one size; rows have ``Puzzle`` and ``Solution``, or ``quizzes`` and ``solutions``, 0 or . for empty.

    Args:
        data: a folder; see `envs.tasks.benchmarks.files.FileTask`.
        train: the training puzzles' file.
        validation: the validation puzzles' file.
        test: the test puzzles' file.
        score: ``solved`` pays 1 for any grid that solves the puzzle and 0 for others; ``cells`` pays the share of
            empty cells that are right, as d1 reports.

    Raises:
        ValueError: if the score is unknown.
    """

    side: int

    def __init__(
        self, data: str = "", train: str = "", validation: str = "", test: str = "", score: str = "solved"
    ) -> None:
        super().__init__(data, train, validation, test)
        if score not in SCORES:
            raise ValueError(f"{self.name}'s score is {score!r}: choose one of {', '.join(SCORES)}")
        self.scored_by = score

    def puzzle(self, row: Row) -> tuple[str, str]:
        """Return puzzle and solution, 0 for empty."""
        named = {str(key).lower(): str(value).strip() for key, value in row.items()}
        both = [named[many] if many in named else named[one] for many, one in _FIELDS]
        return both[0].replace(".", "0"), both[1]

    def check(self, row: Row) -> None:
        """Refuse a row whose solution isn't one of its puzzle, or whose puzzle is of another size or full."""
        puzzle, solution = self.puzzle(row)
        cells = self.side**2
        if len(puzzle) != cells or not re.fullmatch(rf"[0-{self.side}]+", puzzle) or "0" not in puzzle:
            raise ValueError(f"its puzzle is {puzzle!r}, which must be {cells} digits 0 to {self.side}, some of them 0")
        if not score_sudoku(f"<answer>{solution}</answer>", puzzle):
            raise ValueError(f"its solution {solution!r} doesn't solve its puzzle {puzzle!r}")

    def question(self, row: Row) -> str:
        """Return the puzzle."""
        return self.puzzle(row)[0]

    def ask(self, row: Row) -> str:
        """Return `PROMPT` about the puzzle."""
        n = self.side
        return PROMPT.format(n=n, cells=n * n, box=round(n**0.5), puzzle=self.question(row))

    def answer(self, row: Row) -> str:
        """Return the stored solution."""
        return f"<answer>{self.puzzle(row)[1]}</answer>"

    def grade(self, text: str, row: Row) -> float:
        """Return `score_sudoku` or `score_cells`."""
        puzzle, solution = self.puzzle(row)
        return score_sudoku(text, puzzle) if self.scored_by == "solved" else score_cells(text, puzzle, solution)


_FIELDS = (("quizzes", "puzzle"), ("solutions", "solution"))


class Sudoku4x4(SudokuText):
    """``sudoku_4x4``: no files on the hub; d1's are ``4x4_sudoku_unique_puzzles.csv`` and ``4x4_test_sudoku.csv``."""

    name = "sudoku_4x4"
    side = 4


class Sudoku9x9(SudokuText):
    """``sudoku_9x9``: any file of 81-digit puzzles and solutions."""

    name = "sudoku_9x9"
    side = 9
