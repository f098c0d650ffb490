"""PC-Sampler: earlier positions and rarer tokens first."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Self

import torch
from torch import Tensor

from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.tasks.benchmarks.files import user_path
from envs.view import View
from policies.rules.base import CommitRule, bound, top_k
from policies.rules.corpus import paragraphs_of, read_corpus


@lru_cache(maxsize=2)
def count_tokens(denoiser: Denoiser, file: str = "") -> dict[int, int]:
    """Count the tokens of a corpus, one end-of-text a text; see `policies.rules.corpus.read_corpus`."""
    counts: Counter[int] = Counter()
    for _, text in read_corpus(denoiser, file):
        counts.update(text)
    return dict(counts)


@dataclass(frozen=True)
class PCSampler(CommitRule):
    """Commit the k best by ``exp(-decay * position) * min(-c log f(token), cap)``.

    f is the token's frequency in a corpus (add-one smoothed), so common tokens such as end-of-text come late.

    Source: arXiv 2508.13021. Departure: unless a file is given the corpus is training answers of an embedded suite (of
    prose for dLLMs of natural language, see `policies.rules.corpus`), where its code reads a table of a large corpus.
    """

    rule = "pc_sampler"
    sweep = (1, 2, 4, 8, 16)

    tokens_per_step: int = 1
    """k."""
    decay: float = 0.25
    """lambda, of the position counted from the buffer's start."""
    cap: float = 10.0
    """alpha, nats."""
    frequencies: str = ""
    """A JSON file {token id: count}, or a .txt with a blank line between texts; empty counts an embedded suite."""
    surprise: Tensor | None = bound(None)

    def __post_init__(self) -> None:
        self.check_count("tokens_per_step")
        self.check_not_negative("decay", "cap")

    def check_files(self) -> None:
        """Read the counts, or the texts."""
        if self._counts() is None and self.frequencies:
            paragraphs_of(self.frequencies, f"{self.rule}'s frequencies")

    def _counts(self) -> dict[int, int] | None:
        """Return the counts of a file that holds counts."""
        if not self.frequencies or self.frequencies.endswith(".txt"):
            return None
        try:
            counts = {int(token): int(n) for token, n in json.loads(user_path(self.frequencies).read_text()).items()}
            if not counts or min(counts) < 0 or min(counts.values()) < 0:
                raise ValueError("it must map token ids to counts of 0 or more, at least one")
        except (OSError, ValueError, AttributeError) as error:
            raise ValueError(f"{self.rule}'s frequencies is {self.frequencies!r}: not readable ({error})") from error
        return counts

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> Self:
        """Build the table of -log f."""
        counts = self._counts() or count_tokens(denoiser, self.frequencies)  # type: ignore[arg-type]
        # One more each, and one entry for all tokens that the corpus lacks.
        table = torch.ones(max(counts) + 2, device=denoiser.device)
        table[torch.tensor(list(counts))] += torch.tensor(list(counts.values()), dtype=table.dtype, device=table.device)
        return replace(self, surprise=-(table / table.sum()).log())

    def select(self, view: View) -> Tensor:
        """Choose by place and surprise."""
        if self.surprise is None:
            raise ValueError(f"{self.rule} has no frequencies yet: call bind(denoiser, settings) first")
        # Tokens beyond the table were never seen, like its last entry.
        surprise = self.surprise[view.prediction.clamp(max=len(self.surprise) - 1)]
        score = torch.exp(-self.decay * view.positions) * (view.confidence * surprise).clamp(max=self.cap)
        return top_k(score, view.eligible, self.tokens_per_step)
