"""The embedded procedural suite, one file a task, and mixtures of tasks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from envs.tasks.addition import Addition
from envs.tasks.antibody import Antibody
from envs.tasks.base import EMPTY, Problem, Split, Task, split_of
from envs.tasks.copy_list import Copy
from envs.tasks.insert import Insert
from envs.tasks.remove import Remove
from envs.tasks.replace import Replace
from envs.tasks.reverse import Reverse
from envs.tasks.shuffle import Shuffle
from envs.tasks.sort import Sort
from envs.tasks.sudoku import Sudoku

__all__ = ["SUITE", "TASKS", "Problem", "Split", "Task", "make_tasks", "split_of", "vocabulary"]

TASKS: dict[str, type[Task]] = {
    task.name: task for task in (Copy, Reverse, Sort, Shuffle, Replace, Insert, Remove, Addition, Sudoku)
}
"""Every task of the suite by name; a new one is one file and one word here."""

SUITE = "suite"
"""The name that stands for all of `TASKS`."""

OTHERS: dict[str, type[Task]] = {Antibody.name: Antibody}
"""Tasks for other dLLMs than the embedded one."""


def make_tasks(names: str | Sequence[str]) -> list[Task]:
    """Build tasks from their names; ``"suite"`` is all of `TASKS`, ``"antibody=FILE"`` antibody on another FASTA file.

    Raises:
        ValueError: if a name is unknown or there is none.

    >>> [task.name for task in make_tasks(["copy", "add"])]
    ['copy', 'add']
    """
    wanted = [names] if isinstance(names, str) else list(names)
    # "suite" stands for every task, and a task named twice is drawn no more often.
    wanted = list(dict.fromkeys(name for word in wanted for name in (TASKS if word == SUITE else [word])))
    known = {**TASKS, **OTHERS}
    files = {name: Path(name.removeprefix("antibody=")) for name in wanted if name.startswith("antibody=")}
    unknown = [name for name in wanted if name not in known and name not in files]
    if unknown or not wanted:
        raise ValueError(f"task is {unknown[0] if unknown else names!r}: choose from {', '.join([SUITE, *known])}")
    return [Antibody(files[name]) if name in files else known[name]() for name in wanted]


def vocabulary(tasks: Sequence[Task]) -> list[str]:
    """Return every word that the tasks' prompts and answers can hold, in order and once each."""
    return sorted({EMPTY, ":", "=", *(word for task in tasks for word in (task.name, *task.words))})
