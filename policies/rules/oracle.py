"""The oracle: commit exactly what agrees with the one-token-per-step result. A limit, not a rule to deploy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.view import View, ensure_progress
from policies.base import UnmaskingPolicy
from policies.playing import play_out
from policies.rules.base import CommitRule, bound
from policies.rules.fixed import LowConfidence


class References:
    """What a careful decoding makes of each sequence, decoded when first asked for.

    Args:
        denoiser: the frozen dLLM.
        settings: lengths and temperature of the decoding that asks.
        rule: the careful decoding; None is one token per step, by confidence.
    """

    def __init__(self, denoiser: Denoiser, settings: DecodingSettings, rule: UnmaskingPolicy | None = None) -> None:
        chosen: UnmaskingPolicy = LowConfidence(1) if rule is None else rule
        self.denoiser, self.settings = denoiser, replace(settings, features=chosen.features)
        self.rule = chosen.bind(denoiser, self.settings)
        # By key, which is made of the prompt, the given text and the seed.
        self._known: dict[int, Tensor] = {}

    def of(self, keys: Tensor, prompts: Tensor, given: Tensor, lengths: Tensor) -> Tensor:
        """Return the finished buffers of some sequences.

        Args:
            keys: (B,) int64, of `envs.noise`.
            prompts: (B, P) int64, left-padded with -1.
            given: (B, L) int64, the tokens that came with the problem, -1 elsewhere.
            lengths: (B,) int64, of each row.

        Returns:
            (B, L) int64.
        """
        missing = [i for i, key in enumerate(keys.tolist()) if key not in self._known]
        if missing:
            batch = DecodingBatch(self.denoiser, len(missing), self.settings)
            blank = self.denoiser.mask_id
            texts = [
                [token if token >= 0 else blank for token in row[: min(length, self.settings.buffer_length)]]
                for row, length in zip(given[missing].tolist(), lengths[missing].tolist(), strict=True)
            ]
            prompt_ids = [row[row >= 0].tolist() for row in prompts[missing]]
            batch.load(range(len(missing)), prompt_ids, given=texts)
            batch.key = keys[missing].clone()  # the same random numbers at a temperature
            play_out(batch, self.rule)
            self._known |= {int(keys[i]): batch.buffer[row].clone() for row, i in enumerate(missing)}
        return torch.stack([self._known[key] for key in keys.tolist()])

    def known(self) -> dict[str, Tensor]:
        """Return all that were decoded so far, or remembered: ``keys``, (K,) int64, and ``buffers``, (K, L) int64."""
        buffers = torch.stack(list(self._known.values())) if self._known else torch.empty(0, 0, dtype=torch.int64)
        return {"keys": torch.tensor(list(self._known), dtype=torch.int64), "buffers": buffers.cpu()}

    def remember(self, known: Mapping[str, Tensor]) -> None:
        """Take over what `known` returned elsewhere, of the same rule, dLLM and settings."""
        buffers = known["buffers"].to(self.denoiser.device)
        self._known |= dict(zip(known["keys"].tolist(), buffers, strict=True))


@dataclass(frozen=True)
class Oracle(CommitRule):
    """Commit every eligible position whose prediction is the final token of `low_confidence:1`, else the best.

    The reference's own forwards are not counted: no deployable policy can know it. What it costs is the fewest
    forwards that a policy needs which never departs from the reference (when the reference has one right answer of
    several, another order can do better).

    Source: the extremely-greedy-parallel oracle of arXiv 2509.25188, Section 3.
    """

    rule = "oracle"
    sweep = (1,)
    features = frozenset({"prompt", "given"})

    agreement: int = 1
    """Always 1: commit what agrees."""
    careful: UnmaskingPolicy | None = bound(None)
    """The rule whose result is known; None is `low_confidence:1`."""
    references: References | None = bound(None)

    def __post_init__(self) -> None:
        self.check("agreement", self.agreement == 1, "1")

    def bind(self, denoiser: Denoiser, settings: DecodingSettings) -> Self:
        """Get ready to decode references."""
        return replace(self, references=References(denoiser, settings, self.careful))

    def select(self, view: View) -> Tensor:
        """Choose what agrees, else the best."""
        # Where no prediction agrees, as the context is no longer that of the reference, the best goes, right or wrong.
        return ensure_progress(self.agreement_with(view), view.eligible, view.confidence)

    def agreement_with(self, view: View) -> Tensor:
        """Return (N, L) bool, True at eligible positions whose prediction is the reference's token."""
        return (view.prediction == self.reference_of(view)) & view.eligible

    def reference_of(self, view: View) -> Tensor:
        """Return (N, L) int64, the reference's tokens; in rows where nothing is eligible, the predictions."""
        if self.references is None:
            raise ValueError(f"{self.rule} has no references yet: call bind(denoiser, settings) first")
        tokens = view.prediction.clone()
        rows = view.eligible.any(1).nonzero().squeeze(1)
        if len(rows):
            prompt, given = view.tensors["prompt"][rows], view.tensors["given"][rows]
            tokens[rows] = self.references.of(view.key[rows], prompt, given, view.length[rows])
        return tokens
