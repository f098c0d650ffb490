"""Remove: leave out the item at the place that the argument names."""

from __future__ import annotations

from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from envs.tasks.suite.form import LETTERS, check_place, form
from envs.tasks.suite.lists import ListTask


class Remove(ListTask):
    """``remove 1 . : a b c ... =`` is answered ``a c`` (places count from 0)."""

    name = "remove"
    words = (*LETTERS, *"0123456789")
    arguments = MappingProxyType({"the place": "0123456789"})

    def ask(self, cells: Sequence[str], arguments: Sequence[str] = ()) -> str:
        """Write a prompt; the place is one of the list's."""
        prompt = super().ask(cells, arguments)
        check_place(self.name, arguments[0], len(cells) - 1)
        return prompt

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem; the place is uniform."""
        items = self.draw(rng)
        # A place is one word, a digit.
        place = int(rng.integers(min(len(items), 10)))
        answer = [*items[:place], *items[place + 1 :]]
        return form(self.name, items, [str(place)]), " ".join(answer)
