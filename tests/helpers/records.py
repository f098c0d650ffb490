"""The form of an evaluation record, and run folders made of known outcomes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from train.command.files import write_json
from train.evaluation.records import Outcomes, summarise, write_outcomes

KEYS = [
    "policy",
    "decision",
    "task",
    "block_length",
    "accuracy",
    "accuracy_ci95",
    "nfe",
    "nfe_ci95",
    "token_positions",
    "episodes",
    "seed",
]


def outcomes(policy: str, score: Sequence[float], nfe: Sequence[int], **changes: Any) -> Outcomes:
    """What a policy did on the first problems of "copy" and, from the middle on, of "sort"."""
    half = len(score) // 2
    about: Any = {
        "policy": policy,
        "decision": "deterministic",
        "block_length": 8,
        "seed": 0,
        "seconds": 2.0,
        "task": ["copy"] * half + ["sort"] * (len(score) - half),
        "index": [*range(half), *range(len(score) - half)],
        "score": [float(value) for value in score],
        "nfe": list(nfe),
        "token_positions": [20 * n for n in nfe],
    }
    return about | changes  # type: ignore[no-any-return]


def write_run(
    folder: Path, entries: Sequence[Outcomes], config: Mapping[str, Any] | None = None, keep: bool = True
) -> Path:
    """Write a run's folder; with `keep` false it has no outcomes, as older runs."""
    folder.mkdir(parents=True)
    write_json(folder / "evaluation.json", [record for entry in entries for record in summarise(entry)])
    if keep:
        write_outcomes(folder / "outcomes.json", entries)
    if config is not None:
        (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    return folder


def ppo_config(seed: int = 0, alpha: float = 10.0, **changes: Any) -> dict[str, Any]:
    """Return what a training run's ``config.yaml`` holds, in short."""
    return {
        "out": f"runs/{seed}_{alpha}",
        "seed": seed,
        "model": {"name": "toy"},
        "env": {"buffer_length": 8, "alpha": alpha, "temperature": 0.0},
        "ppo": {"n_steps": 32},
        **changes,
    }
