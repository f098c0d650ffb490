"""Commands that go on from a finished job, as a shell takes them: with its dLLM, tasks and way of decoding."""

from __future__ import annotations

import shlex
from dataclasses import asdict, fields
from typing import Any

from train.evaluation.run import EvaluateConfig
from train.job.config import JobConfig
from train.job.finish import evaluation_of
from train.watching.show import WatchConfig

OWN = frozenset({"policy", "out", "split", "episodes", "first", "samples", "batch_size", "workers", "per_task", "seed"})
"""Fields that the commands choose themselves, or leave as they are."""


def next_commands(config: JobConfig) -> list[str]:
    """Return the commands that show the job's policy decoding beside a rule, and that compare it with one by task.

    Each has a folder of its own beside the job's, so that the default one may be taken.
    """
    policy, about = config.out / "policy", evaluation_of(config, "")
    watched: dict[str, Any] = {field.name: getattr(about, field.name, None) for field in fields(WatchConfig)}
    watched |= {"block_length": about.block_length[0], "format": "html", "problems": 5, "heatmap_problems": 100}
    if about.tasks != EvaluateConfig().tasks:
        watched["task"] = about.tasks[0]
    evaluated = {field.name: getattr(about, field.name) for field in fields(EvaluateConfig)}
    return [
        _command("watch", config, ["--policy", str(policy), "--policy", "threshold:0.9"], watched, WatchConfig()),
        _command(
            "evaluate",
            config,
            ["--policy", str(policy), "--policy", "eb_sampler:0.5", "--per_task"],
            evaluated,
            EvaluateConfig(),
        ),
    ]


def _command(program: str, config: JobConfig, words: list[str], values: dict[str, Any], usual: Any) -> str:
    """Write a command with the flags of what is not as usual."""
    for name, value in values.items():
        default = getattr(usual, name)
        if name in OWN or value is None or value == default:
            continue
        if name == "block_length" and value in (config.env.buffer_length, [config.env.buffer_length]):
            continue  # full diffusion, which is the default
        if name == "model":
            model = asdict(default)
            words += [word for part, one in asdict(value).items() if one != model[part] for word in _flag(part, one)]
        elif name != "wandb":
            words += [word for one in (value if isinstance(value, list) else [value]) for word in _flag(name, one, "")]
    out = config.out.with_name(f"{config.out.name}_{program}")
    return shlex.join(["python", f"train/{program}.py", *words, "--out", str(out)])


def _flag(name: str, value: Any, section: str = "model.") -> list[str]:
    return [f"--{section}{name}", str(value).lower() if isinstance(value, bool) else str(value)]
