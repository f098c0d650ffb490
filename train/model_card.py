"""Measure an embedded dLLM and write its model card.

``python train/model_card.py --model envs/checkpoints/tiny`` decodes held-out problems one token per step by
confidence, and all positions in one step, and writes both accuracies to the folder's ``README.md``.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from envs.denoiser import load_denoiser
from envs.tasks import SUITE, make_tasks
from policies import LowConfidence, Threshold
from train.evaluate import evaluate
from train.progress import progress
from train.records import Record
from train.run_folder import UserError, commit, write_atomic

CARD = """---
library_name: transformers
pipeline_tag: fill-mask
license: mit
---
# Embedded masked diffusion language model

A small bidirectional transformer (`RobertaPreLayerNormForMaskedLM`, {parameters:,} parameters) trained from scratch
with LLaDA's objective (arXiv 2502.09992) on the procedural suite of `envs/tasks`, so that learning an unmasking policy
needs no GPU and no model hub. It is a test bed, not a language model: it knows the words of its tasks only.

{provenance}

Accuracy on {episodes} held-out problems a task (95 % Wilson intervals), buffer of 64 masks, full diffusion:

| task | one token per step, by confidence | all positions in one step |
| --- | --- | --- |
{rows}

Made by `python train/model_card.py --model envs/checkpoints/tiny --episodes {episodes}` at commit {commit}.
"""


@dataclass(frozen=True)
class CardConfig:
    """What `python train/model_card.py` does."""

    model: Path = Path("envs/checkpoints/tiny")
    """Checkpoint folder; its README.md is replaced."""
    episodes: int = 500
    """Held-out problems a task."""
    threads: int = 1
    """Torch threads."""


def _cell(record: Record) -> str:
    low, high = record["accuracy_ci95"]
    return f"{100 * record['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def write_card(config: CardConfig) -> None:
    """Evaluate the model and write the card.

    Raises:
        UserError: if the folder holds no checkpoint.
    """
    if not (config.model / "config.json").is_file():
        raise UserError(f"model is {str(config.model)!r}: it holds no checkpoint; run train/pretrain.py first")
    torch.set_num_threads(config.threads)
    denoiser = load_denoiser(str(config.model))
    problems = 2 * len(make_tasks(SUITE)) * config.episodes
    with progress(total=problems, desc="measuring", unit="problem") as bar:
        about: dict[str, Any] = {"episodes": config.episodes, "batch_size": 128, "on_finish": bar.update}
        slow = evaluate(denoiser, LowConfidence(1), **about)
        fast = evaluate(denoiser, Threshold(0.0), **about)
    rows = [f"| {s['task']} | {_cell(s)} | {_cell(f)} |" for s, f in zip(slow, fast, strict=True)]
    training = config.model / "training.json"
    facts = json.loads(training.read_text()) if training.is_file() else {}
    provenance = "\n".join(f"- {key}: {value}" for key, value in facts.items())
    text = CARD.format(
        parameters=sum(p.numel() for p in denoiser.model.parameters()),  # type: ignore[attr-defined]
        provenance=provenance,
        episodes=config.episodes,
        rows="\n".join(rows),
        commit=commit(),
    )
    write_atomic(config.model / "README.md", text)
    print("\n".join(rows))


if __name__ == "__main__":
    from train.cli import run

    run(write_card, CardConfig)
