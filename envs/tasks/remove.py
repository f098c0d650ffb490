"""Remove: leave out the item at the place that the argument names."""

from __future__ import annotations

import numpy as np

from envs.tasks.base import LETTERS, form
from envs.tasks.lists import ListTask


class Remove(ListTask):
    """``remove 1 . : a b c ... =`` is answered ``a c`` (places count from 0)."""

    name = "remove"
    words = (*LETTERS, *"0123456789")

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; the place is uniform."""
        items = self.draw(rng)
        place = int(rng.integers(min(len(items), 10)))
        answer = [*items[:place], *items[place + 1 :]]
        return form(self.name, items, [str(place)]), " ".join(answer)
