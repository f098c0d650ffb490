"""A shadow of a block: what the dLLM gives committed tokens where it doesn't see them, in the same forward.

Letters: B sequences, T positions of prompt and buffer, S positions that have a shadow.
"""

from __future__ import annotations

import torch
from torch import Tensor

from envs.models.attention import position_numbers


def add_shadow(
    tokens: Tensor, present: Tensor, column: Tensor, mask_id: int, shift: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Append a shadow to a batch: for each position a mask that sees every token but the one there, and itself.

    Where the logits about a position are computed at the one before it, that one's token comes before each mask: it
    sees every token but the two, itself, and the mask. Nothing else sees the shadow.

    Args:
        tokens: (B, T) int64.
        present: (B, T) bool, False on padding.
        column: (B, S) int64, the columns that have a shadow; from 1 with a shift.
        mask_id: the mask token.
        shift: 1 where the logits about a position are computed at the one before it, else 0.

    Returns:
        tokens: (B, T + (1 + shift) S) int64; the logits about the last of each position's columns are its own.
        sees: (B, the same, the same) bool, entry (i, j) True where i sees j.
        numbers: likewise (B, ...) int64, places in the text.
    """
    width, everywhere = tokens.shape[1], torch.arange(tokens.shape[1], device=tokens.device)
    number = position_numbers(present)
    shadow, numbers = torch.full_like(column, mask_id), number.gather(1, column)
    hidden = everywhere == column.unsqueeze(-1)  # (B, S, T)
    if shift:
        before = column - 1
        shadow = torch.stack([tokens.gather(1, before), shadow], 2).flatten(1)
        numbers = torch.stack([numbers - 1, numbers], 2).flatten(1)
        hidden = torch.stack([hidden | (everywhere == before.unsqueeze(-1)), hidden], 2).flatten(1, 2)
    size = width + shadow.shape[1]
    sees = torch.zeros(len(tokens), size, size, dtype=torch.bool, device=tokens.device)
    # For all columns, the shadow's too; what it must not see is taken away below.
    sees[:, :, :width] = present.unsqueeze(1)
    sees[:, width:, :width] &= ~hidden
    added = torch.arange(width, size, device=tokens.device)
    sees[:, added, added] = True
    if shift:
        sees[:, added[::2], added[1::2]] = True
    return torch.cat([tokens, shadow], 1), sees, torch.cat([number, numbers], 1)
