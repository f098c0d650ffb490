"""Chained addition with the worked steps written out, the addends taken in any order.

The order is free, so two addends committed together may be the same one; and each running total needs the addends
before it. The layout (plus and equals signs, where the answer ends) is certain from the start.
"""

from __future__ import annotations

import numpy as np

from envs.tasks.base import Problem
from envs.tasks.suite.form import FormTask, cells_of, form


def work_out(addends: list[int]) -> str:
    """Write a chained addition.

    >>> work_out([3, 9, 7])
    '3 + 9 = 12 + 7 = 19'
    """
    words, total = [str(addends[0])], addends[0]
    for addend in addends[1:]:
        total += addend
        words += ["+", str(addend), "=", str(total)]
    return " ".join(words)


class Addition(FormTask):
    """``add . . : 3 9 7 ... =`` is answered ``9 + 3 = 12 + 7 = 19`` or by any other order; a total is one word.

    Args:
        shortest: fewest addends; they are distinct digits.
        longest: most addends, at most 9.
    """

    name = "add"
    words = (*map(str, range(100)), "+", "=")
    cells = tuple("123456789")
    cell_counts = (2, 9)

    def __init__(self, shortest: int = 3, longest: int = 4) -> None:
        if not 2 <= shortest <= longest <= 9:
            raise ValueError(
                f"add has shortest {shortest} and longest {longest}: they must satisfy 2 <= shortest <= longest <= 9"
            )
        self.shortest, self.longest = shortest, longest

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; the order of the answer's addends is uniform."""
        addends = 1 + rng.permutation(9)[: int(rng.integers(self.shortest, self.longest + 1))]
        return form(self.name, [str(a) for a in addends]), work_out([int(a) for a in rng.permutation(addends)])

    def score(self, text: str, problem: Problem) -> float:
        """Return 1.0 if each addend is used once and every running total is right."""
        # In "a + b = c + d = e" every fourth word from the third on is an addend.
        addends = [text.split()[0] if text.split() else "", *text.split()[2::4]]
        if sorted(addends) != sorted(cells_of(problem.prompt)):
            return 0.0
        # The addends are digits of the prompt by now, so int() takes them.
        return float(text.split() == work_out([int(a) for a in addends]).split())
