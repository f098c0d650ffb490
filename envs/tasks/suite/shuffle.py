"""Shuffle: write the list in any other order.

Every position's marginal is near uniform over the list, so positions committed together repeat items.
"""

from __future__ import annotations

import numpy as np

from envs.tasks.base import Problem
from envs.tasks.suite.form import cells_of, form
from envs.tasks.suite.lists import ListTask


class Shuffle(ListTask):
    """``shuffle . . : a b c ... =`` is answered by any order but ``a b c``."""

    name = "shuffle"

    def __init__(self, shortest: int = 3, longest: int = 6) -> None:
        super().__init__(shortest, longest)

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; its answer is uniform over the other orders."""
        items = self.draw(rng)
        order = items
        # This ends: there are two letters at least, all different.
        while order == items:
            order = [items[i] for i in rng.permutation(len(items))]
        return form(self.name, items), " ".join(order)

    def score(self, text: str, problem: Problem) -> float:
        """Return 1.0 for the same items in another order."""
        given, items = text.split(), cells_of(problem.prompt)
        return float(sorted(given) == sorted(items) and given != items)
