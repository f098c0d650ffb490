"""Hand-made and random views, for the tests of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from envs.noise import sequence_key
from envs.view import COMMITTED_READINGS, TOP_K, VIEW_FEATURES, View


def make_view(confidence: Sequence[Sequence[float]], eligible: Sequence[str] = (), step: int = 1) -> View:
    """Rows of confidences; `eligible` is written like "x.x", all of a row when left out. The keys are 0, 1, 2, ..."""
    values = torch.tensor(confidence)
    rows, length = values.shape
    may = torch.tensor([[cell == "x" for cell in row] for row in eligible or ["x" * length] * rows])
    steps = torch.full((rows,), step)
    return View(
        confidence=torch.where(may, values, 1.0),
        prediction=torch.zeros(rows, length, dtype=torch.long),
        masked=may,
        eligible=may,
        step=steps,
        time=(steps - 1).float() / length,
        block_start=torch.zeros(rows, dtype=torch.long),
        block_end=torch.full((rows,), length),
        block_step=steps - 1,
        length=torch.full((rows,), length),
        commit_confidence=torch.zeros(rows, length),
        key=torch.arange(rows),
    )


def random_view(rows: int, length: int, seed: int = 0) -> View:
    """Blocks of half the length; row 0 is finished, and the first block of row 1 is untouched."""
    generator = torch.Generator().manual_seed(seed)
    masked = torch.rand(rows, length, generator=generator) < torch.rand(rows, 1, generator=generator) + 0.1
    masked[0], masked[1] = False, True
    block = length // 2
    block_start = masked.int().argmax(1) // block * block
    place = torch.arange(length)
    in_block = (place >= block_start[:, None]) & (place < block_start[:, None] + block)
    step = torch.randint(1, length + 1, (rows,), generator=generator)
    # Exponents spread the confidences over all of (0, 1), near 1 too.
    confidence = torch.rand(rows, length, generator=generator) ** (3 * torch.rand(rows, 1, generator=generator))
    probabilities = torch.rand(rows, length, 20, generator=generator) ** 8 * masked.unsqueeze(-1)
    probabilities = probabilities / probabilities.sum(-1, keepdim=True).clamp(min=1e-9)
    top = probabilities.topk(TOP_K, -1)
    return View(
        confidence=torch.where(masked, confidence, 1.0),
        prediction=torch.randint(5, 20, (rows, length), generator=generator),
        masked=masked,
        eligible=masked & in_block,
        step=step,
        time=(step - 1) / length,
        block_start=block_start,
        block_end=block_start + block,
        block_step=torch.minimum(step - 1, torch.full_like(step, block)),
        length=torch.full((rows,), length),
        commit_confidence=torch.rand(rows, length, generator=generator) * ~masked,
        key=torch.tensor([sequence_key([row], seed) for row in range(rows)]),
        features={
            name: torch.rand(rows, length, generator=generator) * (masked ^ (name in COMMITTED_READINGS))
            for name in sorted(VIEW_FEATURES)
        },
        tensors={
            "probabilities": probabilities,
            "top_probabilities": top.values,
            "top_ids": top.indices,
            "hidden": torch.rand(rows, length, 3, generator=generator),
            "prompt": torch.randint(4, 20, (rows, 5), generator=generator),
        },
    )


def take(view: View, rows: Sequence[int] | Tensor) -> View:
    """Some rows of a view."""
    index = torch.as_tensor(rows)

    def some(value: Any) -> Any:
        return value[index] if isinstance(value, Tensor) else {name: tensor[index] for name, tensor in value.items()}

    return View(**{f.name: some(getattr(view, f.name)) for f in fields(View)})


def written(chosen: Tensor) -> list[str]:
    """Rows of choices like "x.x"."""
    return ["".join("x" if cell else "." for cell in row) for row in chosen.tolist()]
