"""Write a policy in another format: ``python train/export.py runs/x/policy --to diffusers --out runs/served``.

``diffusers``, ``sglang``, ``lmdeploy`` and ``dllm_plugin`` (vLLM's) are packages for those engines, for policies that
see one block (`policies.formats.engine`); ``hub`` is a folder for the Hugging Face hub, uploaded with
``--repository user/name``; ``ml_rl_dllm`` is a checkpoint of apple/ml-rl-dllm, for policies with the paper's network;
``folder`` is what `policies.save` writes, such as from one of those checkpoints.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Annotated

from policies import load
from policies.formats import EXPORTERS, exporter_of
from policies.formats.exporter import ExportOptions
from policies.formats.ml_rl_dllm import is_checkpoint, read_checkpoint
from train.command.config_values import NamedIn, PathText
from train.command.errors import UserError
from train.command.ranges import check_range
from train.command.run_files import RunFiles
from train.command.run_folder import refuse_used, writing
from train.command.told import tell
from train.evaluation.records import Record, read_records

OPTIONS = frozenset(option.name for option in fields(ExportOptions)) - {"evaluation"}
"""Fields of the configuration that some exporters read and others don't; the evaluation is found beside the policy."""


@dataclass(frozen=True)
class ExportConfig:
    """Write a policy in another format, such as a serving engine's.

    Examples:
        python train/export.py runs/engine/policy --to sglang --end_id 156892 --out runs/sglang
        python train/export.py runs/grpo/policy --to ml_rl_dllm --out runs/exported
        python train/export.py path/to/checkpoint --to folder --out runs/imported
    """

    policy: PathText = "runs/engine/policy"
    """A policy's folder, a checkpoint of apple/ml-rl-dllm, or the name of a policy that ships."""
    out: Path = Path("runs/exported")
    """The folder to write; it must be new or empty."""
    to: Annotated[str, NamedIn(tuple(EXPORTERS))] = "diffusers"
    """A package for a serving engine, a folder for the Hugging Face hub with the evaluation of its run in the card, a
    checkpoint of apple/ml-rl-dllm, or a folder of this library."""
    repository: str | None = None
    """owner/repository of the hub that --to hub uploads to as well; it is made where it is missing."""
    license: str | None = None
    """Of the weights, for the card of --to hub, such as mit."""
    speed: float | None = None
    """Place on the dial, 0 (slow) to 1 (fast), that an engine starts with; null is the policy's own."""
    end_ids: list[int] = field(default_factory=list)
    """Tokens that end a text of the model that an engine serves, where the policy reads them; an empty list is those of
    the model it was trained with, if that ships."""
    any_dllm: bool = False
    """Let an engine's policy decode with a dLLM of another mask token than that of the one it was trained for."""
    time_period: float | None = None
    """policy_time_period of the YAML that an ml-rl-dllm checkpoint was trained with; null is that of a policy.yaml
    beside it, or 1."""

    def __post_init__(self) -> None:
        exporter_of(self.to)
        check_range(self, "time_period", above=0)
        if self.speed is not None and not 0 <= self.speed <= 1:
            raise ValueError(f"speed is {self.speed}: it must be 0 (slow) to 1 (fast)")

    def unused(self) -> dict[str, str]:
        """Return the fields that play no role beside the others, each with the reason."""
        found = {}
        for name in OPTIONS.difference(exporter_of(self.to).reads):
            readers = [one.name for one in EXPORTERS.values() if name in one.reads]
            found[name] = f"to is {self.to}; it is for {', '.join(readers)}"
        return found


def main(config: ExportConfig) -> Path:
    """Convert.

    Raises:
        UserError: if the folder is taken, or can't be written.
        FileNotFoundError: if there is no such policy.
        ValueError: if it can't be written in this format.
        ConnectionError: if the hub doesn't take it; nothing is written then.
    """
    refuse_used(config.out)
    source = Path(config.policy)
    if config.time_period is not None and not is_checkpoint(source):
        raise UserError(
            f"time_period is {config.time_period}, but {config.policy!r} is no ml-rl-dllm checkpoint: leave it out"
        )
    policy = read_checkpoint(source, config.time_period) if is_checkpoint(source) else load(config.policy)
    exporter = exporter_of(config.to)
    options = ExportOptions(
        **{name: getattr(config, name) for name in OPTIONS},
        # A damaged one stops only those who would put it into a card.
        evaluation=evaluation_beside(source) if "evaluation" in exporter.reads else (),
    )
    with writing(config.out), _emptied_on_failure(config.out):
        told = exporter.write(policy, config.out, options)
    for word, text in told.items():
        tell(word, text)
    tell("policy", config.out, config.to)
    return config.out


@contextmanager
def _emptied_on_failure(folder: Path) -> Iterator[None]:
    """Leave no half of an export on a full disk: the next one asks for an empty folder."""
    try:
        yield
    except OSError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def evaluation_beside(folder: Path) -> list[Record]:
    """Return the records of the run that a policy's folder is of; none where there are none."""
    file = RunFiles(folder.parent).evaluation
    return read_records(file) if file.is_file() else []


if __name__ == "__main__":
    from train.command.cli import run

    run(main, ExportConfig, positional="policy")
