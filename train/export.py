"""Write a policy in another format: ``python train/export.py runs/x/policy --to diffusers --out runs/served``.

``diffusers``, ``sglang``, ``lmdeploy`` and ``dllm_plugin`` (vLLM's) are packages for those engines, for policies that
see one block (`policies.formats.engines`); ``hub`` is a folder for the Hugging Face hub, uploaded with
``--repository user/name``; ``ml_rl_dllm`` is a checkpoint of apple/ml-rl-dllm, for policies with the paper's network;
``folder`` is what `policies.save` writes, such as from one of those checkpoints.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from envs.models.load import CHECKPOINTS, load_denoiser
from policies import LearnedPolicy, load, save
from policies.card import card_of
from policies.formats.engines import ENGINES, NEEDS_ENDS, check_exportable, write_engine
from policies.formats.ml_rl_dllm import is_checkpoint, read_checkpoint, write_checkpoint
from train.command.config_values import PathText
from train.command.errors import UserError
from train.command.ranges import check_range
from train.command.run_files import RunFiles
from train.command.run_folder import writing
from train.evaluation.records import Record, read_records


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
    to: Literal["diffusers", "sglang", "lmdeploy", "dllm_plugin", "hub", "ml_rl_dllm", "folder"] = "diffusers"
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
        check_range(self, "time_period", above=0)
        if self.speed is not None and not 0 <= self.speed <= 1:
            raise ValueError(f"speed is {self.speed}: it must be 0 (slow) to 1 (fast)")

    def unused(self) -> dict[str, str]:
        """Return the fields that play no role beside the others, each with the reason."""
        found = (
            {} if self.to in ENGINES else dict.fromkeys(("speed", "end_ids", "any_dllm"), f"to is {self.to}, no engine")
        )
        return found | ({} if self.to == "hub" else dict.fromkeys(("repository", "license"), f"to is {self.to}"))


def main(config: ExportConfig) -> Path:
    """Convert.

    Raises:
        UserError: if the folder is taken, or can't be written.
        FileNotFoundError: if there is no such policy.
        ValueError: if it can't be written in this format.
        ConnectionError: if the hub doesn't take it; nothing is written then.
    """
    if config.out.is_dir() and any(config.out.iterdir()):
        raise UserError(f"out is {str(config.out)!r}, which is not empty: choose another --out")
    source = Path(config.policy)
    if config.time_period is not None and not is_checkpoint(source):
        raise UserError(
            f"time_period is {config.time_period}, but {config.policy!r} is no ml-rl-dllm checkpoint: leave it out"
        )
    policy = read_checkpoint(source, config.time_period) if is_checkpoint(source) else load(config.policy)
    with writing(config.out), _emptied_on_failure(config.out):
        _write(policy, source, config)
    print(f"policy      {config.out}, {config.to}")
    return config.out


def _write(policy: LearnedPolicy, source: Path, config: ExportConfig) -> None:
    if config.to in ENGINES:
        check_exportable(policy)
        policy = policy.changed(any_dllm=config.any_dllm)
        write_engine(policy, config.to, config.out, config.end_ids or own_ends(policy), config.speed)
    elif config.to == "ml_rl_dllm":
        write_checkpoint(policy, config.out)
        if policy.decision == "deterministic":
            print("decision    deterministic, which only the way back knows: ml-rl-dllm always draws")
    elif config.to == "hub":
        evaluation = evaluation_beside(source)
        if config.repository is not None:
            address = policy.push_to_hub(config.repository, license=config.license, evaluation=evaluation)
            print(f"hub         {address}")
        about = (config.repository or "user/name", config.license, evaluation)
        save(policy, config.out, card_of(policy, *about))
    else:
        save(policy, config.out)


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


def own_ends(policy: LearnedPolicy) -> Sequence[int]:
    """Return the tokens that end a text of the dLLM that a policy was trained with, if it reads them and that ships."""
    model = policy.trained.get("model")
    if NEEDS_ENDS & policy.features and isinstance(model, str) and (CHECKPOINTS / model).is_dir():
        return load_denoiser(model).end_ids
    return ()


if __name__ == "__main__":
    from train.command.cli import run

    run(main, ExportConfig, positional="policy")
