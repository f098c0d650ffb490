"""Decoding step by step: what `policies.decode` does, with everything that a step saw and changed kept.

Letters: L buffer positions, S steps.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.infilling import encode_all_given
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.view import View
from policies import LearnedPolicy, UnmaskingPolicy
from policies.playing import play


@dataclass(frozen=True)
class Frame:
    """One sequence after a forward of the dLLM and the action that followed; L entries a list, those of its text.

    Attributes:
        nfe: forwards used, this one included.
        token_positions: positions computed so far.
        tokens: ids; the mask token where masked.
        masked: True where no token is committed.
        commit_step: the forward after which each token was committed, from 1; 0 while masked, and where end-of-text
            was filled in without a commit or the token was given.
        commit_confidence: confidence of each committed token when it was committed; 1 if it was given, 0 elsewhere.
        remasked: True where this step took a committed token back.
        eligible: True where the policy could commit, before it acted.
        prediction: ids that the dLLM would have written, before the policy acted.
        confidence: in [0, 1], the predictions' probabilities; 1 where a token stood already.
        computed: True where the forward computed what is known of the position; a cache leaves others as they were.
        probability: in [0, 1], a learned policy's probability of committing; None for a rule, which has none.
    """

    nfe: int
    token_positions: int
    tokens: list[int]
    masked: list[bool]
    commit_step: list[int]
    commit_confidence: list[float]
    remasked: list[bool]
    eligible: list[bool]
    prediction: list[int]
    confidence: list[float]
    computed: list[bool]
    probability: list[float] | None

    @property
    def committed(self) -> list[int]:
        """Positions that this step committed."""
        return [i for i, step in enumerate(self.commit_step) if step and step == self.nfe]


@dataclass(frozen=True)
class Recording:
    """One decoded sequence.

    Attributes:
        frames: NFE + 1 of them: the buffer before any forward, then one a forward.
        text: up to the first end-of-text.
        tokens: the whole buffer, L token ids.
        nfe: forwards of the dLLM.
        token_positions: positions computed, summed over the forwards.
    """

    frames: list[Frame]
    text: str
    tokens: list[int]
    nfe: int
    token_positions: int


def record(
    denoiser: Denoiser,
    prompts: Sequence[str],
    policy: UnmaskingPolicy,
    settings: DecodingSettings,
    *,
    given: Sequence[str | None] | None = None,
    batch_size: int = 64,
    seed: int = 0,
) -> list[Recording]:
    """Decode an answer to each prompt as `policies.decode` does, and keep every step.

    Args:
        denoiser: the frozen dLLM.
        prompts: texts.
        policy: a rule or a learned policy.
        settings: lengths and temperature; what the policy reads is added.
        given: for each prompt None, or the text to fill in; see `envs.decoding.infilling`.
        batch_size: most rows at a time.
        seed: of every random choice.

    Returns:
        One recording a prompt, in order.

    Raises:
        ValueError: for a prompt, a length or a batch size that is not possible.
        DenoiserError: if the dLLM returns NaN.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size is {batch_size}: it must be 1 or more")
    # A position that was computed now is one whose age is 0.
    settings = replace(settings, features=settings.features | policy.features | {"age"})
    policy = policy.bind(denoiser, settings)
    encoded = [denoiser.encode_prompt(prompt) for prompt in prompts]
    texts = encode_all_given(denoiser, [None] * len(encoded) if given is None else given)
    done: list[Recording] = []
    for first in range(0, len(encoded), batch_size):
        part = slice(first, first + batch_size)
        done += _record_batch(denoiser, encoded[part], texts[part], policy, settings, seed)
    return done


def _record_batch(
    denoiser: Denoiser,
    prompts: Sequence[list[int]],
    given: Sequence[list[int] | None],
    policy: UnmaskingPolicy,
    settings: DecodingSettings,
    seed: int,
) -> list[Recording]:
    batch = DecodingBatch(denoiser, len(prompts), settings)
    length = policy.initial_length(settings.buffer_length)
    batch.load(range(len(prompts)), prompts, seed, length=length, given=given)
    frames = [[_start(batch, row)] for row in range(len(prompts))]
    used, is_waiting, is_tried = batch.nfe.tolist(), False, False
    computed = torch.zeros_like(batch.masked)

    def settle(view: View) -> None:
        nonlocal computed
        # Before the policy acts, which may ask for another forward than the cache would make.
        computed = _computed(batch, view)
        if is_tried:
            _add_trials(batch, frames, used)
        if is_waiting:
            # Only this forward has settled what the last action wrote.
            _complete(batch, frames, used)

    for step in play(batch, policy, before=settle):
        probabilities = policy.probabilities(step.view) if isinstance(policy, LearnedPolicy) else None
        nfe = batch.nfe.tolist()
        # A row that has ended took no part in this forward.
        for row in (row for row, count in enumerate(nfe) if count > used[row]):
            probability = None if probabilities is None else batch.of_text(probabilities, row)
            frames[row].append(_seen(batch, step.view, computed, row, frames[row][-1], probability))
        used, is_waiting, is_tried = nfe, step.action.needs_forward, step.action.trial is not None
        if not is_waiting:
            _complete(batch, frames, used)
    return [_recording(batch, row, frames[row]) for row in range(len(prompts))]


def _start(batch: DecodingBatch, row: int) -> Frame:
    """Return the frame before any forward; what the dLLM believes is not known yet."""
    length = batch.settings.buffer_length
    return Frame(
        nfe=0,
        token_positions=0,
        tokens=batch.tokens(row),
        masked=batch.of_text(batch.masked, row),
        commit_step=[0] * length,
        commit_confidence=batch.of_text(batch.commit_confidence, row),
        remasked=[False] * length,
        eligible=batch.of_text(batch.eligible() & batch.layout.cache.opens(batch.masked), row),
        prediction=batch.tokens(row),
        confidence=[0.0] * length,
        computed=[False] * length,
        probability=None,
    )


def _seen(
    batch: DecodingBatch, view: View, computed: Tensor, row: int, before: Frame, probability: list[float] | None
) -> Frame:
    """Return the frame of a step whose outcome is still the buffer before it."""
    return replace(
        before,
        nfe=int(batch.nfe[row]),
        token_positions=int(batch.token_positions[row]),
        remasked=[False] * len(before.masked),
        eligible=batch.of_text(view.eligible, row),
        prediction=batch.of_text(view.prediction, row, batch.denoiser.eos_id),
        confidence=batch.of_text(view.confidence, row, 1.0),
        computed=batch.of_text(computed, row),
        probability=probability,
    )


def _computed(batch: DecodingBatch, view: View) -> Tensor:
    """Return (N, L) bool, the positions that a view's forward computed, of those that it was shown."""
    # The forward is counted already; what it was shown was decided before.
    return (view.features["age"] == 0) & batch.layout.seen(batch, view.step - 1)


def _add_trials(batch: DecodingBatch, frames: Sequence[list[Frame]], used: list[int]) -> None:
    """Give every row a frame for each forward that only tried something, in which nothing is committed.

    Args:
        batch: after the forward that followed them.
        frames: of each row; the positions that were computed since its last are shared out evenly.
        used: forwards of each row at its last frame; the trials are counted.
    """
    running = batch.running.tolist()
    for row, history in enumerate(frames):
        last, since = history[-1], int(batch.nfe[row]) - used[row]
        positions = int(batch.token_positions[row]) - last.token_positions
        trials = since - running[row]
        for trial in range(1, trials + 1):
            spent = last.token_positions + positions * trial // since
            history.append(replace(last, nfe=last.nfe + trial, token_positions=spent))
        used[row] += trials


def _complete(batch: DecodingBatch, frames: Sequence[list[Frame]], steps: Sequence[int]) -> None:
    """Give the last frame of every row that is at its given step the buffer as it is now."""
    for row, (history, step) in enumerate(zip(frames, steps, strict=True)):
        # A row that has had no forward yet has no frame to complete.
        if history[-1].nfe != step or step == 0:
            continue
        before, masked = history[-2], batch.of_text(batch.masked, row)
        history[-1] = replace(
            history[-1],
            tokens=batch.tokens(row),
            masked=masked,
            commit_step=batch.of_text(batch.commit_step, row),
            commit_confidence=batch.of_text(batch.commit_confidence, row),
            # A position that was only filled in had no token of its own to take back.
            remasked=[now and step > 0 for now, step in zip(masked, before.commit_step, strict=True)],
        )


def _recording(batch: DecodingBatch, row: int, frames: list[Frame]) -> Recording:
    tokens = batch.tokens(row)
    nfe, positions = int(batch.nfe[row]), int(batch.token_positions[row])
    return Recording(frames, batch.denoiser.decode(tokens), tokens, nfe, positions)


@dataclass(frozen=True)
class CommitOrder:
    """When each position was committed, over many problems.

    Attributes:
        counts: (S, L) int64, problems whose position l was committed for good at step s + 1.
        filled: (L,) int64, problems where position l was filled in or given, without a commit.
        problems: their number; each column's counts and filled add up to it.
    """

    counts: npt.NDArray[np.int64]
    filled: npt.NDArray[np.int64]
    problems: int


def commit_order(recordings: Sequence[Recording]) -> CommitOrder:
    """Count at which step each position was committed.

    Args:
        recordings: of one buffer length; at least one.
    """
    # The last frame's, so a commit that was taken back later isn't counted.
    steps = np.array([recording.frames[-1].commit_step for recording in recordings])  # (problems, L)
    last = int(steps.max())
    counts = np.stack([(steps == step).sum(0) for step in range(1, last + 1)])
    return CommitOrder(counts, (steps == 0).sum(0), len(recordings))
