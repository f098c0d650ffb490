"""Any data set of reasoning-gym by name: procedural problems with a scorer of their own."""

from __future__ import annotations

import numpy as np

from envs.tasks.answers import before_end, slots
from envs.tasks.base import Problem, ProceduralTask

FORMAT = """{question}

Think step by step. Then give the final answer alone, in the form that the question asks for, inside \
<answer></answer> tags."""

SIZE = 10_000
"""Problems of a data set, all of one seed; many data sets are slow to make and some refuse to be larger."""


class ReasoningGym(ProceduralTask):
    """``reasoning_gym:chain_sum``: problems of the data set's default configuration, dealt to the splits by a hash.

    Source: Stojanovski et al., arXiv 2505.24760.

    Args:
        dataset: its name in reasoning-gym.

    Raises:
        ValueError: if reasoning-gym is not installed, has no such data set, or that has no default configuration.
    """

    source = "reasoning-gym"

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
        """Return the data set's own score, in [0, 1], of what stands in the last answer tag, or of the whole text."""
        if problem.prompt not in self._places:
            self.make(problem.split, problem.index)
        entry = self.data[self._places[problem.prompt]]
        text = before_end(text)
        answer = next(iter(slots(text)), text.strip())
        try:
            return float(min(1.0, max(0.0, self.data.score_answer(answer, entry))))
        except Exception:  # several data sets raise whatever a malformed answer leads to
            return 0.0
