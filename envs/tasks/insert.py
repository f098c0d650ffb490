"""Insert: put the first argument into the list, so that it stands at the place the second one names."""

from __future__ import annotations

import numpy as np

from envs.tasks.base import LETTERS, form
from envs.tasks.lists import ListTask


class Insert(ListTask):
    """``insert x 1 : a b c ... =`` is answered ``a x b c`` (places count from 0)."""

    name = "insert"
    words = (*LETTERS, *"0123456789")

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; the place is uniform."""
        items = self.draw(rng)
        new = str(rng.choice([letter for letter in LETTERS if letter not in items]))
        place = int(rng.integers(min(len(items) + 1, 10)))
        answer = [*items[:place], new, *items[place:]]
        return form(self.name, items, [new, str(place)]), " ".join(answer)
