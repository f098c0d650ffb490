"""The paper's ablations with its algorithm: reward, advantage, action distribution, expert steering, inputs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from experiments.algorithms import ALPHAS, BLOCKS, STEPS, cell, outcome, read_run, train
from experiments.base import (
    SEEDS,
    Experiment,
    Step,
    Summary,
    over_seeds,
    provenance,
    table,
)

PAYING = 30
"""Alpha of the two rewards: a second forward costs almost half of what an answer is worth."""


@dataclass(frozen=True)
class Variant:
    """One line of the table.

    Attributes:
        group: what is being changed; the lines of a group are compared with each other.
        wording: how this line has it.
        steps: its runs, one a seed.
        alpha: weight of speed.
        block: block length.
    """

    group: str
    wording: str
    steps: Sequence[Step]
    alpha: int
    block: int


def _train(name: str, alpha: int, block: int | None, *flags: str) -> list[Step]:
    words = ["--env.alpha", str(alpha), *(["--env.block_lengths", f"[{block}]"] if block else [])]
    return [train(f"ablations/{name}", "grpo", seed, [*words, *flags]) for seed in SEEDS]


def _cells(start: str, alpha: int, block: int) -> list[Step]:
    # The folders of the other experiment: what it has finished is not run again.
    return [cell("grpo", start, alpha, block, seed) for seed in SEEDS]


RANDOM = ("--policy.init", "random")
STEERED = (*RANDOM, "--experts.rules", "[threshold:0.9]", "--experts.block_length", "16")
"""As the paper: the expert in blocks, the policy in full diffusion."""

NARROW = ("--grpo.clip_range", "0.2")
"""The paper's clip with experts; without them it is 0.5."""

PAPER = ("--dit.hidden_size", "32", "--dit.feedforward_size", "128", "--grpo.learning_rate", "1.0e-3")
"""The paper's network at a quarter of its width, for the time it takes; 3e-3 makes it collapse."""

NETWORKS = {
    "paper": ("probability, mask, time", ()),
    "no_time": ("without time", ("--dit.reads_time", "false")),
    "no_mask": ("without mask", ("--dit.reads_mask", "false")),
    "best50": ("50 best probabilities", ("--dit.num_probabilities", "50")),
    "hidden": ("hidden states for probability", ("--dit.hidden_state_size", "128")),
}
"""What the paper's network reads: wording and flags."""

VARIANTS = [
    *(
        Variant("reward, from the rule", reward, _train(reward, PAYING, 64, "--env.reward", reward), PAYING, 64)
        for reward in ("multiplicative", "additive")
    ),
    Variant("advantage, from the rule", "less the group's mean", _cells("threshold", 3, 64), 3, 64),
    Variant(
        "advantage, from the rule",
        "divided by its deviation too",
        _train("divided", 3, 64, "--grpo.divides_by_std", "true"),
        3,
        64,
    ),
    Variant("action distribution", "forced Bernoulli", _cells("random", 10, 16), 10, 16),
    Variant(
        "action distribution",
        "Plackett-Luce with stop",
        _train("plackett_luce", 10, 16, *RANDOM, "--actions.distribution", "plackett_luce"),
        10,
        16,
    ),
    *(
        variant
        for alpha in ALPHAS
        for variant in (
            Variant("expert steering", "no expert", _cells("random", alpha, 64), alpha, 64),
            Variant(
                "expert steering",
                "one expert, clip 0.2",
                _train(f"steered_alpha{alpha}", alpha, None, *STEERED, *NARROW),
                alpha,
                64,
            ),
        )
    ),
    Variant("expert steering", "one expert, clip 0.5", _train("steered_wide", 10, None, *STEERED), 10, 64),
    *(
        Variant("the paper's network reads", wording, _train(f"network_{name}", 10, 16, *PAPER, *flags), 10, 16)
        for name, (wording, flags) in NETWORKS.items()
    ),
]
"""Every line."""


class Ablations(Experiment):
    """`python train/grpo.py` with one thing changed at a time."""

    name = "ablations"

    def steps(self) -> list[Step]:
        """Train every variant, seed by seed; some are cells of `experiments.algorithms`."""
        return [variant.steps[i] for i in range(len(SEEDS)) for variant in VARIANTS]

    def summarise(self, out: Path) -> Summary:
        """Keep each run's results; all are judged by the multiplicative reward."""
        rows = [
            {
                "group": variant.group,
                "wording": variant.wording,
                "alpha": variant.alpha,
                "block_length": variant.block,
                "runs": [read_run(out / step.folder, variant.alpha) for step in variant.steps],
            }
            for variant in VARIANTS
        ]
        return {"rows": rows, "steps": STEPS, "provenance": provenance(out, self.steps())}

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        lines = []
        for row in summary["rows"]:
            cells = [row["group"], BLOCKS[row["block_length"]], str(row["alpha"]), row["wording"]]
            # By the multiplicative reward at the same alpha, whatever a line was trained with.
            rewards = [run["sample"]["reward"] for run in row["runs"]]
            cells += [*outcome(row["runs"], "sample"), f"{np.std(rewards, ddof=1):.3f}"]
            lines.append([*cells, over_seeds([run["learning"] for run in row["runs"]], 3)])
        columns = ["what is changed", "decoding", "alpha", "how", "accuracy %", "NFE", "reward", "spread"]
        return f"""GRPO, {summary["steps"]:,} environment steps a run, three seeds, 30 held-out problems a task, sampled
decisions; the start is random where nothing else is said. Mean and 95 % Student interval over seeds, the reward's
standard deviation over seeds, and the mean reward while training (of the reward trained with):

{table([*columns, "while training"], lines)}"""
