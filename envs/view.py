"""What an unmasking policy sees and what it can do: one step of N rows.

Letters: N rows of the batch, L buffer positions, V vocabulary, K drafts, D width of the dLLM's hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from envs.readings import OBSERVED_TENSORS


@dataclass(frozen=True)
class View:
    """All that an unmasking policy may look at: one step of N rows.

    Attributes:
        confidence: (N, L) float32 in [0, 1], probability of the prediction; 1 at committed positions, 0 at masks that
            the dLLM was not shown (`envs.decoding.settings.Window`).
        prediction: (N, L) int64, the token that a commit writes; at committed positions the token there, at masks that
            were not shown the mask token.
        masked: (N, L) bool, True where no token is committed yet.
        eligible: (N, L) bool, True where masked and in the row's current block, or in one of those ahead of it that may
            be committed too (`envs.decoding.settings.DecodingSettings.blocks_ahead`).
        step: (N,) int64, forwards that the row has used, this one included.
        time: (N,) float32 in [0, 1], (step - 1) / L; in a finished row, step / L.
        block_start: (N,) int64, first position of the current block.
        block_end: (N,) int64, the position after its last.
        block_step: (N,) int64, steps that the row has already spent in the current block.
        length: (N,) int64, positions of the row that are still computed (whole blocks of a block-causal dLLM); those
            after it are end-of-text.
        commit_confidence: (N, L) float32, confidence of each committed token when it was committed; 1 at given tokens,
            0 elsewhere.
        key: (N,) int64, the sequence's key for `envs.noise`.
        features: (N, L) float32 readings by name, those asked for of `envs.readings.VIEW_FEATURES`.
        tensors: those asked for of `envs.readings.VIEW_TENSORS`.
        memory: what the policy's last `Action` of the row left in its ``memory``; zeros in a new sequence. Empty
            before the first action of a batch.
    """

    confidence: Tensor
    prediction: Tensor
    masked: Tensor
    eligible: Tensor
    step: Tensor
    time: Tensor
    block_start: Tensor
    block_end: Tensor
    block_step: Tensor
    length: Tensor
    commit_confidence: Tensor
    key: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def positions(self) -> Tensor:
        """(L,) int64, 0 to L - 1."""
        return torch.arange(self.masked.shape[1], device=self.masked.device)

    @property
    def in_block(self) -> Tensor:
        """(N, L) bool, True in the row's current block, masked or not."""
        place = self.positions
        inside = (place >= self.block_start.unsqueeze(1)) & (place < self.block_end.unsqueeze(1))
        return inside & (place < self.length.unsqueeze(1))

    @property
    def eligible_in_block(self) -> Tensor:
        """(N, L) bool, True where eligible and in the row's current block, whatever may be committed ahead of it."""
        return self.eligible & self.in_block

    def inputs(self) -> dict[str, Tensor]:
        """Return what the env's observation holds, all float32.

        ``time`` is (N, 1), those of `envs.readings.OBSERVED_TENSORS` are (N, L, K) with a K of their own, everything
        else (N, L).
        """
        return {
            # Softmax rounding may leave a probability a hair outside [0, 1].
            "confidence": self.confidence.clamp(0.0, 1.0),
            "masked": self.masked.float(),
            "eligible": self.eligible.float(),
            "time": self.time.unsqueeze(1),
            **{name: self.features[name] for name in sorted(self.features)},
            **{name: self.tensors[name] for name in sorted(OBSERVED_TENSORS & self.tensors.keys())},
        }


@dataclass(frozen=True)
class Action:
    """What a policy does in one step of N rows. Most policies only `commit`.

    Attributes:
        commit: (N, L) bool, positions to write. Only eligible ones count, or those of `scope`.
        scope: (N, L) bool, masked positions outside the block that may be written too.
        tokens: (N, L) int64, what to write instead of the predictions; never the mask token.
        remask: (N, L) bool, committed positions to turn back into masks, before `commit` counts. Ignored at given
            tokens, and in a row that has used L steps, so that every row ends.
        block_end: (N,) int64, where the current block ends from now on; `commit` is judged by it.
        length: (N,) int64, positions of the row from now on, 1 to L: fewer drops masks at the end, more appends
            masks. Committed positions are never dropped, whole blocks of a block-causal dLLM are kept, and a row with
            given tokens keeps its length.
        drafts: (N, K, L) bool, alternatives to `commit`. The next forward runs on all K + 1 of them, and `choose`
            says which the row becomes.
        choose: given the K + 1 views of that forward, `commit`'s first, returns (N,) int64 in [0, K]. In a view,
            a row that the draft has finished is blank.
        trial: (N, L) bool, masks to fill for a forward that only informs, within what `commit` may be of. `decide` says
            what to do then, and nothing of the trial stays. A row with none in it is not computed. Each forward counts.
        decide: given the view of the trial, which says nothing of rows without one and is blank where it finishes the
            row, returns the action to take instead of this one, on the same view; it may be another trial.
        extra_positions: (N,) int64, token positions that another model computed for this action.
        refresh: (N,) bool, rows whose next forward computes everything, whatever their cache would keep
            (`envs.caches`); without a cache every forward does.
        memory: (N, ...) tensors to be handed back in the row's next view.
    """

    commit: Tensor
    scope: Tensor | None = None
    tokens: Tensor | None = None
    remask: Tensor | None = None
    block_end: Tensor | None = None
    length: Tensor | None = None
    drafts: Tensor | None = None
    choose: Callable[[Sequence[View]], Tensor] | None = None
    trial: Tensor | None = None
    decide: Callable[[View], Action] | None = None
    extra_positions: Tensor | None = None
    refresh: Tensor | None = None
    memory: Mapping[str, Tensor] = field(default_factory=dict)

    @property
    def needs_forward(self) -> bool:
        """Whether what is committed is known only once a forward has run on drafts or a trial."""
        return self.drafts is not None or self.trial is not None


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
