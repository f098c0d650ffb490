"""What rules ask of a guide: a small causal model that reads the dLLM's proposals from left to right."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from envs.denoiser import Denoiser
from envs.models.load import check_there, load_guide
from policies.base import UnmaskingPolicy


def check_guide_is_there(rule: str, name: str) -> None:
    """Refuse a guide that is not there, without reading it.

    Args:
        rule: the rule's name, for the message.
        name: as `envs.models.load.load_guide` takes it; of a hub repository nothing is asked.

    Raises:
        ValueError: if there is none.
    """
    try:
        check_there(name)
    except FileNotFoundError as error:
        raise ValueError(f"{rule}'s guide is {name!r}: {str(error).partition(': ')[2]}") from None


def guide_of(rule: str, name: str, denoiser: Denoiser) -> Any:
    """Load a rule's guide.

    Args:
        rule: the rule's name, for the message.
        name: as `envs.models.load.load_guide` takes it.
        denoiser: what it is to guide.

    Returns:
        The causal model.

    Raises:
        FileNotFoundError: if there is no such model.
        ValueError: if it is none, or knows fewer tokens than the dLLM's tokenizer, and so can't have the same.
    """
    model = load_guide(name, str(denoiser.device))
    tokenizer = getattr(denoiser, "tokenizer", None)
    if tokenizer is None:
        return model  # a dLLM without one can't be compared
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise ValueError(
            f"{rule}'s guide is {name!r}: it knows {known} tokens and the dLLM's tokenizer {len(tokenizer)}; give "
            "guide=FOLDER, a causal model with that tokenizer"
        )
    return model


def check_guide(rule: UnmaskingPolicy, denoiser: Denoiser) -> None:
    """Refuse a rule whose guide can't guide a dLLM; any other rule passes.

    Raises:
        FileNotFoundError: if there is no such guide.
        ValueError: if it can't.
    """
    name = getattr(rule, "guide", None)
    if name is not None:
        guide_of(getattr(rule, "rule", type(rule).__name__), name, denoiser)


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
