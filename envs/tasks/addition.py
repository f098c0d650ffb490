"""Chained addition with the worked steps written out.

Each running total needs the one before it, so the answer can't be committed at once, yet its layout
(plus and equals signs, the addends, where it ends) is certain from the start.
"""

from __future__ import annotations

import numpy as np

from envs.tasks.base import CELLS, Task, form


class Addition(Task):
    """``add . . : 3 9 7 ... =`` is answered ``3 + 9 = 12 + 7 = 19``; a total is one word.

    Args:
        shortest: fewest addends.
        longest: most addends, at most 11 (their total stays under 100).
    """

    name = "add"
    words = (*map(str, range(100)), "+", "=")

    def __init__(self, shortest: int = 4, longest: int = 8) -> None:
        if not 2 <= shortest <= longest <= min(11, CELLS):
            raise ValueError(f"addends are {shortest} to {longest}: they must satisfy 2 <= shortest <= longest <= 11")
        self.shortest, self.longest = shortest, longest

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem: addends are uniform over 1 to 9."""
        addends = [int(a) for a in rng.integers(1, 10, size=int(rng.integers(self.shortest, self.longest + 1)))]
        words, total = [str(addends[0])], addends[0]
        for addend in addends[1:]:
            total += addend
            words += ["+", str(addend), "=", str(total)]
        return form(self.name, [str(a) for a in addends]), " ".join(words)
