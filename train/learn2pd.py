"""Learn2PD: learn from the oracle which positions are already final, and commit those.

``python train/learn2pd.py`` with no argument, on the embedded dLLM:

1. decodes training problems one token per step, replays them under the extremely-greedy-parallel oracle and stores
   each step's beliefs and the oracle's bits (`train/traces.py`);
2. trains filters by binary cross-entropy, stopping early on held-out traces: the published two-layer perceptron over
   one block of 32 confidences, and the policy network's transformer, which works at any block length;
3. reports precision, recall, false commits and calibration by threshold;
4. exports each filter in the policy format, ``filters/NAME``, for `policies.load`, ``--policy FOLDER@THRESHOLD`` and
   ``--policy.filter FOLDER`` of `train/ppo.py`;
5. decodes held-out problems with every filter at every threshold, against the threshold rule, in full diffusion and
   in blocks.

Source: Bao et al., "Learning to Parallel: Accelerating Diffusion Large Language Models via Learnable Parallel
Decoding", arXiv 2509.25188. Departures: the transformer filters, a weight on false commits, and traces of the filter's
own states.
"""

from __future__ import annotations

import copy
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor, nn
from torch.nn import functional as F

from envs.decoding import DecodingSettings
from envs.tasks import SUITE, make_tasks
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, make_rule, save
from policies.block_filter import BlockFilter, BlockFilterConfig
from train.config import to_plain, to_yaml
from train.evaluate import EvaluateConfig, plan, run_jobs
from train.model_config import ModelConfig
from train.plot import plot_pareto
from train.progress import progress
from train.records import Record, print_table, read_outcomes
from train.run_folder import open_run, versions, write_json
from train.traces import TraceConfig, Traces, collect
from train.tracking import Tracker, WandbConfig


@dataclass(frozen=True)
class Learn2PDConfig:
    """What `python train/learn2pd.py` does."""

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
    """Processes that decode; null is one a core, or one on a GPU."""
    model: ModelConfig = field(default_factory=ModelConfig)
    wandb: WandbConfig = field(default_factory=WandbConfig)

    def __post_init__(self) -> None:
        for name in ("problems", "batch_size", "epochs", "patience", "episodes", "workers"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise ValueError(f"{name} is {value}: it must be 1 or more")
        for name in ("learning_rate", "false_commit_weight"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: it must be above 0")
        for threshold in self.thresholds:
            if not 0 < threshold < 1:
                raise ValueError(f"thresholds hold {threshold}: they must be between 0 and 1, both excluded")
        if self.published_block not in self.block_lengths:
            raise ValueError(f"published_block is {self.published_block}: it must be one of {self.block_lengths}")
        NetworkConfig(features=tuple(self.features))
        make_tasks(self.tasks)
        for rule in self.rules:
            make_rule(rule)
        for block in self.block_lengths:
            DecodingSettings(self.buffer_length, block)


def weighted_loss(logits: Tensor, rows: dict[str, Tensor], weight: float = 1.0) -> Tensor:
    """Binary cross-entropy to the oracle's bits over eligible positions.

    Args:
        logits: (B, L) float.
        rows: of `Traces.rows`.
        weight: of positions that the oracle does not commit.

    Returns:
        Scalar, nats a position.
    """
    eligible, target = rows["eligible"] > 0, rows["oracle"]
    weights = _weights(rows, weight)
    loss = F.binary_cross_entropy_with_logits(logits[eligible], target[eligible], reduction="none")
    return (loss * weights).sum() / weights.sum()


def _weights(rows: dict[str, Tensor], weight: float) -> Tensor:
    """Return the weight of each eligible position."""
    return torch.where(rows["oracle"] > 0, 1.0, weight)[rows["eligible"] > 0]


def fit(
    network: UnmaskingNetwork | BlockFilter,
    train: Sequence[Traces],
    held_out: Sequence[Traces],
    config: Learn2PDConfig,
    weight: float = 1.0,
) -> dict[str, float]:
    """Train a filter until the held-out loss stops falling, and leave it at its best.

    Returns:
        ``epochs`` run, and the best ``held_out_loss`` in nats a position.
    """
    rng = np.random.default_rng([config.seed, 1])
    optimizer = torch.optim.AdamW(network.parameters(), lr=config.learning_rate)
    best, best_epoch, best_state = float("inf"), 0, copy.deepcopy(network.state_dict())
    bar = progress(range(1, config.epochs + 1), desc="training", unit="epoch")
    for epoch in bar:
        network.train()
        for traces in train:
            for rows in traces.batches(config.batch_size, rng):
                loss = weighted_loss(network(rows), rows, weight)
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(network.parameters(), 1.0)
                optimizer.step()
        network.eval()
        with torch.inference_mode():
            parts = [(weighted_loss(network(r), r, weight), r) for t in held_out for r in t.batches(4096)]
        sizes = [float(_weights(r, weight).sum()) for _, r in parts]
        score = float(np.average([float(loss) for loss, _ in parts], weights=sizes))
        bar.set_postfix(held_out=f"{score:.4f}", refresh=False)
        if score < best:
            best, best_epoch, best_state = score, epoch, copy.deepcopy(network.state_dict())
        elif epoch - best_epoch >= config.patience:
            break
    network.load_state_dict(best_state)
    return {"epochs": epoch, "held_out_loss": best}


@torch.inference_mode()
def report(network: nn.Module, traces: Sequence[Traces], thresholds: Sequence[float]) -> dict[str, Any]:
    """Measure a filter on held-out traces.

    Returns:
        ``calibration_error``: expected, 15 equal bins, in [0, 1]; and ``thresholds``, one mapping each of
        ``precision`` (committed positions that are final), ``recall`` (final positions that are committed),
        ``false_commit_rate`` (other positions that are committed) and ``wrong_steps`` (steps with a false commit).
    """
    probability, final, step_of = [], [], []
    seen = 0
    for part in traces:
        for rows in part.batches(4096):
            eligible = rows["eligible"] > 0
            probability.append(network(rows).sigmoid()[eligible])
            final.append(rows["oracle"][eligible] > 0)
            step_of.append(seen + eligible.nonzero()[:, 0])
            seen += len(eligible)
    p, y, step = (torch.cat(parts).numpy() for parts in (probability, final, step_of))
    bins = np.minimum((p * 15).astype(int), 14)
    gaps = [abs(p[bins == b].mean() - y[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    found = []
    for threshold in thresholds:
        chosen = p >= threshold
        right, wrong = int((chosen & y).sum()), int((chosen & ~y).sum())
        found.append(
            {
                "threshold": threshold,
                "precision": right / max(1, right + wrong),
                "recall": right / max(1, int(y.sum())),
                "false_commit_rate": wrong / max(1, int((~y).sum())),
                "wrong_steps": len(np.unique(step[chosen & ~y])) / seen,
            }
        )
    return {"calibration_error": float(sum(gaps)), "positions": len(p), "steps": seen, "thresholds": found}


def main(config: Learn2PDConfig) -> dict[str, Any]:
    """Collect, train, report, export, evaluate and log.

    Returns:
        What ``report.json`` holds.
    """
    torch.set_num_threads(1)
    settings = {**to_plain(config), "resume": False}
    open_run(config.out, to_yaml(settings), config.resume)
    tracker = Tracker(config.wandb, config.out, settings, "train")
    try:
        found = learn(config)
        records = decode_all(config, list(found["filters"]))
        tracker.finish(
            records, config.out / "pareto.png", *(config.out / "filters" / name for name in found["filters"])
        )
    except BaseException:
        tracker.abandon()
        raise
    print(f"W&B         {tracker.place}")
    return found


def learn(config: Learn2PDConfig) -> dict[str, Any]:
    """Collect traces, train the filters on them, report and export.

    Returns:
        What ``report.json`` holds.
    """
    began = time.monotonic()
    # Processes would share one GPU, whose memory holds the dLLM once.
    workers = config.workers or (os.cpu_count() or 1 if config.model.device == "cpu" else 1)
    about: dict[str, Any] = {"buffer_length": config.buffer_length, "model": config.model}
    about |= {"tasks": tuple(config.tasks), "features": tuple(config.features)}

    def gather(name: str, problems: int, **kwargs: Any) -> Traces:
        traces = collect(TraceConfig(config.out / "traces" / name, problems, **about, **kwargs), workers)
        print(f"traces {name}: {len(traces):,} steps, {traces.bytes / 2**20:.1f} MiB")
        return traces

    held_out_problems = max(1, config.problems // 9)
    blocks = config.block_lengths
    train = {b: gather(f"train_block{b}", config.problems, block_length=b) for b in blocks}
    held_out = {
        b: gather(f"validation_block{b}", held_out_problems, block_length=b, split="validation") for b in blocks
    }
    filters: dict[str, Any] = {}

    def finish(name: str, network: UnmaskingNetwork | BlockFilter, result: dict[str, float], on: list[int]) -> str:
        """Report a trained filter and export it."""
        folder = config.out / "filters" / name
        measured = report(network, [held_out[b] for b in on], config.thresholds)
        trained = {
            "algorithm": "Learn2PD",
            "filter": name,
            "model": config.model.name,
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
        return str(folder)

    torch.manual_seed(config.seed)
    published = BlockFilter(BlockFilterConfig(config.published_block))
    block = config.published_block
    finish("published", published, fit(published, [train[block]], [held_out[block]], config), [block])
    steps = [train[b] for b in config.block_lengths]
    stops = [held_out[b] for b in config.block_lengths]
    shape = NetworkConfig(features=tuple(config.features), init="threshold")
    folder = ""
    for name, weight in (("transformer", 1.0), ("weighted", config.false_commit_weight)):
        network = UnmaskingNetwork(shape)
        folder = finish(name, network, fit(network, steps, stops, config, weight), config.block_lengths)
    own = [
        gather(f"own_block{b}", config.problems, block_length=b, behaviour=folder, threshold=0.5)
        for b in config.block_lengths
    ]
    network = UnmaskingNetwork(shape)
    result = fit(network, [*steps, *own], stops, config, config.false_commit_weight)
    finish("own_states", network, result, config.block_lengths)
    minutes = (time.monotonic() - began) / 60
    found = {"minutes_to_collect_and_train": round(minutes, 1), "filters": filters}
    write_json(config.out / "report.json", found)
    print_report(filters)
    print(f"collected and trained in {minutes:.1f} minutes")
    return found


def print_report(filters: dict[str, Any]) -> None:
    """Print precision, recall and false commits by threshold."""
    table = Table(title="held-out traces", title_justify="left")
    for column in (
        "filter",
        "calibration error %",
        "threshold",
        "precision %",
        "recall %",
        "false commits %",
        "wrong steps %",
    ):
        table.add_column(column, justify="left" if column == "filter" else "right")
    for name, found in filters.items():
        for row in found["thresholds"]:
            shares = [row[key] for key in ("precision", "recall", "false_commit_rate", "wrong_steps")]
            error = f"{100 * found['calibration_error']:.2f}"
            table.add_row(name, error, f"{row['threshold']:g}", *(f"{100 * share:.2f}" for share in shares))
    Console(width=None if sys.stdout.isatty() else 110).print(table)


def decode_all(config: Learn2PDConfig, names: Sequence[str]) -> list[Record]:
    """Decode held-out problems with every filter at every threshold and with the rules.

    Returns:
        The records of ``evaluation.json``.
    """
    jobs = []
    for block in config.block_lengths:
        fitting = [n for n in names if n != "published" or block == config.published_block]
        chosen = [f"{config.out / 'filters' / name}@{t:g}" for name in fitting for t in config.thresholds]
        jobs += plan([*chosen, *config.rules], [block])
    about = EvaluateConfig(
        model=config.model,
        tasks=config.tasks,
        episodes=config.episodes,
        buffer_length=config.buffer_length,
        seed=config.seed,
        workers=config.workers,
    )
    records = run_jobs(about, jobs, config.out / "evaluation.json")
    title = f"Learn2PD filters, {config.model.name}, seed {config.seed}"
    plot_pareto(records, config.out / "pareto.png", title, read_outcomes(config.out))
    print_table(records, f"{config.model.name}, {config.episodes} held-out problems a task")
    print(f"filters     {config.out / 'filters'}\nreport      {config.out / 'report.json'}")
    print(f"evaluation  {config.out / 'evaluation.json'}\nplot        {config.out / 'pareto.png'}")
    return records


if __name__ == "__main__":
    from train.cli import run

    run(main, Learn2PDConfig)
