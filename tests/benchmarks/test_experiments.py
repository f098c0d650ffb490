"""The comparison of PPO and GRPO and the ablations, on runs made of known outcomes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from experiments import EXPERIMENTS, Summary
from experiments.ablations import Ablations
from experiments.algorithms import (
    ALGORITHMS,
    ALPHAS,
    BLOCKS,
    GRID,
    RULES,
    STARTS,
    Algorithms,
    _contrast,
    read_run,
)
from experiments.base import SEEDS
from records import finish, outcomes, write_run

from train.tracking.history import STEP, write_rows


def write_training(folder: Path, accuracy: float, nfe: int, rewards: tuple[float, float], **rates: float) -> None:
    """A run that is right on this share of ten problems, whose training reward rises or falls in a straight line."""
    right = [1.0] * round(10 * accuracy) + [0.0] * (10 - round(10 * accuracy))
    decisions = ("sample", "deterministic")
    write_run(folder, [outcomes("learned", right, [nfe] * 10, decision=decision) for decision in decisions])
    rows: list[dict[str, Any]] = [
        {
            STEP: step,
            "rollout/ep_rew_mean": reward,
            "time/time_elapsed": 30 * (i + 1),
            **{f"rollout/{k}": v for k, v in rates.items()},
        }
        for i, (step, reward) in enumerate(zip((GRID[0], GRID[-1]), rewards, strict=True))
    ]
    write_rows(folder / "progress.csv", rows)


def test_what_is_read_of_a_run(tmp_path: Path) -> None:
    write_training(tmp_path / "run", 0.8, 3, (0.2, 0.6), zero_variance_rate=0.25)
    found = read_run(tmp_path / "run", alpha=2.0)
    # (64 - 2) / 64 squared, for eight answers of ten.
    assert found["sample"] == {"accuracy": 0.8, "nfe": 3.0, "reward": pytest.approx(0.8 * (62 / 64) ** 2)}
    assert found["curve"] == pytest.approx([0.2 + 0.4 * i / (len(GRID) - 1) for i in range(len(GRID))], abs=1e-4)
    assert found["learning"] == pytest.approx(0.4)
    assert found["minutes"] == 1.0
    assert found["rates"] == {"zero_variance_rate": 0.25}


def test_contrasts_are_paired_by_seed() -> None:
    def run(reward: float) -> Summary:
        return {"sample": {"reward": reward}, "learning": reward / 2}

    entries = [
        {"ppo": [run(0.1), run(0.2), run(0.9)], "grpo": [run(0.2), run(0.4), run(1.2)]},
        {"ppo": [run(0.5), run(0.5), run(0.5)], "grpo": [run(0.5), run(0.5), run(0.5)]},
    ]
    # Halved by the second entry: 0.05, 0.1 and 0.15; t(2) = 4.303 and s / sqrt(3) = 0.0289.
    reward, learning, *spreads = _contrast(entries)
    assert (reward, learning) == ("+0.100 ± 0.124", "+0.050 ± 0.062")
    assert spreads == [f"{0.43589 / 2:.3f}", f"{0.52915 / 2:.3f}"]


@pytest.mark.slow
def test_the_comparison_of_algorithms(tmp_path: Path) -> None:
    experiment = Algorithms()
    for step in experiment.steps():
        if step == RULES:
            lines = [
                outcomes(f"threshold:{t}", [1.0] * 10, [nfe] * 10, block_length=block)
                for t, nfe in ((0.5, 4), (0.9, 6))
                for block in BLOCKS
            ]
            write_run(tmp_path / step.folder, lines)
        else:
            is_grpo = "grpo" in step.command[0]
            rates = {"zero_variance_rate": 0.5, "stall_rate": 0.0, "unfinished_rate": 0.0} if is_grpo else {}
            write_training(tmp_path / step.folder, 0.9 if is_grpo else 0.8, 2, (0.4, 0.6), **rates)
    finish(experiment, tmp_path)
    summary = experiment.summarise(tmp_path)
    assert len(summary["settings"]) == len(BLOCKS) * len(STARTS) * len(ALPHAS)
    assert all(len(entry[name]) == len(SEEDS) for entry in summary["settings"] for name in ALGORITHMS)
    text = experiment.markdown(summary)
    assert "| full diffusion | random | 1 | 80.0 ± 0.0 | 2.00 ± 0.00 | 4.00 | 90.0 ± 0.0 | 2.00 ± 0.00 | 4.00 |" in text
    assert "1.00 times the wall time" in text
    assert " 50 % earned" in " ".join(text.split())
    experiment.draw(summary, tmp_path)
    assert (tmp_path / "algorithms.png").read_bytes().startswith(b"\x89PNG")


def test_the_ablations(tmp_path: Path) -> None:
    experiment = Ablations()
    for step in experiment.steps():
        accuracy = 0.5 if "additive" in step.folder else 0.9
        write_training(tmp_path / step.folder, accuracy, 1, (0.4, 0.6))
    finish(experiment, tmp_path)
    text = experiment.markdown(experiment.summarise(tmp_path))
    rows = [line for line in text.splitlines() if line.startswith("| ")]
    [additive] = [row for row in rows if " additive " in row]
    assert additive.endswith("| 30 | additive | 50.0 ± 0.0 | 1.00 ± 0.00 | 0.500 ± 0.000 | 0.000 | 0.500 ± 0.000 |")
    assert len(rows) == 2 + 2 + 2 + 2 + (2 * len(ALPHAS) + 1) + 5


def test_steps_that_experiments_share_are_the_same() -> None:
    cells = {step.folder: step for step in EXPERIMENTS["algorithms"].steps()}
    shared = [step for step in EXPERIMENTS["ablations"].steps() if step.folder in cells]
    assert shared
    assert all(cells[step.folder] == step for step in shared)
