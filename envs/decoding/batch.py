"""The unmasking process itself: N rows of prompt and buffer, advanced one action at a time.

The Gymnasium env, `policies.generate` and the evaluation all drive this one class, so a policy decodes the same
tokens in the same number of forwards wherever it runs.

Letters: N rows of the batch, P prompt tokens (left-padded), L buffer positions, K drafts, S shadow positions.

A block-causal dLLM was trained to fill whole blocks of its own. Where the buffer ends inside one, the row goes on to
its end, as the released decoding code of such families does, and what lies beyond the buffer is cut from the text: L
is then `buffer_width`, up to a block more than the settings' ``buffer_length``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from envs.caches.forward import CachedForward
from envs.decoding.blocks import Layout, buffer_width
from envs.decoding.drafts import settle
from envs.decoding.forward import believe
from envs.decoding.loading import load_rows
from envs.decoding.rows import Rows
from envs.decoding.settings import DecodingSettings
from envs.decoding.transition import note, write
from envs.decoding.views import blank_view, merge, restored_view, save_view
from envs.denoiser import Denoiser
from envs.view import Action, View


class DecodingBatch(Rows):
    """N rows being decoded, each at its own pace.

    A row is loaded with a prompt, advanced by `forward` and `apply` until it is finished, and can then be loaded
    again.

    Args:
        denoiser: the frozen dLLM.
        num_rows: N.
        settings: lengths, temperature and features.

    Raises:
        ValueError: if the buffer leaves no room for a prompt, the dLLM is block-causal and the block length does not
            divide its blocks, or the dLLM can't work with the cache.
    """

    def __init__(self, denoiser: Denoiser, num_rows: int, settings: DecodingSettings) -> None:
        self.denoiser, self.settings, self.layout = denoiser, settings, Layout(denoiser, settings)
        width, length = buffer_width(denoiser, settings.buffer_length), settings.buffer_length
        blank = Rows.blank(num_rows, width, length, settings.block, denoiser.eos_id, denoiser.device)
        super().__init__(**vars(blank))
        rule = self.layout.cache
        self._cached = CachedForward(denoiser, rule, num_rows) if rule.keeps else None
        self._drafted: Action | None = None
        self.view = blank_view(self, self.layout)
        """What the last `forward` saw, finished rows blank."""

    def load(
        self,
        rows: Sequence[int],
        prompts: Sequence[Sequence[int]],
        seed: int | Sequence[int] = 0,
        *,
        length: int | None = None,
        block_lengths: Sequence[int] | None = None,
        given: Sequence[Sequence[int] | None] | None = None,
    ) -> None:
        """Start new sequences: their prompts followed by masks, or by a text with masks in it (infilling).

        Args:
            rows: rows to overwrite.
            prompts: token ids, one list a row.
            seed: of the random numbers that sampling decoders and policies draw, one for all rows or one a row. Rows
                with the same prompt and seed draw the same.
            length: masks to start from, made up to whole blocks of a block-causal dLLM; None for the whole buffer.
            block_lengths: positions of a block, one a row; None for that of the settings.
            given: for each row None or its whole text, at most the buffer's length, as token ids with the mask token
                at the blanks. It sets the row's length, made up to whole blocks likewise; its tokens are never
                changed, and an end-of-text before the last of them ends nothing.

        Raises:
            ValueError: if a prompt is empty or, with the buffer, longer than the model takes, or the length, a block
                length or a given text is not possible.
        """
        index = load_rows(self, self.layout, rows, prompts, seed, length, block_lengths, given)
        if self._cached is not None:
            self._cached.forget(index)

    def forward(self, rows: Tensor | None = None) -> View:
        """Run the dLLM once on the running rows and return what it believes.

        After an action with drafts, this is the forward that runs on all of them and settles which one counts; after
        one with a trial, those of its trials come before it.

        Args:
            rows: (N,) bool, the rows to run, where the others are to keep what their last forward saw (rows that were
                loaded while the others wait). None runs all that are running.

        Raises:
            DenoiserError: if the dLLM returns NaN, or something of another shape or dtype than it was asked for.
        """
        if rows is None and self._drafted is not None:
            action, self._drafted = self._drafted, None
            self.view = settle(self, self.layout, self.view, action)
            return self.view
        computed = self.running if rows is None else self.running & rows
        new = believe(self, self.layout, computed, self.view, self._cached)
        self.view = new if rows is None else merge(self.view, new, rows)
        return self.view

    def blank_view(self) -> View:
        """Return the view of rows that are all finished: nothing masked, every confidence 1."""
        return blank_view(self, self.layout, like=self.view)

    def apply(self, action: Action) -> Tensor:
        """Do what a policy decided on the view of the last `forward`.

        Ineligible positions are ignored; a running row that chose no eligible one commits its most confident, so no
        step is lost. A row's block moves on when nothing in it is masked. A row is finished when nothing is masked, or,
        where the settings say ``early_end``, when all of its text is known, which a committed end-of-text ends, or the
        buffer: the rest then becomes end-of-text. An action with drafts or a trial is carried out by the next
        `forward`, and the rows that it finishes are reported by the next call.

        Returns:
            (N,) bool, rows that are finished since the last call.

        Raises:
            ValueError: if ``tokens`` would write the mask token, or there are drafts or a trial, and a cache.
        """
        if action.needs_forward and self._cached is not None:
            self._cached.refuse_drafts()
        note(self, action)
        if not action.needs_forward:
            finished = write(self, self.layout, self.view, action)
        else:
            self._drafted = action
            finished = torch.zeros_like(self.settled)
        # What a draft finished in the last forward is told now, and once.
        finished = finished | self.settled
        self.settled = torch.zeros_like(self.settled)
        return finished

    def state(self) -> dict[str, Any]:
        """Return all that the batch's next steps depend on, with memory of its own; see `load_state`."""
        state = {"rows": self.save(), "view": save_view(self.view)}
        return state if self._cached is None else {**state, "kept": self._cached.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, of a batch of the same rows, settings and dLLM.

        Raises:
            ValueError: if it is of another.
        """
        if (self._cached is None) != ("kept" not in state):
            own, other = ("no", "a") if self._cached is None else ("a", "no")
            raise ValueError(f"state is of a batch with {other} cache: this one has {own} cache")
        self.restore(state["rows"])
        self.view = restored_view(state["view"], self.masked.device)
        self._drafted = None
        if self._cached is not None:
            self._cached.load_state(state["kept"])

    def tokens(self, row: int) -> list[int]:
        """Return the text of a row as token ids, as many as the settings' ``buffer_length``, end-of-text after it."""
        return self.of_text(self.buffer, row, self.denoiser.eos_id)

    def of_text(self, values: Tensor, row: int, after: float = 0) -> list[Any]:
        """Return what a row's values are at the positions of its text.

        Args:
            values: (N, L).
            row: the row.
            after: of positions after the text.

        Returns:
            As many as the settings' ``buffer_length``.
        """
        inside = self.positions < self.text_length[row]
        part: list[Any] = values[row].masked_fill(~inside, after)[: self.settings.buffer_length].tolist()
        return part
