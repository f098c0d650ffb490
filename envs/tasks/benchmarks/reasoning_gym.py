"""Any data set of reasoning-gym by name: procedural problems with a scorer of their own."""

from __future__ import annotations

import base64
import pickle
from pathlib import Path

import numpy as np

from envs.tasks.base import Problem, ProceduralTask
from envs.tasks.scoring.answers import before_end, slots
from envs.tasks.scoring.worker import START_SECONDS, Worker

FORMAT = """{question}

Think step by step. Then give the final answer alone, in the form that the question asks for, inside \
<answer></answer> tags."""

SECONDS, MEGABYTES = 2.0, 2048
"""Processor time of one score, and memory of the process that gives it."""

WAIT = 6
"""Seconds by the clock for each of processor time: other processes want the processor too."""

SIZE = 10_000
"""Problems of a data set, all of one seed; many data sets are slow to make and some refuse to be larger."""


worker = Worker(
    Path(__file__).parents[1] / "scoring" / "gym_worker.py",
    [str(MEGABYTES)],
    "reasoning-gym can't be imported in a process of its own: pip install 'unmasking-policies[tasks]'",
)
"""Takes the scores, of all data sets."""


class ReasoningGym(ProceduralTask):
    """``reasoning_gym:chain_sum``: problems of the data set's default configuration, dealt to the splits by a hash.

    Source: Stojanovski et al., arXiv 2505.24760.

    Args:
        dataset: its name in reasoning-gym.

    Raises:
        ValueError: if reasoning-gym is not installed, has no such data set, or that has no default configuration.
    """

    source = "reasoning-gym"
    # Making a large data set takes the worker a while too.
    time_limit = 2 * START_SECONDS + WAIT * SECONDS + ProceduralTask.time_limit

    def __init__(self, dataset: str = "") -> None:
        try:
            from reasoning_gym import create_dataset
            from reasoning_gym.factory import DATASETS
        except ImportError:
            raise ValueError(
                "reasoning-gym is not installed: pip install 'unmasking-policies[tasks]' for reasoning_gym tasks"
            ) from None
        if dataset not in DATASETS:
            raise ValueError(f"reasoning_gym's dataset is {dataset!r}: choose from {', '.join(sorted(DATASETS))}")
        self.name = f"reasoning_gym:{dataset}"
        try:
            self.data = create_dataset(dataset, seed=0, size=SIZE)
        except (AssertionError, ValueError) as error:
            raise ValueError(f"{self.name} can't be made with its default configuration: {error}") from error
        self._places: dict[str, int] = {}

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem."""
        place = int(rng.integers(SIZE))
        entry = self.data[place]
        prompt = FORMAT.format(question=entry["question"].strip())
        self._places[prompt] = place
        # Some data sets store no answer and only check the one they are given.
        return prompt, f"<answer>{entry['answer'] or ''}</answer>"

    def score(self, text: str, problem: Problem) -> float:
        """Return the data set's own score, in [0, 1], of what stands in the last answer tag, or of the whole text.

        A score that takes more than `SECONDS` of processor time is 0, and so is one whose scorer raises.
        """
        # Another process, or a run before a resume, may have made it.
        if problem.prompt not in self._places:
            self.make(problem.split, problem.index)
        entry = self.data[self._places[problem.prompt]]
        text = before_end(text)
        answer = next(iter(slots(text)), text.strip())
        pickled = base64.b64encode(pickle.dumps(entry)).decode()
        name = self.name.partition(":")[2]
        score = worker.ask((SECONDS, name, SIZE, pickled, answer), WAIT * SECONDS)
        return 0.0 if score is None else float(score)
