"""What a dLLM says of buffers that nothing was written to yet: computed once, whoever asks.

Every policy's first forward of a problem is the same one: the prompt, and nothing but masks. Where problems come again
(several policies on the same held-out ones, a training that goes through its problems many times) more than half of
all forwards of a fast policy are such.
"""

from __future__ import annotations

from collections.abc import Sequence
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
"""What may be kept. Logits of a large vocabulary would need far more, and are computed each time instead."""


class FirstForwards:
    """A dLLM that remembers its answers about untouched buffers; all else it is asked it computes.

    The answers are computed in batches of their own, so what a row is told depends neither on who asked first nor on
    the rows beside it. They count as forwards like any other (`envs.decoding.batch` counts what a policy needs).

    Args:
        denoiser: the frozen dLLM, whose other attributes are this object's.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser
        self._known: dict[bytes, Tensor] = {}

    def __getattr__(self, name: str) -> Any:
        return getattr(self.denoiser, name)

    def remember(self, prompts: Sequence[Sequence[int]], length: int, batch_size: int = 64) -> None:
        """Compute the first forwards of some problems, unless they would not fit into `MOST_BYTES`.

        Args:
            prompts: token ids.
            length: masks that follow each prompt, made up to whole blocks of a block-causal dLLM.
            batch_size: sequences of a forward.
        """
        if not prompts:
            return
        # One alone tells how much they are.
        for start, stop in [(0, 1), *((i, i + batch_size) for i in range(0, len(prompts), batch_size))]:
            part = prompts[start:stop]
            width = max(map(len, part))
            masks = [filled_length(self.denoiser, len(prompt), length) for prompt in part]
            longest = max(masks)
            rows = []
            for prompt, own in zip(part, masks, strict=True):
                before, after = [self.pad_id] * (width - len(prompt)), [self.pad_id] * (longest - own)
                rows.append([*before, *prompt, *[self.mask_id] * own, *after])
            tokens = torch.tensor(rows, device=self.device)
            first = torch.tensor([[width - len(prompt)] for prompt in part], device=self.device)
            last = torch.tensor([[width + own] for own in masks], device=self.device)
            columns = torch.arange(width + longest, device=self.device)
            present = (columns >= first) & (columns < last)
            logits = self.denoiser.logits(tokens, present, longest)
            check_answer("logits", logits, len(part), longest, 1)
            if len(prompts) * logits[0].nbytes > MOST_BYTES:
                return
            # Copies: a slice would keep what the model computed about the prompt alive too.
            self._known |= {
                _key(*row): answer[:own].clone()
                for *row, answer, own in zip(tokens, present, logits, masks, strict=True)
            }

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        """Run one forward for the rows that are not remembered; see `Denoiser.logits`."""
        if not self._known or attention_mask.ndim != 2 or position_ids is not None:
            return self.denoiser.logits(tokens, attention_mask, length, position_ids)
        untouched = ((tokens[:, -length:] == self.mask_id) | ~attention_mask[:, -length:]).all(1)
        answers: list[Tensor | None] = [
            self._known.get(_key(*row)) if is_first else None
            for *row, is_first in zip(tokens, attention_mask, untouched.tolist(), strict=True)
        ]
        rest = [row for row, answer in enumerate(answers) if answer is None]
        if len(rest) == len(answers):
            return self.denoiser.logits(tokens, attention_mask, length, position_ids)
        if rest:
            # Columns that only the remembered rows needed are left out.
            first = int(attention_mask[rest].any(0).int().argmax())
            computed = self.denoiser.logits(tokens[rest, first:], attention_mask[rest, first:], length)
            check_answer("logits", computed, len(rest), length, 1)
            for row, answer in zip(rest, computed, strict=True):
                answers[row] = answer
        # Shorter rows are padded, as their tokens are.
        return torch.stack([F.pad(answer, (0, 0, 0, length - len(answer))) for answer in answers if answer is not None])


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
    known.remember(prompts, settings.buffer_length, batch_size)
    return known


def _key(tokens: Tensor, present: Tensor) -> bytes:
    """Return what tells a row from others whatever its padding: its tokens."""
    key: bytes = tokens[present].cpu().numpy().tobytes()
    return key
