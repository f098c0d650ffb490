"""Decoding as a plain account of one row, and rows as lists that can be compared."""

from __future__ import annotations

import random
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from copy import deepcopy
from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from denoisers import EOS, MASK, A, B, C, D, blocks
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.view import View

PROMPTS = [[A], [A, B, C], [D, B], [C, C, D, A, B]]
Chosen = AbstractSet[int]
"""Positions."""

Shown = tuple[Literal["full", "truncated"], Literal["buffer", "absolute"]]
"""The settings `window` and `block_origin`."""

ENGINE: Shown = ("truncated", "absolute")
"""What serving engines do."""


@dataclass
class Plain:
    """One row, decoded as `envs.view.Action` says, in lists."""

    prompt: list[int]
    settings: DecodingSettings
    buffer: list[int] = field(default_factory=list)
    commit_step: list[int] = field(default_factory=list)
    length: int = 0
    start: int = 0
    end: int = 0
    block_step: int = 0
    nfe: int = 0
    positions: int = 0
    is_done: bool = False

    def __post_init__(self) -> None:
        self.length = self.settings.buffer_length
        self.buffer, self.commit_step = [MASK] * self.length, [0] * self.length
        self.end = self.settings.block - (len(self.prompt) % self.settings.block if self.is_absolute else 0)

    @property
    def is_absolute(self) -> bool:
        return self.settings.block_origin == "absolute"

    def shown(self) -> list[int]:
        """Tokens of the buffer that the dLLM is shown, with the masks that fill up a last block."""
        if self.settings.window == "full":
            return self.buffer[: self.length]
        tokens = self.buffer[: min(self.end, self.length)]
        if self.is_absolute and len(tokens) == self.settings.buffer_length:
            while (len(self.prompt) + len(tokens)) % self.settings.block:
                tokens = [*tokens, MASK]
        return tokens

    def masks(self) -> list[int]:
        return [i for i, token in enumerate(self.buffer) if token == MASK]

    def forward(self, denoiser: Any) -> None:
        shown = self.shown()
        tokens = torch.tensor([self.prompt + shown])
        logits = denoiser.logits(tokens, torch.ones_like(tokens, dtype=torch.bool), len(shown))[0]
        logits[:, MASK] = -torch.inf
        probabilities = logits.softmax(-1)
        self.confidence, self.prediction = (values.tolist() for values in probabilities.max(-1))
        self.seen = [i for i in self.masks() if i < len(shown)]
        self.nfe += 1
        self.positions += tokens.shape[1]

    def apply(
        self,
        commit: Chosen,
        scope: Chosen = frozenset(),
        tokens: list[int] | None = None,
        remask: Chosen = frozenset(),
        block_end: int | None = None,
        length: int | None = None,
    ) -> None:
        most, block = self.settings.buffer_length, self.settings.block
        if self.nfe < most:
            for i in remask & set(range(self.start, min(self.end, self.length))) - set(self.seen):
                self.buffer[i], self.commit_step[i] = MASK, 0
        if length is not None:
            known = [i + 1 for i in range(most) if self.commit_step[i]]
            new = min(most, max(1, length, *known))
            self.buffer[self.length : new] = [MASK] * (new - self.length)
            self.fill(new)
            self.length = new
        if block_end is not None and self.masks():
            most = self.end if self.settings.window == "truncated" else most
            self.end = min(most, max(block_end, min(set(self.masks()) & set(self.seen), default=0) + 1))
        open_here = [i for i in self.masks() if i in self.seen]
        in_block = [i for i in open_here if self.start <= i < self.end]
        chosen = [i for i in open_here if i in commit and (i in in_block or i in scope)]
        for i in chosen or (in_block and [max(in_block, key=lambda i: self.confidence[i])]):
            self.buffer[i] = self.prediction[i] if tokens is None else tokens[i]
            self.commit_step[i] = self.nfe
        ends = [i for i, token in enumerate(self.buffer) if token == EOS]
        if ends and self.settings.end_of_text_prediction:
            self.length = min(self.length, ends[0] + 1)
            self.fill(self.length)
        if not self.masks() or (self.settings.early_end and ends and ends[0] < self.masks()[0]):
            self.is_done = True
            self.fill(0)
        else:
            self.block_step += 1
            if not any(self.start <= i < self.end for i in self.masks()):
                known = len(self.prompt) if self.is_absolute else -self.end
                borders = [i for i in range(self.end + 1, 2 * len(self.buffer) + block) if (i + known) % block == 0]
                self.start = self.end
                while borders[0] <= self.masks()[0]:
                    self.start = borders.pop(0)
                self.end, self.block_step = borders[0], 0

    def fill(self, since: int) -> None:
        for i in self.masks():
            if i >= since:
                self.buffer[i] = EOS

    def records(self) -> list[Any]:
        block = [] if self.is_done else [self.start, min(self.end, len(self.buffer)), self.block_step]
        here = [self.buffer[: self.length], self.commit_step[: self.length]]
        return [*here, self.length, self.nfe, self.positions, *block]


def records(batch: DecodingBatch, row: int) -> list[Any]:
    """What `Plain.records` gives, of a row of a batch."""
    length, nfe, positions = (int(values[row]) for values in (batch.length, batch.nfe, batch.token_positions))
    first, end, step = blocks(batch, row)
    block = [first, min(end, batch.settings.buffer_length), step] if bool(batch.running[row]) else []
    return [batch.tokens(row)[:length], batch.commit_step[row, :length].tolist(), length, nfe, positions, *block]


def empty(denoiser: Any, settings: DecodingSettings) -> DecodingBatch:
    return DecodingBatch(denoiser, 4, settings)


def some(rng: random.Random, length: int, share: float) -> Chosen:
    return {i for i in range(length) if rng.random() < share}


def as_bits(rows: Sequence[Chosen], length: int) -> Tensor:
    return torch.tensor([[i in row for i in range(length)] for row in rows])


def surest(views: Sequence[View]) -> Tensor:
    """Choose by what the next forward says, finished rows last."""
    scores = [(view.confidence * view.masked).sum(1) / view.masked.sum(1).clamp(min=1) for view in views]
    return torch.stack(scores, 1).argmax(1)


def settle(row: Plain, sets: list[Chosen], denoiser: Any) -> Plain:
    """Try every draft by itself and go on from the one that `surest` would take."""
    tried: list[Plain] = []
    for chosen in sets:
        branch = deepcopy(row)
        branch.apply(chosen)
        same = [other for other in tried if other.masks() == branch.masks()]
        if same:
            branch = same[0]
        elif not branch.is_done:
            branch.forward(denoiser)
        tried.append(branch)

    def score(branch: Plain) -> float:
        return 0.0 if branch.is_done else sum(branch.confidence[i] for i in branch.seen) / len(branch.masks())

    best = deepcopy(max(tried, key=score))
    distinct = {id(branch): branch for branch in tried}.values()
    best.nfe = max(branch.nfe for branch in tried)
    best.positions = row.positions + sum(branch.positions - row.positions for branch in distinct)
    return best
