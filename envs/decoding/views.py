"""What a forward said of some rows and positions, spread over all of them; and views chosen and put together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.beliefs import Beliefs
from envs.decoding.blocks import Layout
from envs.decoding.rows import Rows, is_end
from envs.readings import PARTS, VIEW_FEATURES, holds_at
from envs.view import View

ABOUT_TEXTS = ("prompt", "given")
"""Tensors that no forward makes."""


def blank_view(rows: Rows, layout: Layout, like: View | None = None) -> View:
    """Return the view of rows that are all finished: nothing masked, every confidence 1.

    Args:
        rows: the rows.
        layout: says which features there are.
        like: a view whose forward's tensors are there too, as zeros.
    """
    ones = torch.ones(rows.masked.shape, device=rows.masked.device)
    none = torch.zeros_like(rows.masked)
    made = {} if like is None else {name: v for name, v in like.tensors.items() if name not in ABOUT_TEXTS}
    tensors = {name: torch.zeros_like(values) for name, values in made.items()}
    wanted = layout.settings.features
    if "prompt" in wanted:
        width = rows.prompt.shape[1]
        padding = torch.arange(width, device=ones.device) < width - rows.prompt_length.unsqueeze(1)
        tensors["prompt"] = rows.prompt.masked_fill(padding, -1)
    if "given" in wanted:
        tensors["given"] = rows.buffer.masked_fill(~rows.given, -1)
    return View(
        confidence=ones,
        prediction=rows.buffer.clone(),
        masked=none,
        eligible=none,
        step=rows.nfe.clone(),
        time=time_used(rows, layout),
        block_start=rows.block_start.clone(),
        block_end=rows.block_end.clone(),
        block_step=rows.block_step.clone(),
        length=rows.length.clone(),
        commit_confidence=rows.commit_confidence.clone(),
        key=rows.key.clone(),
        features={name: torch.zeros_like(ones) for name in sorted(wanted & VIEW_FEATURES)},
        tensors=tensors,
        memory=dict(rows.memory),
    )


def make_view(rows: Rows, layout: Layout, computed: Tensor, inside: Tensor, beliefs: Beliefs) -> View:
    """Spread the computed rows' and columns' beliefs over all rows and positions.

    Args:
        rows: all rows; ``previous`` becomes this view's predictions.
        layout: the dLLM and how its buffers are decoded.
        computed: (B,) int64, the rows that the beliefs are about.
        inside: (N, L) bool, the positions that were shown.
        beliefs: about their first columns.
    """
    wanted, width = layout.settings.features, beliefs.confidence.shape[1]

    def spread(values: Tensor, blank: Tensor, where: Tensor) -> Tensor:
        full = blank.clone()
        full[computed, :width] = values.to(blank.dtype)
        return torch.where(where, full, blank)

    blank = blank_view(rows, layout)  # the large tensors come from the beliefs
    is_computed = torch.zeros_like(rows.running).index_fill(0, computed, True).unsqueeze(1)
    open_masks = rows.masked & inside  # those that this forward has an opinion about
    prediction = spread(beliefs.prediction, rows.buffer, open_masks)
    readings = dict(beliefs.features)
    if "is_eos" in wanted:
        readings["is_eos"] = is_end(layout.denoiser.end_ids, beliefs.prediction).float()
    features = dict(blank.features)
    places: Mapping[str, Tensor] = {"masked": open_masks, "committed": ~rows.masked & inside, "everywhere": inside}
    for name, values in readings.items():
        features[name] = spread(values, blank.features[name], places[holds_at(name)])
        if holds_at(name) == "committed":
            # No policy is to doubt what it can't take back; a row that was not computed is blank, whoever is beside it.
            features[name] = features[name].masked_fill(rows.given & inside & is_computed, 1.0)
    if "changed" in wanted:
        # Nothing was predicted where the last step saw nothing.
        began = (rows.nfe <= 1).unsqueeze(1) | (rows.previous == layout.denoiser.mask_id)
        features["changed"] = ((prediction != rows.previous) & open_masks & ~began).float()
        rows.previous[computed] = prediction[computed]
    confidence = spread(beliefs.confidence, blank.confidence, open_masks).masked_fill(rows.masked & ~inside, 0.0)
    if "repeated" in wanted:
        repeated = _repeated(prediction[computed], confidence[computed], open_masks[computed])
        features["repeated"][computed] = repeated.float()
    tensors = dict(blank.tensors)
    for name, values in beliefs.tensors.items():
        tensors[name] = _spread_tensor(rows, computed, values, places[holds_at(name)])
    return replace(
        blank,
        confidence=confidence,
        prediction=prediction,
        masked=rows.masked.clone(),
        eligible=_eligible(rows, layout, computed, open_masks, beliefs),
        features=features,
        tensors=tensors,
    )


def _eligible(rows: Rows, layout: Layout, computed: Tensor, open_masks: Tensor, beliefs: Beliefs) -> Tensor:
    """Return (N, L) bool, the masks that may be committed: the block's, and those of blocks ahead that are known now.

    Args:
        rows: all rows.
        layout: the dLLM and how its buffers are decoded.
        computed: (B,) int64, the rows that the beliefs are about.
        open_masks: (N, L) bool, those that were shown.
        beliefs: about their first columns.
    """
    eligible = rows.eligible()
    if layout.settings.blocks_ahead:
        is_known = torch.zeros_like(eligible)
        is_known[computed, : beliefs.confidence.shape[1]] = True if beliefs.is_new is None else beliefs.is_new
        # Whole blocks, though this one may be short; what a block-causal dLLM has no opinion about can't be written.
        reach = rows.block_end + layout.settings.blocks_ahead * rows.block_length
        reach = torch.minimum(reach, layout.visible_end(rows, rows.block_start)).unsqueeze(1)
        is_ahead = (rows.positions >= rows.block_end.unsqueeze(1)) & (rows.positions < reach)
        eligible = eligible | (open_masks & is_known & is_ahead)
    return eligible & layout.cache.opens(rows.masked)


def time_used(rows: Rows, layout: Layout) -> Tensor:
    """(N,) float32 in [0, 1], share of L steps that was used before this one, or by the finished row."""
    used = rows.nfe - rows.running.long()
    return (used.clamp(min=0).float() / layout.settings.buffer_length).clamp(max=1.0)


def _spread_tensor(rows: Rows, computed: Tensor, values: Tensor, where: Tensor) -> Tensor:
    """Spread (B, L', K) values of some rows and columns over all; 0 elsewhere and where `where`, (N, L), is False.

    They may be the largest thing in memory: they are written over where they fit, and else copied once. (B, K) values
    are of whole rows.
    """
    if values.ndim == 2:
        return values.new_zeros(len(rows.masked), values.shape[1]).index_copy(0, computed, values)
    if values.shape[:2] != rows.masked.shape:
        full = values.new_zeros((*rows.masked.shape, *values.shape[2:]))
        full[computed, : values.shape[1]] = values
        values = full
    return values.masked_fill_(~where.unsqueeze(-1), 0)


def _repeated(prediction: Tensor, confidence: Tensor, masked: Tensor) -> Tensor:
    """Return (B, L) bool: masked positions whose prediction a better masked position makes too."""
    # Sorted best first, then stably by token: within a token's run all but the first are repeated.
    best_first = confidence.masked_fill(~masked, -1.0).argsort(dim=1, descending=True, stable=True)
    tokens = prediction.masked_fill(~masked, -1).gather(1, best_first)
    runs, order = tokens.sort(dim=1, stable=True)
    again = F.pad(runs[:, 1:] == runs[:, :-1], (1, 0))
    return torch.zeros_like(masked).scatter(1, best_first.gather(1, order), again) & masked


def merge(old: View, new: View, is_new: Tensor) -> View:
    """Return a view with some rows of a new one, the others those of an old one; what only one of them has is new.

    Args:
        old: N rows.
        new: as many.
        is_new: (N,) bool.
    """

    def choose(kept: Any, fresh: Any) -> Any:
        if not isinstance(fresh, Tensor):
            return {name: choose(widened(name, kept.get(name), value), value) for name, value in fresh.items()}
        if kept is None or kept.shape != fresh.shape:  # tensors of the first forward; wider prompts
            return fresh
        return torch.where(is_new.view(-1, *[1] * (fresh.ndim - 1)), fresh, kept)

    def widened(name: str, kept: Tensor | None, fresh: Tensor) -> Tensor | None:
        # A longer prompt has come: what is known of the other rows' moves to the right.
        if kept is None or name not in PARTS["attention"]:
            return kept
        return F.pad(kept, (fresh.shape[-1] - kept.shape[-1], 0))

    return View(**{field.name: choose(getattr(old, field.name), getattr(new, field.name)) for field in fields(View)})


def rows_of(view: View, index: Tensor) -> View:
    """Return a view's rows by (B,) int64 index."""

    def take(value: Any) -> Any:
        return value[index] if isinstance(value, Tensor) else {name: tensor[index] for name, tensor in value.items()}

    return View(**{field.name: take(getattr(view, field.name)) for field in fields(View)})


def save_view(view: View) -> dict[str, Any]:
    """Return a view's parts, with memory of their own."""
    return {field.name: _cloned(getattr(view, field.name)) for field in fields(View)}


def restored_view(saved: Mapping[str, Any], device: torch.device) -> View:
    """Return the view that `save_view` took apart, on a device."""
    return View(**{name: _cloned(value, device) for name, value in saved.items()})


def _cloned(value: Any, device: torch.device | None = None) -> Any:
    """Return a copy of a view's part, a tensor or a mapping of them, on a device or where it is."""
    if isinstance(value, Tensor):
        return value.detach().clone() if device is None else value.to(device, copy=True)
    return {name: _cloned(tensor, device) for name, tensor in value.items()}
