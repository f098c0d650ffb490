"""The embedded procedural suites and the benchmarks of the field, one file a task, and mixtures of tasks."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from types import MappingProxyType
from typing import Any, get_args

from envs.names import hint
from envs.tasks.base import Problem, ProceduralTask, Split, Task, split_of
from envs.tasks.benchmarks.antibody import Antibody
from envs.tasks.benchmarks.countdown import Countdown
from envs.tasks.benchmarks.gsm8k import GSM8K
from envs.tasks.benchmarks.humaneval import HumanEval
from envs.tasks.benchmarks.math500 import Math500
from envs.tasks.benchmarks.mbpp import MBPP
from envs.tasks.benchmarks.parallel_bench import ParallelBench
from envs.tasks.benchmarks.reasoning_gym import ReasoningGym
from envs.tasks.benchmarks.sudoku_text import Sudoku4x4, Sudoku9x9
from envs.tasks.prose import PROSE
from envs.tasks.suite.addition import Addition
from envs.tasks.suite.copy_list import Copy
from envs.tasks.suite.form import EMPTY, FormTask
from envs.tasks.suite.insert import Insert
from envs.tasks.suite.remove import Remove
from envs.tasks.suite.replace import Replace
from envs.tasks.suite.reverse import Reverse
from envs.tasks.suite.shuffle import Shuffle
from envs.tasks.suite.sort import Sort
from envs.tasks.suite.sudoku import Sudoku

__all__ = [
    "BENCHMARKS",
    "BUFFER_LENGTHS",
    "PROSE",
    "SUITE",
    "SUITES",
    "TASKS",
    "Problem",
    "ProceduralTask",
    "Split",
    "Task",
    "describe_data",
    "known_tasks",
    "make_task",
    "make_tasks",
    "need_splits",
    "prompt",
    "split_of",
    "vocabulary",
]

TASKS: dict[str, type[FormTask]] = {
    task.name: task for task in (Copy, Reverse, Sort, Shuffle, Replace, Insert, Remove, Addition, Sudoku)
}
"""Every task of the first embedded suite by name; a new one is one file and one word here."""

BENCHMARKS: Mapping[str, Callable[..., Task]] = MappingProxyType(
    {
        **{task.name: task for task in (GSM8K, Math500, HumanEval, MBPP, Countdown, Sudoku4x4, Sudoku9x9, Antibody)},
        "parallel_bench": ParallelBench,
        "reasoning_gym": ReasoningGym,
    }
)
"""Every other task by name; a new one is one file and one word here."""

SUITE = "suite"
"""The name that stands for all of `TASKS`."""

SUITES: Mapping[str, Mapping[str, type[ProceduralTask]]] = MappingProxyType({SUITE: TASKS, "prose": PROSE})
"""The embedded suites: a name that stands for several tasks, and these. Each has an embedded dLLM that knows them."""

BUFFER_LENGTHS: Mapping[str, int] = MappingProxyType({SUITE: 64, "prose": 128})
"""Masks that hold every answer of a suite and its end-of-text."""


def known_tasks() -> dict[str, Callable[..., Task]]:
    """Return all tasks by name, those of both suites and the benchmarks."""
    return {**TASKS, **PROSE, **BENCHMARKS}


def make_tasks(names: str | Sequence[str]) -> list[Task]:
    """Build tasks from their texts, as `make_task` reads them; a name of `SUITES` is all of its tasks.

    Raises:
        ValueError: if a text is not understood, there is none, or two tasks have one name.

    >>> [task.name for task in make_tasks(["copy", "add"])]
    ['copy', 'add']
    """
    wanted = [names] if isinstance(names, str) else list(names) if isinstance(names, Iterable) else []
    if not wanted or not all(isinstance(word, str) for word in wanted):
        raise ValueError(f"task is {names!r}: choose from {_choices()}")
    # A suite stands for each of its tasks, and a task named twice is drawn no more often.
    wanted = list(dict.fromkeys(chain.from_iterable(SUITES.get(word, [word]) for word in wanted)))
    tasks = [make_task(text) for text in wanted]
    for text, task in zip(wanted, tasks, strict=True):
        if [other.name for other in tasks].count(task.name) > 1:
            raise ValueError(f"task is {text!r}: another task has its name {task.name!r} too, so give one of them")
    return tasks


def make_task(text: str) -> Task:
    """Build a task from ``name``, or ``name:option=value,option=value``; a first value may go without ``option=``.

    Raises:
        ValueError: if there is no such task or option, or a value is not possible.

    >>> make_task("copy:shortest=5,longest=5").problem("test", 0).answer
    'q i w j p'
    """
    name, _, rest = text.partition(":")
    build = known_tasks().get(name)
    if build is None and name in SUITES:
        raise ValueError(f"task is {text!r}: a suite has no options; give {name}, or one of its tasks with options")
    if build is None:
        raise ValueError(f"task is {name!r}: {hint(name, [*SUITES, *known_tasks()])}")
    # A task's options are the arguments that it is made with: there is no second list of them.
    options = {option: about.default for option, about in inspect.signature(build).parameters.items()}
    values: dict[str, Any] = {}
    for place, part in enumerate(rest.split(",") if rest else []):
        option, is_named, value = part.partition("=")
        if not is_named and place == 0 and options:
            option, value = next(iter(options)), part
        if option not in options or option in values:
            known = ", ".join(options) or "none, it has no options"
            raise ValueError(f"{name}'s option is {option!r}: write option=value, each once, with one of {known}")
        values[option] = _read(f"{name}'s {option}", value, options[option])
    return build(**values)


def prompt(task: str, words: str, arguments: str = "") -> str:
    """Write a prompt of the embedded suite, as the embedded dLLM was trained on them.

    Args:
        task: a name among `TASKS`.
        words: the list, the addends or the puzzle's 16 cells, separated by spaces.
        arguments: what *insert* (a letter and its place), *remove* (a place) and *replace* (a letter) ask for besides.

    Raises:
        ValueError: if there is no such task, or that is no problem of it.

    >>> prompt("sort", "c a b")
    'sort . . : c a b . . . . . . . . . . . . . ='
    >>> prompt("insert", "a b c", "x 1")
    'insert x 1 : a b c . . . . . . . . . . . . . ='
    """
    if task not in TASKS:
        raise ValueError(f"task is {task!r}: the embedded ones are {', '.join(TASKS)}")
    return TASKS[task]().ask(words.split(), arguments.split())


def _read(what: str, value: str, default: Any) -> Any:
    if isinstance(default, bool):
        if value not in ("true", "false"):
            raise ValueError(f"{what} is {value!r}: it must be true or false")
        return value == "true"
    if isinstance(default, int | float):
        try:
            return type(default)(value)
        except ValueError:
            kind = "whole number" if isinstance(default, int) else "number"
            raise ValueError(f"{what} is {value!r}: it must be a {kind}") from None
    return value


def _choices() -> str:
    return ", ".join([*SUITES, *known_tasks()])


def need_splits(tasks: Sequence[Task], splits: Sequence[Split]) -> None:
    """Read the splits of tasks now, so that a missing file is found before a long job and not at its end.

    Raises:
        ValueError: if a task lacks one of the splits.
    """
    for task in tasks:
        for split in splits:
            # Asking for its size reads a split.
            task.size(split)


def describe_data(tasks: Sequence[Task]) -> str:
    """Say where the problems come from and how many each split has, for a policy's card.

    >>> describe_data(make_tasks(["copy", "add"]))
    'generated: copy, add'
    """
    parts: dict[str, list[str]] = {}
    for task in tasks:
        sizes = [f"{size:,} {split}" for split in get_args(Split) if (size := _size(task, split))]
        parts.setdefault(task.source, []).append(f"{task.name} ({', '.join(sizes)})" if sizes else task.name)
    return "; ".join(f"{source}: {', '.join(names)}" for source, names in parts.items())


def _size(task: Task, split: Split) -> int | None:
    try:
        return task.size(split)
    except ValueError:
        return None


def vocabulary(tasks: Sequence[Task]) -> list[str]:
    """Return every word that the tasks' prompts and answers can hold, in order and once each."""
    # Sorted, since a token's id is its place, and a set has another order in every process.
    words = chain.from_iterable((task.name, *task.words) for task in tasks)
    return sorted({EMPTY, ":", "=", *words})
