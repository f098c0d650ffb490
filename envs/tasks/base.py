"""What a task is: problems by split and index, and a scorer of answers.

`ProceduralTask` makes its problems; `envs.tasks.benchmarks.files.FileTask` reads them. Every problem of the embedded
suite is a *form* of the same width, so that a tiny model can read it:

    ``task argument argument : cell * 16 =``

with ``.`` for what is empty. Words are separated by one space and each is one token.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from typing import Literal, get_args

import numpy as np

Split = Literal["train", "validation", "test"]
"""Problems are dealt to splits by a hash of their prompt, so no prompt is in two of them."""

BLANK = "[MASK]"
"""Stands in a given text for one token to be decoded, whatever the dLLM's own mask token is called."""

MOST_DRAWS = 1000
"""Draws until a problem must belong to the wanted split; one in ten does."""


@dataclass(frozen=True)
class Problem:
    """One problem.

    Attributes:
        task: name of the task that made it.
        split: the split its prompt belongs to.
        index: its number in that split; the same (task, split, index) is always the same problem.
        prompt: what the dLLM is asked.
        answer: one right answer (there can be others; ask `Task.score`).
        given: the text to be filled in, for infilling: `BLANK` stands for each token that is missing. None where
            the whole answer is to be written.
    """

    task: str
    split: Split
    index: int
    prompt: str
    answer: str
    given: str | None = None


def split_of(prompt: str) -> Split:
    """Return the split that a prompt belongs to, by its hash: 80 % train, 10 % each of the others.

    >>> split_of("copy . . : a b c . . . . . . . . . . . . . =")
    'train'
    """
    # By the prompt alone: whichever seed draws it, a test problem is never trained on.
    bucket = int.from_bytes(hashlib.blake2b(prompt.encode(), digest_size=8).digest(), "big") % 10
    return {0: "test", 1: "validation"}.get(bucket, "train")  # type: ignore[return-value]


class Task(ABC):
    """A family of problems.

    Attributes:
        name: what records call it, without a data file's path.
        source: where its problems come from, for a policy's card.
        words: every word that its prompts and answers can hold, for a tokenizer of words; none for natural language.
        time_limit: seconds by the clock that scoring one answer may take; see `envs.tasks.scoring.scorer`.
        runs_tests: whether an answer is a program, right if it passes its tests: so pass@k is reported of it.
    """

    name: str
    source: str = "generated"
    words: tuple[str, ...] = ()
    time_limit: float = 10.0
    runs_tests: bool = False

    @abstractmethod
    def size(self, split: Split) -> int | None:
        """Return how many problems a split has; None if they never end.

        Raises:
            ValueError: if the split is unknown or the task has no such split.
        """

    @abstractmethod
    def make(self, split: Split, index: int) -> Problem:
        """Return problem `index` of `split`, both known to be possible."""

    def score(self, text: str, problem: Problem) -> float:
        """Return how well `text` answers `problem`, from 0 to 1.

        Here 1.0 if it is `Problem.answer` but for spaces, else 0.0. `envs.tasks.scoring.scorer.Scorer` takes the
        scores.
        """
        return float(text.split() == problem.answer.split())

    def problem(self, split: Split, index: int) -> Problem:
        """Return problem `index` of `split`.

        Raises:
            ValueError: if the split is unknown, or the index negative or beyond the split's last problem.
        """
        if split not in get_args(Split):
            raise ValueError(f"split is {split!r}: choose one of {', '.join(get_args(Split))}")
        if index < 0:
            raise ValueError(f"index is {index}: it must be 0 or more")
        size = self.size(split)
        if size is not None and index >= size:
            raise ValueError(f"index is {index}: {self.name} has {size} {split} problems, so ask for one below {size}")
        return self.make(split, index)

    def wrapped_problem(self, split: Split, number: int) -> Problem:
        """Return a problem for any number from 0: training goes through a finite split again and again.

        Raises:
            ValueError: if the split is unknown or the task has no such split.
        """
        size = self.size(split)
        return self.problem(split, number if size is None else number % size)


class ProceduralTask(Task):
    """A task that makes its problems, without end; a hash of the prompt deals them to the splits.

    Where there are few short ones, some come again.
    """

    @abstractmethod
    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one (prompt, answer) from `rng`, whatever split the prompt belongs to."""

    def size(self, split: Split) -> int | None:
        """Return None: there is always another problem."""
        return None

    def make(self, split: Split, index: int) -> Problem:
        """Draw until a prompt belongs to the split."""
        # Of the index's own: problem 7 is the same whichever others were asked for before.
        rng = problem_generator(self.name, split, index)
        for _ in range(MOST_DRAWS):
            prompt, answer = self.sample(rng)
            if split_of(prompt) == split:
                return Problem(self.name, split, index, prompt, answer)
        raise ValueError(f"{self.name} has no {split} problem among {MOST_DRAWS}: it has too few different ones")


def problem_generator(task: str, split: Split, index: int) -> np.random.Generator:
    """Return the random numbers of one problem, its own for each (task, split, index)."""
    return np.random.default_rng([_number(task), get_args(Split).index(split), index])


@cache
def _number(name: str) -> int:
    """Turn a task's name into a number that no Python version or process changes."""
    # Not hash(), which is salted anew in every process.
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=4).digest(), "big")
