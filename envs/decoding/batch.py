"""The unmasking process itself: N rows of prompt and buffer, advanced one action at a time.

The Gymnasium env, `policies.generate` and the evaluation all drive this one class, so a policy decodes the same
tokens in the same number of forwards wherever it runs.

Letters: N rows of the batch, P prompt tokens (left-padded), L buffer positions, K drafts, S shadow positions.

A block-causal dLLM was trained to fill whole blocks of its own. Where the buffer ends inside one, the row goes on to
its end, as the released decoding code of such families does, and what lies beyond the buffer is cut from the text: L
is then `buffer_width`, up to a block more than the settings' ``buffer_length``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from envs.beliefs import Beliefs, check_answer, read_beliefs
from envs.caches import make_cache
from envs.caches.forward import CachedForward, Texts
from envs.decoding.blocks import _room, buffer_width, check_block, filled_length
from envs.decoding.settings import DecodingSettings
from envs.decoding.shadow import add_shadow
from envs.decoding.views import _merge, _repeated, _rows_of
from envs.denoiser import Denoiser
from envs.noise import gumbel, sequence_key
from envs.view import (
    COMMITTED_READINGS,
    FULL_READINGS,
    OBSERVED_TENSORS,
    VIEW_FEATURES,
    Action,
    View,
    ensure_progress,
)


class DecodingBatch:
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
        length, device = buffer_width(denoiser, settings.buffer_length), denoiser.device
        check_block(denoiser, settings.block)
        self._room = _room(denoiser, settings.buffer_length)
        if self._room < 1:
            lengths = range(settings.buffer_length, 0, -1)
            longest = next((one for one in lengths if _room(denoiser, one) > 0), 0)
            raise ValueError(
                f"buffer_length is {settings.buffer_length}: it must be {longest} or less, as this dLLM takes "
                f"{denoiser.max_length} tokens of prompt and buffer together"
            )
        self.denoiser, self.settings = denoiser, settings
        rule = make_cache(settings.cache)
        self._cached = None if rule.cache == "none" else CachedForward(denoiser, rule, num_rows)

        def zeros(*shape: int, dtype: torch.dtype = torch.long) -> Tensor:
            return torch.zeros(num_rows, *shape, dtype=dtype, device=device)

        self.prompt = zeros(0)  # (N, P), left-padded
        self.prompt_length = zeros()
        self.buffer = zeros(length) + denoiser.eos_id
        self.masked = zeros(length, dtype=torch.bool)
        self.length = zeros() + length
        """(N,) int64, positions of the row that are computed, in a block-causal dLLM whole blocks of it; those after
        them are end-of-text."""
        self.text_length = zeros() + settings.buffer_length
        """(N,) int64, positions of the row's text; what is decoded after them, to the end of a block-causal dLLM's own
        block, is cut."""
        self.block_length = zeros() + settings.block
        """(N,) int64, positions of each of the row's blocks."""
        self.given_end = zeros()
        """(N,) int64, the position after the last given token; 0 where none was given."""
        self.block_start, self.block_end, self.block_step = zeros(), zeros() + settings.block, zeros()
        self.nfe, self.token_positions, self.key = zeros(), zeros(), zeros()
        self.commit_step = zeros(length)
        """(N, L) int64, the step that committed each position, from 1; 0 while masked or filled in at the end."""
        self.commit_confidence = zeros(length, dtype=torch.float32)
        """(N, L) float32, each committed token's confidence when it was committed; 0 likewise, 1 if it was given."""
        self.memory: dict[str, Tensor] = {}
        self._previous = self.buffer.clone()  # predictions of the row's last step
        self._positions = torch.arange(length, device=device)
        self._drafted: Action | None = None
        self._settled = zeros(dtype=torch.bool)  # rows that a draft finished, not yet reported
        self._tensor_kinds: dict[str, tuple[torch.Size, torch.dtype]] = {}  # those of the last forward's tensors
        self._view = self.blank_view()

    @property
    def view(self) -> View:
        """What the last `forward` saw, finished rows blank."""
        return self._view

    @property
    def running(self) -> Tensor:
        """(N,) bool, True where positions are still masked."""
        return self.masked.any(1)

    @property
    def given(self) -> Tensor:
        """(N, L) bool, True where the token came with the problem."""
        # Nothing before the last given token is ever filled in, so what no step committed there was given.
        before = self._positions < self.given_end.unsqueeze(1)
        return before & ~self.masked & (self.commit_step == 0)

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
        seeds = [seed] * len(rows) if isinstance(seed, int | np.integer) else list(seed)
        lists = {"prompts": prompts, "seed": seeds, "block_lengths": block_lengths, "given": given}
        for name, entries in lists.items():
            if entries is not None and len(entries) != len(rows):
                raise ValueError(f"{name} has {len(entries)} entries: it must have one a row, {len(rows)}")
        if length is not None and not 1 <= length <= self.settings.buffer_length:
            raise ValueError(f"length is {length}: it must be 1 to buffer_length, {self.settings.buffer_length}")
        for block in set(block_lengths or []):
            replace(self.settings, block_length=block)  # which checks it
            check_block(self.denoiser, block)
        for prompt in prompts:
            self._check_prompt(prompt)
        texts = {row: text for row, text in zip(rows, given or [], strict=False) if text is not None}
        for text in texts.values():
            self._check_given(text)
        if not rows:
            return
        self._widen(max(map(len, prompts)))
        width, device = self.prompt.shape[1], self.prompt.device
        padded = [[self.denoiser.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        index = torch.as_tensor(list(rows), device=device)
        self.prompt[index] = torch.tensor(padded, device=device)
        self.prompt_length[index] = torch.tensor([len(prompt) for prompt in prompts], device=device)
        keys = [sequence_key(prompt, own) for prompt, own in zip(prompts, seeds, strict=True)]
        self.key[index] = torch.tensor(keys, device=device)
        self.length[index] = self._whole(self.settings.buffer_length if length is None else length)[index]
        self.text_length[index] = self.settings.buffer_length
        self.masked[index] = self._positions < self.length[index].unsqueeze(1)
        self.buffer[index] = torch.where(self.masked[index], self.denoiser.mask_id, self.denoiser.eos_id)
        blocks = [self.settings.block] * len(rows) if block_lengths is None else list(block_lengths)
        self.block_length[index] = torch.tensor(blocks, device=device)
        # Blocks that are counted from the start of the text shorten the buffer's first one.
        known = self.prompt_length[index] % self.block_length[index] if self._is_absolute else 0
        self.block_end[index] = self.block_length[index] - known
        counters = (self.block_start, self.block_step, self.nfe, self.token_positions, self.given_end)
        for record in (*counters, self.commit_step, self.commit_confidence):
            record[index] = 0
        self._forget(index)
        for row, own in zip(rows, seeds, strict=True):
            if row in texts:
                self._give(row, texts[row], own)
        if texts:
            self._move_blocks(torch.zeros_like(self._settled))  # past blocks without a blank

    def _forget(self, rows: Tensor) -> None:
        """Drop what was left of the sequences that stood in these rows."""
        self.memory = {name: values.index_fill(0, rows, 0) for name, values in self.memory.items()}
        self._settled[rows] = False
        if self._cached is not None:
            self._cached.forget(rows)

    def _give(self, row: int, text: Sequence[int], seed: int) -> None:
        """Put a text with blanks into a row that was just loaded."""
        tokens = torch.tensor(text, device=self.buffer.device)
        size, blank = len(tokens), tokens == self.denoiser.mask_id
        self.text_length[row] = size
        self.length[row] = self._whole(self.text_length)[row]
        self.buffer[row] = torch.where(self._positions < self.length[row], self.denoiser.mask_id, self.denoiser.eos_id)
        self.buffer[row, :size] = tokens
        self.masked[row] = self.buffer[row] == self.denoiser.mask_id
        self.given_end[row] = torch.where(blank, 0, self._positions[:size] + 1).amax()
        self.commit_confidence[row, :size] = (~blank).float()
        prompt = self.prompt[row, self.prompt.shape[1] - int(self.prompt_length[row]) :].tolist()
        self.key[row] = sequence_key([*prompt, *text], seed)

    def _check_given(self, text: Sequence[int]) -> None:
        if not 1 <= len(text) <= self.settings.buffer_length:
            raise ValueError(
                f"given has {len(text)} tokens: it must have 1 to buffer_length, {self.settings.buffer_length}"
            )
        if self.denoiser.mask_id not in text:
            raise ValueError(f"given has no blank, token {self.denoiser.mask_id}: there must be something to decode")

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        if not 1 <= len(prompt) <= self._room:
            raise ValueError(
                f"prompt has {len(prompt)} tokens: it must have 1 to {self._room} (the model takes "
                f"{self.denoiser.max_length}, the buffer {self.settings.buffer_length} of them)"
            )

    def _widen(self, width: int) -> None:
        missing = width - self.prompt.shape[1]
        if missing > 0:
            self.prompt = F.pad(self.prompt, (missing, 0), value=self.denoiser.pad_id)

    def eligible(self) -> Tensor:
        """(N, L) bool, True where masked and in the row's current block."""
        inside = (self._positions >= self.block_start.unsqueeze(1)) & (self._positions < self.block_end.unsqueeze(1))
        return self.masked & inside

    @property
    def _is_absolute(self) -> bool:
        """Whether blocks are counted from the start of the prompt."""
        return self.settings.block_origin == "absolute" or self.denoiser.absolute_blocks

    def _shown(self) -> Tensor:
        """Return (N,) int64, positions after the prompt that are shown; over L where the last block ends behind L."""
        if self.settings.window == "full":
            return self.length
        shown = torch.minimum(self.block_end, self.length)
        if self._is_absolute:
            most = self._whole(self.settings.buffer_length)
            end = self.prompt_length + most
            rest = torch.minimum(-end % self.block_length, (self.denoiser.max_length - end).clamp(min=0))
            shown = shown + torch.where(shown == most, rest, 0)
        return shown

    # What the dLLM believes.

    def forward(self, rows: Tensor | None = None) -> View:
        """Run the dLLM once on the running rows and return what it believes.

        After an action with drafts, this is the forward that runs on all of them and settles which one counts.

        Args:
            rows: (N,) bool, the rows to run, where the others are to keep what their last forward saw (rows that were
                loaded while the others wait). None runs all that are running.

        Raises:
            DenoiserError: if the dLLM returns NaN, or something of another shape or dtype than it was asked for.
        """
        if rows is not None:
            self._view = _merge(self._view, self._believe(self.running & rows), rows)
            return self._view
        action, self._drafted = self._drafted, None
        self._view = self._believe(self.running) if action is None else self._settle(action)
        return self._view

    def _believe(self, computed: Tensor) -> View:
        """Run the dLLM on these rows; the others are blank."""
        rows = computed.nonzero().squeeze(1)
        if len(rows) == 0:
            return self.blank_view()
        if self._cached is not None:
            return self._make_view(rows, self._cached_beliefs(rows, self._cached))
        features = self.settings.features
        shown = self._shown()[rows]
        prompt_width, buffer_width = int(self.prompt_length[rows].max()), int(shown.max())
        prompt = self.prompt[rows, self.prompt.shape[1] - prompt_width :]
        columns = torch.arange(prompt_width + buffer_width, device=rows.device)
        first = prompt_width - self.prompt_length[rows].unsqueeze(1)
        present = (columns >= first) & (columns < prompt_width + shown.unsqueeze(1))
        behind = max(0, buffer_width - self.masked.shape[1])
        buffer = F.pad(self.buffer[rows], (0, behind), value=self.denoiser.mask_id)[:, :buffer_width]
        tokens = torch.cat([prompt, buffer], 1).masked_fill(~present, self.denoiser.pad_id)
        self.nfe[rows] += 1
        self.token_positions[rows] += self.prompt_length[rows] + shown
        readings: dict[str, Tensor] = {}
        tensors: dict[str, Tensor] = {}
        if "hidden" in features:
            logits, hidden = self.denoiser.logits_and_hidden(tokens, present, buffer_width)
            check_answer("hidden states", hidden, len(rows), buffer_width, 1)
            tensors["hidden"] = hidden.to(torch.float32, copy=True)
        elif "leave_one_out" in features:
            logits, readings["leave_one_out"] = self._shadow_forward(rows, tokens, present, prompt_width)
        else:
            logits = self.denoiser.logits(tokens, present, buffer_width)
        self._check_logits(logits, len(rows), buffer_width)
        inside = slice(self.masked.shape[1])  # what lies behind the buffer was only shown
        readings = {name: values[:, inside] for name, values in readings.items()}
        tensors = {name: values[:, inside] for name, values in tensors.items()}
        logits = logits[:, inside]
        beliefs = read_beliefs(
            logits,
            self.denoiser.mask_id,
            self.denoiser.end_ids,
            features,
            self._noise(logits, rows),
            self.buffer[rows, : logits.shape[1]],
        )
        del logits  # as large as all that follows together
        beliefs = replace(beliefs, features={**beliefs.features, **readings}, tensors={**beliefs.tensors, **tensors})
        return self._make_view(rows, beliefs)

    def _cached_beliefs(self, rows: Tensor, cached: CachedForward) -> Beliefs:
        """Run the dLLM on what its cache says; about the other positions the row's last view still holds."""
        features, mask_id = self.settings.features, self.denoiser.mask_id
        prompt, shown = self.prompt_length[rows], self._shown()[rows]
        behind = max(0, int(shown.max()) - self.masked.shape[1])
        padded = torch.cat([self.prompt[rows], F.pad(self.buffer[rows], (0, behind), value=mask_id)], 1)
        columns = torch.arange(int((prompt + shown).max()), device=rows.device)
        first = self.prompt.shape[1] - prompt.unsqueeze(1)
        tokens = padded.gather(1, (first + columns).clamp(max=padded.shape[1] - 1))
        about = (self.block_start, self.block_end, self.block_step, self.nfe)
        texts = Texts(tokens, prompt, shown, *(values[rows] for values in about))
        answer = cached.run(rows, texts, "hidden" in features, "token_probability" in features)
        self.nfe[rows] += 1
        self.token_positions[rows] += answer.computed
        count, size = answer.about.shape
        self._check_logits(answer.logits, count, size)
        tensors: dict[str, Tensor] = {}
        if answer.hidden is not None and "hidden" in features:
            check_answer("hidden states", answer.hidden, count, size, 1)
            tensors["hidden"] = answer.hidden.to(torch.float32, copy=True)
        # What lies behind the buffer was only shown; like padding it is written to a column that is cut off.
        length = self.masked.shape[1]
        place = torch.where((answer.about < 0) | (answer.about >= length), length, answer.about)
        beliefs = read_beliefs(
            answer.logits,
            mask_id,
            self.denoiser.end_ids,
            features,
            self._noise(answer.logits, rows, place),
            F.pad(self.buffer, (0, 1), value=mask_id)[rows].gather(1, place),
        )

        def renewed(old: Tensor | None, values: Tensor) -> Tensor:
            if old is None:
                full = values.new_zeros(count, length + 1, *values.shape[2:])
            else:
                full = F.pad(old[rows], (*[0, 0] * (values.ndim - 2), 0, 1)).to(values.dtype)
            full[torch.arange(count, device=rows.device).unsqueeze(1), place] = values
            return full[:, :length]

        view, found = self._view, {**beliefs.tensors, **tensors}
        return Beliefs(
            renewed(view.confidence, beliefs.confidence),
            renewed(view.prediction, beliefs.prediction),
            {name: renewed(view.features.get(name), values) for name, values in beliefs.features.items()},
            {name: renewed(view.tensors.get(name), values) for name, values in found.items()},
        )

    def _make_view(self, rows: Tensor, beliefs: Beliefs) -> View:
        """Spread the computed rows' and columns' beliefs over all rows and positions."""
        wanted = self.settings.features
        width = beliefs.confidence.shape[1]

        def spread(values: Tensor, blank: Tensor, where: Tensor) -> Tensor:
            full = blank.clone()
            full[rows, :width] = values.to(blank.dtype)
            return torch.where(where, full, blank)

        blank = self._blank_view({})  # the large tensors come from the beliefs
        inside = self._positions < self._shown().unsqueeze(1)
        open_masks = self.masked & inside  # those that this forward has an opinion about
        prediction = spread(beliefs.prediction, self.buffer, open_masks)
        readings = dict(beliefs.features)
        if "is_eos" in wanted:
            readings["is_eos"] = self._is_end(beliefs.prediction).float()
        features = dict(blank.features)
        for name, values in readings.items():
            if name in COMMITTED_READINGS:
                committed = spread(values, blank.features[name], ~self.masked & inside)
                # No policy is to doubt what it can't take back.
                features[name] = committed.masked_fill(self.given & inside, 1.0)
            else:
                features[name] = spread(values, blank.features[name], inside if name in FULL_READINGS else open_masks)
        if "changed" in wanted:
            # Nothing was predicted where the last step saw nothing.
            began = (self.nfe <= 1).unsqueeze(1) | (self._previous == self.denoiser.mask_id)
            features["changed"] = ((prediction != self._previous) & open_masks & ~began).float()
            self._previous[rows] = prediction[rows]
        confidence = spread(beliefs.confidence, blank.confidence, open_masks).masked_fill(self.masked & ~inside, 0.0)
        if "repeated" in wanted:
            repeated = _repeated(prediction[rows], confidence[rows], open_masks[rows])
            features["repeated"][rows] = repeated.float()
        tensors = dict(blank.tensors)
        for name, values in beliefs.tensors.items():
            tensors[name] = self._spread_tensor(rows, values, inside if name in OBSERVED_TENSORS else open_masks)
        self._tensor_kinds = {
            name: (values.shape[2:], values.dtype)
            for name, values in tensors.items()
            if name not in ("prompt", "given")
        }
        return replace(
            blank,
            confidence=confidence,
            prediction=prediction,
            masked=self.masked.clone(),
            eligible=self.eligible(),
            features=features,
            tensors=tensors,
        )

    def _spread_tensor(self, rows: Tensor, values: Tensor, where: Tensor) -> Tensor:
        """Spread (B, L', K) values of some rows and columns over all; 0 elsewhere and where `where`, (N, L), is False.

        They may be the largest thing in memory: they are written over where they fit, and else copied once.
        """
        if values.shape[:2] != self.masked.shape:
            full = values.new_zeros((*self.masked.shape, *values.shape[2:]))
            full[rows, : values.shape[1]] = values
            values = full
        return values.masked_fill_(~where.unsqueeze(-1), 0)

    def _shadow_forward(
        self, rows: Tensor, tokens: Tensor, present: Tensor, prompt_width: int
    ) -> tuple[Tensor, Tensor]:
        """Run the dLLM with a shadow of the current block appended; see `envs.decoding.shadow.add_shadow`.

        Returns:
            logits: (B, L', V) of the buffer.
            leave_one_out: (B, L') float32, what the shadow gives the token that stands at its place, 0 off the block.
        """
        start, end = self.block_start[rows], torch.minimum(self.block_end[rows], self.length[rows])
        count, buffer_width = len(rows), tokens.shape[1] - prompt_width
        size = int((end - start).max())
        offset = torch.arange(size, device=rows.device)
        # (B, S), in the buffer, where a shorter block's shadow stands on its last position again.
        place = (start.unsqueeze(1) + offset).clamp(max=min(buffer_width, self.masked.shape[1]) - 1)
        real = offset < (end - start).unsqueeze(1)
        shift = self.denoiser.logit_shift
        self.token_positions[rows] += (end - start) * (1 + shift)
        shadowed, sees, numbers = add_shadow(tokens, present, prompt_width + place, self.denoiser.mask_id, shift)
        asked = shadowed.shape[1] - prompt_width
        logits = self.denoiser.logits(shadowed, sees, asked, numbers)
        self._check_logits(logits, count, asked)
        logits, hidden_from = logits[:, :buffer_width], logits[:, buffer_width + shift :: 1 + shift].float()
        hidden_from = hidden_from.index_fill(-1, torch.tensor([self.denoiser.mask_id], device=rows.device), -torch.inf)
        standing = self.buffer[rows].gather(1, place).unsqueeze(-1)
        probability = hidden_from.log_softmax(-1).gather(-1, standing).squeeze(-1).exp() * real
        blank = torch.zeros(count, buffer_width, device=rows.device)
        return logits, blank.scatter_add(1, place, probability)

    def _check_logits(self, logits: Tensor, rows: int, length: int) -> None:
        """Refuse logits of another shape than (rows, length, V), V enough for every special token."""
        check_answer("logits", logits, rows, length, 1 + max(self.denoiser.mask_id, *self.denoiser.end_ids))

    def _noise(
        self, logits: Tensor, rows: Tensor, place: Tensor | None = None
    ) -> Callable[[slice, slice], Tensor] | None:
        """Return what draws the noise of slices of these rows and of positions; None where nothing is sampled.

        Args:
            logits: (B, L', V) that it is for.
            rows: (B,) int64.
            place: (B, L') int64, the buffer positions that they are about; None where they are the first ones.
        """
        if self.settings.temperature == 0:
            return None
        keys, steps, (_, length, vocabulary) = self.key[rows], self.nfe[rows], logits.shape

        def draw(which: slice, positions: slice) -> Tensor:
            first, stop, _ = positions.indices(length)
            shape = (stop - first, vocabulary)
            skip = first * vocabulary if place is None else place[which, positions] * vocabulary
            return self.settings.temperature * gumbel(keys[which], steps[which], shape, skip=skip)

        return draw

    def time(self) -> Tensor:
        """(N,) float32 in [0, 1], share of L steps that was used before this one, or by the finished row."""
        used = self.nfe - self.running.long()
        return (used.clamp(min=0).float() / self.settings.buffer_length).clamp(max=1.0)

    def blank_view(self) -> View:
        """Return the view of rows that are all finished: nothing masked, every confidence 1."""
        return self._blank_view(self._tensor_kinds)

    def _blank_view(self, kinds: Mapping[str, tuple[torch.Size, torch.dtype]]) -> View:
        """Return a blank view with zeros for tensors of these shapes, a position's, and dtypes."""
        ones = torch.ones(self.masked.shape, device=self.masked.device)
        none = torch.zeros_like(self.masked)
        tensors = {
            name: torch.zeros((*none.shape, *shape), dtype=dtype, device=none.device)
            for name, (shape, dtype) in kinds.items()
        }
        if "prompt" in self.settings.features:
            width = self.prompt.shape[1]
            padding = torch.arange(width, device=ones.device) < width - self.prompt_length.unsqueeze(1)
            tensors["prompt"] = self.prompt.masked_fill(padding, -1)
        if "given" in self.settings.features:
            tensors["given"] = self.buffer.masked_fill(~self.given, -1)
        return View(
            confidence=ones,
            prediction=self.buffer.clone(),
            masked=none,
            eligible=none,
            step=self.nfe.clone(),
            time=self.time(),
            block_start=self.block_start.clone(),
            block_end=self.block_end.clone(),
            block_step=self.block_step.clone(),
            length=self.length.clone(),
            commit_confidence=self.commit_confidence.clone(),
            key=self.key.clone(),
            features={name: torch.zeros_like(ones) for name in sorted(self.settings.features & VIEW_FEATURES)},
            tensors=tensors,
            memory=dict(self.memory),
        )

    # What a policy does.

    def commit(self, positions: Tensor) -> Tensor:
        """Write the predictions of the last `forward` at the chosen positions; see `apply`.

        Args:
            positions: (N, L) bool. Ineligible positions are ignored; a running row with no eligible position
                chosen commits its most confident one, so no step is ever lost.

        Returns:
            (N,) bool, rows that this commit finished.
        """
        return self.apply(Action(positions))

    def apply(self, action: Action) -> Tensor:
        """Do what a policy decided on the view of the last `forward`.

        A row's block moves on when nothing in it is masked. A row is finished when nothing is masked, or, where the
        settings say ``early_end``, when all of its text is known, which a committed end-of-text ends, or the buffer:
        the rest then becomes end-of-text. An action with drafts is carried out by the next `forward`, and the rows that
        it finishes are reported by the next call.

        Returns:
            (N,) bool, rows that are finished since the last call.

        Raises:
            ValueError: if ``tokens`` would write the mask token, or there are drafts and a cache.
        """
        if action.drafts is not None and self._cached is not None:
            raise ValueError(
                f"cache is {self.settings.cache!r} and the policy drafts: every draft would need keys and values of "
                "its own; use cache none or another policy"
            )
        if action.extra_positions is not None:
            self.token_positions += action.extra_positions * self.running
        for name, values in action.memory.items():
            # In a finished row nothing is remembered.
            self.memory[name] = values.clone()
        if action.drafts is None:
            finished = self._write(action)
        else:
            self._drafted = action
            finished = torch.zeros_like(self._settled)
        finished = finished | self._settled
        self._settled = torch.zeros_like(self._settled)
        return finished

    def _write(self, action: Action) -> Tensor:
        """Change the buffers; returns (N,) bool, rows that are finished by it."""
        view = self._view
        was_running = self.running & view.masked.any(1)  # a row loaded since has no view yet
        if action.remask is not None:
            may = (self.nfe < self.settings.buffer_length).unsqueeze(1) & view.in_block & was_running.unsqueeze(1)
            self._mask(action.remask & ~view.masked & ~self.given & may)
        visible = self._visible_end(self.block_start)
        if self.settings.window == "truncated":
            visible = torch.minimum(visible, self.block_end)
        if action.length is not None:
            self._resize(torch.where(was_running, action.length, self.length))
        if action.block_end is not None:
            first_seen = (self.masked & view.masked).int().argmax(1)
            end = torch.minimum(torch.maximum(action.block_end, first_seen + 1), visible)
            self.block_end = torch.where(was_running, end, self.block_end)
        seen = self.masked & view.masked  # masks that the forward has an opinion about
        eligible = self.eligible() & seen
        may = eligible
        if action.scope is not None:
            may = eligible | (action.scope & seen & (self._positions < visible.unsqueeze(1)))
        wanted = action.commit & may
        chosen = wanted | ensure_progress(wanted, eligible, view.confidence) & ~wanted.any(1, keepdim=True)
        tokens = view.prediction if action.tokens is None else action.tokens
        if bool((chosen & (tokens == self.denoiser.mask_id)).any()):
            raise ValueError(f"tokens holds the mask token, {self.denoiser.mask_id}, at a committed position")
        self.buffer = torch.where(chosen, tokens, self.buffer)
        self.commit_step = torch.where(chosen, self.nfe.unsqueeze(1), self.commit_step)
        self.commit_confidence = torch.where(chosen, view.confidence, self.commit_confidence)
        self.masked = self.masked & ~chosen
        first_eos, complete = self._end_of_text()
        if self.settings.end_of_text_prediction:
            end = torch.minimum(self.length, first_eos + 1)
            gone = self._positions >= end.unsqueeze(1)
            self.length = torch.minimum(self.length, self._whole(end))
            self._mask(gone)
            self._fill(gone)
        # What end-of-text prediction took away may have been the last masks.
        finished = was_running & (complete if self.settings.early_end else ~self.masked.any(1))
        self._fill(finished.unsqueeze(1) & self.masked)
        self._move_blocks(was_running)
        return finished

    def _mask(self, positions: Tensor) -> None:
        self.masked = self.masked | positions
        self.buffer = self.buffer.masked_fill(positions, self.denoiser.mask_id)
        self.commit_step = self.commit_step.masked_fill(positions, 0)
        self.commit_confidence = self.commit_confidence.masked_fill(positions, 0.0)

    def _fill(self, positions: Tensor) -> None:
        self.buffer = self.buffer.masked_fill(positions, self.denoiser.eos_id)
        self.masked = self.masked & ~positions

    def _resize(self, length: Tensor) -> None:
        """Give each row this many positions: masks beyond it become end-of-text, new ones are masks."""
        old, place = self.length.unsqueeze(1), self._positions
        committed = (self.commit_step > 0).int()
        # Tokens that a policy committed stay part of what the dLLM sees.
        keep = (place + 1) * committed
        length = torch.maximum(length, keep.amax(1)).clamp(min=1)
        most = self._whole(self.settings.buffer_length)
        length = torch.minimum(self._whole(length), most)
        self.length = torch.where(self.given_end > 0, self.length, length)
        # Blanks alone are where a text began, not where it has to end.
        longer = torch.maximum(self.text_length, length.clamp(max=self.settings.buffer_length))
        self.text_length = torch.where(self.length > old.squeeze(1), longer, self.text_length)
        new = self.length.unsqueeze(1)
        self._mask((place >= old) & (place < new))
        self._fill(self.masked & (place >= new))

    def _end_of_text(self) -> tuple[Tensor, Tensor]:
        """Return the (N,) first committed end-of-text (or L) and whether all of the text before it is known.

        Text goes on to the last given token, whatever stands before it, and no further than the row's text may.
        """
        length = self.masked.shape[1]
        may_end = ~self.masked & (self._positions >= self.given_end.unsqueeze(1))
        committed_eos = self._is_end(self.buffer) & may_end
        first_eos = torch.where(committed_eos, self._positions, length).amin(1)
        first_masked = torch.where(self.masked, self._positions, length).amin(1)
        return first_eos, (first_masked >= self.text_length) | (first_eos < first_masked)

    def _is_end(self, tokens: Tensor) -> Tensor:
        """Tell which tokens end a text."""
        first, *others = self.denoiser.end_ids
        ends = tokens == first
        for other in others:
            ends |= tokens == other
        return ends

    def _move_blocks(self, acted: Tensor) -> None:
        """Go on to the first block with a mask where the current one has none; blocks follow each other."""
        block = self.block_length
        done = self.running & ~self.eligible().any(1)
        first_masked = self.masked.int().argmax(1)
        if self._is_absolute:
            known = self.prompt_length
            start = torch.maximum(self.block_end, (first_masked + known) // block * block - known)
            end = (start + known) // block * block + block - known
        else:
            start = self.block_end + (first_masked - self.block_end).clamp(min=0) // block * block
            end = start + block
        self.block_start = torch.where(done, start, self.block_start)
        self.block_end = torch.where(done, torch.minimum(end, self._visible_end(start)), self.block_end)
        self.block_step = torch.where(done, 0, self.block_step + (self.running & acted))

    def _visible_end(self, start: Tensor) -> Tensor:
        """Return (N,) where the dLLM's own block that holds a position ends, the buffer's end where all see all.

        A block-causal dLLM has no opinion yet about what follows it.
        """
        length = self.masked.shape[1]
        if self.denoiser.block_length is None:
            return torch.full_like(start, length)
        return self._whole(start + 1).clamp(max=length)

    def _whole(self, length: Tensor | int) -> Tensor:
        """Return (N,) int64, each row's length made up to whole blocks of the dLLM."""
        lengths = torch.full_like(self.prompt_length, length) if isinstance(length, int) else length
        return filled_length(self.denoiser, self.prompt_length, lengths)

    # Drafts.

    def _settle(self, action: Action) -> View:
        """Run the dLLM on every draft of every row at once, let the policy choose, and go on from its choice.

        A draft that equals an earlier one of its row is not computed again.
        """
        assert action.drafts is not None
        assert action.choose is not None
        rows, device = len(self.masked), self.masked.device
        sets = torch.cat([action.commit.unsqueeze(1), action.drafts], 1)  # (N, K + 1, L)
        count = sets.shape[1]
        branches = self._copy(torch.arange(rows, device=device).repeat_interleave(count))
        was_running = self.running
        parts = {name: getattr(action, name) for name in ("scope", "tokens", "remask", "block_end", "length")}
        shared = {name: part.repeat_interleave(count, 0) for name, part in parts.items() if part is not None}
        branches._write(Action(sets.flatten(0, 1), **shared))
        buffers = branches.buffer.view(rows, count, -1)
        same = (buffers.unsqueeze(2) == buffers.unsqueeze(1)).all(-1)  # (N, K + 1, K + 1)
        original = same.int().argmax(2)  # the first draft that leaves the same tokens
        is_new = (original == torch.arange(count, device=device)).flatten()
        branched = branches._believe(branches.running & is_new)
        base = torch.arange(rows, device=device) * count
        views = [_rows_of(branched, base + original[:, k]) for k in range(count)]
        choice = action.choose(views).clamp(0, count - 1)
        picked = base + original.gather(1, choice.unsqueeze(1)).squeeze(1)
        spent = (branches.token_positions.view(rows, count) - self.token_positions.unsqueeze(1)).sum(1)
        nfe, positions = branches.nfe.view(rows, count).amax(1), self.token_positions + spent
        self._adopt(branches, picked)
        self.nfe, self.token_positions = nfe, positions
        self._settled = self._settled | (was_running & ~self.running)
        return replace(_rows_of(branched, picked), step=self.nfe.clone(), time=self.time())

    def _copy(self, index: Tensor) -> DecodingBatch:
        """Return a batch of these rows, its state its own."""
        copy = DecodingBatch(self.denoiser, len(index), self.settings)
        copy._adopt(self, index)
        copy._view = _rows_of(self._view, index)
        copy._tensor_kinds = self._tensor_kinds
        return copy

    def state(self) -> dict[str, Any]:
        """Return all that the batch's next steps depend on, with memory of its own; see `load_state`."""
        view = {field.name: _cloned(getattr(self._view, field.name)) for field in fields(View)}
        rows = {name: getattr(self, name).clone() for name in _STATE}
        state = {"rows": rows, "memory": _cloned(self.memory), "view": view}
        return state if self._cached is None else {**state, "kept": self._cached.state()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned, of a batch of the same rows, settings and dLLM.

        Raises:
            ValueError: if it is of another.
        """
        device = self.masked.device
        if state["rows"].keys() != {*_STATE} or state["rows"]["masked"].shape != self.masked.shape:
            raise ValueError(f"the state is not of {' by '.join(map(str, self.masked.shape))} positions")
        for name in _STATE:
            setattr(self, name, state["rows"][name].to(device))
        self._view = View(**{name: _cloned(value, device) for name, value in state["view"].items()})
        self.memory = _cloned(state["memory"], device)
        kept = ((name, values) for name, values in self._view.tensors.items() if name not in ("prompt", "given"))
        self._tensor_kinds = {name: (values.shape[2:], values.dtype) for name, values in kept}
        self._drafted = None
        if self._cached is not None:
            self._cached.load_state(state["kept"])

    def _adopt(self, other: DecodingBatch, index: Tensor) -> None:
        """Take over the state of another batch's rows."""
        for name in _STATE:
            setattr(self, name, getattr(other, name)[index].clone())
        self.memory = {name: values[index].clone() for name, values in other.memory.items()}

    # What came of it.

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
        inside = self._positions < self.text_length[row]
        part: list[Any] = values[row].masked_fill(~inside, after)[: self.settings.buffer_length].tolist()
        return part

    def counters(self) -> dict[str, np.ndarray]:
        """Return (N,) int64 arrays ``nfe`` and ``token_positions`` of the rows' present sequences."""
        return {"nfe": self.nfe.cpu().numpy().copy(), "token_positions": self.token_positions.cpu().numpy().copy()}


_STATE = (
    *("prompt", "prompt_length", "buffer", "masked", "length", "text_length", "given_end", "block_length"),
    *("block_start", "block_end", "block_step", "nfe", "token_positions", "key", "commit_step", "commit_confidence"),
    *("_previous", "_settled"),
)


def _cloned(value: Any, device: torch.device | None = None) -> Any:
    """Return a copy of a view's part, a tensor or a mapping of them, on a device or where it is."""
    if isinstance(value, Tensor):
        return value.detach().clone() if device is None else value.to(device, copy=True)
    return {name: _cloned(tensor, device) for name, tensor in value.items()}
