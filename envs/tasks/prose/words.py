"""Words that several tasks of the prose suite share."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

LARGEST = 40
"""The largest number; every sum stays within it."""

NUMBERS = tuple(map(str, range(LARGEST + 1)))

MARKS = tuple(f"{i})" for i in range(1, 9))
"""What numbers the lines of a list: ``1)`` to ``8)``."""

# Apart, since a story goes on with he or she.
HE = ("tom", "bob", "max", "leo")
SHE = ("ann", "eva", "mia", "zoe")
NAMES = HE + SHE
HOMES = ("rome", "paris", "oslo", "cairo", "lima", "delhi")
PETS = ("cat", "dog", "fish", "horse", "mouse", "snake")


def draw(rng: np.random.Generator, words: Sequence[str]) -> str:
    """Draw one word, each as likely."""
    return words[int(rng.integers(len(words)))]


def between(rng: np.random.Generator, low: int, high: int) -> int:
    """Draw a whole number from `low` to `high`, both included."""
    return int(rng.integers(low, high + 1))


def words_in(*layouts: str) -> tuple[str, ...]:
    """Return the words of layouts that are not blanks to be filled in, once each.

    >>> words_in("{who} drinks {what} .", "{what} .")
    ('drinks', '.')
    """
    words = " ".join(layouts).split()
    return tuple(dict.fromkeys(word for word in words if "{" not in word))


def check_range(what: str, low: int, high: int, least: int, most: int) -> None:
    """Refuse a range of sizes that a task can't have.

    Raises:
        ValueError: unless least <= low <= high <= most.
    """
    if not least <= low <= high <= most:
        raise ValueError(f"{what} are {low} to {high}: they must satisfy {least} <= fewest <= most <= {most}")
