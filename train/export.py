"""Write a policy in another format: ``python train/export.py --policy FOLDER --format ml-rl-dllm --out FOLDER``.

``ml-rl-dllm`` is a checkpoint of apple/ml-rl-dllm, for policies with the paper's network; ``folder`` is what
`policies.save` writes, such as from one of those checkpoints.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from policies import load, save
from policies.ml_rl_dllm import is_checkpoint, read_checkpoint, write_checkpoint
from train.config_values import PathText
from train.ranges import check_range
from train.run_folder import UserError


@dataclass(frozen=True)
class ExportConfig:
    """Write a policy in another format.

    Examples:
        python train/export.py --policy runs/grpo/policy --format ml-rl-dllm --out runs/exported
        python train/export.py --policy path/to/checkpoint --format folder --out runs/imported
    """

    policy: PathText = "runs/grpo/policy"
    """A policy's folder, a checkpoint of apple/ml-rl-dllm, or the name of a policy that ships."""
    out: Path = Path("runs/exported")
    """The folder to write; it must be new or empty."""
    format: Literal["ml-rl-dllm", "folder"] = "ml-rl-dllm"
    """A checkpoint of apple/ml-rl-dllm, or a folder of this library."""
    time_period: float | None = None
    """policy_time_period of the YAML that an ml-rl-dllm checkpoint was trained with; null is that of a policy.yaml
    beside it, or 1."""

    def __post_init__(self) -> None:
        check_range(self, "time_period", above=0)


def main(config: ExportConfig) -> Path:
    """Convert.

    Raises:
        UserError: if the folder is taken.
        FileNotFoundError: if there is no such policy.
        ValueError: if it can't be written in this format.
    """
    if config.out.exists() and (not config.out.is_dir() or any(config.out.iterdir())):
        raise UserError(f"out is {str(config.out)!r}, which is not empty: choose another --out")
    source = Path(config.policy)
    if config.time_period is not None and not is_checkpoint(source):
        raise UserError(
            f"time_period is {config.time_period}, but {config.policy!r} is no ml-rl-dllm checkpoint: leave it out"
        )
    policy = read_checkpoint(source, config.time_period) if is_checkpoint(source) else load(config.policy)
    if config.format == "ml-rl-dllm":
        write_checkpoint(policy, config.out)
        if policy.decision == "deterministic":
            print("decision    deterministic, which only the way back knows: ml-rl-dllm always draws")
    else:
        save(policy, config.out)
    print(f"policy      {config.out}, {config.format}")
    return config.out


if __name__ == "__main__":
    from train.cli import run

    run(main, ExportConfig)
