"""New sequences for rows: prompts followed by masks, or by a text with blanks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from envs.decoding.blocks import Layout, check_block
from envs.decoding.rows import Rows
from envs.noise import sequence_key


def load_rows(
    rows: Rows,
    layout: Layout,
    places: Sequence[int],
    prompts: Sequence[Sequence[int]],
    seed: int | Sequence[int] = 0,
    length: int | None = None,
    block_lengths: Sequence[int] | None = None,
    given: Sequence[Sequence[int] | None] | None = None,
) -> Tensor:
    """Start new sequences in some rows; see `DecodingBatch.load`.

    Args:
        rows: the rows.
        layout: the dLLM and how its buffers are decoded.
        places: rows to overwrite.
        prompts: token ids, one list a place.
        seed: one for all places or one each.
        length: masks to start from.
        block_lengths: positions of a block, one a place.
        given: texts with blanks, or None, one a place.

    Returns:
        (B,) int64, the places.
    """
    settings, denoiser, device = layout.settings, layout.denoiser, rows.buffer.device
    seeds = [seed] * len(places) if isinstance(seed, int | np.integer) else list(seed)
    # All is checked before a row is written: a refused load leaves the batch as it was.
    lists = {"prompts": prompts, "seed": seeds, "block_lengths": block_lengths, "given": given}
    for name, entries in lists.items():
        if entries is not None and len(entries) != len(places):
            raise ValueError(f"{name} has {len(entries)} entries: it must have one a row, {len(places)}")
    if length is not None and not 1 <= length <= settings.buffer_length:
        raise ValueError(f"length is {length}: it must be 1 to buffer_length, {settings.buffer_length}")
    for block in set(block_lengths or []):
        replace(settings, block_length=block)  # which checks it
        check_block(denoiser, block)
    for prompt in prompts:
        _check_prompt(prompt, layout)
    texts = {row: text for row, text in zip(places, given or [], strict=False) if text is not None}
    for text in texts.values():
        _check_given(text, layout)
    index = torch.tensor(list(places), dtype=torch.long, device=device)
    if not places:
        return index
    _widen(rows, max(map(len, prompts)), denoiser.pad_id)
    width = rows.prompt.shape[1]
    padded = [[denoiser.pad_id] * (width - len(prompt)) + list(prompt) for prompt in prompts]
    rows.prompt[index] = torch.tensor(padded, device=device)
    rows.prompt_length[index] = torch.tensor([len(prompt) for prompt in prompts], device=device)
    # Without the padding, or a row's draws would depend on its neighbours' prompts.
    keys = [sequence_key(prompt, own) for prompt, own in zip(prompts, seeds, strict=True)]
    rows.key[index] = torch.tensor(keys, device=device)
    rows.length[index] = layout.whole(rows, settings.buffer_length if length is None else length)[index]
    rows.text_length[index] = settings.buffer_length
    rows.masked[index] = rows.positions < rows.length[index].unsqueeze(1)
    rows.buffer[index] = torch.where(rows.masked[index], denoiser.mask_id, denoiser.eos_id)
    blocks = [settings.block] * len(places) if block_lengths is None else list(block_lengths)
    rows.block_length[index] = torch.tensor(blocks, device=device)
    rows.block_end[index] = layout.first_end(rows)[index]
    counters = (rows.block_start, rows.block_step, rows.nfe, rows.token_positions, rows.refresh_step, rows.given_end)
    for record in (*counters, rows.commit_step, rows.commit_confidence):
        record[index] = 0
    # Nothing is left of the sequences that stood in these rows.
    rows.memory = {name: values.index_fill(0, index, 0) for name, values in rows.memory.items()}
    rows.settled[index] = False
    for row, own in zip(places, seeds, strict=True):
        if row in texts:
            _give(rows, layout, row, texts[row], own)
    if texts:
        layout.move(rows, torch.zeros_like(rows.settled))  # past blocks without a blank
    return index


def _give(rows: Rows, layout: Layout, row: int, text: Sequence[int], seed: int) -> None:
    """Put a text with blanks into a row that was just loaded."""
    denoiser, positions = layout.denoiser, rows.positions
    tokens = torch.tensor(text, device=rows.buffer.device)
    size, blank = len(tokens), tokens == denoiser.mask_id
    rows.text_length[row] = size
    rows.length[row] = layout.whole(rows, rows.text_length)[row]
    rows.buffer[row] = torch.where(positions < rows.length[row], denoiser.mask_id, denoiser.eos_id)
    rows.buffer[row, :size] = tokens
    rows.masked[row] = rows.buffer[row] == denoiser.mask_id
    rows.given_end[row] = torch.where(blank, 0, positions[:size] + 1).amax()
    rows.commit_confidence[row, :size] = (~blank).float()
    prompt = rows.prompt[row, rows.prompt.shape[1] - int(rows.prompt_length[row]) :].tolist()
    # Two texts of one prompt and seed must draw differently.
    rows.key[row] = sequence_key([*prompt, *text], seed)


def _check_given(text: Sequence[int], layout: Layout) -> None:
    length, mask_id = layout.settings.buffer_length, layout.denoiser.mask_id
    if not 1 <= len(text) <= length:
        raise ValueError(f"given has {len(text)} tokens: it must have 1 to buffer_length, {length}")
    if mask_id not in text:
        raise ValueError(f"given has no blank, token {mask_id}: there must be something to decode")


def _check_prompt(prompt: Sequence[int], layout: Layout) -> None:
    if not 1 <= len(prompt) <= layout.room:
        raise ValueError(
            f"prompt has {len(prompt)} tokens: it must have 1 to {layout.room} (the model takes "
            f"{layout.denoiser.max_length}, the buffer {layout.settings.buffer_length} of them)"
        )


def _widen(rows: Rows, width: int, pad_id: int) -> None:
    missing = width - rows.prompt.shape[1]
    if missing > 0:
        rows.prompt = F.pad(rows.prompt, (missing, 0), value=pad_id)
