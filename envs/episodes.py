"""What each row of the env decodes next: a problem, a block length, a place on the dial, random numbers of its own."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from envs.tasks import Problem, Split, Task


@dataclass(frozen=True)
class Episode:
    """One sequence to decode.

    Attributes:
        problem: what is asked.
        block_length: positions of a block.
        speed: in [0, 1], place on the dial; 0 without one.
        seed: of every random number that its decoding draws.
    """

    problem: Problem
    block_length: int
    speed: float
    seed: int


class Episodes:
    """Independent rows: each draws its episodes from a generator of its own.

    Args:
        num_rows: N.
        tasks: to draw from, uniformly.
        split: of the problems.
        block_lengths: to draw from, uniformly.
        has_dial: whether each episode draws a place on the dial.
        num_problems: of each task without end, from its first on; None draws from all.
        task_weights: how often each task is drawn, relative to the others; none draws all alike.

    Raises:
        ValueError: if there is to be no problem, or the weights are not one a task, 0 or more, and some above 0.
    """

    def __init__(
        self,
        num_rows: int,
        *,
        tasks: Sequence[Task],
        split: Split,
        block_lengths: Sequence[int],
        has_dial: bool = False,
        num_problems: int | None = None,
        task_weights: Sequence[float] = (),
    ) -> None:
        if task_weights and (len(task_weights) != len(tasks) or min(task_weights) < 0 or not sum(task_weights) > 0):
            raise ValueError(
                f"task_weights is {list(task_weights)}: give one of 0 or more for each of {len(tasks)} tasks "
                f"({', '.join(task.name for task in tasks)}), not all of them 0"
            )
        self.shares = np.array(task_weights) / sum(task_weights) if task_weights else None
        if num_problems is not None and num_problems < 1:
            raise ValueError(f"num_problems is {num_problems}: it must be 1 or more, or None for all")
        # As good as without end.
        self.num_problems = 2**31 if num_problems is None else num_problems
        self.tasks, self.split = list(tasks), split
        self.block_lengths, self.has_dial = list(block_lengths), has_dial
        self._generators = [np.random.default_rng() for _ in range(num_rows)]
        self._noise = [generator.spawn(1)[0] for generator in self._generators]

    @property
    def possible_blocks(self) -> set[int]:
        """Every block length that an episode can have."""
        return set(self.block_lengths)

    def seed(self, row: int, generator: np.random.Generator) -> None:
        """Let a row draw from this generator from now on; the generator that it already has changes nothing."""
        if generator is not self._generators[row]:
            self._generators[row] = generator
            # A child has a stream of its own: what sampling draws shifts no later problem.
            self._noise[row] = generator.spawn(1)[0]

    def state(self) -> dict[str, Any]:
        """Return all that later episodes depend on; see `load_state`."""
        return {"generators": [_states(self._generators), _states(self._noise)]}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, of as many rows."""
        for generators, states in zip((self._generators, self._noise), state["generators"], strict=True):
            generators[:] = [_generator(one) for one in states]

    def begin(self, rows: Sequence[int], problems: Mapping[int, Problem] | None = None) -> list[Episode]:
        """Return the next episode of each of these rows.

        Args:
            rows: in rising order.
            problems: by row, those that are asked for rather than drawn.
        """
        return [self._draw(row, (problems or {}).get(row)) for row in rows]

    def _draw(self, row: int, problem: Problem | None) -> Episode:
        generator = self._generators[row]
        if problem is None:
            count = len(self.tasks)
            which = generator.integers(count) if self.shares is None else generator.choice(count, p=self.shares)
            task = self.tasks[int(which)]
            # A finite task takes its index modulo its size: of 2**31 all its problems are as likely.
            limit = self.num_problems if task.size(self.split) is None else 2**31
            problem = task.wrapped_problem(self.split, int(generator.integers(limit)))
        speed = generator.random(dtype=np.float64) if self.has_dial else 0.0
        # Nothing is drawn where there is no choice, so that problems follow from the seed as they always have.
        choice = int(generator.integers(len(self.block_lengths))) if len(self.block_lengths) > 1 else 0
        return Episode(problem, self.block_lengths[choice], float(speed), self._draw_seed(row))

    def _draw_seed(self, row: int) -> int:
        return int(self._noise[row].integers(2**63))


def _states(generators: Sequence[np.random.Generator]) -> list[Any]:
    return [copy.deepcopy(generator.bit_generator.state) for generator in generators]


def _generator(state: dict[str, Any]) -> np.random.Generator:
    """Return a generator that goes on from here; its children are never asked for, they are in the state themselves."""
    bits = np.random.PCG64()
    bits.state = state  # type: ignore[assignment]
    return np.random.Generator(bits)
