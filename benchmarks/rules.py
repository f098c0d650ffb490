"""What each decoding rule costs beside the dLLM's forward: ``python benchmarks/rules.py``.

For every rule, at rows of the embedded suite in the middle of decoding: the time of deciding (`act`) and of the
readings that only this rule asks for, as shares of the time of the dLLM's own forward in the same minute.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from rich.console import Console
from rich.table import Table

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models.load import load_denoiser
from envs.tasks import SUITE, make_tasks
from policies import RULES, UnmaskingPolicy, make_rule
from train.command.progress import progress
from train.command.ranges import check_count


@dataclass
class RulesConfig:
    """How to time them.

    Attributes:
        rows: answers under way side by side.
        repeats: of each part; its median counts.
    """

    rows: int = 64
    repeats: int = 15

    def __post_init__(self) -> None:
        check_count(self, "rows", "repeats")


def half_decoded(features: frozenset[str], rows: int) -> DecodingBatch:
    """Return rows after one step that committed eight random positions of each."""
    denoiser, tasks = load_denoiser("tiny"), make_tasks(SUITE)
    batch = DecodingBatch(denoiser, rows, DecodingSettings(features=features))
    prompts = [denoiser.encode_prompt(tasks[row % len(tasks)].problem("validation", row).prompt) for row in range(rows)]
    batch.load(range(rows), prompts)
    batch.apply(make_rule("random:8").act(batch.forward()))
    return batch


def timed(repeats: int, *works: Callable[[], object]) -> list[float]:
    """Return the median seconds of each, taken in turns so that a busy moment hits all alike."""
    times: list[list[float]] = [[] for _ in works]
    for _ in range(repeats):
        for spent, work in zip(times, works, strict=True):
            began = time.perf_counter()
            work()
            spent.append(time.perf_counter() - began)
    return [median(spent) for spent in times]


def shares(rule: UnmaskingPolicy, config: RulesConfig) -> tuple[float, float, float]:
    """Return seconds of a forward, and the rule's decision and readings as shares of it."""
    batch, plain = half_decoded(rule.features, config.rows), half_decoded(frozenset(), config.rows)
    rule = rule.bind(batch.denoiser, batch.settings)
    width = int(plain.prompt_length.max())
    tokens = torch.cat([plain.prompt[:, -width:], plain.buffer], 1)
    everything = torch.ones_like(tokens, dtype=torch.bool)
    view = batch.forward()
    rule.act(view)  # the oracle decodes its references, once a sequence
    forward, with_readings, without, act = timed(
        config.repeats,
        lambda: plain.denoiser.logits(tokens, everything, 64),
        batch.forward,
        plain.forward,
        lambda: rule.act(view),
    )
    # Where there are no readings, noise alone can make the difference negative.
    return forward, act / forward, max(0.0, with_readings - without) / forward


def main(config: RulesConfig) -> None:
    """Print the table."""
    torch.set_num_threads(1)
    table = Table(title=f"tiny dLLM, {config.rows} rows of 64 positions, one thread", title_justify="left")
    table.add_column("rule")
    for column in ("forward ms", "decision %", "readings %"):
        table.add_column(column, justify="right")
    for name in progress(list(RULES), desc="timing", unit="rule"):
        forward, act, readings = shares(make_rule(name), config)
        table.add_row(name, f"{1000 * forward:.1f}", f"{100 * act:.1f}", f"{100 * readings:.1f}")
    Console(width=80).print(table)


if __name__ == "__main__":
    from train.command.cli import run

    run(main, RulesConfig)
