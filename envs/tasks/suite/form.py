"""The form of the suite's prompts: cells in a row, and arguments."""

from __future__ import annotations

from collections.abc import Sequence

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
