"""One forward of a batch with a cache: which positions are computed, and what they say about which.

Letters: N rows that are kept, B of them in a forward, W positions of the longest text, S computed, L buffer positions.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NoReturn

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.caches.base import CacheRule, Moment
from envs.denoiser import CachingDenoiser, Denoiser


@dataclass(frozen=True)
class Texts:
    """B rows to compute, without padding before them.

    Attributes:
        tokens: (B, W) int64, prompt, then buffer, then anything.
        prompt: (B,) int64, tokens of the prompt.
        present: (B, W) bool, True where the dLLM is shown a token; there is one in every row.
        block_start: (B,) int64, first position of the current block, counted from the end of the prompt.
        block_end: (B,) int64, the position after its last, likewise.
        block_step: (B,) int64, forwards spent in it so far.
        step: (B,) int64, forwards of the row so far.
        since: (B,) int64, see `envs.caches.base.Moment`.
        commit_step: (B, W) int64, the row's forward after which each token was committed; 0 at the others.
        confidence: (B, L) float32, what was last believed of the buffer's positions.
    """

    tokens: Tensor
    prompt: Tensor
    present: Tensor
    block_start: Tensor
    block_end: Tensor
    block_step: Tensor
    step: Tensor
    since: Tensor
    commit_step: Tensor
    confidence: Tensor


@dataclass(frozen=True)
class Answer:
    """What a forward said.

    Attributes:
        logits: (B, S', V) float.
        hidden: (B, S', D) float where they were asked for.
        about: (B, S') int64, the buffer position that each is about; -1 is padding.
        computed: (B, W) bool, the positions of the text that were computed.
    """

    logits: Tensor
    hidden: Tensor | None
    about: Tensor
    computed: Tensor


class CachedForward:
    """What is kept of N rows, and the forwards that go on from it.

    Args:
        denoiser: the frozen dLLM.
        rule: says what to compute.
        num_rows: N.

    Raises:
        ValueError: if the dLLM can't keep anything, or sees all positions where the rule is for blocks.
    """

    def __init__(self, denoiser: Denoiser, rule: CacheRule, num_rows: int) -> None:
        if rule.needs_blocks and denoiser.block_length is None:
            raise ValueError(
                f"cache is {rule.name!r}: it is for block-causal dLLMs, and in this one every position sees all; "
                "choose prefix or dual"
            )
        if not hasattr(denoiser, "key_values"):
            raise ValueError(f"cache is {rule.name!r}: this dLLM keeps no keys and values; use cache none")
        self.denoiser: CachingDenoiser = denoiser  # type: ignore[assignment]
        self.rule = rule
        self.kept = self.denoiser.key_values(num_rows)
        self.tokens = torch.full((num_rows, 0), -1, device=denoiser.device)
        """(N, W) int64, the tokens that were last computed; -1 where none was, or it is not shown any more."""

    def refuse_drafts(self) -> NoReturn:
        """Say why a policy can't draft here.

        Raises:
            ValueError: always.
        """
        raise ValueError(
            f"cache is {self.rule.name!r} and the policy drafts: every draft would need keys and values of its own; "
            "use cache none or another policy"
        )

    def forget(self, rows: Tensor) -> None:
        """Let rows start anew.

        Args:
            rows: (B,) int64.
        """
        self.tokens[rows] = -1

    def run(self, rows: Tensor, texts: Texts, with_hidden: bool = False, judges_tokens: bool = False) -> Answer:
        """Run one forward.

        Args:
            rows: (B,) int64, rising.
            texts: what stands in these rows.
            with_hidden: whether to return the last hidden states too.
            judges_tokens: whether there must be an answer about each token that has just come to stand somewhere, as
                there is about each mask.
        """
        moment = self._moment(rows, texts)
        # What changed is computed whatever the rule says: kept keys and values would be of another token.
        needed = moment.asking(moment.stale, everywhere=judges_tokens) | self.rule.compute(moment)
        # And everything where the policy asked for that.
        chosen = (needed | (moment.since == 0).unsqueeze(1)) & moment.present
        width, shift = chosen.shape[1], self.denoiser.logit_shift
        most = int(chosen.sum(1).max())
        # Rising, padding first, so that what is asked about, in the buffer, is at the end of each row.
        positions = chosen.int().argsort(dim=1, stable=True)[:, width - most :]
        is_real = chosen.gather(1, positions)
        # In the buffer's own numbers, in which policies ask; the prompt's are negative.
        about = positions + shift - texts.prompt.unsqueeze(1)
        is_shown = F.pad(moment.present, (0, shift)).gather(1, positions + shift)
        is_asked = is_real & (about >= 0) & is_shown
        # At least one, since a model's slice [:, -0:] is everything.
        keep = int((is_real & (about >= 0)).sum(1).max().clamp(min=1))
        inputs = texts.tokens.gather(1, positions).masked_fill(~is_real, self.denoiser.pad_id)
        sees = moment.present.unsqueeze(1)
        if self.denoiser.block_length is not None:
            own = moment.own_block
            sees = sees & (own.unsqueeze(1) <= own.gather(1, positions).unsqueeze(2))
        self.kept.place(rows, positions.masked_fill(~is_real, -1), width)
        logits, hidden = self.denoiser.logits_at(inputs, sees, keep, self.kept, with_hidden)
        # What lies beyond this forward's width is shown no more.
        self.tokens[rows] = -1
        self.tokens[rows, :width] = texts.tokens.masked_fill(~moment.present, -1)
        return Answer(logits, hidden, about.masked_fill(~is_asked, -1)[:, most - keep :], chosen)

    def _moment(self, rows: Tensor, texts: Texts) -> Moment:
        width, prompt = texts.tokens.shape[1], texts.prompt.unsqueeze(1)
        self.tokens = F.pad(self.tokens, (0, max(0, width - self.tokens.shape[1])), value=-1)
        place = torch.arange(width, device=rows.device)
        present = texts.present
        own, origin = self.denoiser.block_length, 0 if self.denoiser.absolute_blocks else prompt
        # 0 * prompt makes it a number a row, also where one origin is every row's.
        own_block = torch.zeros_like(texts.tokens) if own is None else (place - origin + 0 * prompt) // own
        # A prompt may quote the mask token; nobody asks what it hides.
        masked = present & (texts.tokens == self.denoiser.mask_id) & (place >= prompt)
        inside = (place - prompt).clamp(min=0, max=texts.confidence.shape[1] - 1)
        return Moment(
            stale=present & (texts.tokens != self.tokens[rows, :width]),
            present=present,
            masked=masked,
            prompt=texts.prompt,
            start=texts.prompt + texts.block_start,
            end=texts.prompt + texts.block_end,
            block_step=texts.block_step,
            step=texts.step,
            since=texts.since,
            commit_step=texts.commit_step,
            own_block=own_block,
            logit_shift=self.denoiser.logit_shift,
            confidence=texts.confidence.gather(1, inside) * masked,
        )

    def state(self) -> dict[str, Tensor]:
        """Return all that is kept, by name, with memory of its own."""
        return {"tokens": self.tokens.clone(), **self.kept.state()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state` returned."""
        held = dict(state)
        self.tokens = held.pop("tokens").to(self.denoiser.device, copy=True)
        self.kept.load_state(held, self.denoiser.device)
