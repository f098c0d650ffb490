"""Evaluate policies on held-out problems: accuracy, forwards and token positions, with intervals.

``python train/evaluate.py --policy threshold:0.9 --policy runs/ppo/policy`` prints a table and, with ``--out``,
writes ``evaluation.json``, the list of records that every later tool reads.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from scipy import stats
from tqdm import tqdm

from envs.decoding import DecodingSettings
from envs.denoiser import Denoiser, load_denoiser
from envs.tasks import SUITE, Split, make_tasks
from policies import UnmaskingPolicy, decode, load, make_rule

Record = dict[str, Any]
"""``{policy, decision, task, block_length, accuracy, accuracy_ci95, nfe, nfe_ci95, token_positions, episodes, seed}``:
one policy with one decision rule on one task, or on ``"all"`` of them; accuracy is in [0, 1]."""


@dataclass(frozen=True)
class EvaluateConfig:
    """What `python train/evaluate.py` does."""

    policy: list[str] = field(default_factory=lambda: ["low_confidence:1", "threshold:0.9"])
    """Rules as name:knob, or folders of exported policies (evaluated sampled and deterministic)."""
    model: str = "tiny"
    """The dLLM: a checkpoint folder or the name of one that ships."""
    tasks: list[str] = field(default_factory=lambda: [SUITE])
    """Tasks by name, or suite."""
    split: Split = "test"
    """Problems to use: test, validation or train."""
    episodes: int = 100
    """Problems a task."""
    buffer_length: int = 64
    """Masks to start from."""
    block_length: list[int] = field(default_factory=lambda: [64])
    """Block lengths to evaluate at; the buffer length is full diffusion."""
    temperature: float = 0.0
    """Of the sampled token; 0 commits the argmax."""
    batch_size: int = 64
    """Sequences decoded side by side."""
    device: str = "cpu"
    """Torch device of the dLLM."""
    dtype: str = "float32"
    """Torch dtype of the dLLM."""
    threads: int = 1
    """Torch threads."""
    per_task: bool = False
    """Print a row for each task too."""
    seed: int = 0
    """Of every random choice."""
    out: Path | None = None
    """File for the records."""


def accuracy_interval(scores: Sequence[float]) -> list[float]:
    """Return the 95 % Wilson interval of a mean of 0/1 scores.

    >>> [round(edge, 3) for edge in accuracy_interval([1.0] * 8 + [0.0] * 2)]
    [0.49, 0.943]
    """
    interval = stats.binomtest(round(sum(scores)), len(scores)).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def mean_interval(values: Sequence[float]) -> list[float]:
    """Return the 95 % Student interval of a mean; a single value is its own interval.

    >>> [round(edge, 3) for edge in mean_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    mean, error = float(np.mean(values)), float(stats.sem(values)) if len(values) > 1 else 0.0
    half = float(stats.t.ppf(0.975, max(1, len(values) - 1))) * error
    return [mean - half, mean + half]


def make_record(name: str, decision: str, task: str, block: int, seed: int, rows: Sequence[Sequence[float]]) -> Record:
    """Summarise one policy's episodes.

    Args:
        name: of the policy.
        decision: "sample" or "deterministic".
        task: name, or "all".
        block: block length.
        seed: of the evaluation.
        rows: (score, NFE, token positions) of each episode.
    """
    scores, nfe, positions = (list(column) for column in zip(*rows, strict=True))
    return {
        "policy": name,
        "decision": decision,
        "task": task,
        "block_length": block,
        "accuracy": float(np.mean(scores)),
        "accuracy_ci95": accuracy_interval(scores),
        "nfe": float(np.mean(nfe)),
        "nfe_ci95": mean_interval(nfe),
        "token_positions": float(np.mean(positions)),
        "episodes": len(rows),
        "seed": seed,
    }


def evaluate(
    denoiser: Denoiser,
    policy: UnmaskingPolicy,
    *,
    tasks: str | Sequence[str] = SUITE,
    split: Split = "test",
    episodes: int = 100,
    buffer_length: int = 64,
    block_length: int | None = None,
    temperature: float = 0.0,
    batch_size: int = 64,
    seed: int = 0,
    on_finish: Callable[[int], object] | None = None,
) -> list[Record]:
    """Decode the first problems of a split with one policy and score them.

    Args:
        denoiser: the frozen dLLM.
        policy: a rule, or a learned policy with its decision rule.
        tasks: names, or "suite".
        split: which problems.
        episodes: problems a task.
        buffer_length: L.
        block_length: None for full diffusion.
        temperature: of the sampled token.
        batch_size: sequences decoded side by side.
        seed: of every random choice.
        on_finish: called with the number of problems just finished.

    Returns:
        One record a task, then the one of all tasks.
    """
    if episodes < 1:
        raise ValueError(f"episodes is {episodes}: it must be 1 or more")
    chosen = make_tasks(tasks)
    problems = [task.problem(split, index) for task in chosen for index in range(episodes)]
    settings = DecodingSettings(buffer_length, block_length, temperature, policy.features)
    generations = decode(
        denoiser,
        [problem.prompt for problem in problems],
        policy,
        settings,
        batch_size=batch_size,
        seed=seed,
        on_finish=on_finish,
    )
    scorers = {task.name: task.score for task in chosen}
    rows = [
        (scorers[problem.task](done.text, problem), done.nfe, done.token_positions)
        for problem, done in zip(problems, generations, strict=True)
    ]
    about = (settings.block, seed)
    records = [
        make_record(policy.name, policy.decision, task.name, *about, rows[i * episodes : (i + 1) * episodes])
        for i, task in enumerate(chosen)
    ]
    return [*records, make_record(policy.name, policy.decision, "all", *about, rows)]


def make_policies(texts: Iterable[str], device: str = "cpu") -> list[UnmaskingPolicy]:
    """Build policies from rules' texts and policy folders; a folder gives both of its decision rules."""
    made: list[UnmaskingPolicy] = []
    for text in texts:
        if ":" not in text or Path(text).is_dir():
            made += [load(text, "sample", device), load(text, "deterministic", device)]
        else:
            made.append(make_rule(text))
    return made


def print_table(records: Sequence[Record], title: str = "", per_task: bool = False) -> None:
    """Print records as an aligned table: the suite's, and with `per_task` each task's."""
    table = Table(title=title or None, title_justify="left")
    for column in ("policy", "decision", "block", "task"):
        table.add_column(column)
    for column in ("accuracy %", "NFE", "token positions"):
        table.add_column(column, justify="right")
    for record in records:
        if per_task or record["task"] == "all":
            half = 100 * (record["accuracy_ci95"][1] - record["accuracy_ci95"][0]) / 2
            half_nfe = (record["nfe_ci95"][1] - record["nfe_ci95"][0]) / 2
            table.add_row(
                record["policy"],
                record["decision"],
                str(record["block_length"]),
                record["task"],
                f"{100 * record['accuracy']:.1f} ± {half:.1f}",
                f"{record['nfe']:.2f} ± {half_nfe:.2f}",
                f"{record['token_positions']:.0f}",
            )
    Console(width=None if sys.stdout.isatty() else 120).print(table)


def main(config: EvaluateConfig) -> list[Record]:
    """Evaluate every policy at every block length; print the table and write the records."""
    from train.run_folder import write_json

    torch.set_num_threads(config.threads)
    denoiser = load_denoiser(config.model, config.device, config.dtype)
    policies = make_policies(config.policy, config.device)
    total = len(policies) * len(config.block_length) * config.episodes * len(make_tasks(config.tasks))
    records: list[Record] = []
    with tqdm(total=total, unit="problem", disable=not sys.stderr.isatty()) as bar:
        for block in config.block_length:
            for policy in policies:
                bar.set_description(f"{policy.name}, block {block}")
                records += evaluate(
                    denoiser,
                    policy,
                    tasks=config.tasks,
                    split=config.split,
                    episodes=config.episodes,
                    buffer_length=config.buffer_length,
                    block_length=block,
                    temperature=config.temperature,
                    batch_size=config.batch_size,
                    seed=config.seed,
                    on_finish=bar.update,
                )
                if config.out is not None:
                    write_json(config.out, records)
    print_table(records, f"{config.model}, {config.episodes} {config.split} problems a task", config.per_task)
    return records


if __name__ == "__main__":
    from train.cli import run

    run(main, EvaluateConfig)
