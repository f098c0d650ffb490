"""Who sees whom, as the mask that a causal class of transformers takes as it is.

Letters: B sequences, T positions of prompt and buffer.
"""

from __future__ import annotations

import torch
from torch import Tensor


def position_numbers(present: Tensor) -> Tensor:
    """Count what is not padding: (B, T) int64 from 0, and 0 on left padding.

    Args:
        present: (B, T) bool, False on padding.
    """
    return (present.cumsum(1) - 1).clamp(min=0)


def attention(present: Tensor, block: int | None, origin: Tensor | int = 0) -> Tensor:
    """Return who sees whom.

    Padding is never seen. It sees what the others see, so that no row of the softmax is empty.

    Args:
        present: (B, T) bool, False on padding.
        block: positions of a block, which sees itself and the blocks before it; None where all see all.
        origin: (B,) int64, the position number that blocks are counted from.

    Returns:
        (B, 1, 1 or T, T) bool, entry (i, j) True where i sees j, one for all heads.
    """
    keys = present[:, None, None, :]
    if block is None:
        return keys
    start = torch.as_tensor(origin, device=present.device).reshape(-1, 1)
    # Unclamped, a prompt before the origin falls into negative blocks, which all later ones see.
    blocks = (present.cumsum(1) - 1 - start) // block
    return keys & (blocks[:, None, None, :] <= blocks[:, None, :, None])
