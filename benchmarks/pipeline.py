"""diffusers' own pipeline with an exported policy beside its own threshold: ``python benchmarks/pipeline.py FOLDER``.

Decodes held-out problems of the embedded suite with `LLaDA2Pipeline`, with its threshold scheduler at several
thresholds and with the policy at several places on its dial, and says what share of the threshold's forwards the policy
needs at no lower accuracy (within half a point). FOLDER is a policy trained with ``configs/engine.yaml``.
"""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline
from rich.console import Console
from rich.table import Table
from torch import Tensor

from envs.denoiser import MaskedLMDenoiser, load_denoiser
from envs.tasks import SUITE, Problem, Task, make_tasks
from policies import LearnedPolicy, load
from policies.formats.engines import write_engine
from train.evaluate import choose_problems, score_problems
from train.measures import TOLERANCE
from train.progress import progress

THRESHOLDS = (0.5, 0.6, 0.7, 0.8, 0.9, 0.95)
SPEEDS = (0.0, 0.25, 0.5, 0.75, 1.0)
LENGTH = 64


class Counted(torch.nn.Module):
    """A model as the pipeline calls it, around one that numbers its positions itself, with its forwards counted."""

    device, dtype = torch.device("cpu"), torch.float32

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model, self.forwards = model, 0

    def forward(self, ids: Tensor, attention_mask: Tensor, position_ids: Tensor) -> Any:
        """Return the model's output."""
        self.forwards += 1
        return self.model(input_ids=ids, attention_mask=attention_mask)


@dataclass(frozen=True)
class Result:
    """What a scheduler did: the mean score, and forwards an answer."""

    accuracy: float
    nfe: float


def run(
    denoiser: MaskedLMDenoiser,
    tasks: Sequence[Task],
    problems: Sequence[Problem],
    block: int,
    scheduler: Any,
    **how: Any,
) -> Result:
    """Decode problems with the pipeline and score them."""
    model = Counted(denoiser.model)
    pipeline = LLaDA2Pipeline(model=model, scheduler=scheduler, tokenizer=denoiser.tokenizer)
    pipeline.set_progress_bar_config(disable=True)
    texts = []
    for problem in progress(problems, desc="decoding", unit="problem"):
        done = pipeline(
            input_ids=torch.tensor([denoiser.encode_prompt(problem.prompt)]),
            gen_length=LENGTH,
            block_length=block,
            num_inference_steps=block,
            editing_threshold=None,
            eos_token_id=denoiser.eos_id,
            mask_token_id=denoiser.mask_id,
            output_type="seq",
            **how,
        )
        texts.append(denoiser.decode(done.sequences[0].tolist()))
    scores = [score for score in score_problems(tasks, problems, texts) if score is not None]
    return Result(sum(scores) / len(scores), model.forwards / len(problems))


def schedulers_of(policy: LearnedPolicy, denoiser: MaskedLMDenoiser, folder: Path) -> Mapping[str, Any]:
    """Export a policy and return its schedulers by name, one a place on the dial."""
    write_engine(policy, "diffusers", folder, denoiser.end_ids)
    sys.path.insert(0, str(folder))
    cls = importlib.import_module("unmasking_diffusers").UnmaskingPolicyScheduler
    places = SPEEDS if policy.has_dial else [None]
    return {"policy" if speed is None else f"policy, speed {speed:g}": cls(speed=speed) for speed in places}


def best_ratio(thresholds: Sequence[Result], policies: Sequence[Result]) -> float | None:
    """Return the least share of a threshold's forwards that a policy needs at no lower accuracy; None if none is there.

    A place of the policy that is as accurate as the best threshold is set against the cheapest that is as accurate.
    """
    ratios = []
    for mine in policies:
        enough = [other.nfe for other in thresholds if other.accuracy >= mine.accuracy - TOLERANCE]
        if enough and mine.accuracy >= max(other.accuracy for other in thresholds) - TOLERANCE:
            ratios.append(mine.nfe / min(enough))
    return min(ratios, default=None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("policy", help="folder of a policy that sees one block")
    parser.add_argument("--episodes", type=int, default=200, help="problems a task")
    parser.add_argument("--block_length", type=int, default=16, help="positions of a block")
    options = parser.parse_args()
    torch.set_num_threads(1)
    denoiser, tasks = load_denoiser("tiny"), make_tasks(SUITE)
    assert isinstance(denoiser, MaskedLMDenoiser)
    problems = choose_problems(tasks, "test", 0, options.episodes)
    about = (denoiser, tasks, problems, options.block_length)
    table = Table(title=f"LLaDA2Pipeline, {len(problems)} problems, blocks of {options.block_length}")
    for column in ("scheduler", "accuracy %", "forwards an answer"):
        table.add_column(column)
    found: dict[str, Result] = {}
    with TemporaryDirectory() as folder:
        for threshold in THRESHOLDS:
            found[f"threshold {threshold:g}"] = run(*about, BlockRefinementScheduler(), threshold=threshold)
        for name, scheduler in schedulers_of(load(options.policy), denoiser, Path(folder)).items():
            found[name] = run(*about, scheduler)
    for name, result in found.items():
        table.add_row(name, f"{100 * result.accuracy:.1f}", f"{result.nfe:.2f}")
    Console(width=80).print(table)
    own = [result for name, result in found.items() if name.startswith("policy")]
    ratio = best_ratio([result for name, result in found.items() if not name.startswith("policy")], own)
    print("no place is as accurate" if ratio is None else f"forwards at equal accuracy: {ratio:.2f} of the threshold's")


if __name__ == "__main__":
    main()
