"""Traces: a small program run line by line; every line's values follow from those of the line before.

There is one right answer and its layout is certain, so only values have to wait for one another.
"""

from __future__ import annotations

import numpy as np

from envs.tasks.base import ProceduralTask
from envs.tasks.prose.words import MARKS, NUMBERS, between, check_range, draw

VARIABLES = ("a", "b", "c")
LARGEST = 20
"""The largest value of a variable."""

LARGEST_STEP = 3
"""The largest number that a line adds or takes away; a variable can be more."""


class Trace(ProceduralTask):
    """``trace a 4 b 7 c 2 . 1) a + 3 2) b = a . =`` is answered ``1) a 7 b 7 c 2 2) a 7 b 7 c 2``.

    Args:
        fewest: fewest lines of the program.
        most: most lines, at most 8.
    """

    name = "trace"
    words = (*NUMBERS[: LARGEST + 1], *VARIABLES, *MARKS, *"+-=.")

    def __init__(self, fewest: int = 6, most: int = 8) -> None:
        check_range("lines", fewest, most, 1, len(MARKS))
        self.fewest, self.most = fewest, most

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem."""
        # The lower half, so that the first sums have room both ways.
        values = {name: between(rng, 0, LARGEST // 2) for name in VARIABLES}
        program, lines = [f"{self.name} {_state(values)} ."], []
        for mark in MARKS[: between(rng, self.fewest, self.most)]:
            program.append(f"{mark} {_step(rng, values)}")
            lines.append(f"{mark} {_state(values)}")
        return " ".join([*program, ". ="]), " ".join(lines)


def _state(values: dict[str, int]) -> str:
    return " ".join(f"{name} {value}" for name, value in values.items())


def _step(rng: np.random.Generator, values: dict[str, int]) -> str:
    """Draw a line of the program and change `values` as it says."""
    name = draw(rng, VARIABLES)
    other = draw(rng, [one for one in VARIABLES if one != name])
    kind = rng.random()
    if kind < 0.25:
        values[name] = values[other]
        return f"{name} = {other}"
    # A variable more often than a number: then a value is no sum of what stands in the program.
    word, number = (other, values[other]) if kind < 0.6 else ("", between(rng, 1, LARGEST_STEP))
    can_rise, can_fall = values[name] + number <= LARGEST, values[name] >= number
    if not can_rise and not can_fall:
        # A variable that is too large both ways; a number never is.
        values[name] = number
        return f"{name} = {word}"
    is_sum = can_rise and (not can_fall or rng.random() < 0.5)
    values[name] += number if is_sum else -number
    return f"{name} {'+' if is_sum else '-'} {word or number}"
