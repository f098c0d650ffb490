"""One forward of the dLLM on some rows, plain, with a shadow or with a cache, read as beliefs about them.

Letters: N rows of the batch, B of them computed, L buffer positions, L' of them shown, V vocabulary, S positions that
have a shadow.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.beliefs import Beliefs, check_answer, read_beliefs
from envs.caches.forward import CachedForward, Texts
from envs.decoding.blocks import Layout
from envs.decoding.rows import Rows
from envs.decoding.shadow import add_shadow
from envs.decoding.views import blank_view, make_view
from envs.noise import gumbel
from envs.readings import READINGS
from envs.view import View


def believe(rows: Rows, layout: Layout, computed: Tensor, last: View, cached: CachedForward | None) -> View:
    """Run the dLLM once.

    Args:
        rows: all rows; their forwards and positions are counted.
        layout: the dLLM and how its buffers are decoded.
        computed: (N,) bool, the rows to run it on; the others are blank in what is returned.
        last: the view before, which still holds what a cache does not compute anew.
        cached: what is kept of the rows, None without a cache.
    """
    index = computed.nonzero().squeeze(1)
    if len(index) == 0:
        return blank_view(rows, layout, like=last)
    seen = layout.seen(rows, rows.nfe)
    if cached is None:
        beliefs = _beliefs(rows, layout, index, seen[index])
    else:
        beliefs = _cached_beliefs(rows, layout, index, seen[index], last, cached)
    return make_view(rows, layout, index, seen, beliefs)


def _asked(features: frozenset[str], open_masks: Tensor) -> Tensor | None:
    """Return the positions whose logits are to be read: masks that are shown, or None, all, where a reading is of more.

    Args:
        features: names of readings.
        open_masks: (B, L) bool, those masks.
    """
    made_of_logits = [READINGS[name] for name in features if READINGS[name].formula is not None]
    return open_masks if all(reading.holds == "masked" for reading in made_of_logits) else None


def _beliefs(rows: Rows, layout: Layout, index: Tensor, seen: Tensor) -> Beliefs:
    """Run the dLLM on all that is shown.

    Args:
        rows: all rows.
        layout: the dLLM and how its buffers are decoded.
        index: (B,) int64, the rows to run it on.
        seen: (B, L) bool, their positions that are shown.
    """
    denoiser, features = layout.denoiser, layout.settings.features
    shown = layout.shown(rows)[index]
    prompt_width, buffer_width = int(rows.prompt_length[index].max()), int(shown.max())
    prompt = rows.prompt[index, rows.prompt.shape[1] - prompt_width :]
    columns = torch.arange(prompt_width + buffer_width, device=index.device)
    first = prompt_width - rows.prompt_length[index].unsqueeze(1)
    present = (columns >= first) & (columns < prompt_width + shown.unsqueeze(1))
    # A truncated window shows a whole last block, and so masks that the buffer has no place for.
    behind = max(0, buffer_width - rows.masked.shape[1])
    buffer = F.pad(rows.buffer[index], (0, behind), value=denoiser.mask_id)[:, :buffer_width]
    tokens = torch.cat([prompt, buffer], 1).masked_fill(~present, denoiser.pad_id)
    rows.nfe[index] += 1
    rows.token_positions[index] += rows.prompt_length[index] + shown
    readings: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    if "hidden" in features:
        logits, hidden = denoiser.logits_and_hidden(tokens, present, buffer_width)
        check_answer("hidden states", hidden, len(index), buffer_width, 1)
        # A copy, since the view is masked in place and the states are the model's.
        tensors["hidden"] = hidden.to(torch.float32, copy=True)
    elif "attention" in features:
        # A layout refuses a dLLM that has none.
        logits, attention = denoiser.logits_and_attention(tokens, present, buffer_width)  # type: ignore[attr-defined]
        tensors |= _attention(rows, attention, present, prompt_width)
    elif "leave_one_out" in features:
        logits, readings["leave_one_out"] = _shadow_forward(rows, layout, index, tokens, present, prompt_width)
    else:
        logits = denoiser.logits(tokens, present, buffer_width)
    _check_logits(layout, logits, len(index), buffer_width)
    inside = slice(rows.masked.shape[1])  # what lies behind the buffer was only shown
    readings = {name: values[:, inside] for name, values in readings.items()}
    tensors = {name: values[:, inside] if values.ndim == 3 else values for name, values in tensors.items()}
    logits = logits[:, inside]
    beliefs = read_beliefs(
        logits,
        denoiser.mask_id,
        denoiser.end_ids,
        features,
        _noise(rows, layout, logits, index),
        rows.buffer[index, : logits.shape[1]],
        _asked(features, (rows.masked[index] & seen)[:, : logits.shape[1]]),
    )
    del logits  # as large as all that follows together
    return replace(beliefs, features={**beliefs.features, **readings}, tensors={**beliefs.tensors, **tensors})


def _cached_beliefs(
    rows: Rows, layout: Layout, index: Tensor, seen: Tensor, last: View, cached: CachedForward
) -> Beliefs:
    """Run the dLLM on what its cache says; about the other positions the row's last view still holds.

    Args:
        rows: all rows.
        layout: the dLLM and how its buffers are decoded.
        index: (B,) int64, the rows to run it on.
        seen: (B, L) bool, their positions that are shown.
        last: the view before.
        cached: what is kept.
    """
    features, mask_id = layout.settings.features, layout.denoiser.mask_id
    prompt, shown = rows.prompt_length[index], layout.shown(rows)[index]
    behind = max(0, int(shown.max()) - rows.masked.shape[1])
    columns = torch.arange(int((prompt + shown).max()), device=index.device)
    first, end = rows.prompt.shape[1] - prompt.unsqueeze(1), (prompt + shown).unsqueeze(1)
    place_in_all = (first + columns).clamp(max=rows.prompt.shape[1] + rows.masked.shape[1] + behind - 1)

    def text(of_prompt: Tensor, of_buffer: Tensor, after: int) -> Tensor:
        """Return (B, W) of the rows' texts, without the padding before them."""
        return torch.cat([of_prompt, F.pad(of_buffer, (0, behind), value=after)], 1).gather(1, place_in_all)

    prompts = rows.prompt[index]
    tokens = text(prompts, rows.buffer[index], mask_id)
    present = text(torch.ones_like(prompts, dtype=torch.bool), seen, True) & (columns < end)
    commit_step = text(torch.zeros_like(prompts), rows.commit_step[index], 0)
    # Before this forward is counted: a cache asks how many came before it.
    texts = Texts(
        tokens,
        prompt,
        present,
        block_start=rows.block_start[index],
        block_end=rows.block_end[index],
        block_step=rows.block_step[index],
        step=rows.nfe[index],
        since=(rows.nfe - rows.refresh_step)[index],
        commit_step=commit_step,
        confidence=last.confidence[index],
    )
    answer = cached.run(index, texts, "hidden" in features, "token_probability" in features)
    rows.nfe[index] += 1
    rows.token_positions[index] += answer.computed.sum(1)
    count, size = answer.about.shape
    _check_logits(layout, answer.logits, count, size)
    readings: dict[str, Tensor] = {}
    tensors: dict[str, Tensor] = {}
    if answer.hidden is not None and "hidden" in features:
        check_answer("hidden states", answer.hidden, count, size, 1)
        tensors["hidden"] = answer.hidden.to(torch.float32, copy=True)
    # What lies behind the buffer was only shown; like padding it is written to a column that is cut off.
    length = rows.masked.shape[1]
    place = torch.where((answer.about < 0) | (answer.about >= length), length, answer.about)
    beliefs = read_beliefs(
        answer.logits,
        mask_id,
        layout.denoiser.end_ids,
        features,
        _noise(rows, layout, answer.logits, index, place),
        F.pad(rows.buffer, (0, 1), value=mask_id)[index].gather(1, place),
        _asked(features, F.pad(rows.masked[index] & seen, (0, 1)).gather(1, place)),
    )

    def renewed(old: Tensor | None, values: Tensor) -> Tensor:
        if old is None:
            full = values.new_zeros(count, length + 1, *values.shape[2:])
        else:
            full = F.pad(old[index], (*[0, 0] * (values.ndim - 2), 0, 1)).to(values.dtype)
        full[torch.arange(count, device=index.device).unsqueeze(1), place] = values
        return full[:, :length]

    believed = torch.zeros(count, length + 1, dtype=torch.bool, device=index.device)
    believed = believed.scatter(1, place, True)[:, :length]
    if "age" in features:
        inside = prompt.unsqueeze(1) + rows.positions
        computed = F.pad(answer.computed, (0, length)).gather(1, inside)
        is_new = torch.where(rows.masked[index], believed, computed)
        readings["age"] = (last.features["age"][index] + 1).masked_fill(is_new, 0.0)
    if "unseen" in features:
        came = (rows.commit_step[index] == texts.step.unsqueeze(1)).sum(1, keepdim=True)
        # Of the row, as it is 0 at positions that were not shown.
        before = last.features["unseen"][index].amax(1, keepdim=True)
        is_whole = (answer.computed | ~present).all(1, keepdim=True)
        readings["unseen"] = (before + came).masked_fill(is_whole, 0.0).expand(-1, length)
    return Beliefs(
        renewed(last.confidence, beliefs.confidence),
        renewed(last.prediction, beliefs.prediction),
        {**readings, **{name: renewed(last.features.get(name), values) for name, values in beliefs.features.items()}},
        {name: renewed(last.tensors.get(name), values) for name, values in {**beliefs.tensors, **tensors}.items()},
        believed,
    )


def _shadow_forward(
    rows: Rows, layout: Layout, index: Tensor, tokens: Tensor, present: Tensor, prompt_width: int
) -> tuple[Tensor, Tensor]:
    """Run the dLLM with a shadow of the current block appended; see `envs.decoding.shadow.add_shadow`.

    Returns:
        logits: (B, L', V) of the buffer.
        leave_one_out: (B, L') float32, what the shadow gives the token that stands at its place, 0 off the block.
    """
    denoiser, device = layout.denoiser, index.device
    start, end = rows.block_start[index], torch.minimum(rows.block_end[index], rows.length[index])
    count, buffer_width = len(index), tokens.shape[1] - prompt_width
    size = int((end - start).max())
    offset = torch.arange(size, device=device)
    # (B, S), in the buffer, where a shorter block's shadow stands on its last position again.
    place = (start.unsqueeze(1) + offset).clamp(max=min(buffer_width, rows.masked.shape[1]) - 1)
    real = offset < (end - start).unsqueeze(1)
    shift = denoiser.logit_shift
    rows.token_positions[index] += (end - start) * (1 + shift)
    shadowed, sees, numbers = add_shadow(tokens, present, prompt_width + place, denoiser.mask_id, shift)
    asked = shadowed.shape[1] - prompt_width
    logits = denoiser.logits(shadowed, sees, asked, numbers)
    _check_logits(layout, logits, count, asked)
    logits, hidden_from = logits[:, :buffer_width], logits[:, buffer_width + shift :: 1 + shift].float()
    hidden_from = hidden_from.index_fill(-1, torch.tensor([denoiser.mask_id], device=device), -torch.inf)
    standing = rows.buffer[index].gather(1, place).unsqueeze(-1)
    probability = hidden_from.log_softmax(-1).gather(-1, standing).squeeze(-1).exp() * real
    blank = torch.zeros(count, buffer_width, device=device)
    return logits, blank.scatter_add(1, place, probability)


def _attention(rows: Rows, attention: Tensor, present: Tensor, prompt_width: int) -> dict[str, Tensor]:
    """Return what the buffer pays and what is received, about all of the batch's P prompt columns and L positions.

    Args:
        rows: all rows.
        attention: (B, T, T), of prompts and what is shown of the buffers.
        present: (B, T) bool, False on padding.
        prompt_width: columns of the prompts here.
    """
    count, width = present.shape
    check_answer("attention", attention, count, width, width)
    paid = attention.float().masked_fill(~present.unsqueeze(2), 0.0)
    received = paid.sum(1) / present.sum(1, keepdim=True)
    # Of the batch's own columns, whatever this forward needed; what lies behind the buffer was only shown.
    before, after = rows.prompt.shape[1] - prompt_width, prompt_width + rows.masked.shape[1] - width
    return {
        "attention": F.pad(paid[:, prompt_width:], (before, after)),
        "attention_received": F.pad(received, (before, after)),
    }


def _check_logits(layout: Layout, logits: Tensor, rows: int, length: int) -> None:
    """Refuse logits of another shape than (rows, length, V), V enough for every special token."""
    check_answer("logits", logits, rows, length, 1 + max(layout.denoiser.mask_id, *layout.denoiser.end_ids))


def _noise(
    rows: Rows, layout: Layout, logits: Tensor, index: Tensor, place: Tensor | None = None
) -> Callable[[slice, slice], Tensor] | None:
    """Return what draws the noise of slices of these rows and of positions; None where nothing is sampled.

    Args:
        rows: all rows.
        layout: says how warm.
        logits: (B, L', V) that it is for.
        index: (B,) int64, which rows.
        place: (B, L') int64, the buffer positions that they are about; None where they are the first ones.
    """
    temperature = layout.settings.temperature
    if temperature == 0:
        return None
    keys, steps, (_, length, vocabulary) = rows.key[index], rows.nfe[index], logits.shape

    def draw(which: slice, positions: slice) -> Tensor:
        first, stop, _ = positions.indices(length)
        shape = (stop - first, vocabulary)
        skip = first * vocabulary if place is None else place[which, positions] * vocabulary
        return temperature * gumbel(keys[which], steps[which], shape, skip=skip)

    return draw
