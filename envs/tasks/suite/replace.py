"""Replace: put the argument in the place of any one item.

The most likely word of every position is the old item, so committing all at once replaces nothing; two
steps are enough (all positions but one, then the last).
"""

from __future__ import annotations

from types import MappingProxyType

import numpy as np

from envs.tasks.base import Problem
from envs.tasks.suite.form import LETTERS, arguments_of, cells_of, form
from envs.tasks.suite.lists import ListTask


class Replace(ListTask):
    """``replace x . : a b c ... =`` is answered ``x b c``, ``a x c`` or ``a b x``."""

    name = "replace"
    arguments = MappingProxyType({"the new letter": LETTERS})

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; the replaced place is uniform."""
        items = self.draw(rng)
        new = str(rng.choice([letter for letter in LETTERS if letter not in items]))
        answer = list(items)
        answer[int(rng.integers(len(items)))] = new
        return form(self.name, items, [new]), " ".join(answer)

    def score(self, text: str, problem: Problem) -> float:
        """Return 1.0 if exactly one item is replaced, and by the argument."""
        given, items = text.split(), cells_of(problem.prompt)
        # Lengths that differ are refused below.
        changed = [new for new, old in zip(given, items, strict=False) if new != old]
        return float(len(given) == len(items) and changed == arguments_of(problem.prompt))
