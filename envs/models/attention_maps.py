"""What positions attend to, read beside a forward whose numbers stay as they are.

Letters: B sequences, H heads, T positions of prompt and buffer, D width of a head.
"""

from __future__ import annotations

import math
from collections import deque
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

LAYERS = 4
"""The last ones, whose attention is averaged; source: arXiv 2602.06953, Section 5.1."""

CHUNK = 2**22
"""Probabilities that are worked on at a time, where those of one sequence are no more."""


class AttentionMaps(TorchFunctionMode):
    """Remembers what the last layers of a forward attend with: every call of torch's fused attention within it.

    The kernel itself gives no probabilities. They are computed from its queries and keys once the forward is done, so
    the forward is the same, bit for bit, as one that is not watched, and it works for whatever model calls the kernel.
    """

    def __init__(self) -> None:
        super().__init__()
        self._calls: deque[tuple[Tensor, Tensor, Tensor | None, float]] = deque(maxlen=LAYERS)

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run a function of torch, and remember it if it is attention."""
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention:
            self._remember(*args, **kwargs)
        return func(*args, **kwargs)

    def _remember(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attn_mask: Tensor | None = None,
        dropout_p: float = 0.0,
        is_causal: bool = False,
        scale: float | None = None,
        enable_gqa: bool = False,
    ) -> None:
        """Keep what the probabilities are made of; see `torch.nn.functional.scaled_dot_product_attention`."""
        if is_causal:
            attn_mask = torch.ones(query.shape[-2], key.shape[-2], dtype=torch.bool, device=query.device).tril()
        if attn_mask is not None:
            whole = attn_mask if attn_mask.ndim == 4 else attn_mask.expand(1, 1, *attn_mask.shape[-2:])
            attn_mask = whole.expand(len(query), -1, -1, -1)
        self._calls.append((query, key, attn_mask, scale or 1 / math.sqrt(query.shape[-1])))

    def mean(self) -> Tensor | None:
        """Return what each position pays to each other: the mean over the last layers and their heads.

        Returns:
            (B, T, T) float32 in [0, 1]; a row of a position that sees something sums to 1, others are 0. None where the
            forward never called the kernel.
        """
        if not self._calls:
            return None
        batch, heads, size, _ = self._calls[-1][0].shape
        total = torch.zeros(batch, size, size, device=self._calls[-1][0].device)
        # Probabilities of all heads are large: as many sequences at a time as fit into the chunk.
        step = max(1, CHUNK // (heads * size * size))
        for query, key, mask, scale in self._calls:
            for start in range(0, batch, step):
                part = slice(start, start + step)
                seen = None if mask is None else mask[part]
                total[part] += _probabilities(query[part], key[part], seen, scale).mean(1)
        return total / len(self._calls)


def _probabilities(query: Tensor, key: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    """Return (B, H, T, T) float32 probabilities; 0 in the rows of queries that see nothing."""
    # Where several queries share a key, it is repeated.
    keys = key.repeat_interleave(query.shape[1] // key.shape[1], dim=1)
    scores = (query @ keys.transpose(-2, -1)).float() * scale
    if mask is None:
        return scores.softmax(-1)
    if mask.dtype != torch.bool:
        return (scores + mask).softmax(-1)
    return scores.masked_fill_(~mask, -torch.inf).softmax(-1).nan_to_num_(0.0)
