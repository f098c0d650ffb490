"""diffusers' own pipeline with an exported policy beside its own threshold: ``python benchmarks/pipeline.py FOLDER``.

Decodes held-out problems of the embedded suite with `LLaDA2Pipeline`: with its threshold scheduler at several
thresholds, with the exported policy, and with the same thresholds in the exported scheduler, which ends a block at its
last commit, so that what stopping saves and what deciding saves stand apart. The place on the policy's dial is chosen
on validation problems: the cheapest that is at most half a point less accurate than the best threshold. FOLDER is a
policy trained with ``configs/engine.yaml``.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import importlib.util
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal, get_args

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from envs.models.adapter import MaskedLMDenoiser
from envs.models.load import load_denoiser
from envs.tasks import SUITE, Problem, Split, make_tasks
from policies import LearnedPolicy, NetworkConfig, UnmaskingNetwork, load
from policies.formats import EXPORTERS
from policies.formats.exporter import ExportOptions
from train.command.errors import UserError
from train.command.files import write_json
from train.command.progress import progress
from train.command.ranges import check_count
from train.command.run_folder import open_run
from train.evaluation.measure import choose_problems, score_problems
from train.evaluation.measures import best_rule
from train.evaluation.records import accuracy_interval, mean_interval

THRESHOLDS = (0.6, 0.7, 0.75, 0.8, 0.82, 0.85, 0.87, 0.9, 0.95, 0.98)
SPEEDS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTH = 64

Rules = Literal["threshold", "stopped"]
"""The pipeline's own thresholds, and the same in the exported scheduler."""

Kind = Rules | Literal["policy"]


@dataclass(frozen=True)
class PipelineConfig:
    """Set an exported policy against diffusers' own thresholds, in diffusers' own pipeline.

    Examples:
        python benchmarks/pipeline.py runs/engine/policy
        python benchmarks/pipeline.py runs/engine/policy --block_length 32 --first 3000 --out runs/pipeline_32
    """

    policy: str = "runs/engine/policy"
    """Folder of a policy that sees one block."""
    out: Path = Path("runs/pipeline")
    """Folder for pipeline.json."""
    block_length: int = 16
    """Positions of a block."""
    episodes: int = 200
    """Held-out problems a task."""
    first: int = 0
    """Index of the first of them."""
    validation_episodes: int = 50
    """Validation problems a task, which choose the place on the dial."""

    def __post_init__(self) -> None:
        check_count(self, "block_length", "episodes", "validation_episodes")
        check_count(self, "first", least=0)


class Counted(torch.nn.Module):
    """A model as the pipeline calls it, around one that numbers its positions itself, with its forwards counted.

    What it said of a sequence is kept until `forget`: several schedulers ask the same.
    """

    # diffusers asks its parts for both, which a torch module doesn't have by itself.
    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.forwards = model, 0
        self._known: dict[bytes, Any] = {}

    def forward(self, ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        """Return the model's output."""
        # Whether it is known or not: a scheduler by itself would have paid for it.
        self.forwards += 1
        key = ids.numpy().tobytes()
        if key not in self._known:
            self._known[key] = self.model(input_ids=ids, attention_mask=attention_mask)
        return self._known[key]

    def forget(self) -> None:
        """Start with another problem."""
        self._known.clear()


@dataclass(frozen=True)
class Result:
    """What a scheduler did.

    Attributes:
        accuracy: mean score, in [0, 1].
        nfe: forwards an answer.
        accuracy_ci95: interval of the accuracy.
        nfe_ci95: of the forwards.
    """

    accuracy: float
    nfe: float
    accuracy_ci95: Sequence[float] = ()
    nfe_ci95: Sequence[float] = ()


@dataclass(frozen=True)
class Setting:
    """A scheduler, what kind of decision it stands for, and what the pipeline is called with besides."""

    kind: Kind
    scheduler: Any
    how: Mapping[str, Any] = field(default_factory=dict)


def run(
    denoiser: MaskedLMDenoiser, settings: Mapping[str, Setting], problems: Sequence[Problem], block: int
) -> dict[str, Result]:
    """Decode problems with the pipeline under each setting and score them."""
    from diffusers import LLaDA2Pipeline

    model = Counted(denoiser.model)
    pipelines = {}
    for name, setting in settings.items():
        pipelines[name] = LLaDA2Pipeline(model=model, scheduler=setting.scheduler, tokenizer=denoiser.tokenizer)
        pipelines[name].set_progress_bar_config(disable=True)
    texts: dict[str, list[str]] = {name: [] for name in settings}
    forwards: dict[str, list[int]] = {name: [] for name in settings}
    for problem in progress(problems, desc="decoding", unit="problem"):
        model.forget()
        for name, setting in settings.items():
            before = model.forwards
            done = pipelines[name](
                input_ids=torch.tensor([denoiser.encode_prompt(problem.prompt)]),
                gen_length=LENGTH,
                block_length=block,
                # A step for each position makes one commit the least of a step; more are the threshold's doing.
                num_inference_steps=block,
                # Otherwise the pipeline would change committed tokens, which an exported policy never does.
                editing_threshold=None,
                eos_token_id=denoiser.eos_id,
                mask_token_id=denoiser.mask_id,
                output_type="seq",
                **setting.how,
            )
            texts[name].append(denoiser.decode(done.sequences[0].tolist()))
            forwards[name].append(model.forwards - before)
    return {name: result_of(problems, texts[name], forwards[name]) for name in settings}


def result_of(problems: Sequence[Problem], texts: Sequence[str], forwards: Sequence[int]) -> Result:
    """Score answers."""
    found = score_problems(make_tasks(SUITE), problems, texts)
    scores = [score for score in found if score is not None]
    accuracy, nfe = sum(scores) / len(scores), sum(forwards) / len(forwards)
    return Result(accuracy, nfe, accuracy_interval(scores), mean_interval(forwards))


def settings_of(policy: LearnedPolicy, denoiser: MaskedLMDenoiser, folder: Path) -> dict[str, Setting]:
    """Return the pipeline's own thresholds, the same in the exported scheduler, and the policy's places on its dial."""
    from diffusers import BlockRefinementScheduler

    EXPORTERS["diffusers"].write(policy, folder, ExportOptions(end_ids=denoiser.end_ids))
    # As if it had been installed with pip.
    sys.path.insert(0, str(folder))
    cls = importlib.import_module("unmasking_diffusers").UnmaskingPolicyScheduler
    found = {f"threshold {t:g}": Setting("threshold", BlockRefinementScheduler(), {"threshold": t}) for t in THRESHOLDS}
    for threshold in THRESHOLDS:
        found[f"threshold {threshold:g}, stopped"] = Setting("stopped", stopping_at(threshold, cls, folder))
    places = SPEEDS if policy.has_dial else [None]
    for speed in places:
        found["policy" if speed is None else f"policy, speed {speed:g}"] = Setting("policy", cls(speed=speed))
    return found


def stopping_at(threshold: float, cls: Any, folder: Path) -> Any:
    """Return an exported scheduler with a threshold for a policy."""
    # A network that has learned nothing is the threshold that it starts as.
    rule = LearnedPolicy(UnmaskingNetwork(NetworkConfig(context="block", threshold=threshold)))
    written, saved = folder / f"threshold_{threshold:g}", folder / f"saved_{threshold:g}"
    EXPORTERS["diffusers"].write(rule, written, ExportOptions())
    # The package is imported once, with one policy in it: another comes in by a scheduler's saved files.
    cls().save_pretrained(saved)
    for name in ("policy.json", "policy.safetensors"):
        shutil.copy(written / "unmasking_diffusers" / name, saved)
    return cls.from_pretrained(saved)


def choose(places: Mapping[str, Result], thresholds: Mapping[str, Result]) -> str:
    """Return the cheapest place of the policy that is as accurate as the best threshold, or its most accurate one."""
    wanted = max(one.accuracy for one in thresholds.values())
    return str(best_rule([{"name": name, **asdict(one)} for name, one in places.items()], wanted)["name"])


def share(policy: Result, rules: Mapping[str, Result]) -> float:
    """Return the policy's forwards as a share of those of `best_rule`: the cheapest that is as accurate."""
    return policy.nfe / float(best_rule([asdict(one) for one in rules.values()], policy.accuracy)["nfe"])


def main(config: PipelineConfig) -> dict[str, Any]:
    """Choose, measure, print and write.

    Raises:
        UserError: if diffusers is not installed.
    """
    if importlib.util.find_spec("diffusers") is None:
        raise UserError("diffusers is not installed: pip install -c constraints.txt -e '.[serving]'")
    torch.set_num_threads(1)
    policy, denoiser, tasks = load(config.policy), load_denoiser("tiny"), make_tasks(SUITE)
    assert isinstance(denoiser, MaskedLMDenoiser)

    def problems_of(split: Split, first: int, count: int) -> list[Problem]:
        return choose_problems(tasks, split, first, count)

    with open_run(config.out, config, resume=None), TemporaryDirectory() as folder:
        settings = settings_of(policy, denoiser, Path(folder))

        def of_kind(results: Mapping[str, Result], kind: Kind) -> dict[str, Result]:
            return {name: one for name, one in results.items() if settings[name].kind == kind}

        # The place is chosen against the pipeline's own thresholds alone, so the others need no validation.
        tried = {name: one for name, one in settings.items() if one.kind != "stopped"}
        problems = problems_of("validation", 0, config.validation_episodes)
        found = run(denoiser, tried, problems, config.block_length)
        chosen = choose(of_kind(found, "policy"), of_kind(found, "threshold"))
        settings = {name: one for name, one in settings.items() if name == chosen or one.kind != "policy"}
        problems = problems_of("test", config.first, config.episodes)
        results = run(denoiser, settings, problems, config.block_length)
        shares = {kind: share(results[chosen], of_kind(results, kind)) for kind in get_args(Rules)}
        written = {
            "block_length": config.block_length,
            "problems": len(problems),
            "chosen": chosen,
            "results": {name: asdict(one) for name, one in results.items()},
            "shares": shares,
        }
        write_json(config.out / "pipeline.json", written)
    table = Table(title=f"LLaDA2Pipeline, {len(problems)} problems, blocks of {config.block_length}")
    for column in ("scheduler", "accuracy %", "forwards an answer"):
        table.add_column(column)
    for name, result in results.items():
        table.add_row(name, f"{100 * result.accuracy:.1f}", f"{result.nfe:.2f}")
    Console(width=80).print(table)
    for kind, what in (("threshold", "the pipeline's own thresholds"), ("stopped", "thresholds that stop as it does")):
        print(f"{chosen}: {shares[kind]:.2f} of the forwards of {what}, at equal accuracy")
    return written


if __name__ == "__main__":
    from train.command.cli import run as run_command

    run_command(main, PipelineConfig, positional="policy")
