"""Hand-made and random views, for the tests of policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields, replace
from types import SimpleNamespace
from typing import Any

import places
import torch
from torch import Tensor

from envs.noise import sequence_key
from envs.readings import READINGS, TOP_K, VIEW_FEATURES
from envs.view import Action, View
from policies import UnmaskingPolicy


def make_view(
    confidence: Sequence[Sequence[float]],
    eligible: Sequence[str] = (),
    step: int = 1,
    block: tuple[int, int] | None = None,
    **others: Any,
) -> View:
    """Rows of confidences, in one block unless its (start, end) is given.

    The masked positions are written like "x.x", all of a row when left out. The keys are 0, 1, 2, ... `others` are
    fields of the view, lists for tensors.
    """
    values = torch.tensor(confidence)
    rows, length = values.shape
    may = torch.tensor([[cell == "x" for cell in row] for row in eligible or ["x" * length] * rows])
    steps = torch.full((rows,), step)
    start, end = block or (0, length)
    view = View(
        confidence=torch.where(may, values, 1.0),
        prediction=torch.zeros(rows, length, dtype=torch.long),
        masked=may,
        eligible=may & (torch.arange(length) >= start) & (torch.arange(length) < end),
        step=steps,
        time=(steps - 1).float() / length,
        block_start=torch.full((rows,), start),
        block_end=torch.full((rows,), end),
        block_step=steps - 1,
        length=torch.full((rows,), length),
        commit_confidence=torch.zeros(rows, length),
        key=torch.arange(rows),
        tensors={"given": torch.full((rows, length), -1)},
    )
    return placed(replace(view, **{name: _tensors(value) for name, value in others.items()}))


def placed(view: View) -> View:
    """The view where the test runs."""

    def moved(value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(places.here)
        return {name: tensor.to(places.here) for name, tensor in value.items()}

    return View(**{f.name: moved(getattr(view, f.name)) for f in fields(View)})


def _tensors(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: torch.as_tensor(inner) for name, inner in value.items()}
    return torch.as_tensor(value)


def believing(distributions: Sequence[Sequence[Sequence[float]]], eligible: Sequence[str] = (), **others: Any) -> View:
    """A view of whole distributions: rows of positions of probabilities."""
    given = torch.tensor(distributions)
    best = given.max(-1)
    view = make_view(best.values.tolist(), eligible, **others)
    probabilities = given * view.masked.unsqueeze(-1)
    return replace(view, prediction=best.indices, tensors={"probabilities": probabilities})


def after(view: View, action: Action, **others: Any) -> View:
    """The same block one step later. What is believed of the masks stays, unless `others` says it."""
    remask = torch.zeros_like(view.masked) if action.remask is None else action.remask
    masked = (view.masked & ~action.commit) | remask
    known = torch.where(action.commit, view.confidence, view.commit_confidence).masked_fill(remask, 0.0)
    confidence = torch.as_tensor(others.pop("confidence", view.confidence))
    moved = replace(
        view,
        confidence=torch.where(masked, confidence, 1.0),
        masked=masked,
        eligible=masked & view.in_block,
        step=view.step + 1,
        time=view.step / view.masked.shape[1],
        block_step=view.block_step + 1,
        commit_confidence=known,
        memory=action.memory,
    )
    return replace(moved, **{name: _tensors(value) for name, value in others.items()})


def steps_of(policy: UnmaskingPolicy, view: View) -> list[str]:
    """What a policy commits of a view's only row, step by step, until nothing is masked."""
    steps = []
    while view.eligible.any():
        action = policy.act(view)
        steps += written(action.commit)
        view = after(view, action)
        assert len(steps) <= 100
    return steps


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
    view = placed(
        View(
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
                name: torch.rand(rows, length, generator=generator) * (masked ^ (READINGS[name].holds == "committed"))
                for name in sorted(VIEW_FEATURES)
            },
            tensors={
                "probabilities": probabilities,
                "top_probabilities": top.values,
                "top_ids": top.indices,
                "hidden": torch.rand(rows, length, 3, generator=generator),
                "prompt": torch.randint(4, 20, (rows, 5), generator=generator),
                "given": torch.full((rows, length), -1),
            },
        )
    )
    # Drawn last, so that all the others are what they were before there was attention.
    attention = torch.rand(rows, 5 + length, 5 + length, generator=generator) ** 4
    attention = (attention / attention.sum(-1, keepdim=True)).to(places.here)
    maps = {"attention": attention[:, 5:], "attention_received": attention.mean(1)}
    return replace(view, tensors={**view.tensors, **maps})


def take(view: View, rows: Sequence[int] | Tensor) -> View:
    """Some rows of a view."""
    index = torch.as_tensor(rows)

    def some(value: Any) -> Any:
        return value[index] if isinstance(value, Tensor) else {name: tensor[index] for name, tensor in value.items()}

    return View(**{f.name: some(getattr(view, f.name)) for f in fields(View)})


def written(chosen: Tensor) -> list[str]:
    """Rows of choices like "x.x"."""
    return ["".join("x" if cell else "." for cell in row) for row in chosen.tolist()]


class Successor:
    """A causal model that gives the successor of each token 0.6, and the one after that 0.3."""

    def __init__(self, vocabulary: int = 32) -> None:
        self.vocabulary = vocabulary
        self.calls: list[tuple[Any, ...]] = []

    def __call__(self, input_ids: Tensor, attention_mask: Tensor | None, position_ids: Tensor) -> Any:
        seen = None if attention_mask is None else attention_mask.tolist()
        self.calls.append((input_ids.tolist(), seen, position_ids.tolist()))
        probabilities = torch.full((*input_ids.shape, self.vocabulary), 0.1 / (self.vocabulary - 2))
        for step, share in ((1, 0.6), (2, 0.3)):
            probabilities.scatter_(-1, ((input_ids + step) % self.vocabulary).unsqueeze(-1), share)
        return SimpleNamespace(logits=probabilities.log())
