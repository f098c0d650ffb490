"""Hand-made and random views, for the tests of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor

from envs.decoding import VIEW_FEATURES, View
from envs.noise import sequence_key


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
        key=torch.arange(rows),
        features={},
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
    return View(
        confidence=torch.where(masked, confidence, 1.0),
        prediction=torch.randint(5, 20, (rows, length), generator=generator),
        masked=masked,
        eligible=masked & in_block,
        step=step,
        time=(step - 1) / length,
        block_start=block_start,
        key=torch.tensor([sequence_key([row], seed) for row in range(rows)]),
        features={name: torch.rand(rows, length, generator=generator) * masked for name in sorted(VIEW_FEATURES)},
    )


def take(view: View, rows: Sequence[int] | Tensor) -> View:
    """Some rows of a view."""
    index = torch.as_tensor(rows)
    values: dict[str, Any] = {f.name: getattr(view, f.name) for f in fields(View) if f.name != "features"}
    features = {name: reading[index] for name, reading in view.features.items()}
    return View(**{name: value[index] for name, value in values.items()}, features=features)


def written(chosen: Tensor) -> list[str]:
    """Rows of choices like "x.x"."""
    return ["".join("x" if cell else "." for cell in row) for row in chosen.tolist()]
