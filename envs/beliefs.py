"""What the dLLM believes about each position of the buffer, read from its logits.

Letters: B sequences, L buffer positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional as F

CHUNK = 2**24
"""Logits that are worked on at a time: float32 copies of a 126k vocabulary would take several times the logits' memory.
Positions don't mix, so this changes no number."""

BEST_K = 50
"""Probabilities in ``best_probabilities``."""


class DenoiserError(RuntimeError):
    """The dLLM returned something that no decoding can go on from."""


@dataclass(frozen=True)
class Beliefs:
    """The dLLM's prediction at each position, all in float32 whatever its own dtype.

    Attributes:
        confidence: (B, L) float32 in [0, 1], probability of `prediction`.
        prediction: (B, L) int64, the most likely token, never the mask token.
        features: further (B, L) float32 readings by name, those of `FEATURES` that were asked for.
        log_probabilities: (B, L, V) float32, the whole distribution, where it was asked for; mask token -inf.
        best_probabilities: (B, L, `BEST_K`) float32, where they were asked for; see `envs.view.VIEW_TENSORS`.
    """

    confidence: Tensor
    prediction: Tensor
    features: Mapping[str, Tensor]
    log_probabilities: Tensor | None = None
    best_probabilities: Tensor | None = None


def _logit_gap(logits: Tensor, log_normalizer: Tensor, end_ids: Sequence[int]) -> Tensor:
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return first - second


def _margin(logits: Tensor, log_normalizer: Tensor, end_ids: Sequence[int]) -> Tensor:
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return (first - log_normalizer).exp() - (second - log_normalizer).exp()


def _entropy(logits: Tensor, log_normalizer: Tensor, end_ids: Sequence[int]) -> Tensor:
    log_probs = logits - log_normalizer.unsqueeze(-1)
    # The mask token's probability is 0, and 0 log 0 is 0.
    return -(log_probs.exp() * log_probs.clamp(min=-1e9)).sum(-1)


def _eos_probability(logits: Tensor, log_normalizer: Tensor, end_ids: Sequence[int]) -> Tensor:
    return sum((logits[..., end] - log_normalizer).exp() for end in end_ids)  # type: ignore[return-value]


FEATURES: Mapping[str, Callable[[Tensor, Tensor, Sequence[int]], Tensor]] = MappingProxyType(
    {"margin": _margin, "entropy": _entropy, "eos_probability": _eos_probability, "logit_gap": _logit_gap}
)
"""Readings that are computed only when asked for, from (logits (B, L, V), logsumexp (B, L), end ids):

* ``margin``: in [0, 1], top-1 minus top-2 probability.
* ``entropy``: nats, of the whole distribution.
* ``eos_probability``: in [0, 1], of all that end a text together.
* ``logit_gap``: nats, top-1 minus top-2 logit.
"""


def _top_probability(logits: Tensor) -> Tensor:
    return (logits.amax(-1) - logits.logsumexp(-1)).exp()


def _best_probabilities(logits: Tensor) -> Tensor:
    best = logits.topk(min(BEST_K, logits.shape[-1]), dim=-1).values
    return F.pad((best - logits.logsumexp(-1, keepdim=True)).exp(), (0, BEST_K - best.shape[-1]))


_WITH_MASK_TOKEN: Mapping[str, Callable[[Tensor], Tensor]] = MappingProxyType(
    {"top_probability": _top_probability, "best_probabilities": _best_probabilities}
)
"""Readings of logits that still hold the mask token; see `envs.view.FULL_READINGS` and `envs.view.VIEW_TENSORS`."""


def read_beliefs(
    logits: Tensor,
    mask_id: int,
    end_ids: Sequence[int],
    features: frozenset[str] = frozenset(),
    noise: Callable[[slice, slice], Tensor] | None = None,
    with_distribution: bool = False,
) -> Beliefs:
    """Read predictions and confidences from a dLLM's logits.

    Max and logsumexp give the confidence without a (B, L, V) softmax; the mask token is excluded, so it is
    never predicted and has no share in the normalisation.

    Args:
        logits: (B, L, V) float of any dtype.
        mask_id: token that must never be predicted.
        end_ids: tokens that end a text.
        features: names of `FEATURES` to compute too, ``top_probability`` (see `envs.view.FULL_READINGS`) and
            ``best_probabilities`` (see `envs.view.VIEW_TENSORS`).
        noise: gives for slices of rows and positions what is added to those logits before the argmax only (Gumbel
            noise times the temperature makes the prediction a sample); it is never whole in memory, as the logits are
            large. The confidence is the noise-free probability of the predicted token.
        with_distribution: also return the log-probabilities.

    Raises:
        DenoiserError: if a logit is NaN or a position has no finite one.
    """
    names = sorted(features & (FEATURES.keys() | _WITH_MASK_TOKEN.keys()))
    # Noise is float64, made in several steps of that size.
    batch, length, vocabulary = logits.shape
    chunks = _chunks(batch, length, vocabulary, CHUNK if noise is None else CHUNK // 4)
    parts = [
        [
            _read(logits[at], mask_id, end_ids, names, None if noise is None else noise(*at), with_distribution)
            for at in columns
        ]
        for columns in chunks
    ]
    rows = [[_join(pieces, 1) for pieces in zip(*columns, strict=True)] for columns in parts]
    confidence, prediction, *readings = [_join(pieces, 0) for pieces in zip(*rows, strict=True)]
    if not bool(torch.isfinite(confidence).all()):
        row, position = (~torch.isfinite(confidence)).nonzero()[0].tolist()
        raise DenoiserError(
            f"the dLLM returned NaN or infinite logits (row {row}, buffer position {position}): check its weights "
            "and dtype (float16 overflows in many models; use bfloat16 or float32)"
        )
    log_probabilities = readings.pop() if with_distribution else None
    named = dict(zip(names, readings, strict=True))
    best = named.pop("best_probabilities", None)
    return Beliefs(confidence, prediction, named, log_probabilities, best)


def _chunks(batch: int, length: int, vocabulary: int, size: int) -> list[list[tuple[slice, slice]]]:
    """Cut (B, L) into rows of pieces of at most `size` logits each, where a position's fit."""
    rows = max(1, size // (length * vocabulary))
    columns = max(1, min(length, size // vocabulary))
    return [
        [(slice(i, i + rows), slice(j, j + columns)) for j in range(0, length, columns)] for i in range(0, batch, rows)
    ]


def _read(
    logits: Tensor,
    mask_id: int,
    end_ids: Sequence[int],
    names: Sequence[str],
    noise: Tensor | None,
    with_distribution: bool,
) -> list[Tensor]:
    """Return the confidence, the prediction, each reading and, where wanted, the log-probabilities of a piece."""
    logits = logits.to(torch.float32, copy=True)
    readings = {name: _WITH_MASK_TOKEN[name](logits) for name in names if name in _WITH_MASK_TOKEN}
    logits[..., mask_id] = -torch.inf
    log_normalizer = logits.logsumexp(-1)
    if noise is None:
        best, prediction = logits.max(-1)
    else:
        prediction = (logits + noise).argmax(-1)
        best = logits.gather(-1, prediction.unsqueeze(-1)).squeeze(-1)
    readings |= {name: FEATURES[name](logits, log_normalizer, end_ids) for name in names if name in FEATURES}
    log_probabilities = [logits - log_normalizer.unsqueeze(-1)] if with_distribution else []
    return [(best - log_normalizer).exp(), prediction, *(readings[name] for name in names), *log_probabilities]


def _join(pieces: Sequence[Tensor], dim: int) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(list(pieces), dim)
