"""PPO against GRPO at equal environment steps, from the rule and from nothing."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from envs.reward import Multiplicative
from experiments.base import (
    FROM_SCRATCH,
    SEEDS,
    Experiment,
    Step,
    Summary,
    find,
    over_seeds,
    provenance,
    repeat,
    table,
)
from train.comparison.plots import plot_curves
from train.evaluation.frontiers import mean_curve
from train.evaluation.measures import best_rule
from train.evaluation.records import mean_interval, read_outcomes, read_records
from train.tracking.history import ELAPSED, STEP, read_progress

ALGORITHMS = {"ppo": "PPO", "grpo": "GRPO"}
STARTS = {"random": "random", "threshold": "the rule"}
ALPHAS = (1, 3, 10)
BLOCKS = {64: "full diffusion", 16: "blocks of 16"}
DECISIONS = ("sample", "deterministic")
STEPS = 20_480
"""Environment steps of a run."""

LONG_STEPS, LONG_ALPHA, LONG_BLOCK = 40_960, 10, 64
"""Of the runs that see where a random start ends."""

GRID = tuple(range(4096, STEPS + 1, 2048))
"""Where learning curves are kept."""

TRAIN = ("--evaluation.episodes", "30", "--evaluation.rules", "[]", "--wandb.mode", "disabled")
"""What all runs of a comparison have in common."""

# They come last on the command line, where the later of two values counts.
TRIAL = ("--total_timesteps", "512", "--env.num_envs", "16", "--evaluation.episodes", "1")
"""Arguments that make one of these many runs short."""

THRESHOLDS = (0.3, 0.5, 0.6, 0.7, 0.75, 0.8, 0.85, 0.9, 0.95)

RULES = Step(
    "algorithms/rules",
    [
        "train/evaluate.py",
        *repeat("--policy", [f"threshold:{t:g}" for t in THRESHOLDS]),
        *repeat("--block_length", BLOCKS),
        *("--episodes", "30"),
    ],
    ("--episodes", "2"),
)
"""The threshold rule on the problems that the runs are evaluated on."""


def train(name: str, algorithm: str, seed: int, flags: Iterable[str], steps: int = STEPS) -> Step:
    """Train with one seed; the folder is `name` and the seed."""
    words = [f"train/{algorithm}.py", "--seed", str(seed), *flags, "--total_timesteps", str(steps), *TRAIN]
    return Step(f"{name}_s{seed}", words, TRIAL)


def setting(start: str, alpha: int, block: int) -> list[str]:
    """Return the flags of a setting."""
    return [*FROM_SCRATCH, "--policy.init", start, "--env.alpha", str(alpha), "--env.block_lengths", f"[{block}]"]


def cell(algorithm: str, start: str, alpha: int, block: int, seed: int) -> Step:
    """Train one setting with one seed."""
    name = f"algorithms/{algorithm}_{start}_alpha{alpha}_block{block}"
    return train(name, algorithm, seed, setting(start, alpha, block))


def long_run(algorithm: str, seed: int) -> Step:
    """Train one setting from a random start for longer."""
    flags = setting("random", LONG_ALPHA, LONG_BLOCK)
    return train(f"algorithms/{algorithm}_long", algorithm, seed, flags, LONG_STEPS)


def read_run(folder: Path, alpha: float) -> Summary:
    """Read what came of a training.

    Args:
        folder: of the run.
        alpha: of the multiplicative reward that it is judged by.

    Returns:
        By decision rule the accuracy, forwards and reward on held-out problems; ``curve``, the training reward (of the
        last 1,000 episodes) at the steps of `GRID`; ``learning``, its mean, which is higher where learning is faster;
        ``minutes`` of training; and for GRPO the mean of its health metrics.
    """
    found: Summary = {}
    for (_, decision, _), outcome in read_outcomes(folder).items():
        score, nfe = np.array(outcome["score"]), np.array(outcome["nfe"])
        # In blocks too, L is the whole buffer, the longest block here.
        paid = Multiplicative().final(score, nfe, max(BLOCKS), np.full(len(score), float(alpha)))
        found[decision] = {
            "accuracy": float(score.mean()),
            "nfe": float(nfe.mean()),
            "reward": float(paid.mean()),
        }
    rows = read_progress(folder)
    # The two log at steps of their own; curves are compared at the same ones.
    curve = np.interp(GRID, [row[STEP] for row in rows], [row["rollout/ep_rew_mean"] for row in rows])
    # GRPO alone logs them.
    rates = [name for name in rows[0] if name.endswith("_rate") and name.startswith("rollout/")]
    return {
        **found,
        "curve": curve.round(4).tolist(),
        "learning": float(curve.mean()),
        "minutes": rows[-1][ELAPSED] / 60,
        "rates": {name.removeprefix("rollout/"): float(np.mean([row[name] for row in rows])) for name in rates},
    }


def outcome(runs: Sequence[Summary], decision: str) -> list[str]:
    """Write the accuracy in percent, the forwards and the reward of a setting's seeds."""
    accuracy, nfe, reward = ([run[decision][name] for run in runs] for name in ("accuracy", "nfe", "reward"))
    return [over_seeds([100 * one for one in accuracy]), over_seeds(nfe, 2), over_seeds(reward, 3)]


class Algorithms(Experiment):
    """`python train/ppo.py` and `python train/grpo.py`: frontier, sample efficiency, wall time, stability."""

    name = "algorithms"

    def steps(self) -> list[Step]:
        """Train every cell, seed by seed, and evaluate the threshold rule on the same problems."""
        cells = [
            cell(algorithm, start, alpha, block, seed)
            for seed in SEEDS
            for block in BLOCKS
            for alpha in ALPHAS
            for start in STARTS
            for algorithm in ALGORITHMS
        ]
        return [RULES, *cells, *(long_run(algorithm, seed) for seed in SEEDS for algorithm in ALGORITHMS)]

    def summarise(self, out: Path) -> Summary:
        """Keep each run's results, by setting, and the threshold that is as accurate."""
        rules = find(read_records(out / RULES.folder), task="all")
        settings = []
        for block in BLOCKS:
            for start in STARTS:
                for alpha in ALPHAS:
                    runs = {
                        algorithm: [
                            read_run(out / cell(algorithm, start, alpha, block, seed).folder, alpha) for seed in SEEDS
                        ]
                        for algorithm in ALGORITHMS
                    }
                    settings.append({"block_length": block, "start": start, "alpha": alpha, **runs})
        long = {
            algorithm: [read_run(out / long_run(algorithm, seed).folder, LONG_ALPHA) for seed in SEEDS]
            for algorithm in ALGORITHMS
        }
        kept = [{name: rule[name] for name in ("policy", "block_length", "accuracy", "nfe")} for rule in rules]
        about = {"steps": STEPS, "long_steps": LONG_STEPS, "provenance": provenance(out, self.steps())}
        return {"settings": settings, "long": long, "rules": kept, **about}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        settings, rules = summary["settings"], summary["rules"]
        frontier = [_frontier_row(entry, rules) for entry in settings]
        columns = ["decoding", "start", "alpha"]
        for name in ALGORITHMS.values():
            columns += [f"{name}: accuracy %", "NFE", "threshold's NFE"]
        contrasts = []
        for start, wording in STARTS.items():
            for block, decoding in BLOCKS.items():
                own = find(settings, start=start, block_length=block)
                contrasts.append([wording, decoding, *_contrast(own)])
        ratio = np.mean([np.mean(_each(s, "grpo", "minutes")) / np.mean(_each(s, "ppo", "minutes")) for s in settings])
        rates = {
            name: 100 * np.mean([run["rates"][name] for entry in settings for run in entry["grpo"]])
            for name in ("zero_variance_rate", "stall_rate", "unfinished_rate")
        }
        long = [
            [name, *(text for decision in DECISIONS for text in outcome(summary["long"][algorithm], decision))]
            for algorithm, name in ALGORITHMS.items()
        ]
        return f"""Both algorithms with the settings of their default configurations, {summary["steps"]:,} environment
steps a run, three seeds; 30 held-out problems a task, sampled decisions, mean and 95 % Student interval over seeds.
*The rule* is the 0.9-threshold rule, *random* a coin of bias -2 for every position. A threshold's forwards are those of
the cheapest of {len(THRESHOLDS)} thresholds that is at most half a point less accurate on the same problems (or of the
most accurate one):

{table(columns, frontier)}

![Training reward by environment steps](../images/algorithms.png)

GRPO less PPO, paired by seed and averaged over the three alphas: reward on held-out problems, and mean reward over
the training, which is higher where learning is faster; then the standard deviation over seeds of the reward on held-out
problems, averaged over the alphas:

{table(["start", "decoding", "reward", "reward while training", "PPO: spread", "GRPO: spread"], contrasts)}

**From a random start for longer** (alpha {LONG_ALPHA}, full diffusion, {summary["long_steps"]:,} steps):

{table(["algorithm", "sampled: accuracy %", "NFE", "reward", "deterministic: accuracy %", "NFE", "reward"], long)}

A GRPO run takes {ratio:.2f} times the wall time of a PPO run of the same environment steps. Of its groups
{rates["zero_variance_rate"]:.0f} % earned all the same and taught nothing; stalled steps:
{rates["stall_rate"]:.1f} %, unfinished rollouts: {rates["unfinished_rate"]:.1f} %."""

    def draw(self, summary: Summary, folder: Path) -> None:
        """Draw the learning curves, a panel a start and decoding."""
        panels = {
            f"{decoding}, start: {wording}": [
                mean_curve(f"{name}, alpha {entry['alpha']}", GRID, _each(entry, algorithm, "curve"))
                for entry in find(summary["settings"], start=start, block_length=block)
                for algorithm, name in ALGORITHMS.items()
            ]
            for block, decoding in BLOCKS.items()
            for start, wording in STARTS.items()
        }
        plot_curves(panels, folder / "algorithms.png")


def _each(entry: Summary, algorithm: str, name: str, decision: str | None = None) -> list[Any]:
    """Return one number, or the curve, of each seed's run."""
    return [(run[decision] if decision else run)[name] for run in entry[algorithm]]


def _frontier_row(entry: Summary, rules: Sequence[Summary]) -> list[str]:
    row = [BLOCKS[entry["block_length"]], STARTS[entry["start"]], str(entry["alpha"])]
    curve = find(rules, block_length=entry["block_length"])
    for algorithm in ALGORITHMS:
        rule = best_rule(curve, float(np.mean(_each(entry, algorithm, "accuracy", "sample"))))
        row += [*outcome(entry[algorithm], "sample")[:2], f"{rule['nfe']:.2f}"]
    return row


def _contrast(entries: Sequence[Summary]) -> list[str]:
    """Return GRPO less PPO over a group of settings, and both spreads over seeds."""

    def differences(name: str, decision: str | None = None) -> str:
        pairs = [np.subtract(_each(e, "grpo", name, decision), _each(e, "ppo", name, decision)) for e in entries]
        # Over seeds, after the mean over alphas: the settings of one seed are no independent draws.
        low, high = mean_interval(np.mean(pairs, axis=0).tolist())
        return f"{np.mean(pairs):+.3f} ± {(high - low) / 2:.3f}"

    spreads = [np.mean([np.std(_each(e, name, "reward", "sample"), ddof=1) for e in entries]) for name in ALGORITHMS]
    return [differences("reward", "sample"), differences("learning"), *(f"{spread:.3f}" for spread in spreads)]
