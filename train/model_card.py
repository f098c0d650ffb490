"""Measure an embedded dLLM and write its model card.

``python train/model_card.py --model envs/checkpoints/tiny`` decodes held-out problems one token per step by
confidence, all positions in one step, and by the rules in between, and writes what they reach to the folder's
``README.md``. What the model is, and which suite it was trained on, is read from the folder.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser
from envs.tasks import BUFFER_LENGTHS, SUITE, SUITES
from policies import LowConfidence, Threshold, UnmaskingPolicy
from policies.rules import Oracle
from train.command.errors import UserError
from train.command.files import write_atomic
from train.command.progress import progress
from train.command.provenance import commit
from train.command.ranges import check_count
from train.evaluation.measure import evaluate
from train.evaluation.records import Record

CARD = """---
library_name: transformers
pipeline_tag: fill-mask
license: mit
---
# Embedded masked diffusion language model `{name}`

A small bidirectional transformer ({kind}, {parameters:,} parameters) trained from scratch
with LLaDA's objective (arXiv 2502.09992) on the procedural suite `{suite}` of `envs/tasks`, so that learning an
unmasking policy needs no GPU and no model hub. It is a test bed, not a language model: it knows the words of its tasks
only.

{provenance}

Accuracy on {episodes} held-out problems a task (95 % Wilson intervals), buffer of {length} masks, full diffusion:

{ends}

Between these two, accuracy and forwards a problem:

{between}

Made by `python train/model_card.py --model {folder} --episodes {episodes}` at commit {commit}.
"""

ENDS: dict[str, UnmaskingPolicy] = {
    "one token per step, by confidence": LowConfidence(1),
    "all positions in one step": Threshold(0.0),
}
BETWEEN: dict[str, UnmaskingPolicy] = {
    **{f"threshold {threshold}": Threshold(threshold) for threshold in (0.95, 0.9, 0.8, 0.7, 0.5)},
    "oracle": Oracle(),
}
"""Published rules at several settings, and the limit of what a policy could know."""


@dataclass(frozen=True)
class CardConfig:
    """Measure an embedded dLLM on held-out problems and write its model card.

    Examples:
        python train/model_card.py --model envs/checkpoints/tiny
    """

    model: Path = Path("envs/checkpoints/tiny")
    """Checkpoint folder; its README.md is replaced."""
    episodes: int = 500
    """Held-out problems a task."""
    threads: int = 1
    """Torch threads."""

    def __post_init__(self) -> None:
        check_count(self, "episodes", "threads")


def table(columns: Sequence[str], rows: Mapping[str, Sequence[str]]) -> str:
    """Write a table whose first column is the task.

    >>> print(table(["score"], {"copy": ["100 %"]}))
    | task | score |
    | --- | --- |
    | copy | 100 % |
    """
    lines = [["task", *columns], ["---"] * (len(columns) + 1), *([task, *cells] for task, cells in rows.items())]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def accuracy_cell(record: Record) -> str:
    """Write an accuracy with its interval.

    >>> accuracy_cell({"accuracy": 0.5, "accuracy_ci95": [0.4, 0.6]})
    '50.0 % (40.0 to 60.0)'
    """
    low, high = record["accuracy_ci95"]
    return f"{100 * record['accuracy']:.1f} % ({100 * low:.1f} to {100 * high:.1f})"


def cost_cell(record: Record) -> str:
    """Write an accuracy and what it costs.

    >>> cost_cell({"accuracy": 0.5, "nfe": 4.25})
    '50.0 % in 4.2'
    """
    return f"{100 * record['accuracy']:.1f} % in {record['nfe']:.1f}"


def kind_of(denoiser: MaskedLMDenoiser) -> str:
    """Say what class a checkpoint is loaded into, and which family's format it has if that has a name of its own."""
    name = f"`{type(denoiser.model).__name__}`"
    return name if denoiser.family.is_masked_lm else f"{name} from a checkpoint of the {denoiser.family.name} format"


def write_card(config: CardConfig) -> None:
    """Evaluate the model and write the card.

    Raises:
        UserError: if the folder holds no checkpoint, or one that was trained on an unknown suite.
    """
    if not (config.model / "config.json").is_file():
        raise UserError(f"model is {str(config.model)!r}: it holds no checkpoint; run train/pretrain.py first")
    torch.set_num_threads(config.threads)
    denoiser = load_denoiser(str(config.model))
    assert isinstance(denoiser, MaskedLMDenoiser)
    training = config.model / "training.json"
    facts: dict[str, Any] = json.loads(training.read_text()) if training.is_file() else {}
    suite = facts.get("suite", SUITE)
    if suite not in SUITES:
        raise UserError(f"{training} says suite {suite!r}: choose from {', '.join(SUITES)}")
    length = BUFFER_LENGTHS[suite]
    policies = ENDS | BETWEEN
    with progress(total=len(policies) * len(SUITES[suite]) * config.episodes, desc="measuring", unit="problem") as bar:
        about: dict[str, Any] = {"tasks": suite, "episodes": config.episodes, "buffer_length": length}
        records = {
            name: evaluate(denoiser, policy, batch_size=128, on_finish=bar.update, **about)
            for name, policy in policies.items()
        }
    tasks = [record["task"] for record in records[next(iter(ENDS))]]
    ends, between = {}, {}
    for i, task in enumerate(tasks):
        ends[task] = [accuracy_cell(records[name][i]) for name in ENDS]
        between[task] = [cost_cell(records[name][i]) for name in BETWEEN]
    text = CARD.format(
        name=config.model.name,
        kind=kind_of(denoiser),
        parameters=sum(p.numel() for p in denoiser.model.parameters()),
        suite=suite,
        provenance="\n".join(f"- {key}: {value}" for key, value in facts.items()),
        episodes=config.episodes,
        length=length,
        ends=table(list(ENDS), ends),
        between=table(list(BETWEEN), between),
        folder=config.model,
        commit=commit(),
    )
    write_atomic(config.model / "README.md", text)
    print(f"{table(list(ENDS), ends)}\n\n{table(list(BETWEEN), between)}")


if __name__ == "__main__":
    from train.command.cli import run

    run(write_card, CardConfig)
