"""Insert: put the first argument into the list, so that it stands at the place the second one names."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from envs.tasks.suite.form import LETTERS, check_place, form
from envs.tasks.suite.lists import ListTask


class Insert(ListTask):
    """``insert x 1 : a b c ... =`` is answered ``a x b c`` (places count from 0)."""

    name = "insert"
    words = (*LETTERS, *"0123456789")
    arguments = MappingProxyType({"the new letter": LETTERS, "its place": "0123456789"})

    def ask(self, cells: Sequence[str], arguments: Sequence[str] = ()) -> str:
        """Write a prompt; the place is at most the list's length."""
        prompt = super().ask(cells, arguments)
        check_place(self.name, arguments[1], len(cells))
        return prompt

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; the place is uniform."""
        items = self.draw(rng)
        new = str(rng.choice([letter for letter in LETTERS if letter not in items]))
        # A place is one word, a digit.
        place = int(rng.integers(min(len(items) + 1, 10)))
        answer = [*items[:place], new, *items[place:]]
        return form(self.name, items, [new, str(place)]), " ".join(answer)
