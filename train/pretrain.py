"""Pretrain an embedded dLLM: a small bidirectional transformer with LLaDA's objective.

``python train/pretrain.py`` writes an ordinary checkpoint folder, ``OUT/model``, and resumes by itself when run again
with the same ``--out``: a run that was killed ends with the same weights as one that was not.
`train/model_card.py` measures the model and writes its card. ``--suite prose --architecture llada`` trains a model of
LLaDA's format for the prose suite; ``--objective causal`` trains a left-to-right model on the same problems instead,
the guide of guided diffusion.
``torchrun --nproc-per-node 2 train/pretrain.py`` shares each batch between two single-threaded processes: on two idle
cores about 1.3 times faster than one process with two threads.

Source: Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, Eq. 3 and Algorithm 2.

Departures from the paper:
1. Of a buffer's L positions exactly ``ceil(t L)`` are masked, t stratified over the batch, instead of each with
   probability t: the same expectation with less variance (the paper does so when it evaluates, Eq. 6). The weight
   1/t then makes a row's loss its mean cross-entropy over masked positions.
2. The buffer's length varies, so that the model decodes into buffers of several lengths.
3. Muon for matrices and AdamW for the rest instead of AdamW for all: it needs fewer steps.
"""

from __future__ import annotations

from train.command.starting import end_quietly

from contextlib import nullcontext
from pathlib import Path

import torch
from tqdm import tqdm

from train.command import parallel
from train.command.errors import UserError
from train.command.finite import Diverged
from train.command.interrupt import Interrupted, deferred
from train.command.lock import LOCK, held
from train.command.progress import progress
from train.command.provenance import command_line
from train.command.run_folder import elsewhere, writing
from train.pretraining.config import PretrainConfig
from train.pretraining.loop import STATE, Pretraining


def pretrain(config: PretrainConfig) -> Path:
    """Train an embedded dLLM, or go on where a stopped run was last saved.

    Returns:
        The checkpoint folder, ``config.out / "model"``.

    Raises:
        UserError: if the folder holds a run with other settings, another process writes to it, or it can't be written.
        Interrupted: if a signal asked to end; the run is saved.
        Diverged: if a loss, a gradient or a weight is not finite; what was saved before is good.
    """
    torch.set_num_threads(config.threads)
    is_main = parallel.is_main()
    with writing(config.out), held(config.out) if is_main else nullcontext():
        if is_main:
            _refuse_others(config.out)
        run = Pretraining(config)
        if is_main:
            size = sum(p.numel() for p in run.model.parameters())
            print(f"{size:,} parameters, steps {run.step} to {config.steps}", flush=True)
        todo = range(run.step, config.steps)
        bar = progress(todo, initial=run.step, total=config.steps, desc="training", disable=not is_main)
        with deferred("stopping to save what was learned") as stop:
            for _ in bar:
                _advance(run, config)
                bar.set_postfix(loss=f"{run.average:.4f}", refresh=False)
                if is_main and (run.step % config.save_every == 0 or run.step == config.steps or stop):
                    run.save()
                    tqdm.write(f"step {run.step} loss {run.average:.4f} seconds {run.seconds:.0f}")
                if stop.signum is not None and run.step < config.steps:
                    interrupted = Interrupted(stop.signum, f"saved after step {run.step} in {config.out}")
                    interrupted.command = command_line()
                    raise interrupted
    return config.out / "model"


def _refuse_others(out: Path) -> None:
    """Refuse a folder that holds something else; one that was killed before it first saved is none such."""
    found = {file.name.removesuffix(".tmp") for file in out.iterdir()} - {LOCK, STATE, "model"}
    if found and not (out / STATE).exists():
        raise UserError(f"out is {str(out)!r}, which is not empty and holds no pretraining: {elsewhere(out)}")


def _advance(run: Pretraining, config: PretrainConfig) -> None:
    try:
        run.advance()
    except Diverged as error:
        saved = "the last good state is saved in" if (config.out / STATE).is_file() else "nothing is in"
        raise Diverged(f"training stopped after step {run.step}, as {error}; {saved} {config.out}") from error


if __name__ == "__main__":
    from train.command.cli import run

    with parallel.process_group("cpu"):
        run(pretrain, PretrainConfig)
