"""Parallel-forced decoding: the buffer in streams, none of which waits for another."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from envs.view import Action, View
from policies.rules.base import Rule, top_k


@dataclass(frozen=True)
class ParallelForced(Rule):
    """Cut the buffer into equal streams and commit the k most confident of each unfinished one in every step.

    Across streams all is parallel, whatever the blocks; inside a stream confidence decides. A summary, where the
    buffer ends in one, waits for all streams.

    Source: arXiv 2602.23225 (NAP), parallel-forced decoding. Departures: the streams are of equal length, and the
    budget is k a stream, since neither decoding code nor budget is published; the early end counts as everywhere, so a
    dLLM that ends each stream with an end-of-text needs ``early_end`` off.
    """

    rule = "parallel_forced"
    sweep = (1, 2, 4, 8)

    streams: int = 4
    """m, parts of the buffer that are decoded side by side."""
    tokens_per_step: int = 1
    """k, of each stream."""
    summary: float = 0.0
    """Share of the buffer, at its end, that is decoded after the streams."""

    def __post_init__(self) -> None:
        self.check_count("streams", "tokens_per_step")
        self.check_share("summary")

    def act(self, view: View) -> Action:
        """Commit in every stream."""
        place, length = view.positions, view.length.unsqueeze(1)
        reasoning = (length - (self.summary * length).round().long()).clamp(min=1)
        # Rounded down, so that streams differ by one position at most.
        stream = torch.where(place < reasoning, place * self.streams // reasoning, self.streams)
        is_summary = view.masked & (stream == self.streams)
        # The summary is one more stream, which begins when no other has a mask.
        waits = (view.masked & ~is_summary).any(1, keepdim=True)
        may = view.masked & ~(is_summary & waits)
        commit = torch.zeros_like(may)
        for number in range(self.streams + 1):
            commit |= top_k(view.confidence, may & (stream == number), self.tokens_per_step)
        return Action(commit, scope=may)
