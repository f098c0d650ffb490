"""Shared by the list tasks: drawing a list of distinct letters (ParallelBench's waiting lines)."""

from __future__ import annotations

import numpy as np

from envs.tasks.suite.form import CELLS, LETTERS, FormTask


def draw_letters(rng: np.random.Generator, shortest: int, longest: int) -> list[str]:
    """Draw a list of `shortest` to `longest` distinct letters."""
    size = int(rng.integers(shortest, longest + 1))
    return [LETTERS[i] for i in rng.permutation(len(LETTERS))[:size]]


class ListTask(FormTask):
    """A task on a list of distinct letters.

    Args:
        shortest: fewest letters in a list.
        longest: most letters in a list, at most 15 (an answer can be one longer).
    """

    words = tuple(LETTERS)

    def __init__(self, shortest: int = 3, longest: int = 8) -> None:
        if not 2 <= shortest <= longest <= CELLS - 1:
            raise ValueError(
                f"{self.name} has shortest {shortest} and longest {longest}: they must satisfy 2 <= shortest <= "
                f"longest <= {CELLS - 1}"
            )
        self.shortest, self.longest = shortest, longest

    def draw(self, rng: np.random.Generator) -> list[str]:
        """Draw the list of one problem."""
        return draw_letters(rng, self.shortest, self.longest)
