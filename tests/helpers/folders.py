"""Run folders of a configuration with one field."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from train.command.run_folder import open_run
from train.command.wandb_config import WandbConfig


@dataclass(frozen=True)
class Section:
    threads: int = 1
    name: str = "tiny"


@dataclass(frozen=True)
class Config:
    out: Path = Path("run")
    seed: int = 0
    resume: bool = False
    checkpoint_every: int = 10
    model: Section = field(default_factory=Section)
    wandb: WandbConfig = field(default_factory=WandbConfig)
    dit: Section | None = None


def finish(config: Config, name: str = "result.txt") -> None:
    with open_run(config.out, config, config.resume):
        (config.out / name).write_text("done")
