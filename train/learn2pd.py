"""Learn2PD: learn from the oracle which positions are already final, and commit those.

``python train/learn2pd.py`` with no argument, on the embedded dLLM:

1. decodes training problems one token per step, replays them under the extremely-greedy-parallel oracle and stores
   each step's beliefs and the oracle's bits (`train/filters/traces.py`);
2. trains filters by binary cross-entropy, stopping early on held-out traces: the published two-layer perceptron over
   one block of 32 confidences, and the policy network's transformer, which works at any block length;
3. reports precision, recall, false commits and calibration by threshold;
4. exports each filter in the policy format, ``filters/NAME``, for `policies.load`, ``--policy FOLDER@THRESHOLD`` and
   ``--filter.folder FOLDER`` of `train/ppo.py`;
5. decodes held-out problems with every filter at every threshold, against the threshold rule, in full diffusion and
   in blocks.

Source: Bao et al., "Learning to Parallel: Accelerating Diffusion Large Language Models via Learnable Parallel
Decoding", arXiv 2509.25188. Departures: the transformer filters, a weight on false commits, and traces of the filter's
own states.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import copy
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import product
from pathlib import Path
from typing import Any

import torch

from envs.decoding.settings import DecodingSettings
from envs.denoiser import identify
from envs.tasks import SUITE, make_tasks
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, make_rule, save
from policies.networks.block_filter import BlockFilter, BlockFilterConfig
from train.command import parallel
from train.command.config import to_plain
from train.command.files import write_json
from train.command.model_config import ModelConfig
from train.command.provenance import versions
from train.command.ranges import check_count, check_range, check_seed
from train.command.run_files import RunFiles
from train.command.run_folder import open_run
from train.command.told import tell
from train.command.wandb_config import WandbConfig, check_start
from train.evaluation.jobs import plan
from train.evaluation.plot import plot_pareto
from train.evaluation.records import Record, read_outcomes
from train.evaluation.run import EvaluateConfig, assist, run_jobs
from train.evaluation.table import print_table
from train.filters.fit import FitSettings, fit
from train.filters.report import print_report, report
from train.filters.traces import TraceConfig, Traces, collect
from train.tracking.tracker import Tracker


@dataclass(frozen=True)
class Learn2PDConfig:
    """Learn from an oracle which positions are already final, export the filters and measure them.

    Examples:
        python train/learn2pd.py
        python train/learn2pd.py --problems 288 --task sort --out runs/sort_filters
    """

    out: Path = Path("runs/learn2pd")
    """The run's folder; it must be new or empty."""
    seed: int = 0
    """Of weights and of the order of the traces."""
    resume: bool = False
    """Go on where a killed run of this folder stopped."""
    tasks: list[str] = field(default_factory=lambda: [SUITE])
    """Tasks by name, or suite."""
    buffer_length: int = 64
    """Masks a sequence starts from."""
    problems: int = 1152
    """Training problems at each block length; a ninth as many validation problems stop the training."""
    block_lengths: list[int] = field(default_factory=lambda: [64, 32])
    """Where traces are collected and filters are evaluated."""
    published_block: int = 32
    """Block length of the published filter."""
    features: list[str] = field(default_factory=lambda: ["is_eos", "entropy", "margin", "repeated"])
    """Inputs of the transformer filters beyond the confidence."""
    false_commit_weight: float = 16.0
    """Weight of a position that must not be committed, in the weighted filters' loss."""
    learning_rate: float = 3e-3
    """Of AdamW."""
    batch_size: int = 256
    """Steps of decoding in a minibatch."""
    epochs: int = 200
    """Passes over the traces at most."""
    patience: int = 12
    """Passes without a better validation loss before stopping."""
    thresholds: list[float] = field(default_factory=lambda: [0.5, 0.7, 0.9, 0.95, 0.98])
    """Probabilities to commit at, in the report and the evaluation."""
    episodes: int = 50
    """Held-out problems a task."""
    rules: list[str] = field(
        default_factory=lambda: ["oracle", *(f"threshold:{t}" for t in (0.7, 0.75, 0.8, 0.85, 0.9, 0.95, 0.98))]
    )
    """Rules to compare with."""
    workers: int | None = None
    """Processes that decode, of each of torchrun's; null is one a core together, or one on a GPU."""
    model: ModelConfig = field(default_factory=ModelConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        check_count(self, "problems", "batch_size", "epochs", "patience", "episodes", "workers")
        check_count(self, "buffer_length", "block_lengths")
        check_range(self, "learning_rate", "false_commit_weight", above=0)
        check_range(self, "thresholds", above=0, below=1)
        check_seed(self)
        if self.published_block not in self.block_lengths:
            raise ValueError(f"published_block is {self.published_block}: it must be one of {self.block_lengths}")
        # Made to be checked, as all that follows.
        NetworkConfig(features=tuple(self.features))
        make_tasks(self.tasks)
        for rule in self.rules:
            make_rule(rule)
        for block in self.block_lengths:
            DecodingSettings(self.buffer_length, block)


def main(config: Learn2PDConfig) -> dict[str, Any]:
    """Collect, train, report, export, evaluate and log.

    Returns:
        What ``report.json`` holds.
    """
    torch.set_num_threads(1)
    check_start(config.wandb)
    parallel.own_device(config.model.device)  # refused before the folder is taken
    settings = {**to_plain(config), "resume": False}
    # What the processes tell each other is not what lies on their devices.
    with parallel.process_group("cpu"):
        if not parallel.is_main():
            learn(config)
            assist()
            return {}
        with (
            open_run(config.out, config, config.resume),
            Tracker(config.wandb, config.out, settings, "train") as tracker,
        ):
            found = learn(config)
            records = decode_all(config, list(found["filters"]))
            folders = [config.out / "filters" / name for name in found["filters"]]
            tracker.finish(records, RunFiles(config.out).plot, *folders)
            tell("W&B", tracker.place)
    return found


def learn(config: Learn2PDConfig) -> dict[str, Any]:
    """Collect traces, train the filters on them, report and export.

    Torchrun's processes share the collecting; the first one does the rest.

    Returns:
        What ``report.json`` holds; nothing beside the first process.
    """
    began = time.monotonic()
    model = replace(config.model, device=parallel.own_device(config.model.device))
    workers = config.workers or parallel.decoding_workers(config.model.device)
    about: dict[str, Any] = {"buffer_length": config.buffer_length, "model": model}
    about |= {"tasks": tuple(config.tasks), "features": tuple(config.features)}

    def gather(name: str, problems: int, **kwargs: Any) -> Traces:
        traces = collect(TraceConfig(config.out / "traces" / name, problems, **about, **kwargs), workers)
        if parallel.is_main():
            tell("traces", f"{name}: {len(traces):,} steps, {traces.bytes / 2**20:.1f} MiB")
        return traces

    # One problem to say when to stop for nine to learn from.
    held_out_problems = max(1, config.problems // 9)
    blocks = config.block_lengths
    train = {b: gather(f"train_block{b}", config.problems, block_length=b) for b in blocks}
    held_out = {
        b: gather(f"validation_block{b}", held_out_problems, block_length=b, split="validation") for b in blocks
    }
    filters: dict[str, Any] = {}
    settings = FitSettings(config.seed, config.learning_rate, config.batch_size, config.epochs, config.patience)

    def finish(name: str, network: UnmaskingNetwork | BlockFilter, result: dict[str, float], on: list[int]) -> None:
        """Report a trained filter and export it."""
        folder = config.out / "filters" / name
        measured = report(network, [held_out[b] for b in on], config.thresholds)
        trained = {
            "algorithm": "Learn2PD",
            "filter": name,
            "model": config.model.name,
            "dllm": identify(config.model.load()),
            "tasks": config.tasks,
            "split": "train",
            "buffer_length": config.buffer_length,
            "block_lengths": on,
            "seed": config.seed,
            "versions": versions(),
            **result,
        }
        filters[name] = {**result, **measured}
        card = (
            f"# Learn2PD filter `{name}`\n\nCommits positions that it takes to be final; made by `train/learn2pd.py`.\n"
        )
        save(LearnedPolicy(copy.deepcopy(network), "deterministic", trained, 0.9), folder, card)

    steps = [train[b] for b in config.block_lengths]
    stops = [held_out[b] for b in config.block_lengths]
    shape = NetworkConfig(features=tuple(config.features), init="threshold")
    if parallel.is_main():
        torch.manual_seed(config.seed)
        published = BlockFilter(BlockFilterConfig(config.published_block))
        block = config.published_block
        finish("published", published, fit(published, [train[block]], [held_out[block]], settings), [block])
        for name, weight in (("transformer", 1.0), ("weighted", config.false_commit_weight)):
            network = UnmaskingNetwork(shape)
            finish(name, network, fit(network, steps, stops, settings, weight), config.block_lengths)
    behaviour = config.out / "filters" / "weighted"
    parallel.await_path(behaviour / "config.json")
    # Traces of the rule alone show a filter no state that its own mistakes lead to.
    own = [
        gather(f"own_block{b}", config.problems, block_length=b, behaviour=str(behaviour), threshold=0.5)
        for b in config.block_lengths
    ]
    if not parallel.is_main():
        return {}
    network = UnmaskingNetwork(shape)
    result = fit(network, [*steps, *own], stops, settings, config.false_commit_weight)
    finish("own_states", network, result, config.block_lengths)
    minutes = (time.monotonic() - began) / 60
    found = {"minutes_to_collect_and_train": round(minutes, 1), "filters": filters}
    write_json(RunFiles(config.out).report, found)
    print_report(filters)
    print(f"collected and trained in {minutes:.1f} minutes")
    return found


def decode_all(config: Learn2PDConfig, names: Sequence[str]) -> list[Record]:
    """Decode held-out problems with every filter at every threshold and with the rules.

    Returns:
        The records of ``evaluation.json``.
    """
    jobs = []
    for block in config.block_lengths:
        # A perceptron over one block has that many inputs and no more.
        fitting = [n for n in names if n != "published" or block == config.published_block]
        settings = product(fitting, config.thresholds)
        chosen = [f"{config.out / 'filters' / name}@{threshold:g}" for name, threshold in settings]
        jobs += plan([*chosen, *config.rules], [block])
    about = EvaluateConfig(
        model=config.model,
        tasks=config.tasks,
        episodes=config.episodes,
        buffer_length=config.buffer_length,
        seed=config.seed,
        workers=config.workers,
    )
    records = run_jobs(about, jobs, RunFiles(config.out).evaluation, is_shared=parallel.world_size() > 1)
    title = f"Learn2PD filters, {config.model.name}, seed {config.seed}"
    plot_pareto(records, RunFiles(config.out).plot, title, read_outcomes(config.out))
    print_table(records, f"{config.model.name}, {config.episodes} held-out problems a task")
    tell("filters", config.out / "filters")
    files = RunFiles(config.out)
    tell("report", files.report)
    tell("evaluation", files.evaluation, files.plot)
    return records


if __name__ == "__main__":
    from train.command.cli import run

    run(main, Learn2PDConfig)
