"""What can be read of the dLLM beyond prediction and confidence: one table of where each reading holds and its formula.

A new reading is one entry here; policies, settings, the view and the env's observation ask this table.

Letters: B sequences, N rows of a batch, L buffer positions, V vocabulary, D width of the dLLM's hidden states.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

BEST_K = 50
"""Probabilities in ``best_probabilities``."""

TOP_K = 15
"""Tokens in ``top``."""

MAX_NATS = 32.0
"""Upper bound of what is in nats: above the log of any vocabulary, and beyond what float32 probabilities tell apart."""

MAX_FORWARDS = 2.0**24
"""Upper bound of what counts forwards or tokens: as far as float32 does, and longer than any text."""


@dataclass(frozen=True)
class Logits:
    """Some positions' logits, as far as they have been worked on.

    Attributes:
        values: (B, L, V) float32: logits with the mask token, or -inf for it, or log-probabilities; see `Reading.of`.
        log_normalizer: (B, L) float32, logsumexp of the logits without the mask token; not there before it is left out.
        end_ids: tokens that end a text.
        standing: (B, L) int64, the tokens that stand there.
    """

    values: Tensor
    log_normalizer: Tensor
    end_ids: Sequence[int]
    standing: Tensor | None


Holds = Literal["masked", "committed", "everywhere", "text"]
"""Where a reading holds: at masks that are shown, at committed positions that are, at all that are, or whatever is."""

Of = Literal["whole", "logits", "log_probabilities", "forward", "cache", "view", "text"]
"""What a reading is made of, in the order of the stages: logits with the mask token; logits without it; their
log-probabilities; another output of the forward; what the forward computed; the predictions of the whole view; the
texts alone."""


@dataclass(frozen=True)
class Reading:
    """One reading.

    Attributes:
        holds: see `Holds`; elsewhere it is 0, and at given tokens, of those that hold at committed positions, 1.
        of: see `Of`.
        formula: of the first three: from `Logits` to (B, L) or (B, L, K) float32, or several by name.
        lowest: bound of its values.
        highest: likewise.
        width: None for one number a position; else K, ``"hidden"`` for the dLLM's D, ``"other"`` for what no space
            bounds, which the env's observation leaves out.
    """

    holds: Holds
    of: Of
    formula: Callable[[Logits], Tensor | Mapping[str, Tensor]] | None = None
    lowest: float = 0.0
    highest: float = 1.0
    width: int | Literal["hidden", "other"] | None = None


def _top_probability(logits: Logits) -> Tensor:
    return (logits.values.amax(-1) - logits.values.logsumexp(-1)).exp()


def _best_probabilities(logits: Logits) -> Tensor:
    best = logits.values.topk(min(BEST_K, logits.values.shape[-1]), dim=-1).values
    probabilities = (best - logits.values.logsumexp(-1, keepdim=True)).exp()
    return F.pad(probabilities, (0, BEST_K - best.shape[-1]))


def _best_two(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest and the second largest of the last dimension, which are equal where two share the first place.

    Values are as ``topk(2)`` gives them, which takes several times as long on a GPU as to look twice.
    """
    first, place = values.max(-1, keepdim=True)
    # Put back before anyone looks.
    values.scatter_(-1, place, -torch.inf)
    second = values.amax(-1)
    values.scatter_(-1, place, first)
    return first.squeeze(-1), second


def _logit_gap(logits: Logits) -> Tensor:
    first, second = _best_two(logits.values)
    return first - second


def _margin(logits: Logits) -> Tensor:
    first, second = _best_two(logits.values)
    return (first - logits.log_normalizer).exp() - (second - logits.log_normalizer).exp()


def _entropy(logits: Logits) -> Tensor:
    log_probs = logits.values - logits.log_normalizer.unsqueeze(-1)
    probabilities = log_probs.exp()
    # The mask token's probability is 0, and 0 log 0 is 0.
    # In place, as each of them is as large as the logits.
    return -probabilities.mul_(log_probs.clamp_(min=-1e9)).sum(-1)


def _eos_probability(logits: Logits) -> Tensor:
    return sum((logits.values[..., end] - logits.log_normalizer).exp() for end in logits.end_ids)  # type: ignore[return-value]


def _token_probability(logits: Logits) -> Tensor:
    assert logits.standing is not None
    return logits.values.gather(-1, logits.standing.unsqueeze(-1)).squeeze(-1).exp()


def _top(logits: Logits) -> Mapping[str, Tensor]:
    best, ids = logits.values.topk(min(TOP_K, logits.values.shape[-1]), dim=-1)
    return {"top_probabilities": best.exp(), "top_ids": ids}


def _probabilities(logits: Logits) -> Tensor:
    return logits.values.exp_()  # the largest thing there is: written over what no later reading needs


READINGS: Mapping[str, Reading] = MappingProxyType(
    {
        "top_probability": Reading("everywhere", "whole", _top_probability),
        "best_probabilities": Reading("everywhere", "whole", _best_probabilities, width=BEST_K),
        "margin": Reading("masked", "logits", _margin),
        "entropy": Reading("masked", "logits", _entropy, highest=MAX_NATS),
        "eos_probability": Reading("masked", "logits", _eos_probability),
        "logit_gap": Reading("masked", "logits", _logit_gap, highest=MAX_NATS),
        "token_probability": Reading("committed", "log_probabilities", _token_probability),
        "top": Reading("masked", "log_probabilities", _top, width="other"),
        "probabilities": Reading("masked", "log_probabilities", _probabilities, width="other"),
        "leave_one_out": Reading("committed", "forward"),
        "age": Reading("everywhere", "cache", highest=MAX_FORWARDS),
        "unseen": Reading("everywhere", "cache", highest=MAX_FORWARDS),
        "hidden": Reading("everywhere", "forward", lowest=-np.inf, highest=np.inf, width="hidden"),
        "attention": Reading("everywhere", "forward", width="other"),
        "is_eos": Reading("masked", "view"),
        "changed": Reading("masked", "view"),
        "repeated": Reading("masked", "view"),
        "prompt": Reading("text", "text", width="other"),
        "given": Reading("text", "text", width="other"),
    }
)
"""Every reading by name; one that writes over the logits (``probabilities``) stands last of its stage.

Of masked positions:

* ``margin``: in [0, 1], top-1 minus top-2 probability.
* ``entropy``: nats, of the whole distribution.
* ``eos_probability``: in [0, 1], of all tokens that end a text together.
* ``logit_gap``: nats, top-1 minus top-2 logit.
* ``is_eos``: 1 where the prediction is end-of-text.
* ``changed``: 1 where the prediction differs from the one of the row's previous step (0 at its first).
* ``repeated``: 1 where a masked position of higher confidence (of equals, an earlier one) predicts the same token: the
  two were predicted independently, so one of them may be meant for something else.
* ``probabilities``: (N, L, V) float32, the dLLM's distribution; mask token 0.
* ``top``: gives ``top_probabilities`` (N, L, 15) float32, falling, and ``top_ids`` (N, L, 15) int64.

Of committed positions, 1 at given tokens:

* ``token_probability``: what this forward gives the token that stands there.
* ``leave_one_out``: the same from a shadow block of masks that sees all but the token itself; block positions only.
  The shadow's positions count as computed.

Of both:

* ``top_probability``: the largest probability of any token, the mask token included. Released code of arXiv 2512.09106
  reads this where `View.confidence` leaves the mask token out and is 1 at committed positions.
* ``best_probabilities``: (N, L, 50) float32, falling, the mask token included: the first is ``top_probability``. A
  smaller vocabulary is filled up with zeros.
* ``hidden``: (N, L, D) float32, the dLLM's last hidden state.
* ``attention``: gives ``attention`` (N, L, P + L) float32 in [0, 1], what a position pays to each of the prompt's P,
  left-padded, and of the buffer's in the mean of the dLLM's last four layers and all their heads; and
  ``attention_received`` (N, P + L) float32, the mean of what all positions of prompt and buffer pay to each. 0 at
  padding and at what is not shown. A dLLM needs `envs.denoiser.AttendingDenoiser.logits_and_attention`; its logits
  are those of any other forward.
* ``age``: the row's forwards since what is known of the position was computed, 0 for the last one: at a mask the belief
  about it, at a token its keys and values. Without a cache (`envs.caches`) 0 everywhere.
* ``unseen``: tokens committed since the row's last forward that computed everything, the same number at each position:
  what is kept has not seen them. Without a cache 0.

Of the texts:

* ``prompt``: (N, P) int64, left-padded with -1.
* ``given``: (N, L) int64, the tokens that came with the problem, -1 elsewhere.

In finished rows all but the last two are 0."""

MASK_READINGS = frozenset(
    name for name, r in READINGS.items() if r.width is None and (r.holds == "masked" or r.of == "cache")
)
"""Those of one number a masked position that a network may read."""

VIEW_FEATURES = frozenset(name for name, reading in READINGS.items() if reading.width is None)
"""Those of shape (N, L)."""

VIEW_TENSORS = frozenset(READINGS.keys() - VIEW_FEATURES)
"""Larger ones."""

OBSERVED_TENSORS = frozenset(name for name in VIEW_TENSORS if READINGS[name].width != "other")
"""Larger ones that the env's observation holds too, of those that were asked for."""


PARTS: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {"top": ("top_probabilities", "top_ids"), "attention": ("attention", "attention_received")}
)
"""The tensors of a view that a reading gives, of those that give other ones than that of their own name."""


def holds_at(name: str) -> Holds:
    """Return where a reading, or a part of one, holds."""
    whole = next((reading for reading, parts in PARTS.items() if name in parts), name)
    return READINGS[whole].holds
