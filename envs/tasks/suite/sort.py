"""Sort: write the list in alphabetical order."""

from __future__ import annotations

import numpy as np

from envs.tasks.suite.form import form
from envs.tasks.suite.lists import ListTask


class Sort(ListTask):
    """``sort . . : c a b ... =`` is answered ``a b c``."""

    name = "sort"

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem."""
        items = self.draw(rng)
        return form(self.name, items), " ".join(sorted(items))
