"""Reverse: write the list from its end."""

from __future__ import annotations

import numpy as np

from envs.tasks.suite.form import form
from envs.tasks.suite.lists import ListTask


class Reverse(ListTask):
    """``reverse . . : a b c ... =`` is answered ``c b a``."""

    name = "reverse"

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem."""
        items = self.draw(rng)
        return form(self.name, items), " ".join(reversed(items))
