"""Copy: write the list as it stands."""

from __future__ import annotations

import numpy as np

from envs.tasks.suite.form import form
from envs.tasks.suite.lists import ListTask


class Copy(ListTask):
    """``copy . . : a b c ... =`` is answered ``a b c``."""

    name = "copy"

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem."""
        items = self.draw(rng)
        return form(self.name, items), " ".join(items)
