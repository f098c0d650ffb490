"""DiffuSpec: the dLLM drafts, an autoregressive model verifies; the text is the autoregressive model's own."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import pairwise
from typing import Any, Self

import torch
from torch import Tensor

from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.view import Action, View
from policies.rules.base import Rule, bound
from policies.rules.corpus import paragraphs_of, read_corpus
from policies.rules.guide import check_guide_is_there, guide_of, judge

BEAM = 3
"""Paths that the search keeps."""

SHORTEST, LONGEST, GROWTH = 20, 30, 10
"""Positions of a draft at least and at most, and how many it grows by while all that is written is accepted."""

MEMORY = 0.5
"""rho, share of the newest value in the two running means."""


@dataclass(frozen=True)
class Bigrams:
    """How likely a token is after another, counted in a corpus and smoothed by the token's own frequency.

    Attributes:
        pairs: counts by (token before, token).
        before: counts of the token before.
        tokens: counts by token.
    """

    pairs: Mapping[tuple[int, int], int]
    before: Mapping[int, int]
    tokens: Mapping[int, int]

    def log_probability(self, before: int, token: int) -> float:
        """Return nats, of the token after the one before."""
        total = sum(self.tokens.values()) + len(self.tokens) + 1
        # A pair has, besides its count, the second token's own frequency: unseen ones are as likely as the token is.
        alone = (self.tokens.get(token, 0) + 1) / total
        return math.log((self.pairs.get((before, token), 0) + alone) / (self.before.get(before, 0) + 1))


@lru_cache(maxsize=2)
def count_pairs(denoiser: Denoiser, file: str = "") -> Bigrams:
    """Count the pairs of a corpus's texts, the last token of what they follow included; see `read_corpus`."""
    pairs: Counter[tuple[int, int]] = Counter()
    for before_it, text in read_corpus(denoiser, file):
        pairs.update(pairwise([*before_it[-1:], *text]))
    before: Counter[int] = Counter()
    tokens: Counter[int] = Counter()
    for (first, second), count in pairs.items():
        before[first] += count
        tokens[second] += count
    return Bigrams(dict(pairs), dict(before), dict(tokens))


def find_path(
    columns: Sequence[Mapping[int, float]], start: int, ends: Sequence[int], bigrams: Bigrams | None, weight: float
) -> list[int]:
    """Search a lattice from left to right for the path of the best mean score a token.

    Args:
        columns: for each position the probabilities of its candidate tokens.
        start: the token before the first.
        ends: tokens that end a path.
        bigrams: the causal proxy; None where the dLLM's weight is 1.
        weight: of the dLLM's log-probability, the rest is the proxy's.
    """
    beam: list[tuple[float, list[int]]] = [(0.0, [])]
    for column in columns:
        grown = []
        for total, path in beam:
            if path and path[-1] in ends:
                grown.append((total, path))
                continue
            last = path[-1] if path else start
            for token, probability in column.items():
                # End-of-text is a candidate even where its probability is rounded to 0.
                score = weight * math.log(max(probability, 1e-30))
                if bigrams is not None:
                    score += (1 - weight) * bigrams.log_probability(last, token)
                grown.append((total + score, [*path, token]))
        # By the mean: a sum of log-probabilities falls with every token, so the shortest path would win.
        beam = sorted(grown, key=lambda one: -one[0] / len(one[1]))[:BEAM]
    return beam[0][1]


@dataclass(frozen=True)
class DiffuSpec(Rule):
    """Draft several positions from left to right; a causal model keeps the prefix that it would write itself.

    The dLLM's distributions are a lattice: in each column the fewest best tokens that have a mass of `mass` together,
    at most `most`, and end-of-text. A beam search takes the path of the best mean of the dLLM's log-probability and of
    a bigram model's. The guide accepts the longest prefix that is its own first choice, and adds its next token, so the
    text is what the guide writes greedily, token by token and whatever the temperature. The next draft is as long as
    the dLLM's texts were, and longer while all of them is accepted, within 20 and 30. The guide's forward counts as
    token positions.

    Source: arXiv 2510.02358. Departures: unless a corpus is given the bigrams are those of an embedded suite's training
    answers (of prose for dLLMs of natural language, see `policies.rules.corpus`; weight 1 leaves them out); a lattice
    stops after the first column whose likeliest token is an end-of-text.
    """

    rule = "diffuspec"
    sweep = (0.5, 1.0)
    features = frozenset({"prompt", "top", "eos_probability"})

    weight: float = 0.5
    """lambda, of the dLLM in a path's score; the rest is the bigrams'."""
    mass: float = 0.8
    """tau, probability that a column's candidates have together."""
    most: int = 15
    """M, candidates of a column; a view holds 15."""
    guide: str = "tiny_guide"
    """A checkpoint folder of a causal model with the dLLM's tokenizer, or the name of one that ships."""
    corpus: str = ""
    """A .txt of texts with a blank line between them, whose bigrams are counted; empty counts an embedded suite."""
    model: Any = bound(None)
    mask_id: int = bound(-1)
    end_ids: tuple[int, ...] = bound(())
    bigrams: Bigrams | None = bound(None)

    def __post_init__(self) -> None:
        self.check_share("weight", "mass")
        self.check_count("most")

    def check_files(self) -> None:
        """Look whether the guide is there, and read the texts."""
        check_guide_is_there(self.rule, self.guide)
        if self.corpus:
            paragraphs_of(self.corpus, f"{self.rule}'s corpus")

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> Self:
        """Load the guide and count the bigrams."""
        return replace(
            self,
            model=guide_of(self.rule, self.guide, denoiser),
            mask_id=denoiser.mask_id,
            end_ids=tuple(denoiser.end_ids),
            bigrams=None if self.weight == 1 else count_pairs(denoiser, self.corpus),  # type: ignore[arg-type]
        )

    @torch.inference_mode()
    def act(self, view: View) -> Action:
        """Draft and verify."""
        if self.model is None:
            raise ValueError(f"{self.rule} has no guide yet: call bind(denoiser, settings) first")
        rows = view.eligible.any(1).nonzero().squeeze(1).tolist()
        commit, tokens = torch.zeros_like(view.masked), view.prediction.clone()
        spent = torch.zeros_like(view.length)
        blank = torch.zeros(len(view.masked), 3, device=view.confidence.device)
        # A copy: it is written row by row, and a view is not to be changed.
        means = view.memory.get("draft_means", blank).clone()  # texts written, accepted, and whether there are any
        firsts, paths = {}, {}
        for row in rows:
            first, columns, written = self._lattice(view, row, self._draft_length(means[row]))
            before = view.prediction[row, first - 1] if first else view.tensors["prompt"][row, -1]
            paths[row] = find_path(columns, int(before), self.end_ids, self.bigrams, self.weight)
            firsts[row] = (first, written)
            tokens[row, first : first + len(paths[row])] = torch.tensor(paths[row], device=tokens.device)
        if rows:
            index = torch.tensor(rows, device=tokens.device)
            probabilities, spent[index] = judge(self.model, view.tensors["prompt"][index], tokens[index], self.mask_id)
            own = probabilities.argmax(-1)
            for i, row in enumerate(rows):
                first, written = firsts[row]
                accepted = _agreeing(paths[row], own[i, first:].tolist())
                last = first + accepted
                commit[row, first:last] = True
                ended = accepted > 0 and paths[row][accepted - 1] in self.end_ids
                # The guide's own next token, where there is still a mask for it.
                if not ended and last < view.masked.shape[1] and bool(view.masked[row, last]):
                    commit[row, last], tokens[row, last] = True, own[i, last]
                # The first value stands for itself; mixed with the blank's zeros it would halve the next draft.
                newest = torch.tensor([written, accepted, 1.0], device=means.device)
                means[row] = newest if means[row, 2] == 0 else MEMORY * newest + (1 - MEMORY) * means[row]
        return Action(commit, scope=view.masked, tokens=tokens, extra_positions=spent, memory={"draft_means": means})

    def _draft_length(self, means: Tensor) -> int:
        """Return how many positions to draft, from the running means of what was written and accepted."""
        written, accepted, has_any = means.tolist()
        if not has_any:
            return LONGEST
        return min(max(int(written) + (GROWTH if accepted >= written else 0), SHORTEST), LONGEST)

    def _lattice(self, view: View, row: int, length: int) -> tuple[int, list[dict[int, float]], int]:
        """Return the first masked position, each column's candidates from there, and the length of the dLLM's text."""
        masked = view.masked[row]
        first = int(masked.int().argmax())
        # Up to the first token that is known already: a path has no gaps.
        run = masked[first : first + length].int().cumprod(0).sum()
        columns: list[dict[int, float]] = []
        for place in range(first, first + int(run)):
            ids = view.tensors["top_ids"][row, place, : self.most].tolist()
            probabilities = view.tensors["top_probabilities"][row, place, : self.most].tolist()
            column: dict[int, float] = {}
            total = 0.0
            for token, probability in zip(ids, probabilities, strict=True):
                # No probability is left for the mask, so from there on the list names tokens that are none.
                if token == self.mask_id or (column and total >= self.mass):
                    break
                column[token], total = probability, total + probability
            column.setdefault(self.end_ids[0], view.features["eos_probability"][row, place].item())
            columns.append(column)
            if int(view.prediction[row, place]) in self.end_ids:
                return first, columns, len(columns)
        return first, columns, len(columns)


def _agreeing(path: Sequence[int], own: Sequence[int]) -> int:
    """Return how many tokens at the start of a path are the guide's own."""
    for count, (token, wanted) in enumerate(zip(path, own, strict=False)):
        if token != wanted:
            return count
    return len(path)
