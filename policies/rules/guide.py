"""What rules ask of a guide: a small causal model that reads the dLLM's proposals from left to right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def judge(model: Any, prompt: Tensor, tokens: Tensor, mask_id: int) -> tuple[Tensor, Tensor]:
    """Run a guide on prompts and filled buffers, one forward.

    Args:
        model: the causal model.
        prompt: (N, P) int64, left-padded with -1.
        tokens: (N, L) int64, what stands in the buffer.
        mask_id: a token that it must not choose; -1 for none.

    Returns:
        probabilities: (N, L, V) float32, of each position's token after everything to its left.
        computed: (N,) int64, the positions that the guide computed.
    """
    length = tokens.shape[1]
    text = torch.cat([prompt.clamp(min=0), tokens], 1)
    seen = torch.cat([prompt >= 0, torch.ones_like(tokens, dtype=torch.bool)], 1)
    numbers = (seen.cumsum(1) - 1).clamp(min=0)
    mask = None if bool(seen.all()) else seen.long()
    logits = model(input_ids=text, attention_mask=mask, position_ids=numbers).logits.float()
    if mask_id >= 0:
        logits[..., mask_id] = -torch.inf
    # Position i is judged by what the guide says after everything to its left.
    return logits[:, -length - 1 : -1].softmax(-1), seen.sum(1)
