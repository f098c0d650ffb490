"""Batches of solved problems, partly masked."""

from __future__ import annotations

import math
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from envs.tasks import Task, make_tasks
from train.command import parallel
from train.command.errors import UserError
from train.pretraining.config import MOST_SPARE, SHORTEST, TASK_WEIGHTS, PretrainConfig

FREE = ("out", "steps", "decay", "threads", "save_every")
"""Settings that may differ when a run goes on; any other makes it another run."""


@dataclass(frozen=True)
class Group:
    """Sequences of one forward.

    Attributes:
        inputs: (B, T) int64, left-padded prompts and answers, the latter partly masked.
        targets: (B, T) int64, the same without masks.
        present: (B, T) bool, False on padding.
        masked: (B, T) bool, True where the loss counts.
        length: L, positions of the buffer at the end.
    """

    inputs: Tensor
    targets: Tensor
    present: Tensor
    masked: Tensor
    length: int


class ProblemStream:
    """Batches of training problems as token ids; a batch is a function of its number.

    Args:
        tokenizer: made by `build_tokenizer`.
        config: of the pretraining.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> None:
        lessons = [(steps, make_tasks(tasks)) for steps, tasks in config.lessons]
        self.lessons = [*lessons, (math.inf, make_tasks(config.suite))]
        self.vocab = tokenizer.get_vocab()
        self.eos_id, self.mask_id, self.pad_id = tokenizer.eos_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id
        self.config = config

    def tasks(self, step: int) -> list[Task]:
        """Return the tasks of the lesson that a step belongs to; the last one is the suite."""
        ends = accumulate(steps for steps, _ in self.lessons)
        return next(tasks for end, (_, tasks) in zip(ends, self.lessons, strict=True) if step < end)

    def batch(self, step: int) -> list[Group]:
        """Draw this process's share of one step's batch, from random numbers that are the step's own."""
        rng = np.random.default_rng([self.config.seed, step, parallel.rank()])
        count = max(1, self.config.batch_size // parallel.world_size())
        # By length, so that the sequences of a group need little padding.
        problems = sorted(self._problems(rng, self.tasks(step), count), key=lambda pair: len(pair[0]) + len(pair[1]))
        ratios = (rng.permutation(count) + 1 - rng.random()) / count  # (B,) in (0, 1], stratified
        starts = range(0, count, self.config.group_size)
        return [
            self._group(rng, problems[i : i + self.config.group_size], ratios[i : i + self.config.group_size])
            for i in starts
        ]

    def _problems(self, rng: np.random.Generator, tasks: list[Task], count: int) -> list[tuple[list[int], list[int]]]:
        """Draw problems of the training split as the ids of prompt and answer."""
        weights = np.array([TASK_WEIGHTS.get(task.name, 1.0) for task in tasks])
        drawn = []
        for which in rng.choice(len(tasks), size=count, p=weights / weights.sum()):
            problem = tasks[which].problem("train", int(rng.integers(2**40)))
            drawn.append((self._ids(problem.prompt), self._ids(problem.answer)))
        return drawn

    def _ids(self, text: str) -> list[int]:
        return [self.vocab[word] for word in text.split()]

    def _group(
        self, rng: np.random.Generator, problems: list[tuple[list[int], list[int]]], ratios: np.ndarray
    ) -> Group:
        length = SHORTEST
        if self.config.objective == "diffusion":
            lengths, shares = zip(*self.config.buffer_lengths, strict=True)
            length = int(rng.choice(lengths, p=shares))
        if length > 64:
            kept = max(1, len(problems) * 64 // length)
            # Any of the group's ratios and lengths, not its shortest sequences alone.
            chosen = np.sort(rng.permutation(len(problems))[:kept])
            problems, ratios = [problems[i] for i in chosen], ratios[chosen]
        longest = max(len(answer) for _, answer in problems)
        if length == SHORTEST:
            length = longest + int(rng.integers(1, MOST_SPARE + 1))
        elif longest > length:
            raise UserError(f"buffer_lengths holds {length}: an answer of {longest} tokens needs a longer one")
        widest = max(len(prompt) for prompt, _ in problems)
        rows = [
            [self.pad_id] * (widest - len(prompt)) + prompt + answer + [self.eos_id] * (length - len(answer))
            for prompt, answer in problems
        ]
        targets = torch.tensor(rows)
        padding = torch.tensor([widest - len(prompt) for prompt, _ in problems])
        present = torch.arange(targets.shape[1]) >= padding[:, None]
        quota = torch.from_numpy(np.ceil(ratios * length).clip(1, length)).long()
        # Sorted twice: each position's rank in a random order.
        order = torch.from_numpy(rng.random((len(problems), length))).argsort(1).argsort(1)
        masked = torch.zeros_like(present)
        masked[:, -length:] = order < quota[:, None]
        return Group(targets.masked_fill(masked, self.mask_id), targets, present, masked, length)
