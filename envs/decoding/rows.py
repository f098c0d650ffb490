"""The state of rows that are being decoded: texts, masks, blocks and counters."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from envs.readings import MAX_NATS


@dataclass
class Rows:
    """N rows of P prompt tokens and L buffer positions.

    Its fields are the one list of what a copy, a draft's branch or a checkpoint must have.
    """

    prompt: Tensor
    """(N, P) int64, left-padded."""
    prompt_length: Tensor
    """(N,) int64, tokens of the prompt."""
    buffer: Tensor
    """(N, L) int64, the mask token where masked."""
    masked: Tensor
    """(N, L) bool, True where a token is still to be committed."""
    length: Tensor
    """(N,) int64, positions of the row that are computed, in a block-causal dLLM whole blocks of it; those after them
    are end-of-text."""
    text_length: Tensor
    """(N,) int64, positions of the row's text; what is decoded after them, to the end of a block-causal dLLM's own
    block, is cut."""
    given_end: Tensor
    """(N,) int64, the position after the last given token; 0 where none was given."""
    block_length: Tensor
    """(N,) int64, positions of each of the row's blocks."""
    block_start: Tensor
    """(N,) int64, first position of the current block."""
    block_end: Tensor
    """(N,) int64, the position after its last."""
    block_step: Tensor
    """(N,) int64, steps spent in it so far."""
    nfe: Tensor
    """(N,) int64, forwards of the row."""
    token_positions: Tensor
    """(N,) int64, positions that were computed for it."""
    refresh_step: Tensor
    """(N,) int64, forwards that the row had used when a policy last asked for one that computes everything; 0 where it
    never did, as the first one does."""
    key: Tensor
    """(N,) int64, from which its random numbers are counted."""
    commit_step: Tensor
    """(N, L) int64, the step that committed each position, from 1; 0 while masked or filled in at the end."""
    commit_confidence: Tensor
    """(N, L) float32, each committed token's confidence when it was committed; 0 likewise, 1 if it was given."""
    previous: Tensor
    """(N, L) int64, predictions of the row's last step."""
    settled: Tensor
    """(N,) bool, True where a draft finished the row, which is not yet reported."""
    memory: dict[str, Tensor]
    """(N, ...) tensors that a policy has kept."""

    @classmethod
    def blank(cls, num_rows: int, length: int, text_length: int, block: int, eos_id: int, device: torch.device) -> Rows:
        """Return finished rows of nothing but end-of-text."""

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(num_rows, *shape, dtype=dtype, device=device)

        return cls(
            prompt=zeros(0),
            prompt_length=zeros(),
            buffer=zeros(length) + eos_id,
            masked=zeros(length, dtype=torch.bool),
            length=zeros() + length,
            text_length=zeros() + text_length,
            given_end=zeros(),
            block_length=zeros() + block,
            block_start=zeros(),
            block_end=zeros() + block,
            block_step=zeros(),
            nfe=zeros(),
            token_positions=zeros(),
            refresh_step=zeros(),
            key=zeros(),
            commit_step=zeros(length),
            commit_confidence=zeros(length, dtype=torch.float32),
            previous=zeros(length) + eos_id,
            settled=zeros(dtype=torch.bool),
            memory={},
        )

    @cached_property
    def positions(self) -> Tensor:
        """(L,) int64, 0 to L - 1."""
        return torch.arange(self.masked.shape[1], device=self.masked.device)

    @property
    def running(self) -> Tensor:
        """(N,) bool, True where positions are still masked."""
        return self.masked.any(1)

    @property
    def given(self) -> Tensor:
        """(N, L) bool, True where the token came with the problem."""
        # Nothing before the last given token is ever filled in, so what no step committed there was given.
        before = self.positions < self.given_end.unsqueeze(1)
        return before & ~self.masked & (self.commit_step == 0)

    @property
    def log_likelihood(self) -> Tensor:
        """(N,) float64, nats: summed over a row's committed tokens, the log of each one's confidence at its commit.

        What the dLLM gives the text along the path that it was written, where tokens of one step count as independent.
        A token written instead of the prediction counts with the prediction's confidence.
        """
        sure = self.commit_confidence.double().clamp(math.exp(-MAX_NATS), 1.0)
        return sure.log().masked_fill(self.commit_step == 0, 0.0).sum(1)

    def eligible(self) -> Tensor:
        """(N, L) bool, True where masked and in the row's current block."""
        place = self.positions
        inside = (place >= self.block_start.unsqueeze(1)) & (place < self.block_end.unsqueeze(1))
        return self.masked & inside

    def mask(self, positions: Tensor, mask_id: int) -> None:
        """Take back the tokens at (N, L) bool positions."""
        self.masked = self.masked | positions
        self.buffer = self.buffer.masked_fill(positions, mask_id)
        self.commit_step = self.commit_step.masked_fill(positions, 0)
        self.commit_confidence = self.commit_confidence.masked_fill(positions, 0.0)

    def fill(self, positions: Tensor, eos_id: int) -> None:
        """Let (N, L) bool positions be end-of-text that no step committed."""
        self.buffer = self.buffer.masked_fill(positions, eos_id)
        self.masked = self.masked & ~positions

    def counters(self) -> dict[str, np.ndarray]:
        """Return (N,) int64 arrays ``nfe`` and ``token_positions`` of the rows' present sequences."""
        return {"nfe": self.nfe.cpu().numpy().copy(), "token_positions": self.token_positions.cpu().numpy().copy()}

    def at(self, index: Tensor) -> Rows:
        """Return a copy of rows by (B,) int64 index."""
        return Rows(**{name: _apply(value, lambda one: one[index]) for name, value in self._parts()})

    def adopt(self, other: Rows) -> None:
        """Take over the state of as many other rows."""
        for name, value in other._parts():
            setattr(self, name, value)

    def save(self) -> dict[str, Any]:
        """Return every field, with memory of its own."""
        return {name: _apply(value, lambda one: one.detach().clone()) for name, value in self._parts()}

    def restore(self, saved: Mapping[str, Any]) -> None:
        """Go on from what `save` returned.

        Raises:
            ValueError: if it is of other positions.
        """
        device, names = self.masked.device, {field.name for field in fields(Rows)}
        # Prompts may be of another width: they widen as longer ones come.
        if saved.keys() != names or saved["masked"].shape != self.masked.shape:
            raise ValueError(f"the state is not of {' by '.join(map(str, self.masked.shape))} positions")
        for name in names:
            setattr(self, name, _apply(saved[name], lambda one: one.to(device, copy=True)))

    def _parts(self) -> list[tuple[str, Any]]:
        return [(field.name, getattr(self, field.name)) for field in fields(Rows)]


def is_end(end_ids: tuple[int, ...], tokens: Tensor) -> Tensor:
    """Tell which tokens end a text.

    Args:
        end_ids: the dLLM's.
        tokens: int64.

    Returns:
        bool of the tokens' shape.
    """
    first, *others = end_ids
    ends = tokens == first
    for other in others:
        ends |= tokens == other
    return ends


def _apply(value: Any, change: Any) -> Any:
    """Return a tensor, or each of a mapping of them, changed."""
    return change(value) if isinstance(value, Tensor) else {name: change(one) for name, one in value.items()}
