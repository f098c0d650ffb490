"""What `UnmaskingVectorEnv.reset` can be asked for: its mode, seeds, some rows, and problems to begin with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode

from envs.numbers import is_whole
from envs.tasks import Problem, Split, Task

OPTIONS = ("problem", "reset_mask")


@dataclass(frozen=True)
class Asked:
    """What was asked for.

    Attributes:
        rows: the rows to reset.
        problems: by row, what is to be a problem; rows that draw theirs are not here.
    """

    rows: list[int]
    problems: dict[int, Any]


def read_options(options: Mapping[str, Any], num_envs: int) -> Asked:
    """Read the options of a reset.

    Args:
        options: ``"problem"`` and ``"reset_mask"``; see `UnmaskingVectorEnv.reset`.
        num_envs: N.

    Raises:
        ValueError: for another option, or a mask or list that is not of N rows.
    """
    if not isinstance(options, Mapping):
        raise ValueError(f"options is {options!r}: give a dictionary with {' or '.join(OPTIONS)}, or None")
    unknown = sorted(map(str, options.keys() - set(OPTIONS)))
    if unknown:
        raise ValueError(f"options has {unknown[0]!r}: it can have {' and '.join(OPTIONS)}")
    rows = _rows_of(options.get("reset_mask"), num_envs)
    asked = options.get("problem")
    # Only a list is one entry a row: a tuple is a pair (task's name, index).
    each = list(asked) if isinstance(asked, list) else [asked] * num_envs
    if len(each) != num_envs:
        raise ValueError(f"problem has {len(each)} entries: a list must have one a row, {num_envs}")
    return Asked(rows, {row: each[row] for row in rows if each[row] is not None})


def read_seeds(seed: int | Sequence[int | None] | None, num_envs: int) -> list[int | None]:
    """Return each row's seed, None where its generator goes on: row i has ``seed + i``, unless each has its own.

    Raises:
        ValueError: if there are not N of them.
    """
    # As Gymnasium's own vector envs seed their rows.
    if seed is None or isinstance(seed, int | np.integer):
        return [None if seed is None else int(seed) + row for row in range(num_envs)]
    if isinstance(seed, str) or not isinstance(seed, Sequence | np.ndarray):
        raise ValueError(f"seed is {seed!r}: it must be a whole number, a list with one a row, or None")
    if len(seed) != num_envs:
        raise ValueError(f"seed has {len(seed)} entries: it must have one a row, {num_envs}")
    for one in seed:
        if one is not None and not (is_whole(one) or isinstance(one, np.integer)):
            raise ValueError(f"seed holds {one!r}: each must be a whole number or None")
    return [None if one is None else int(one) for one in seed]


def read_mode(mode: AutoresetMode | str) -> AutoresetMode:
    """Return Gymnasium's mode by its value.

    Raises:
        ValueError: if there is none.
    """
    try:
        return AutoresetMode(mode)
    except ValueError:
        known = ", ".join(repr(one.value) for one in AutoresetMode)
        raise ValueError(f"autoreset_mode is {mode!r}: choose one of {known}") from None


def _rows_of(mask: Any, num_envs: int) -> list[int]:
    if mask is None:
        return list(range(num_envs))
    chosen = np.asarray(mask)
    if chosen.shape != (num_envs,) or chosen.dtype != np.bool_ or not chosen.any():
        raise ValueError(
            f"reset_mask is {chosen.dtype} of shape {chosen.shape}, {int(chosen.astype(bool).sum())} of them true: "
            f"it must be bool of shape ({num_envs},), one or more true"
        )
    return [int(row) for row in np.flatnonzero(chosen)]


def problem_of(asked: Any, tasks: Mapping[str, Task], split: Split) -> Problem:
    """Return the problem that is meant.

    Args:
        asked: a `Problem`, a pair (task's name, index), or, with one task, an index.
        tasks: the env's, by name.
        split: of which an index is.

    Raises:
        ValueError: if it is none of these, or of a task that the env doesn't have.
    """
    if isinstance(asked, Problem):
        name, index = asked.task, None
    elif isinstance(asked, int | np.integer) and len(tasks) == 1:
        name, index = next(iter(tasks)), int(asked)
    elif isinstance(asked, tuple) and len(asked) == 2 and isinstance(asked[1], int | np.integer):
        name, index = str(asked[0]), int(asked[1])
    else:
        raise ValueError(
            f"problem is {asked!r}: it must be a Problem, a pair (task's name, index), or, with one task, an index"
        )
    if name not in tasks:
        raise ValueError(f"problem is of task {name!r}: this env has {', '.join(tasks)}")
    return asked if index is None else tasks[name].problem(split, index)
