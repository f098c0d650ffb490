"""How a run is filed with Weights & Biases, and what is refused before anything is begun."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import Literal, get_args

from train.command.errors import UserError

Mode = Literal["offline", "online", "disabled"]


PROJECT = "unmasking-policies"
"""Where runs go unless told otherwise."""


@dataclass(frozen=True)
class WandbConfig:
    """Weights & Biases; offline runs need no account and can be sent later with `wandb sync`.

    A flag beats the ``WANDB_*`` variable, which beats the default. ``WANDB_DIR`` and, unless a run is resumed,
    ``WANDB_RUN_ID`` count too.
    """

    mode: Mode | None = None
    """offline writes to the run's folder, online sends (after `wandb login`), disabled does nothing; null takes
    WANDB_MODE, else offline for training and disabled for what only reads runs."""
    project: str | None = None
    """Project to file the run under; null takes WANDB_PROJECT, else unmasking-policies."""
    entity: str | None = None
    """User or team; null takes WANDB_ENTITY, else the account's default."""
    group: str | None = None
    """Runs to be compared as one, such as the seeds of a setting; null takes WANDB_RUN_GROUP."""
    job_type: str | None = None
    """Kind of run; null takes WANDB_JOB_TYPE, else what the program does: train, evaluate, compare."""
    name: str | None = None
    """What the run is called; null takes WANDB_NAME, else the name of its folder."""
    tags: list[str] = field(default_factory=list)
    """Labels to filter by; an empty list takes WANDB_TAGS, separated by commas."""


def chosen_mode(config: WandbConfig, default: Mode = "offline") -> Mode:
    """Return the mode that holds: the flag's, else WANDB_MODE, else the default.

    Raises:
        UserError: if WANDB_MODE is none of them.
    """
    mode = config.mode or os.environ.get("WANDB_MODE") or default
    for known in get_args(Mode):
        if mode == known:
            return known  # type: ignore[no-any-return]
    raise UserError(f"WANDB_MODE is {mode!r}: choose one of {', '.join(get_args(Mode))}")


def check_start(config: WandbConfig, default: Mode = "offline") -> None:
    """Refuse, before anything is begun, what W&B would refuse later: a setting, or no login where one is needed.

    Raises:
        UserError: in that case.
    """
    import wandb

    mode = chosen_mode(config, default)
    if mode == "disabled":
        return
    try:
        # Made to be checked.
        wandb.Settings(
            project=project_of(config), entity=config.entity, run_group=config.group, run_tags=tuple(config.tags)
        )
        if mode == "online" and not wandb.login():
            raise wandb.Error("no login")
    except (wandb.Error, OSError, ValueError) as error:
        raise refusal_of(mode, error) from error


def project_of(config: WandbConfig) -> str:
    """Return the project: as it was given, as the environment says, or this library's own."""
    return config.project or os.environ.get("WANDB_PROJECT") or PROJECT


def reason_of(error: BaseException) -> str:
    """Return an error's first line; of pydantic's, the one that says what is wrong."""
    lines = [line.strip().rstrip(".") for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    # pydantic says how many errors there are, then the field, then what is wrong with it.
    return lines[min(2, len(lines) - 1)] if "validation error" in lines[0] else lines[0]


def refusal_of(mode: Mode, error: BaseException) -> UserError:
    """Return what to tell a user whose run W&B does not take."""
    return UserError(
        f"wandb.mode is {mode!r}, but W&B can't start ({reason_of(error)}): log in with `wandb login`, check the "
        "wandb.* settings and the WANDB_* variables, or pass --wandb.mode offline or disabled"
    )
