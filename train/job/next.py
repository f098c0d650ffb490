"""Commands that go on from a finished job, as a shell takes them: with its dLLM, tasks and way of decoding."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from train.command.decoding_config import decoding_of, unused_without_blocks
from train.command.escaping import for_shell
from train.evaluation.run import EvaluateConfig
from train.job.config import JobConfig
from train.job.finish import evaluation_of
from train.watching.show import WatchConfig

WITHOUT_BLOCKS = {name: getattr(EvaluateConfig(), name) for name in unused_without_blocks("")}
"""What says how blocks lie, as it is by default."""


def next_commands(config: JobConfig) -> list[str]:
    """Return the commands that show the job's policy decoding beside a rule, and that compare it with one by task.

    Each has a folder of its own beside the job's, so that the default one may be taken.
    """
    about = evaluation_of(config, "")
    # Full diffusion is what the commands do unless told otherwise; blocks from the prompt's start are never the buffer.
    is_full = about.block_length == [about.buffer_length] and about.block_origin == "buffer"
    blocks = [] if is_full else about.block_length
    shared = {**decoding_of(about), **{f"model.{name}": value for name, value in asdict(about.model).items()}}
    tasks = [] if about.tasks == EvaluateConfig().tasks else about.tasks
    first = [block for block in blocks[:1] if block != about.buffer_length or about.block_origin != "buffer"]
    watched, measured = {"task": tasks[:1], "block_length": first}, {"tasks": tasks, "block_length": blocks}
    # Where there are no blocks, to say how they lie is refused.
    of_watch, of_evaluate = (shared if own else {**shared, **WITHOUT_BLOCKS} for own in (first, blocks))
    return [
        _command("watch", config, ["threshold:0.9"], {**watched, **of_watch}, WatchConfig()),
        _command("evaluate", config, ["eb_sampler:0.5", "--per_task"], {**measured, **of_evaluate}, EvaluateConfig()),
    ]


def _command(program: str, config: JobConfig, rest: list[str], values: Mapping[str, Any], usual: Any) -> str:
    """Write a command with a flag for each value that is not as usual, and for each item of a list."""
    words = ["--policy", str(config.out / "policy"), "--policy", *rest]
    defaults = {**asdict(usual), **{f"model.{name}": value for name, value in asdict(usual.model).items()}}
    for name, value in values.items():
        # What a command has no field for, it doesn't do.
        if name in defaults and value != defaults[name]:
            items = value if isinstance(value, list) else [value]
            words += [word for item in items for word in (f"--{name}", _text(item))]
    out = config.out.with_name(f"{config.out.name}_{program}")
    return for_shell("python", f"train/{program}.py", *words, "--out", str(out))


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)
