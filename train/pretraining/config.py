"""Everything that `python train/pretrain.py` can be told."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from envs.names import hint
from envs.tasks import SUITE, SUITES, make_tasks
from train.command.ranges import check_count, check_range, check_seed
from train.pretraining.architectures import Architecture

TASK_WEIGHTS = {
    **{"copy": 0.25, "insert": 0.25, "remove": 0.25, "reverse": 0.5, "add": 10.0, "sudoku": 1.5},
    **{"story": 2.0, "describe": 0.4, "trace": 0.6, "route": 1.0, "record": 0.1, "puzzle": 0.4},
}
"""How often a task is drawn, by the number of examples it needs; the others have weight 1."""


SHORTEST = 0
"""Stands among the buffer lengths for a buffer that just holds a group's answers."""


MOST_SPARE = 8
"""Most end-of-text positions that follow the longest answer of a group with a `SHORTEST` buffer."""


def _check_lesson(steps: int, tasks: list[str], suite: str) -> None:
    """Refuse a lesson without end or matter, or one whose words the suite's tokenizer does not have."""
    if steps < 1 or not tasks:
        raise ValueError(f"lessons holds {[steps, tasks]}: give 1 step or more and a task or more")
    for task in make_tasks(tasks):
        if task.name not in SUITES[suite]:
            raise ValueError(f"lessons holds task {task.name!r}: {hint(task.name, SUITES[suite])}")


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain a small dLLM on the procedural suite, or the causal model that guides one; resumes by itself.

    Examples:
        python train/pretrain.py
        python train/pretrain.py --steps 200 --out runs/try
        torchrun --nproc-per-node 2 train/pretrain.py
    """

    out: Path = Path("runs/pretrain")
    """Folder for the checkpoint and the training state."""
    seed: int = 0
    """Seed of the weights, the problems and the masks."""
    suite: str = SUITE
    """The tasks to learn: the name of an embedded suite."""
    lessons: list[tuple[int, list[str]]] = field(default_factory=list)
    """(steps, tasks) pairs that come before the whole suite, its own tasks with options that make them easier, such as
    [600, ["record:fewest=1,most=2"]]: what has learned to copy learns the rest several times sooner."""
    objective: Literal["diffusion", "causal"] = "diffusion"
    """diffusion trains a dLLM, causal an autoregressive model with the same tokenizer."""
    architecture: Architecture = "roberta"
    """The dLLM's class and file format: RoBERTa with pre-layer-norm, or LLaDA's."""
    init: str | None = None
    """Checkpoint folder, or name of an embedded dLLM, whose weights the training starts from; None is random ones.
    Architecture and sizes must be the same; the suite's words may have changed."""
    steps: int = 10_000
    """Optimiser steps; a run can be continued with more or fewer."""
    batch_size: int = 64
    """Sequences a step, over all processes."""
    group_size: int = 64
    """Sequences that share one forward and one buffer length; those of a batch are grouped by length."""
    hidden_size: int = 128
    """Width of the transformer."""
    inner_size: int | None = None
    """Width of its feed-forward layers; None is 4 times hidden_size for roberta, twice for the others."""
    num_layers: int = 4
    """Layers of the transformer."""
    num_heads: int = 4
    """Attention heads a layer."""
    learning_rate: float = 5e-3
    """Peak learning rate of both optimisers (Muon's is scaled to match AdamW's update size)."""
    weight_decay: float = 0.05
    """Decoupled weight decay of the matrices."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises from 0."""
    decay: float = 0.5
    """Share of the steps, at the end, in which it falls linearly to 0."""
    buffer_lengths: list[tuple[int, float]] = field(default_factory=lambda: [(33, 0.8), (64, 0.19), (256, 0.01)])
    """(buffer length, share of the groups) pairs; length 0 just holds the answers of the group. Groups with a buffer
    over 64 are smaller, as many tokens as with one of 64."""
    max_positions: int = 640
    """Longest prompt and buffer together."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What matrices are multiplied in; bfloat16 is a fifth faster on processors that have it. Weights stay float32."""
    threads: int = 1
    """Torch threads; 2 are slower than 1 when anything else runs on two cores."""
    save_every: int = 250
    """Steps between two savings of the training state."""

    def __post_init__(self) -> None:
        """Refuse what can't be trained.

        Raises:
            ValueError: if the suite is unknown, or a size or share is not possible.
        """
        if self.suite not in SUITES:
            raise ValueError(f"suite is {self.suite!r}: {hint(self.suite, SUITES)}")
        check_seed(self)
        check_count(self, "steps", "batch_size", "group_size", "save_every", "max_positions")
        check_count(self, "hidden_size", "inner_size", "num_layers", "num_heads")
        check_count(self, "threads", most=4096)
        check_range(self, "learning_rate", above=0)
        check_range(self, "weight_decay", least=0)
        check_range(self, "warmup", "decay", least=0, most=1)
        for steps, tasks in self.lessons:
            _check_lesson(steps, tasks, self.suite)
        lengths, shares = zip(*self.buffer_lengths, strict=True) if self.buffer_lengths else ((), ())
        if not lengths or min(lengths) < SHORTEST or min(shares) < 0 or not math.isclose(sum(shares), 1):
            raise ValueError(
                f"buffer_lengths is {self.buffer_lengths}: give pairs of a length, 0 or more, and a share, 0 or more; "
                "the shares add up to 1"
            )
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads is {self.num_heads}: it must divide hidden_size {self.hidden_size}")

    def unused(self) -> dict[str, str]:
        """Return the fields that play no role beside the others, each with the reason."""
        names = ("buffer_lengths", "architecture")
        return dict.fromkeys(names, "objective is causal") if self.objective == "causal" else {}
