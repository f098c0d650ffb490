"""What the dLLM believes about each position of the buffer, read from its logits.

Letters: B sequences, L buffer positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from envs.readings import READINGS, Logits, Of

CHUNK = 2**20
"""Logits that are worked on at a time on the CPU: float32 copies of a 126k vocabulary would take several times the
logits' memory. Positions don't mix, so this changes no number."""

ACCELERATOR_CHUNK = 2**25
"""The same on other devices, where each piece costs the start of some ten kernels."""


class DenoiserError(RuntimeError):
    """The dLLM returned something that no decoding can go on from."""


def check_answer(what: str, answer: Tensor, rows: int, length: int, least: int) -> None:
    """Refuse what a dLLM returned if it isn't for these rows and positions; torch would broadcast a single row to all.

    Args:
        what: it is, for the message.
        answer: as the dLLM gave it.
        rows: B.
        length: L.
        least: entries that a position must have.

    Raises:
        DenoiserError: if it is no floating-point tensor of shape (B, L, `least` or more).
    """
    expected = f"({rows}, {length}, {least} or more)"
    if not isinstance(answer, Tensor):
        found = f"a {type(answer).__name__}"
    elif not answer.is_floating_point():
        found = f"of dtype {str(answer.dtype).removeprefix('torch.')}"
    elif answer.ndim == 3 and answer.shape[:2] == (rows, length) and answer.shape[2] >= least:
        return
    else:
        found = f"of shape {tuple(answer.shape)}"
    raise DenoiserError(
        f"the dLLM returned {what} {found} for {rows} rows of {length} positions: expected floats of shape {expected}; "
        "check what its logits method returns"
    )


@dataclass(frozen=True)
class Beliefs:
    """The dLLM's prediction at each position, all in float32 whatever its own dtype.

    Attributes:
        confidence: (B, L) float32 in [0, 1], probability of `prediction`.
        prediction: (B, L) int64, the most likely token, never the mask token.
        features: further (B, L) float32 readings by name, those that were asked for.
        tensors: (B, L, K) readings by name, those that were asked for: ``top_probabilities`` and ``top_ids`` (both of
            ``top``), ``probabilities`` and ``best_probabilities``; see `envs.readings.READINGS`. ``attention_received``
            is (B, K), of whole rows.
        is_new: (B, L) bool, masks whose prediction is of this forward and not one that a cache goes on from; None is
            all of them.
    """

    confidence: Tensor
    prediction: Tensor
    features: Mapping[str, Tensor] = field(default_factory=dict)
    tensors: Mapping[str, Tensor] = field(default_factory=dict)
    is_new: Tensor | None = None


def read_beliefs(
    logits: Tensor,
    mask_id: int,
    end_ids: Sequence[int],
    features: frozenset[str] = frozenset(),
    noise: Callable[[slice, slice], Tensor] | None = None,
    standing: Tensor | None = None,
    about: Tensor | None = None,
) -> Beliefs:
    """Read predictions and confidences from a dLLM's logits.

    Max and logsumexp give the confidence without a (B, L, V) softmax; the mask token is excluded, so it is
    never predicted and has no share in the normalisation.

    Args:
        logits: (B, L, V) float of any dtype.
        mask_id: token that must never be predicted.
        end_ids: tokens that end a text.
        features: what to compute too: names of `envs.readings.READINGS`; those that aren't made of logits are left
            to others.
        noise: gives for slices of rows and positions what is added to those logits before the argmax only (Gumbel
            noise times the temperature makes the prediction a sample); it is never whole in memory, as the logits are
            large. The confidence is the noise-free probability of the predicted token.
        standing: (B, L) int64, the tokens whose probability ``token_probability`` is.
        about: (B, L) bool, the positions to read, with 0 for all else; None, as with noise, reads all.

    Raises:
        DenoiserError: if a logit that is read is NaN, or a position has no finite one.
    """
    found: dict[str, Tensor] = {}
    # Noise is made on the CPU, in several steps of 64 bits a logit.
    chunk = CHUNK if logits.device.type == "cpu" or noise is not None else ACCELERATOR_CHUNK
    batch, length, vocabulary = logits.shape
    pieces: Iterable[Any]
    if about is None or noise is not None:
        pieces, own = _chunks(batch, length, vocabulary, chunk), 2
    else:
        # Positions one after another, in the place of rows and positions.
        rows, places = about.nonzero(as_tuple=True)
        size, own = max(1, chunk // vocabulary), 1
        pieces = zip(rows.split(size), places.split(size), strict=True)
    for at in pieces:
        drawn = None if noise is None else noise(*at)
        tokens = None if standing is None else standing[at]
        for name, values in _read(logits[at], mask_id, end_ids, features, drawn, tokens):
            if name not in found:
                # Filled piece by piece: to join the pieces at the end would hold everything twice.
                found[name] = values.new_zeros((batch, length, *values.shape[own:]))
            found[name][at] = values
    confidence, prediction = found.pop("confidence"), found.pop("prediction")
    # One NaN or +inf spoils its position's log-sum-exp, so the confidence tells of all V logits.
    if not bool(torch.isfinite(confidence).all()):
        row, position = (~torch.isfinite(confidence)).nonzero()[0].tolist()
        raise DenoiserError(
            f"the dLLM returned NaN or infinite logits (row {row}, buffer position {position}): check its weights "
            "and dtype (float16 overflows in many models; use bfloat16 or float32)"
        )
    tensors = {name: values for name, values in found.items() if values.ndim == 3}
    return Beliefs(confidence, prediction, {n: v for n, v in found.items() if n not in tensors}, tensors)


def _chunks(batch: int, length: int, vocabulary: int, chunk: int) -> Iterator[tuple[slice, slice]]:
    """Cut (B, L) into pieces of at most `chunk` logits each, where a position's fit."""
    rows = max(1, chunk // (length * vocabulary))
    columns = max(1, min(length, chunk // vocabulary))
    for i in range(0, batch, rows):
        for j in range(0, length, columns):
            yield slice(i, i + rows), slice(j, j + columns)


def _read(
    logits: Tensor,
    mask_id: int,
    end_ids: Sequence[int],
    features: frozenset[str],
    noise: Tensor | None,
    standing: Tensor | None,
) -> Iterator[tuple[str, Tensor]]:
    """Yield the confidence, the prediction and each further reading of a piece, by name."""
    # A copy of float32 too: it is written over from here on, and what the dLLM returned is the dLLM's.
    logits = logits.to(torch.float32, copy=True)
    yield from _of("whole", features, Logits(logits, torch.empty(0), end_ids, standing))
    logits[..., mask_id] = -torch.inf
    log_normalizer = logits.logsumexp(-1)
    if noise is None:
        best, prediction = logits.max(-1)
    else:
        prediction = (logits + noise).argmax(-1)
        best = logits.gather(-1, prediction.unsqueeze(-1)).squeeze(-1)
    yield "confidence", (best - log_normalizer).exp()
    yield "prediction", prediction
    yield from _of("logits", features, Logits(logits, log_normalizer, end_ids, standing))
    if any(READINGS[name].of == "log_probabilities" for name in features):
        # In place, as no later stage reads the logits themselves.
        log_probabilities = logits.sub_(log_normalizer.unsqueeze(-1))
        yield from _of("log_probabilities", features, Logits(log_probabilities, log_normalizer, end_ids, standing))


def _of(stage: Of, features: frozenset[str], logits: Logits) -> Iterator[tuple[str, Tensor]]:
    """Yield the readings of one stage, in the order of the table."""
    for name, reading in READINGS.items():
        if name in features and reading.of == stage and reading.formula is not None:
            found = reading.formula(logits)
            yield from found.items() if isinstance(found, Mapping) else [(name, found)]
