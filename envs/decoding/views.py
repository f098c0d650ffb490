"""Rows of views: chosen, and put together."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.view import (
    View,
)


def _repeated(prediction: Tensor, confidence: Tensor, masked: Tensor) -> Tensor:
    """Return (B, L) bool: masked positions whose prediction a better masked position makes too."""
    # Sorted best first, then stably by token: within a token's run all but the first are repeated.
    best_first = confidence.masked_fill(~masked, -1.0).argsort(dim=1, descending=True, stable=True)
    tokens = prediction.masked_fill(~masked, -1).gather(1, best_first)
    runs, order = tokens.sort(dim=1, stable=True)
    again = F.pad(runs[:, 1:] == runs[:, :-1], (1, 0))
    return torch.zeros_like(masked).scatter(1, best_first.gather(1, order), again) & masked


def _merge(old: View, new: View, is_new: Tensor) -> View:
    """Return a view with some rows of a new one, the others those of an old one; what only one of them has is new."""

    def choose(kept: Any, fresh: Any) -> Any:
        if not isinstance(fresh, Tensor):
            return {name: choose(kept.get(name), value) for name, value in fresh.items()}
        if kept is None or kept.shape != fresh.shape:  # tensors of the first forward; wider prompts
            return fresh
        return torch.where(is_new.view(-1, *[1] * (fresh.ndim - 1)), fresh, kept)

    return View(**{field.name: choose(getattr(old, field.name), getattr(new, field.name)) for field in fields(View)})


def _rows_of(view: View, index: Tensor) -> View:
    """Return some rows of a view."""

    def take(value: Any) -> Any:
        return value[index] if isinstance(value, Tensor) else {name: tensor[index] for name, tensor in value.items()}

    return View(**{field.name: take(getattr(view, field.name)) for field in fields(View)})
