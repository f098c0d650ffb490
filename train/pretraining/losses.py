"""LLaDA's objective, and a left-to-right model's."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def diffusion_loss(logits: Tensor, targets: Tensor, masked: Tensor) -> Tensor:
    """LLaDA's training loss, summed over the rows of one forward.

    Args:
        logits: (M, V) float, a row for each masked position, row by row.
        targets: (B, T) int64.
        masked: (B, T) bool, True at the masked answer positions; each row has at least one.

    Returns:
        Scalar, nats: sum over rows of ``1 / (t L) * sum of the masked positions' cross-entropy``, with t the
        row's share of masked positions.
    """
    rows = masked.nonzero(as_tuple=True)[0]
    loss = F.cross_entropy(logits, targets[masked], reduction="none")
    return (loss / masked.sum(1)[rows]).sum()


def causal_loss(logits: Tensor, targets: Tensor, length: int, eos_id: int) -> Tensor:
    """Cross-entropy of each answer token, the first end-of-text included, given everything to its left.

    Args:
        logits: (B, T, V) float.
        targets: (B, T) int64.
        length: positions of the answer, at the end.
        eos_id: end-of-text token; what follows the first one is padding.

    Returns:
        Scalar, nats a token.
    """
    answer = targets[:, -length:]
    is_end = (answer == eos_id).int()
    counts = is_end.cumsum(1) - is_end == 0
    return F.cross_entropy(logits[:, -length - 1 : -1][counts], answer[counts])
