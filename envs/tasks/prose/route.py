"""Routes: any shortest path through a small maze, written as moves and the squares they lead to.

There are many right answers, each consistent from start to goal; half of one and half of another is none.
"""

from __future__ import annotations

from collections import deque
from functools import cache
from itertools import product
from math import comb

import numpy as np

from envs.tasks.base import Problem, ProceduralTask
from envs.tasks.prose.words import check_range

SIDE = 5
SQUARES = tuple(f"{column}{row}" for row, column in product(range(1, SIDE + 1), "abcde"))
"""The squares row by row; in a prompt each stands for itself, so that a model needs no counting."""

# Rows are numbered from the top, so up leads to a smaller number.
MOVES = {"left": (-1, 0), "right": (1, 0), "up": (0, -1), "down": (0, 1)}
WALL = "#"

MOST_MAZES = 20_000
"""Drawn for one problem; of those with the default walls and ways one in fifty will do."""


@cache
def step(square: str, move: str) -> str | None:
    """Return the square that a move leads to; None outside the maze.

    >>> step("a1", "right"), step("a1", "up")
    ('b1', None)
    """
    column, row = SQUARES.index(square) % SIDE + MOVES[move][0], SQUARES.index(square) // SIDE + MOVES[move][1]
    return SQUARES[row * SIDE + column] if 0 <= column < SIDE and 0 <= row < SIDE else None


def distances(goal: str, is_free: set[str]) -> dict[str, int]:
    """Return the number of moves to `goal` from each square that leads to it, through free squares alone."""
    found, queue = {goal: 0}, deque([goal])
    while queue:
        square = queue.popleft()
        for move in MOVES:
            after = step(square, move)
            if after in is_free and after not in found:
                found[after] = found[square] + 1
                queue.append(after)
    return found


class Route(ProceduralTask):
    """``route a1 # c1 ... e5 . a1 to c4 =`` is answered ``down to a2 , right to b2 , ... down to c4 .``.

    The way is never longer than without walls, so its length can be read off the two squares.

    Args:
        nearest: fewest moves.
        farthest: most moves, at most 8.
        walls: squares that can't be entered, of 25.
        ways: fewest shortest paths, so that moves written at once have something to agree on.
    """

    name = "route"
    words = (*SQUARES, WALL, *MOVES, "to", ",", ".")

    def __init__(self, nearest: int = 4, farthest: int = 6, walls: int = 6, ways: int = 3) -> None:
        check_range("moves", nearest, farthest, 1, 2 * (SIDE - 1))
        if not 0 <= walls <= 10:
            raise ValueError(f"walls is {walls}: it must be 0 to 10")
        most = comb(farthest, farthest // 2)
        if not 1 <= ways <= most:
            raise ValueError(f"ways is {ways}: it must be 1 to {most}, as many as {farthest} moves allow")
        self.nearest, self.farthest, self.walls, self.ways = nearest, farthest, walls, ways

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one maze and one of its shortest paths, all as likely.

        Raises:
            ValueError: if hardly any maze has as many walls and ways.
        """
        for _ in range(MOST_MAZES):
            squares = [SQUARES[i] for i in rng.permutation(len(SQUARES))]
            # The ends come before the walls, so they are never among them.
            start, goal, is_free = squares[0], squares[1], set(squares[self.walls + 2 :]) | set(squares[:2])
            far = _without_walls(start, goal)
            if not self.nearest <= far <= self.farthest:
                continue
            left = distances(goal, is_free)
            # A detour would make the answer longer than the two squares tell.
            if left.get(start) == far and shortest_paths(left)[start] >= self.ways:
                maze = [square if square in is_free else WALL for square in SQUARES]
                return f"{self.name} {' '.join(maze)} . {start} to {goal} =", shortest_path(rng, start, left)
        raise ValueError(
            f"ways is {self.ways}: none of {MOST_MAZES:,} mazes with {self.walls} walls has so many shortest paths of "
            f"{self.nearest} to {self.farthest} moves; take fewer walls or fewer ways"
        )

    def score(self, text: str, problem: Problem) -> float:
        """Return 1.0 if the moves lead from start to goal through free squares, as few as can be."""
        maze, _, ends = problem.prompt.removeprefix(f"{self.name} ").partition(" . ")
        start, _, goal, _ = ends.split()
        is_free = set(maze.split()) - {WALL}
        words = text.split()
        # Four words a move, such as: left to b2 , where the last has a full stop for the comma.
        if len(words) % 4 or not words or words[1::4] != ["to"] * (len(words) // 4):
            return 0.0
        if words[3::4] != [","] * (len(words) // 4 - 1) + ["."]:
            return 0.0
        square: str | None = start
        for move, place in zip(words[::4], words[2::4], strict=True):
            square = step(square, move) if square and move in MOVES else None
            if square != place or square not in is_free:
                return 0.0
        return float(square == goal and len(words) // 4 == distances(goal, is_free)[start])


def _without_walls(start: str, goal: str) -> int:
    one, other = SQUARES.index(start), SQUARES.index(goal)
    return abs(one % SIDE - other % SIDE) + abs(one // SIDE - other // SIDE)


def shortest_paths(left: dict[str, int]) -> dict[str, int]:
    """Return the number of shortest paths to the goal from each square.

    Args:
        left: moves to the goal from each square, of `distances`.
    """
    ways: dict[str, int] = {}
    # From the goal outwards, so that what a square's paths go on to is counted before it.
    for square in sorted(left, key=lambda square: left[square]):
        # Nothing goes on from the goal, which is one way by itself.
        ways[square] = sum(ways[after] for after in _nearer(square, left).values()) or 1
    return ways


def shortest_path(rng: np.random.Generator, start: str, left: dict[str, int]) -> str:
    """Write a shortest path, each as likely: a move in proportion to the shortest paths that go on from it.

    Args:
        rng: random numbers.
        start: the first square.
        left: moves to the goal from each square, of `distances`.

    Returns:
        The answer's text.
    """
    ways = shortest_paths(left)
    moves, square = [], start
    while left[square]:
        choices = _nearer(square, left)
        counts = np.array([ways[after] for after in choices.values()])
        move = list(choices)[int(rng.choice(len(counts), p=counts / counts.sum()))]
        square = choices[move]
        moves.append(f"{move} to {square}")
    return " , ".join(moves) + " ."


def _nearer(square: str, left: dict[str, int]) -> dict[str, str]:
    """Return the moves that bring one nearer to the goal, and the squares they lead to."""
    around = {move: after for move in MOVES if (after := step(square, move)) in left}
    return {move: after for move, after in around.items() if after and left[after] == left[square] - 1}
