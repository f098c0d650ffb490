"""What each cache costs and saves beside none: ``python benchmarks/caches.py``.

Every policy decodes the same problems with every cache in turn, in one run, for each length of the buffer and number of
rows: accuracy, forwards and positions an answer, and the wall time of them all, each beside that of ``none``. Where a
cache is slower than none on the clock, the table says so. ``costs.json`` in the run's folder holds the numbers,
``costs.md`` the table.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from experiments.base import table
from random_dllm import random_dllm
from rich.console import Console
from rich.table import Table

from envs.caches import make_cache
from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.tasks import SUITE, Problem, Split, make_tasks
from policies.generation import check_cache
from train.command.config_values import PathText
from train.command.decoding_config import CacheText
from train.command.files import write_atomic, write_json
from train.command.model_config import ModelConfig
from train.command.progress import progress
from train.command.ranges import check_count, check_seed
from train.command.run_folder import open_run, refuse_used
from train.command.told import tell
from train.evaluation.jobs import Job, plan
from train.evaluation.measure import choose_problems, decode_problems, score_problems

if TYPE_CHECKING:
    from transformers import LlamaConfig

NONE = "none"

COLUMNS = ("L", "rows", "policy", "cache", "accuracy %", "points", "NFE", "positions", "fewer", "seconds", "faster")
"""``points`` are those of the accuracy beside none's; ``fewer`` and ``faster`` how many times less than none's."""


@dataclass(frozen=True)
class CachesConfig:
    """Compare caches with none: accuracy, forwards, positions computed and wall time.

    Examples:
        python benchmarks/caches.py
        python benchmarks/caches.py --model runs/pretrain/model --tasks [prose] --cache dual --cache window
        python benchmarks/caches.py --is_random true --policy low_confidence:4
    """

    policy: list[PathText] = field(default_factory=lambda: ["low_confidence:4", "threshold:0.9"])
    """Rules, or folders of exported policies, as python train/evaluate.py takes them."""
    cache: list[CacheText] = field(
        default_factory=lambda: [
            "prefix",
            "dual",
            "dual:refresh=4",
            "dual:fresh_prompt=1",
            "dkv",
            "d2cache",
            "freecache",
            "window",
        ]
    )
    """Caches to compare with none, which is always measured too."""
    out: Path = Path("runs/caches")
    """Folder for costs.json and costs.md; it must be new or empty."""
    tasks: list[str] = field(default_factory=lambda: [SUITE])
    """Tasks as name or name:option=value,...; or a suite."""
    split: Split = "test"
    """Problems to use: test, validation or train."""
    episodes: int = 8
    """Problems a task."""
    first: int = 0
    """Index of the first problem of the split."""
    buffer_length: list[int] = field(default_factory=lambda: [128, 256])
    """Masks to start from, one table part each."""
    block_length: int = 32
    """Positions of a block."""
    rows: list[int] = field(default_factory=lambda: [1, 32])
    """Sequences decoded side by side, one table part each."""
    early_end: bool = True
    """End a sequence once all before a committed end-of-text is known; false decodes every position."""
    repeats: int = 2
    """Decodings of each, in turns, of which the fastest counts."""
    is_random: bool = False
    """Measure a random model of LLaDA's class (2 layers, width 128) instead: its positions and times, not its
    accuracy, mean something."""
    seed: int = 0
    """Of every random choice."""
    model: ModelConfig = field(default_factory=ModelConfig)

    def __post_init__(self) -> None:
        check_count(self, "episodes", "buffer_length", "block_length", "rows", "repeats")
        check_count(self, "first", least=0)
        check_seed(self)
        for name in ("policy", "cache", "buffer_length", "rows"):
            if not getattr(self, name):
                raise ValueError(f"{name} is an empty list: give one or more")
        # What is not possible is refused here, before anything is measured.
        for length, cache in product(self.buffer_length, self.cache):
            DecodingSettings(length, self.block_length, cache=cache)

    @property
    def caches(self) -> list[str]:
        """None's name, and those of all others, once each."""
        # As a cache writes itself, so that a knob at its default makes no second one.
        return list(dict.fromkeys([NONE, *(make_cache(cache).name for cache in self.cache)]))


@dataclass(frozen=True)
class Cost:
    """What a policy needed with a cache.

    Attributes:
        buffer_length: L.
        rows: sequences side by side.
        policy: its name; a learned one's with its decision.
        cache: the cache's name.
        accuracy: mean score in [0, 1].
        nfe: forwards an answer.
        token_positions: positions computed an answer.
        seconds: wall time of all answers.
        cpu_seconds: time that the process computed for it: what else the machine does counts less in it.
    """

    buffer_length: int
    rows: int
    policy: str
    cache: str
    accuracy: float
    nfe: float
    token_positions: float
    seconds: float
    cpu_seconds: float


def random_config() -> LlamaConfig:
    """Return the sizes of the random dLLM: 2 layers of width 128, with grouped heads."""
    from transformers import LlamaConfig

    return LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
    )


def costs_of(
    denoiser: Denoiser,
    problems: Sequence[Problem],
    job: Job,
    rows: int,
    settings: DecodingSettings,
    config: CachesConfig,
) -> list[Cost]:
    """Measure one policy with every cache, at one length and number of rows.

    The caches take turns, so that a busy moment of the machine hits all alike.
    """
    policy = job.make(config.model.device)
    settings = replace(settings, features=policy.features)
    caches = config.caches
    spent: dict[str, list[tuple[float, float]]] = {cache: [] for cache in caches}
    answers = {}
    for _ in range(config.repeats):
        for cache in caches:
            began, computed = time.perf_counter(), time.process_time()
            # Of one seed: each time round has the same answers, so the last ones do.
            answers[cache] = decode_problems(
                denoiser, problems, policy, replace(settings, cache=cache), batch_size=rows, seed=config.seed
            )
            spent[cache].append((time.perf_counter() - began, time.process_time() - computed))
    costs = []
    for cache in caches:
        scores = score_problems(make_tasks(config.tasks), problems, [one.text for one in answers[cache]])
        # The fastest: whatever else the machine does only ever adds.
        seconds, cpu_seconds = (min(times) for times in zip(*spent[cache], strict=True))
        costs.append(
            Cost(
                settings.buffer_length,
                rows,
                # A folder may be measured with both of its decisions, and `beside_none` pairs by this name.
                job.name if policy.name != "learned" else f"{job.name}, {job.decision}",
                cache,
                float(np.mean([score for score in scores if score is not None])),
                float(np.mean([one.nfe for one in answers[cache]])),
                float(np.mean([one.token_positions for one in answers[cache]])),
                seconds,
                cpu_seconds,
            )
        )
    return costs


def beside_none(costs: Sequence[Cost]) -> list[tuple[Cost, Cost]]:
    """Pair each cost with none's of the same policy, length and rows."""

    def key(cost: Cost) -> tuple[int, int, str]:
        return cost.buffer_length, cost.rows, cost.policy

    plain = {key(cost): cost for cost in costs if cost.cache == NONE}
    return [(cost, plain[key(cost)]) for cost in costs]


def cells_of(cost: Cost, none: Cost) -> list[str]:
    """Write one row of the table; see `COLUMNS`."""
    points, faster = 100 * (cost.accuracy - none.accuracy), none.seconds / cost.seconds
    is_none = cost.cache == NONE
    return [
        str(cost.buffer_length),
        str(cost.rows),
        cost.policy,
        cost.cache,
        f"{100 * cost.accuracy:.1f}",
        "" if is_none else f"{points:+.1f}",
        f"{cost.nfe:.2f}",
        f"{cost.token_positions:.0f}",
        "" if is_none else f"{none.token_positions / cost.token_positions:.2f}",
        f"{cost.seconds:.2f}",
        "" if is_none else f"{faster:.2f}" + (" slower" if faster < 1 else ""),
    ]


def verdict(costs: Sequence[Cost]) -> str:
    """Say which caches are slower than none, and how often."""
    measured = Counter(cost.cache for cost in costs)
    slower = Counter(cost.cache for cost, none in beside_none(costs) if cost.seconds > none.seconds)
    parts = ", ".join(f"{cache} in {slower[cache]} of {measured[cache]}" for cache in measured if slower[cache])
    return f"Slower than none: {parts}." if slower else "No cache is slower than none."


def markdown(costs: Sequence[Cost]) -> str:
    """Write the table and the verdict."""
    rows = [cells_of(*pair) for pair in beside_none(costs)]
    return f"{table(COLUMNS, rows)}\n\n{verdict(costs)}\n"


def show(costs: Sequence[Cost], title: str) -> None:
    """Print the table and the verdict."""
    shown = Table(title=title, title_justify="left")
    for column in COLUMNS:
        shown.add_column(column, justify="left" if column in ("policy", "cache") else "right", no_wrap=True)
    for pair in beside_none(costs):
        # The caches come in the same order each time, so the last one ends a part of the table.
        shown.add_row(*cells_of(*pair), end_section=pair[0].cache == costs[-1].cache)
    # Eleven columns don't fit the 80 letters that rich takes a pipe to have.
    console = Console(width=max(140, Console().width))
    console.print(shown)
    console.print(verdict(costs))


def main(config: CachesConfig) -> list[Cost]:
    """Measure, print the table and write it.

    Raises:
        UserError: if the folder is taken.
        ValueError: if the dLLM can't be decoded so, or a policy can't be cached.
    """
    refuse_used(config.out)
    torch.set_num_threads(config.model.threads)
    jobs = plan(config.policy, [config.block_length])
    for job, cache in product(jobs, config.caches):
        check_cache(job.make(config.model.device), cache)
    tasks = make_tasks(config.tasks)
    problems = choose_problems(tasks, config.split, config.first, config.episodes)
    denoiser = random_dllm(random_config()) if config.is_random else config.model.load()
    parts = list(product(config.buffer_length, config.rows, jobs))
    with open_run(config.out, config, resume=None):
        for length, cache in product(config.buffer_length, config.caches):
            settings = DecodingSettings(length, config.block_length, early_end=config.early_end, cache=cache)
            DecodingBatch(denoiser, 1, settings)  # which checks it, and that the dLLM can be cached
            # The first forwards of a kind are slower.
            warm_up(denoiser, problems[:2], settings)
        costs: list[Cost] = []
        for length, rows, job in progress(parts, desc="measuring", unit="part"):
            settings = DecodingSettings(length, config.block_length, early_end=config.early_end)
            costs += costs_of(denoiser, problems, job, rows, settings, config)
        name = "random" if config.is_random else config.model.name
        about = f"{name}, {len(problems)} problems, blocks of {config.block_length}, {config.model.threads} thread(s)"
        write_json(config.out / "costs.json", {"about": about, "costs": [asdict(cost) for cost in costs]})
        write_atomic(config.out / "costs.md", markdown(costs))
        show(costs, about)
    tell("costs", config.out / "costs.json")
    return costs


def warm_up(denoiser: Denoiser, problems: Sequence[Problem], settings: DecodingSettings) -> None:
    """Run two forwards on some problems."""
    batch = DecodingBatch(denoiser, len(problems), settings)
    batch.load(range(len(problems)), [denoiser.encode_prompt(problem.prompt) for problem in problems])
    for _ in range(2):
        batch.forward()


if __name__ == "__main__":
    from train.command.cli import run

    run(main, CachesConfig)
