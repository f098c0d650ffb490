"""What the dLLM believes about each position of the buffer, read from its logits.

Letters: B sequences, L buffer positions, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

import torch
from torch import Tensor


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
    """

    confidence: Tensor
    prediction: Tensor
    features: Mapping[str, Tensor]
    log_probabilities: Tensor | None = None


def _logit_gap(logits: Tensor, log_normalizer: Tensor, eos_id: int) -> Tensor:
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return first - second


def _margin(logits: Tensor, log_normalizer: Tensor, eos_id: int) -> Tensor:
    first, second = logits.topk(2, dim=-1).values.unbind(-1)
    return (first - log_normalizer).exp() - (second - log_normalizer).exp()


def _entropy(logits: Tensor, log_normalizer: Tensor, eos_id: int) -> Tensor:
    log_probs = logits - log_normalizer.unsqueeze(-1)
    # The mask token's probability is 0, and 0 log 0 is 0.
    return -(log_probs.exp() * log_probs.clamp(min=-1e9)).sum(-1)


def _eos_probability(logits: Tensor, log_normalizer: Tensor, eos_id: int) -> Tensor:
    return (logits[..., eos_id] - log_normalizer).exp()


FEATURES: Mapping[str, Callable[[Tensor, Tensor, int], Tensor]] = MappingProxyType(
    {"margin": _margin, "entropy": _entropy, "eos_probability": _eos_probability, "logit_gap": _logit_gap}
)
"""Readings that are computed only when asked for, from (logits (B, L, V), logsumexp (B, L), EOS id):

* ``margin``: in [0, 1], top-1 minus top-2 probability.
* ``entropy``: nats, of the whole distribution.
* ``eos_probability``: in [0, 1].
* ``logit_gap``: nats, top-1 minus top-2 logit.
"""


def read_beliefs(
    logits: Tensor,
    mask_id: int,
    eos_id: int,
    features: frozenset[str] = frozenset(),
    noise: Tensor | None = None,
    with_distribution: bool = False,
) -> Beliefs:
    """Read predictions and confidences from a dLLM's logits.

    Max and logsumexp give the confidence without a (B, L, V) softmax; the mask token is excluded, so it is
    never predicted and has no share in the normalisation.

    Args:
        logits: (B, L, V) float of any dtype.
        mask_id: token that must never be predicted.
        eos_id: end-of-text token.
        features: names of `FEATURES` to compute too, and ``top_probability`` (see `envs.view.FULL_READINGS`).
        noise: (B, L, V) float added to the logits before the argmax only (Gumbel noise times the temperature
            makes the prediction a sample); the confidence is the noise-free probability of the predicted token.
        with_distribution: also return the log-probabilities.

    Raises:
        DenoiserError: if a logit is NaN or a position has no finite one.
    """
    logits = logits.float()
    readings = {}
    if "top_probability" in features:
        # Before the mask token is taken out.
        readings["top_probability"] = (logits.amax(-1) - logits.logsumexp(-1)).exp()
    logits = logits.index_fill(-1, torch.tensor([mask_id], device=logits.device), -torch.inf)
    log_normalizer = logits.logsumexp(-1)
    if noise is None:
        best, prediction = logits.max(-1)
    else:
        prediction = (logits + noise).argmax(-1)
        best = logits.gather(-1, prediction.unsqueeze(-1)).squeeze(-1)
    confidence = (best - log_normalizer).exp()
    if not bool(torch.isfinite(confidence).all()):
        row, position = (~torch.isfinite(confidence)).nonzero()[0].tolist()
        raise DenoiserError(
            f"the dLLM returned NaN or infinite logits (row {row}, buffer position {position}): check its weights "
            "and dtype (float16 overflows in many models; use bfloat16 or float32)"
        )
    readings |= {name: FEATURES[name](logits, log_normalizer, eos_id) for name in sorted(features & FEATURES.keys())}
    log_probabilities = logits - log_normalizer.unsqueeze(-1) if with_distribution else None
    return Beliefs(confidence, prediction, readings, log_probabilities)
