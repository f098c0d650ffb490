"""The form of the suite's prompts: cells in a row, and arguments."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType

from envs.tasks.base import ProceduralTask

# A 4x4 sudoku fills them all.
CELLS = 16


EMPTY = "."


LETTERS = "abcdefghijklmnopqrstuvwxyz"


def form(task: str, cells: Sequence[str], arguments: Sequence[str] = ()) -> str:
    """Write a prompt of the fixed layout described in the module docstring.

    >>> form("remove", ["a", "b"], ["1"])
    'remove 1 . : a b . . . . . . . . . . . . . . ='
    """
    # Always 21 words, so that a cell's position tells which it is, however many are filled.
    head = [*arguments, EMPTY, EMPTY][:2]
    return " ".join([task, *head, ":", *cells, *[EMPTY] * (CELLS - len(cells)), "="])


def check_place(task: str, place: str, last: int) -> None:
    """Refuse a place beyond a list's last one.

    Raises:
        ValueError: if `place` is greater than `last`.
    """
    if int(place) > last:
        raise ValueError(f"{task} is given the place {place}: places count from 0, so the last is {last}")


def cells_of(prompt: str) -> list[str]:
    """Return the non-empty cells of a form.

    >>> cells_of(form("copy", ["a", "b"]))
    ['a', 'b']
    """
    return [cell for cell in prompt.split()[4:-1] if cell != EMPTY]


def arguments_of(prompt: str) -> list[str]:
    """Return the non-empty arguments of a form.

    >>> arguments_of(form("insert", ["a", "b"], ["x", "1"]))
    ['x', '1']
    """
    return [word for word in prompt.split()[1:3] if word != EMPTY]


class FormTask(ProceduralTask):
    """A task whose prompts are forms.

    Attributes:
        cells: every word that a cell of its form can hold.
        cell_counts: how many cells can be filled, fewest and most.
        arguments: what its form's arguments are called, in order, and every word that each can be.
        has_distinct_cells: whether a word can stand in one cell only.
    """

    cells: tuple[str, ...] = tuple(LETTERS)
    cell_counts: tuple[int, int] = (2, CELLS - 1)
    arguments: Mapping[str, Sequence[str]] = MappingProxyType({})
    has_distinct_cells: bool = True

    def ask(self, cells: Sequence[str], arguments: Sequence[str] = ()) -> str:
        """Write the prompt of a problem of one's own.

        Args:
            cells: the list, the addends or the puzzle.
            arguments: one word for each of `arguments`.

        Raises:
            ValueError: if that is no problem of this task.
        """
        if len(arguments) != len(self.arguments):
            wanted = f"give {' and '.join(self.arguments)}" if self.arguments else "it takes none"
            raise ValueError(f"{self.name}'s arguments are {' '.join(arguments)!r}: {wanted}")
        fewest, most = self.cell_counts
        if not fewest <= len(cells) <= most:
            count = str(most) if fewest == most else f"{fewest} to {most}"
            raise ValueError(f"{self.name} is asked about {len(cells)} words: give {count}, separated by spaces")
        for what, word, known in [
            *[("a word", cell, self.cells) for cell in cells],
            *[(name, word, self.arguments[name]) for name, word in zip(self.arguments, arguments, strict=True)],
        ]:
            if word not in known:
                raise ValueError(f"{self.name} is given {word!r} as {what}: choose from {' '.join(known)}")
        if self.has_distinct_cells and len(set(cells)) < len(cells):
            raise ValueError(f"{self.name} is asked about {' '.join(cells)!r}: no word may stand there twice")
        return form(self.name, cells, arguments)
