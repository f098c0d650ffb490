"""Any data set of reasoning-gym by name: procedural problems with a scorer of their own."""

from __future__ import annotations

from typing import Any

import numpy as np

from envs.tasks.answers import before_end, slots
from envs.tasks.base import Problem, ProceduralTask

FORMAT = """{question}

Think step by step. Then give the final answer alone, in the form that the question asks for, inside \
<answer></answer> tags."""

REMEMBERED = 4096
"""Problems whose scoring data are kept; others are made again."""


class ReasoningGym(ProceduralTask):
    """``reasoning_gym:chain_sum``: problems of the data set's default configuration, dealt to the splits by a hash.

    Source: Stojanovski et al., arXiv 2505.24760.

    Args:
        dataset: its name in reasoning-gym.

    Raises:
        ValueError: if reasoning-gym is not installed or has no such data set.
    """

    source = "reasoning-gym"

    def __init__(self, dataset: str = "") -> None:
        try:
            from reasoning_gym.factory import DATASETS
        except ImportError:
            raise ValueError(
                "reasoning-gym is not installed: pip install 'unmasking-policies[tasks]' for reasoning_gym tasks"
            ) from None
        if dataset not in DATASETS:
            raise ValueError(f"reasoning_gym's dataset is {dataset!r}: choose from {', '.join(sorted(DATASETS))}")
        self.dataset, self.name = dataset, f"reasoning_gym:{dataset}"
        self._entries: dict[str, tuple[Any, dict[str, Any]]] = {}

    def sample(self, rng: np.random.Generator) -> tuple[str, str]:
        """Draw one problem."""
        from reasoning_gym import create_dataset

        try:
            data = create_dataset(self.dataset, size=1, seed=int(rng.integers(2**31)))
        except AssertionError as error:
            raise ValueError(f"{self.name} can't be made with its defaults: {error}") from error
        entry = data[0]
        prompt = FORMAT.format(question=entry["question"].strip())
        if len(self._entries) >= REMEMBERED:
            self._entries.clear()
        self._entries[prompt] = (data, entry)
        # Some data sets store no answer and only check the one they are given.
        return prompt, f"<answer>{entry['answer'] or ''}</answer>"

    def score(self, text: str, problem: Problem) -> float:
        """Return the data set's own score, in [0, 1], of what stands in the last answer tag, or of the whole text."""
        if problem.prompt not in self._entries:
            self.make(problem.split, problem.index)
        data, entry = self._entries[problem.prompt]
        text = before_end(text)
        answer = next(iter(slots(text)), text.strip())
        try:
            return float(min(1.0, max(0.0, data.score_answer(answer, entry))))
        except Exception:  # several data sets raise whatever a malformed answer leads to
            return 0.0
