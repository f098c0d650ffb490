"""What a dLLM says of buffers that nothing was written to yet: computed once, whoever asks.

Every policy's first forward of a problem is the same one: the prompt, and nothing but masks. Where problems come again
(several policies on the same held-out ones, a training that goes through its problems many times) more than half of
all forwards of a fast policy are such.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.beliefs import check_answer
from envs.caches import make_cache
from envs.decoding.blocks import filled_length
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.tasks import Problem

MOST_BYTES = 2**29
"""What may be kept of logits, and as much of hidden states. Those of large models would need far more, and are computed
each time instead."""

PARTS = ("logits", "hidden states")
"""What an answer holds, in order."""

Answer = tuple[Tensor, ...]
"""Logits (L, V), and hidden states (L, D) where those were asked for too."""


class FirstForwards:
    """A dLLM that remembers its answers about untouched buffers; all else it is asked it computes.

    The answers are computed in batches of their own, so what a row is told depends neither on who asked first nor on
    the rows beside it. They count as forwards like any other (`envs.decoding.batch` counts what a policy needs).

    Args:
        denoiser: the frozen dLLM, whose other attributes are this object's.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self._known: dict[bytes, Answer] = {}
        self._batches: list[tuple[Tensor, Tensor, list[int]]] = []
        self._asked_for_states = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def remember(
        self, prompts: Sequence[Sequence[int]], length: int, batch_size: int = 64, with_hidden: bool = False
    ) -> None:
        """Compute the first forwards of some problems, unless their logits would not fit into `MOST_BYTES`.

        Their hidden states follow when somebody asks for some, if they fit too.

        Args:
            prompts: token ids.
            length: masks that follow each prompt, made up to whole blocks of a block-causal dLLM.
            batch_size: sequences of a forward.
            with_hidden: whether hidden states are known to be asked for, so that one forward gives both.
        """
        if not prompts:
            return
        # One alone tells how much they are.
        parts = [prompts[:1], *(prompts[i : i + batch_size] for i in range(0, len(prompts), batch_size))]
        self._batches = [self._untouched(part, length) for part in parts]
        self._known = (self._states() if with_hidden else {}) or self._compute(self._logits)

    def _untouched(self, prompts: Sequence[Sequence[int]], length: int) -> tuple[Tensor, Tensor, list[int]]:
        """Return tokens and presence (B, T) of prompts with nothing but masks behind them, and how many masks."""
        width = max(map(len, prompts))
        masks = [filled_length(self.denoiser, len(prompt), length) for prompt in prompts]
        longest = max(masks)
        rows = []
        for prompt, own in zip(prompts, masks, strict=True):
            before, after = [self.pad_id] * (width - len(prompt)), [self.pad_id] * (longest - own)
            rows.append([*before, *prompt, *[self.mask_id] * own, *after])
        tokens = torch.tensor(rows, device=self.device)
        first = torch.tensor([[width - len(prompt)] for prompt in prompts], device=self.device)
        last = torch.tensor([[width + own] for own in masks], device=self.device)
        columns = torch.arange(width + longest, device=self.device)
        return tokens, (columns >= first) & (columns < last), masks

    def _logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Answer:
        return (self.denoiser.logits(tokens, attention_mask, length),)

    def _states(self) -> dict[bytes, Answer]:
        self._asked_for_states = True
        return self._compute(self.denoiser.logits_and_hidden)

    def _compute(self, ask: Callable[[Tensor, Tensor, int], Answer]) -> dict[bytes, Answer]:
        """Ask about all untouched buffers; nothing if a part of the answers would not fit."""
        known: dict[bytes, Answer] = {}
        count = sum(len(masks) for *_, masks in self._batches[1:])
        for tokens, present, masks in self._batches:
            answer = _checked(ask(tokens, present, max(masks)), len(tokens), max(masks))
            if any(count * part[0].nbytes > MOST_BYTES for part in answer):
                return {}
            # Copies: a slice would keep what the model computed about the prompt alive too.
            known |= {
                _key(*row): tuple(part[i, :own].clone() for part in answer)
                for i, (*row, own) in enumerate(zip(tokens, present, masks, strict=True))
            }
        return known

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        """Run one forward for the rows that are not remembered; see `Denoiser.logits`."""
        if attention_mask.ndim != 2 or position_ids is not None:
            return self.denoiser.logits(tokens, attention_mask, length, position_ids)
        [logits] = self._ask(self._logits, 1, tokens, attention_mask, length)
        return logits

    def logits_and_hidden(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Run one forward for the rows that are not remembered; see `Denoiser.logits_and_hidden`."""
        if attention_mask.ndim != 2:
            return self.denoiser.logits_and_hidden(tokens, attention_mask, length)
        if self._known and not self._asked_for_states:
            self._known = self._states() or self._known
        logits, hidden = self._ask(self.denoiser.logits_and_hidden, 2, tokens, attention_mask, length)
        return logits, hidden

    def _ask(
        self,
        ask: Callable[[Tensor, Tensor, int], Answer],
        parts: int,
        tokens: Tensor,
        attention_mask: Tensor,
        length: int,
    ) -> Answer:
        """Answer with as many parts as `ask` does: what is remembered, and what it says of the other rows."""
        if not self._known:
            return ask(tokens, attention_mask, length)
        untouched = ((tokens[:, -length:] == self.mask_id) | ~attention_mask[:, -length:]).all(1)
        found = [
            self._known.get(_key(*row), ()) if is_first else ()
            for *row, is_first in zip(tokens, attention_mask, untouched.tolist(), strict=True)
        ]
        answers = [answer[:parts] if len(answer) >= parts else None for answer in found]
        rest = [row for row, answer in enumerate(answers) if answer is None]
        if len(rest) == len(answers):
            return ask(tokens, attention_mask, length)
        if rest:
            # Columns that only the remembered rows needed are left out.
            first = int(attention_mask[rest].any(0).int().argmax())
            computed = _checked(ask(tokens[rest, first:], attention_mask[rest, first:], length), len(rest), length)
            for row, *answer in zip(rest, *computed, strict=True):
                answers[row] = tuple(answer)
        # Shorter rows are padded, as their tokens are.
        whole = [[F.pad(part, (0, 0, 0, length - len(part))) for part in answer] for answer in answers if answer]
        return tuple(torch.stack(part) for part in zip(*whole, strict=True))


def remember_problems(
    denoiser: Denoiser, problems: Sequence[Problem], settings: DecodingSettings, batch_size: int = 64
) -> Denoiser:
    """Return a dLLM with the first forwards of these problems computed, but those that give a part of the answer.

    It is the dLLM itself where they would be of no use: a truncated window doesn't show the whole buffer first, and a
    cache computes everything that it is to keep.

    Args:
        denoiser: the frozen dLLM.
        problems: to remember.
        settings: how they will be decoded.
        batch_size: sequences of a forward.
    """
    if settings.window != "full" or make_cache(settings.cache).keeps:
        return denoiser
    known = FirstForwards(denoiser)
    prompts = [denoiser.encode_prompt(problem.prompt) for problem in problems if problem.given is None]
    known.remember(prompts, settings.buffer_length, batch_size, "hidden" in settings.features)
    return known


def _checked(answer: Answer, rows: int, length: int) -> Answer:
    """Return what a dLLM answered, if it is for these rows and positions."""
    for what, part in zip(PARTS, answer, strict=False):
        check_answer(what, part, rows, length, 1)
    return answer


def _key(tokens: Tensor, present: Tensor) -> bytes:
    """Return what tells a row from others whatever its padding: its tokens."""
    key: bytes = tokens[present].cpu().numpy().tobytes()
    return key
