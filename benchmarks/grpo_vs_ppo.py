"""PPO against GRPO at equal environment steps: frontier, sample efficiency, wall time, stability.

``python benchmarks/grpo_vs_ppo.py --out runs/grpo_vs_ppo`` trains every cell (algorithm, start, reward, alpha, block,
seed) in a run folder of its own and writes ``summary.md`` and ``summary.json``. It can be killed and started again:
a finished cell is read, a begun one resumed. ``--timesteps 2000 --seeds '[0]' --alphas '[10]'`` is a quick look.
"""

from __future__ import annotations

import contextlib
import csv
import json
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from envs.reward import get_reward
from train import grpo, ppo
from train.config import parse
from train.grpo_config import TrainGRPOConfig
from train.ppo_config import TrainPPOConfig
from train.records import mean_interval, read_outcomes
from train.run_folder import write_atomic, write_json
from train.tracking import STEP


@dataclass(frozen=True)
class ComparisonConfig:
    """What `python benchmarks/grpo_vs_ppo.py` does."""

    out: Path = Path("runs/grpo_vs_ppo")
    """Folder of the cells; what it holds is not run again."""
    timesteps: int = 60_000
    """Environment steps of each run, summed over rows."""
    algorithms: list[str] = field(default_factory=lambda: ["ppo", "grpo"])
    """ppo, grpo."""
    starts: list[str] = field(default_factory=lambda: ["random", "threshold"])
    """The policy section's init: random, or threshold for the rule."""
    alphas: list[float] = field(default_factory=lambda: [1.0, 3.0, 10.0])
    """Weights of speed in the reward."""
    blocks: list[int] = field(default_factory=lambda: [64, 16])
    """Block lengths; 64 is full diffusion."""
    rewards: list[str] = field(default_factory=lambda: ["multiplicative"])
    """Rewards; additive is the paper's ablation."""
    seeds: list[int] = field(default_factory=lambda: [0, 1, 2])
    """Seeds of each setting."""
    episodes: int = 50
    """Held-out problems a task."""
    model: str = "tiny"
    """The dLLM."""
    tasks: list[str] = field(default_factory=lambda: ["suite"])
    """Tasks by name, or suite."""
    workers: int = 1
    """Processes, one run each."""
    options: list[str] = field(default_factory=list)
    """Further flags of each run, such as --policy.hidden_size=64."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.algorithms) - {"ppo", "grpo"})
        if unknown:
            raise ValueError(f"algorithms has {unknown[0]!r}: choose from ppo, grpo")


@dataclass(frozen=True)
class Cell:
    """One run.

    Attributes:
        algorithm: ppo or grpo.
        start: random or threshold.
        reward: by name.
        alpha: weight of speed.
        block: block length.
        seed: of the run.
    """

    algorithm: str
    start: str
    reward: str
    alpha: float
    block: int
    seed: int

    @property
    def setting(self) -> str:
        """What the seeds of a row of the table share."""
        return f"{self.algorithm}_{self.start}_{self.reward}_alpha{self.alpha:g}_block{self.block}"

    @property
    def name(self) -> str:
        """The run folder's name."""
        return f"{self.setting}_s{self.seed}"


def cells(config: ComparisonConfig) -> list[Cell]:
    """List the runs, seed by seed so that a killed comparison has whole ones."""
    return [
        Cell(algorithm, start, reward, alpha, block, seed)
        for seed in config.seeds
        for block in config.blocks
        for reward in config.rewards
        for alpha in config.alphas
        for start in config.starts
        for algorithm in config.algorithms
    ]


def words(config: ComparisonConfig, cell: Cell) -> list[str]:
    """Return a cell's command line."""
    folder = config.out / cell.name
    resume = ["--resume"] if (folder / "config.yaml").is_file() else []
    return [
        f"--out={folder}",
        f"--seed={cell.seed}",
        f"--total_timesteps={config.timesteps}",
        f"--model.name={config.model}",
        f"--env.tasks={json.dumps(config.tasks)}",
        f"--env.alpha={cell.alpha}",
        f"--env.reward={cell.reward}",
        f"--env.block_lengths=[{cell.block}]",
        f"--policy.init={cell.start}",
        f"--evaluation.episodes={config.episodes}",
        "--evaluation.rules=[threshold:0.9]",
        "--wandb.mode=disabled",
        *config.options,
        *resume,
    ]


def run_cell(config: ComparisonConfig, cell: Cell) -> None:
    """Train and evaluate one cell, if it isn't done; what it prints goes to ``logs/``."""
    done = config.out / "done" / cell.name
    if done.is_file():
        return
    log = config.out / "logs" / f"{cell.name}.txt"
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("a") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        if cell.algorithm == "ppo":
            ppo.train(parse(TrainPPOConfig, "ppo.yaml", words(config, cell)))
        else:
            grpo.train(parse(TrainGRPOConfig, "grpo.yaml", words(config, cell)))
    write_atomic(done, "")


def measure(folder: Path, cell: Cell, buffer_length: int = 64) -> dict[str, float]:
    """Read what came of a cell.

    Returns:
        ``accuracy``, ``nfe`` and ``reward`` on held-out problems, sampled; ``training_reward``, the mean over the
        training, which is higher where learning is faster; ``minutes`` of training.
    """
    outcomes = read_outcomes(folder)
    sampled = next(one for key, one in outcomes.items() if key[:2] == ("learned", "sample"))
    score, nfe = np.array(sampled["score"]), np.array(sampled["nfe"])
    alpha = np.full(len(score), cell.alpha)
    reward = get_reward(cell.reward)
    paid = reward.final(score, nfe, buffer_length, alpha) + nfe * reward.per_step(alpha)
    with (folder / "progress.csv").open() as lines:
        rows = list(csv.DictReader(lines))
    steps = np.array([0, *(float(row[STEP]) for row in rows)])
    curve = np.array([float(row["rollout/ep_rew_mean"]) for row in rows])
    return {
        "accuracy": float(score.mean()),
        "nfe": float(nfe.mean()),
        "reward": float(paid.mean()),
        "training_reward": float((curve * np.diff(steps)).sum() / steps[-1]),
        "minutes": float(rows[-1]["time/time_elapsed"]) / 60,
    }


def summarise(config: ComparisonConfig, finished: Iterable[Cell]) -> list[dict[str, Any]]:
    """Return one row a setting: means and 95 % intervals over its seeds, and its worst seed's reward."""
    settings: dict[str, list[Cell]] = {}
    for cell in finished:
        settings.setdefault(cell.setting, []).append(cell)
    rows = []
    for name, group in sorted(settings.items(), key=lambda item: _place(item[1][0])):
        runs = [measure(config.out / cell.name, cell) for cell in group]
        row: dict[str, Any] = {"setting": name, "seeds": len(runs), "worst_reward": min(run["reward"] for run in runs)}
        for key in runs[0]:
            values = [run[key] for run in runs]
            row[key], row[f"{key}_ci95"] = float(np.mean(values)), mean_interval(values)
        rows.append(row)
    return rows


def _place(cell: Cell) -> tuple[Any, ...]:
    """Order of the table: what is to be compared stands together."""
    return cell.block, cell.reward, cell.alpha, cell.start, cell.algorithm


def table(rows: Sequence[Mapping[str, Any]], timesteps: int) -> str:
    """Write the summary as Markdown."""

    def shown(row: Mapping[str, Any], key: str, scale: float, digits: int) -> str:
        half = scale * (row[f"{key}_ci95"][1] - row[f"{key}_ci95"][0]) / 2
        spread = f" ± {half:.{digits}f}" if row["seeds"] > 1 else ""
        return f"{scale * row[key]:.{digits}f}{spread}"

    lines = [
        f"# PPO and GRPO after {timesteps:,} environment steps",
        "",
        "Held-out problems, sampled decisions; mean and 95 % Student interval over seeds. Training reward is the mean",
        "over the whole training: higher is faster learning.",
        "",
        "| setting | seeds | accuracy % | NFE | reward | worst seed | training reward | minutes |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        columns = [("accuracy", 100, 1), ("nfe", 1, 2), ("reward", 1, 3)]
        cells_ = [shown(row, *column) for column in columns] + [f"{row['worst_reward']:.3f}"]
        cells_ += [shown(row, "training_reward", 1, 3), shown(row, "minutes", 1, 1)]
        lines.append(f"| {row['setting']} | {row['seeds']} | {' | '.join(cells_)} |")
    return "\n".join(lines) + "\n"


def write_summary(config: ComparisonConfig, planned: Sequence[Cell]) -> None:
    """Write what is known so far."""
    finished = [cell for cell in planned if (config.out / "done" / cell.name).is_file()]
    rows = summarise(config, finished)
    write_json(config.out / "summary.json", rows)
    write_atomic(config.out / "summary.md", table(rows, config.timesteps))


def main(config: ComparisonConfig) -> None:
    """Run what is missing and summarise after each cell."""
    torch.set_num_threads(1)
    planned = cells(config)
    waiting = [cell for cell in planned if not (config.out / "done" / cell.name).is_file()]
    print(f"{len(planned)} cells, {len(waiting)} to run", flush=True)
    if config.workers == 1:
        for cell in waiting:
            run_cell(config, cell)
            print(cell.name, flush=True)
            write_summary(config, planned)
    else:
        with ProcessPoolExecutor(config.workers, mp_context=get_context("spawn")) as pool:
            futures = {pool.submit(run_cell, config, cell): cell for cell in waiting}
            for future in as_completed(futures):
                future.result()
                print(futures[future].name, flush=True)
                write_summary(config, planned)
    write_summary(config, planned)
    print((config.out / "summary.md").read_text(), f"\nsummary     {config.out / 'summary.md'}", sep="")


if __name__ == "__main__":
    from train.cli import run

    run(main, ComparisonConfig)
