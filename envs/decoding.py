"""The unmasking process itself: N rows of prompt and buffer, advanced one commit at a time.

The Gymnasium env, `policies.generate` and the evaluation all drive this one class, so a policy decodes the same
tokens in the same number of forwards wherever it runs.

Letters: N rows of the batch, P prompt tokens (left-padded), L buffer positions.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from envs.beliefs import FEATURES, read_beliefs
from envs.denoiser import Denoiser
from envs.noise import gumbel, sequence_key

MAX_TEMPERATURE = 1e6
"""Gumbel noise times more than this could overflow float32; long before, sampling is uniform."""

VIEW_FEATURES = frozenset({*FEATURES, "is_eos", "changed"})
"""Per-position readings beyond the confidence that can be asked for: those of `FEATURES`, and

* ``is_eos``: 1 where the prediction is end-of-text.
* ``changed``: 1 where the prediction differs from the one of the row's previous step (0 at its first).
"""


@dataclass(frozen=True)
class View:
    """All that an unmasking policy may look at: one step of N rows.

    Attributes:
        confidence: (N, L) float32 in [0, 1], probability of the prediction; 1 at committed positions.
        prediction: (N, L) int64, the token that a commit writes.
        masked: (N, L) bool, True where no token is committed yet.
        eligible: (N, L) bool, True where masked and in the row's current block.
        step: (N,) int64, forwards that the row has used, this one included.
        time: (N,) float32 in [0, 1), (step - 1) / L.
        block_start: (N,) int64, first position of the current block.
        key: (N,) int64, the sequence's key for `envs.noise`.
        features: (N, L) float32 readings by name, those asked for of `VIEW_FEATURES`.
    """

    confidence: Tensor
    prediction: Tensor
    masked: Tensor
    eligible: Tensor
    step: Tensor
    time: Tensor
    block_start: Tensor
    key: Tensor
    features: Mapping[str, Tensor]


def ensure_progress(commit: Tensor, eligible: Tensor, score: Tensor) -> Tensor:
    """Drop ineligible positions, and give rows left with none their best eligible one.

    Args:
        commit: (N, L) bool, wanted positions.
        eligible: (N, L) bool.
        score: (N, L) float, higher is better; the first of equals is taken.

    Returns:
        (N, L) bool, within `eligible`; at least one True in each row that has an eligible position.
    """
    commit = commit & eligible
    stuck = eligible.any(1) & ~commit.any(1)
    # A score of -inf still beats an ineligible position.
    best = score.clamp(min=torch.finfo(score.dtype).min).masked_fill(~eligible, -torch.inf).argmax(1)
    commit[stuck, best[stuck]] = True
    return commit


@dataclass(frozen=True)
class DecodingSettings:
    """How a buffer is decoded.

    Attributes:
        buffer_length: L, number of masks a sequence starts from.
        block_length: positions of a block; blocks are decoded left to right (semi-autoregressive). None, or the
            buffer length, is full diffusion.
        temperature: of the sampled token; 0 commits the argmax.
        features: names of `VIEW_FEATURES` to compute.

    Raises:
        ValueError: for a length, temperature or feature that is not possible.
    """

    buffer_length: int = 64
    block_length: int | None = None
    temperature: float = 0.0
    features: frozenset[str] = frozenset()

    def __post_init__(self) -> None:
        if self.buffer_length < 1:
            raise ValueError(f"buffer_length is {self.buffer_length}: it must be 1 or more")
        if self.block < 1 or self.buffer_length % self.block:
            divisors = [d for d in range(1, self.buffer_length + 1) if self.buffer_length % d == 0]
            raise ValueError(
                f"block_length is {self.block_length}: it must divide buffer_length {self.buffer_length}; "
                f"choose one of {', '.join(map(str, divisors))}"
            )
        if not 0 <= self.temperature <= MAX_TEMPERATURE:
            raise ValueError(f"temperature is {self.temperature}: it must be 0 (argmax) to {MAX_TEMPERATURE:g}")
        unknown = sorted(self.features - VIEW_FEATURES)
        if unknown:
            raise ValueError(f"feature is {unknown[0]!r}: choose from {', '.join(sorted(VIEW_FEATURES))}")

    @property
    def block(self) -> int:
        """Positions of a block, the whole buffer in full diffusion."""
        return self.buffer_length if self.block_length is None else self.block_length


class DecodingBatch:
    """N rows being decoded, each at its own pace.

    A row is loaded with a prompt, advanced by `commit` until it is finished, and can then be loaded again.

    Args:
        denoiser: the frozen dLLM.
        num_rows: N.
        settings: lengths, temperature and features.
    """

    def __init__(self, denoiser: Denoiser, num_rows: int, settings: DecodingSettings) -> None:
        length, device = settings.buffer_length, denoiser.device
        self.denoiser, self.settings = denoiser, settings
        self.prompt = torch.full((num_rows, 0), denoiser.pad_id, device=device)  # (N, P), left-padded
        self.prompt_length = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.buffer = torch.full((num_rows, length), denoiser.eos_id, device=device)
        self.masked = torch.zeros(num_rows, length, dtype=torch.bool, device=device)
        self.block_start = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.nfe = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.token_positions = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.key = torch.zeros(num_rows, dtype=torch.long, device=device)
        self.commit_step = torch.zeros(num_rows, length, dtype=torch.long, device=device)
        """(N, L) int64, the step that committed each position, from 1; 0 while masked or filled in at the end."""
        self.commit_confidence = torch.zeros(num_rows, length, device=device)
        """(N, L) float32, each committed token's confidence when it was committed; 0 likewise."""
        self._positions = torch.arange(length, device=device)
        self._previous = self.buffer.clone()  # predictions of the row's last step
        self._view = self.blank_view()

    @property
    def view(self) -> View:
        """What the last `forward` saw, finished rows blank."""
        return self._view

    @property
    def running(self) -> Tensor:
        """(N,) bool, True where positions are still masked."""
        return self.masked.any(1)

    def load(self, rows: Sequence[int], prompts: Sequence[Sequence[int]], seed: int = 0) -> None:
        """Start new sequences: their prompts followed by masks.

        Args:
            rows: rows to overwrite.
            prompts: token ids, one list a row.
            seed: of the random numbers that sampling decoders and policies draw.

        Raises:
            ValueError: if a prompt is empty or, with the buffer, longer than the model takes.
        """
        if len(rows) != len(prompts):
            raise ValueError(f"prompts has {len(prompts)} entries: it must have one a row, {len(rows)}")
        for prompt in prompts:
            self._check_prompt(prompt)
        if not rows:
            return
        self._widen(max(map(len, prompts)))
        width, device = self.prompt.shape[1], self.prompt.device
        padded = [[self.denoiser.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
        index = torch.as_tensor(list(rows), device=device)
        self.prompt[index] = torch.tensor(padded, device=device)
        self.prompt_length[index] = torch.tensor([len(prompt) for prompt in prompts], device=device)
        self.key[index] = torch.tensor([sequence_key(prompt, seed) for prompt in prompts], device=device)
        self.buffer[index] = self.denoiser.mask_id
        self.masked[index] = True
        for record in (self.block_start, self.nfe, self.token_positions, self.commit_step, self.commit_confidence):
            record[index] = 0

    def _check_prompt(self, prompt: Sequence[int]) -> None:
        room = self.denoiser.max_length - self.settings.buffer_length
        if not 1 <= len(prompt) <= room:
            raise ValueError(
                f"prompt has {len(prompt)} tokens: it must have 1 to {room} (the model takes "
                f"{self.denoiser.max_length}, the buffer {self.settings.buffer_length} of them)"
            )

    def _widen(self, width: int) -> None:
        missing = width - self.prompt.shape[1]
        if missing > 0:
            self.prompt = torch.nn.functional.pad(self.prompt, (missing, 0), value=self.denoiser.pad_id)

    def eligible(self) -> Tensor:
        """(N, L) bool, True where masked and in the row's current block."""
        start = self.block_start.unsqueeze(1)
        return self.masked & (self._positions >= start) & (self._positions < start + self.settings.block)

    def forward(self) -> View:
        """Run the dLLM once on the running rows and return what it believes.

        Raises:
            DenoiserError: if the dLLM returns NaN.
        """
        rows = self.running.nonzero().squeeze(1)
        if len(rows) == 0:
            self._view = self.blank_view()
            return self._view
        width = int(self.prompt_length[rows].max())
        prompt = self.prompt[rows, self.prompt.shape[1] - width :]
        tokens = torch.cat([prompt, self.buffer[rows]], 1)
        columns = torch.arange(tokens.shape[1], device=tokens.device)
        attention_mask = columns >= (width - self.prompt_length[rows]).unsqueeze(1)
        logits = self.denoiser.logits(tokens, attention_mask, self.settings.buffer_length)
        self.nfe[rows] += 1
        self.token_positions[rows] += self.prompt_length[rows] + self.settings.buffer_length
        beliefs = read_beliefs(
            logits, self.denoiser.mask_id, self.denoiser.eos_id, self.settings.features, self._noise(logits, rows)
        )
        features = dict(beliefs.features)
        if "is_eos" in self.settings.features:
            features["is_eos"] = (beliefs.prediction == self.denoiser.eos_id).float()
        if "changed" in self.settings.features:
            first = (self.nfe[rows] == 1).unsqueeze(1)
            features["changed"] = ((beliefs.prediction != self._previous[rows]) & ~first).float()
            self._previous[rows] = beliefs.prediction

        def spread(values: Tensor, blank: Tensor) -> Tensor:
            """Put the running rows' values back among all rows; committed positions read `blank`."""
            full = blank.clone()
            full[rows] = values
            return torch.where(self.masked, full, blank)

        blank = self.blank_view()
        zero = torch.zeros_like(blank.confidence)
        self._view = View(
            confidence=spread(beliefs.confidence, blank.confidence),
            prediction=spread(beliefs.prediction, self.buffer),
            masked=self.masked.clone(),
            eligible=self.eligible(),
            step=self.nfe.clone(),
            time=self.time(),
            block_start=self.block_start.clone(),
            key=self.key.clone(),
            features={name: spread(values, zero) for name, values in features.items()},
        )
        return self._view

    def _noise(self, logits: Tensor, rows: Tensor) -> Tensor | None:
        if self.settings.temperature == 0:
            return None
        shape = (logits.shape[1], logits.shape[2])
        return self.settings.temperature * gumbel(self.key[rows], self.nfe[rows], shape)

    def time(self) -> Tensor:
        """(N,) float32 in [0, 1), share of the L possible steps that was used before this one."""
        return (self.nfe - 1).clamp(min=0).float() / self.settings.buffer_length

    def blank_view(self) -> View:
        """Return the view of rows that are all finished: nothing masked, every confidence 1."""
        ones = torch.ones(self.masked.shape, device=self.masked.device)
        none = torch.zeros_like(self.masked)
        features = {name: torch.zeros_like(ones) for name in self.settings.features}
        return View(
            confidence=ones,
            prediction=self.buffer.clone(),
            masked=none,
            eligible=none,
            step=self.nfe.clone(),
            time=self.time(),
            block_start=self.block_start.clone(),
            key=self.key.clone(),
            features=features,
        )

    def commit(self, action: Tensor) -> Tensor:
        """Write the predictions of the last `forward` at the chosen positions.

        A row's block moves on when nothing in it is masked. A row is finished when nothing is masked, or when
        everything before a committed end-of-text is known: the rest then becomes end-of-text.

        Args:
            action: (N, L) bool. Ineligible positions are ignored; a running row with no eligible position
                chosen commits its most confident one, so no step is ever lost.

        Returns:
            (N,) bool, rows that this commit finished.
        """
        was_running = self.running
        chosen = ensure_progress(action, self._view.eligible & was_running.unsqueeze(1), self._view.confidence)
        self.buffer = torch.where(chosen, self._view.prediction, self.buffer)
        self.commit_step = torch.where(chosen, self.nfe.unsqueeze(1), self.commit_step)
        self.commit_confidence = torch.where(chosen, self._view.confidence, self.commit_confidence)
        self.masked = self.masked & ~chosen
        finished = was_running & self._complete()
        tail = finished.unsqueeze(1) & self.masked
        self.buffer = self.buffer.masked_fill(tail, self.denoiser.eos_id)
        self.masked = self.masked & ~tail
        block = self.settings.block
        first_masked = self.masked.int().argmax(1) // block * block
        self.block_start = torch.where(self.running, first_masked, self.block_start)
        return finished

    def _complete(self) -> Tensor:
        """(N,) bool, True where nothing before the first committed end-of-text (or the end) is masked."""
        length = self.settings.buffer_length
        committed_eos = (self.buffer == self.denoiser.eos_id) & ~self.masked
        first_eos = torch.where(committed_eos, self._positions, length).amin(1)
        first_masked = torch.where(self.masked, self._positions, length).amin(1)
        return (first_masked == length) | (first_eos < first_masked)

    def tokens(self, row: int) -> list[int]:
        """Return the buffer of a row as token ids."""
        ids: list[int] = self.buffer[row].tolist()
        return ids

    def counters(self) -> dict[str, np.ndarray]:
        """Return (N,) int64 arrays ``nfe`` and ``token_positions`` of the rows' present sequences."""
        return {"nfe": self.nfe.cpu().numpy().copy(), "token_positions": self.token_positions.cpu().numpy().copy()}
