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

import dataclasses
import math
import time
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerFast

from envs.names import hint
from envs.tasks import SUITE, SUITES, make_tasks
from policies.files import one_line, show
from train import checkpoint, parallel
from train.architectures import Architecture, answer_logits, build_model, build_tokenizer, save_checkpoint
from train.finite import Diverged, check_loss, watch
from train.interrupt import Interrupted, deferred
from train.progress import progress
from train.ranges import check_count, check_range, check_seed
from train.run_folder import UserError, command_line, held, write_json

TASK_WEIGHTS = {
    **{"copy": 0.25, "insert": 0.25, "remove": 0.25, "reverse": 0.5, "add": 10.0, "sudoku": 1.5},
    **{"story": 2.0, "trace": 1.5, "route": 1.5, "record": 0.6, "puzzle": 0.8},
}
"""How often a task is drawn, by the number of examples it needs; the others have weight 1."""

SHORTEST = 0
"""Stands among the buffer lengths for a buffer that just holds a group's answers."""

MOST_SPARE = 8
"""Most end-of-text positions that follow the longest answer of a group with a `SHORTEST` buffer."""


@dataclass(frozen=True)
class PretrainConfig:
    """Pretrain a small dLLM on the procedural suite, or the causal model that guides one; resumes by itself.

    Examples:
        python train/pretrain.py
        python train/pretrain.py --steps 200 --out runs/try
        torchrun --nproc-per-node 2 train/pretrain.py
    """

    out: Path = Path("runs/pretrain")
    """Folder for the checkpoint and the training state."""
    seed: int = 0
    """Seed of the weights, the problems and the masks."""
    suite: str = SUITE
    """The tasks to learn: the name of an embedded suite."""
    objective: Literal["diffusion", "causal"] = "diffusion"
    """diffusion trains a dLLM, causal an autoregressive model with the same tokenizer."""
    architecture: Architecture = "roberta"
    """The dLLM's class and file format: RoBERTa with pre-layer-norm, or LLaDA's."""
    steps: int = 10_000
    """Optimiser steps; a run can be continued with more or fewer."""
    batch_size: int = 64
    """Sequences a step, over all processes."""
    group_size: int = 64
    """Sequences that share one forward and one buffer length; those of a batch are grouped by length."""
    hidden_size: int = 128
    """Width of the transformer."""
    inner_size: int | None = None
    """Width of its feed-forward layers; None is 4 times hidden_size for roberta, twice for the others."""
    num_layers: int = 4
    """Layers of the transformer."""
    num_heads: int = 4
    """Attention heads a layer."""
    learning_rate: float = 5e-3
    """Peak learning rate of both optimisers (Muon's is scaled to match AdamW's update size)."""
    weight_decay: float = 0.05
    """Decoupled weight decay of the matrices."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises from 0."""
    decay: float = 0.5
    """Share of the steps, at the end, in which it falls linearly to 0."""
    buffer_lengths: list[tuple[int, float]] = field(default_factory=lambda: [(33, 0.8), (64, 0.19), (256, 0.01)])
    """(buffer length, share of the groups) pairs; length 0 just holds the answers of the group. Groups with a buffer
    over 64 are smaller, as many tokens as with one of 64."""
    max_positions: int = 640
    """Longest prompt and buffer together."""
    precision: Literal["float32", "bfloat16"] = "float32"
    """What matrices are multiplied in; bfloat16 is a fifth faster on processors that have it. Weights stay float32."""
    threads: int = 1
    """Torch threads; 2 are slower than 1 when anything else runs on two cores."""
    save_every: int = 250
    """Steps between two savings of the training state."""

    def __post_init__(self) -> None:
        """Refuse what can't be trained.

        Raises:
            ValueError: if the suite is unknown, or a size or share is not possible.
        """
        if self.suite not in SUITES:
            raise ValueError(f"suite is {self.suite!r}: {hint(self.suite, SUITES)}")
        check_seed(self)
        check_count(self, "steps", "batch_size", "group_size", "save_every", "max_positions")
        check_count(self, "hidden_size", "inner_size", "num_layers", "num_heads")
        check_count(self, "threads", most=4096)
        check_range(self, "learning_rate", above=0)
        check_range(self, "weight_decay", least=0)
        check_range(self, "warmup", "decay", least=0, most=1)
        lengths, shares = zip(*self.buffer_lengths, strict=True) if self.buffer_lengths else ((), ())
        if not lengths or min(lengths) < SHORTEST or min(shares) < 0 or not math.isclose(sum(shares), 1):
            raise ValueError(
                f"buffer_lengths is {self.buffer_lengths}: give pairs of a length, 0 or more, and a share, 0 or more; "
                "the shares add up to 1"
            )
        if self.hidden_size % self.num_heads:
            raise ValueError(f"num_heads is {self.num_heads}: it must divide hidden_size {self.hidden_size}")

    def unused(self) -> dict[str, str]:
        """Return the fields that play no role beside the others, each with the reason."""
        names = ("buffer_lengths", "architecture")
        return dict.fromkeys(names, "objective is causal") if self.objective == "causal" else {}


FREE = ("out", "steps", "decay", "threads", "save_every")
"""Settings that may differ when a run goes on; any other makes it another run."""


STATE = "state.safetensors"
"""The training state, in the run's folder."""


@dataclass(frozen=True)
class Group:
    """Sequences of one forward.

    Attributes:
        inputs: (B, T) int64, left-padded prompts and answers, the latter partly masked.
        targets: (B, T) int64, the same without masks.
        present: (B, T) bool, False on padding.
        masked: (B, T) bool, True where the loss counts.
        length: L, positions of the buffer at the end.
    """

    inputs: Tensor
    targets: Tensor
    present: Tensor
    masked: Tensor
    length: int


class ProblemStream:
    """Batches of training problems as token ids; a batch is a function of its number.

    Args:
        tokenizer: made by `build_tokenizer`.
        config: of the pretraining.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig) -> None:
        self.tasks = make_tasks(config.suite)
        self.vocab = tokenizer.get_vocab()
        self.eos_id, self.mask_id, self.pad_id = tokenizer.eos_token_id, tokenizer.mask_token_id, tokenizer.pad_token_id
        self.config = config
        weights = np.array([TASK_WEIGHTS.get(task.name, 1.0) for task in self.tasks])
        self.weights = weights / weights.sum()

    def batch(self, step: int) -> list[Group]:
        """Draw this process's share of one step's batch, from random numbers that are the step's own."""
        rng = np.random.default_rng([self.config.seed, step, parallel.rank()])
        count = max(1, self.config.batch_size // parallel.world_size())
        problems = sorted(self._problems(rng, count), key=lambda pair: len(pair[0]) + len(pair[1]))
        ratios = (rng.permutation(count) + 1 - rng.random()) / count  # (B,) in (0, 1], stratified
        starts = range(0, count, self.config.group_size)
        return [
            self._group(rng, problems[i : i + self.config.group_size], ratios[i : i + self.config.group_size])
            for i in starts
        ]

    def _problems(self, rng: np.random.Generator, count: int) -> list[tuple[list[int], list[int]]]:
        """Draw problems of the training split as the ids of prompt and answer."""
        drawn = []
        for which in rng.choice(len(self.tasks), size=count, p=self.weights):
            problem = self.tasks[which].problem("train", int(rng.integers(2**40)))
            drawn.append((self._ids(problem.prompt), self._ids(problem.answer)))
        return drawn

    def _ids(self, text: str) -> list[int]:
        return [self.vocab[word] for word in text.split()]

    def _group(
        self, rng: np.random.Generator, problems: list[tuple[list[int], list[int]]], ratios: np.ndarray
    ) -> Group:
        length = SHORTEST
        if self.config.objective == "diffusion":
            lengths, shares = zip(*self.config.buffer_lengths, strict=True)
            length = int(rng.choice(lengths, p=shares))
        if length > 64:
            kept = max(1, len(problems) * 64 // length)
            # Any of the group's ratios and lengths, not its shortest sequences alone.
            chosen = np.sort(rng.permutation(len(problems))[:kept])
            problems, ratios = [problems[i] for i in chosen], ratios[chosen]
        longest = max(len(answer) for _, answer in problems)
        if length == SHORTEST:
            length = longest + int(rng.integers(1, MOST_SPARE + 1))
        elif longest > length:
            raise UserError(f"buffer_lengths holds {length}: an answer of {longest} tokens needs a longer one")
        widest = max(len(prompt) for prompt, _ in problems)
        rows = [
            [self.pad_id] * (widest - len(prompt)) + prompt + answer + [self.eos_id] * (length - len(answer))
            for prompt, answer in problems
        ]
        targets = torch.tensor(rows)
        padding = torch.tensor([widest - len(prompt) for prompt, _ in problems])
        present = torch.arange(targets.shape[1]) >= padding[:, None]
        quota = torch.from_numpy(np.ceil(ratios * length).clip(1, length)).long()
        order = torch.from_numpy(rng.random((len(problems), length))).argsort(1).argsort(1)
        masked = torch.zeros_like(present)
        masked[:, -length:] = order < quota[:, None]
        return Group(targets.masked_fill(masked, self.mask_id), targets, present, masked, length)


def diffusion_loss(logits: Tensor, targets: Tensor, masked: Tensor) -> Tensor:
    """LLaDA's training loss, summed over the rows of one forward.

    Args:
        logits: (M, V) float, a row for each masked position, row by row.
        targets: (B, T) int64.
        masked: (B, T) bool, True at the masked answer positions; each row has at least one.

    Returns:
        Scalar, nats: sum over rows of ``1 / (t L) * sum of the masked positions' cross-entropy``, with t the
        row's share of masked positions.
    """
    rows = masked.nonzero(as_tuple=True)[0]
    loss = F.cross_entropy(logits, targets[masked], reduction="none")
    return (loss / masked.sum(1)[rows]).sum()


def causal_loss(logits: Tensor, targets: Tensor, length: int, eos_id: int) -> Tensor:
    """Cross-entropy of each answer token, the first end-of-text included, given everything to its left.

    Args:
        logits: (B, T, V) float.
        targets: (B, T) int64.
        length: positions of the answer, at the end.
        eos_id: end-of-text token; what follows the first one is padding.

    Returns:
        Scalar, nats a token.
    """
    answer = targets[:, -length:]
    is_end = (answer == eos_id).int()
    counts = is_end.cumsum(1) - is_end == 0
    return F.cross_entropy(logits[:, -length - 1 : -1][counts], answer[counts])


def build_optimizers(model: PreTrainedModel, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Give the transformer's matrices to Muon and everything else to AdamW."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer" in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate_factor(step: int, config: PretrainConfig) -> float:
    """Return the learning rate of a step as a share of its peak: rise, plateau, fall."""
    rise = (step + 1) / max(1.0, config.warmup * config.steps)
    fall = (config.steps - step) / max(1.0, config.decay * config.steps)
    return min(1.0, rise, fall)


class Pretraining:
    """A training run in memory: model, optimisers, and how far it is.

    Args:
        config: of the pretraining; what its folder holds is continued.
    """

    def __init__(self, config: PretrainConfig) -> None:
        torch.manual_seed(config.seed)
        self.config = config
        self.tokenizer = build_tokenizer(make_tasks(config.suite), config.architecture)
        self.model = build_model(config, self.tokenizer)
        self.optimizers = build_optimizers(self.model, config)
        for optimizer in self.optimizers:
            watch(optimizer)
        self.stream = ProblemStream(self.tokenizer, config)
        self.step, self.seconds, self.average = 0, 0.0, math.nan
        if self._file.exists():
            self._load()
        self._began = time.monotonic() - self.seconds

    @property
    def _file(self) -> Path:
        return self.config.out / STATE

    def _load(self) -> None:
        again = "delete it to start over"
        try:
            state = checkpoint.read(self._file)
            settings = dict(state["settings"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"training state {self._file} can't be read ({one_line(error)}): {again}") from error
        for name, value in self._settings().items():
            if settings.get(name) != value:
                raise UserError(
                    f"{name} is {value!r}: {self.config.out} was trained with {show(settings.get(name))}; "
                    "set it to that, or choose another out"
                )
        try:
            self.step, self.seconds, self.average = int(state["step"]), float(state["seconds"]), float(state["average"])
            self.model.load_state_dict(state["model"])
            for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
                optimizer.load_state_dict(saved)
        except Exception as error:  # torch and its optimisers each have their own for a state that can't be
            raise UserError(f"training state {self._file} is of no such model ({one_line(error)}): {again}") from error

    def _settings(self) -> dict[str, Any]:
        """Return the settings that make this run this run, as plain values."""
        values = {name: value for name, value in dataclasses.asdict(self.config).items() if name not in FREE}
        return values | {"buffer_lengths": [list(pair) for pair in self.config.buffer_lengths]}

    def advance(self) -> None:
        """Take one optimiser step.

        Raises:
            Diverged: if a loss, a gradient or a weight is not finite.
        """
        for optimizer in self.optimizers:
            for parameters in optimizer.param_groups:
                parameters["lr"] = self.config.learning_rate * learning_rate_factor(self.step, self.config)
        batch = self.stream.batch(self.step)
        rows, loss = sum(len(group.inputs) for group in batch), 0.0
        for group in batch:
            # Groups differ in rows; each row of the batch counts the same.
            part = self._loss(group) / rows
            part.backward()
            loss += part.item()
        check_loss(loss)
        parallel.average_gradients(self.model.parameters())
        torch.nn.utils.clip_grad_norm_(self.model.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad()
        self.step += 1
        self.average = loss if math.isnan(self.average) else 0.98 * self.average + 0.02 * loss

    def _loss(self, group: Group) -> Tensor:
        """Return a group's loss, summed over its rows."""
        is_causal = self.config.objective == "causal"
        with torch.autocast("cpu", torch.bfloat16, enabled=self.config.precision == "bfloat16"):
            if is_causal:
                logits = self.model(input_ids=group.targets, attention_mask=group.present.long()).logits
            else:
                logits = answer_logits(self.model, group.inputs, group.present, group.masked)
        if is_causal:
            loss = causal_loss(logits.float(), group.targets, group.length, self.tokenizer.eos_token_id)
            return loss * len(group.targets)
        return diffusion_loss(logits.float(), group.targets, group.masked)

    def save(self) -> None:
        """Write the checkpoint folder, then the training state, the latter atomically."""
        self.seconds = time.monotonic() - self._began
        folder = self.config.out / "model"
        is_llada = self.config.architecture == "llada" and self.config.objective == "diffusion"
        save_checkpoint(self.model, self.tokenizer, folder, is_llada)
        facts = {
            "suite": self.config.suite,
            "steps": self.step,
            "sequences": self.step * self.config.batch_size,
            "minutes": round(self.seconds / 60),
            "seed": self.config.seed,
        }
        write_json(folder / "training.json", facts)
        state = {
            "settings": self._settings(),
            "step": self.step,
            "seconds": self.seconds,
            "average": self.average,
            "model": self.model.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
        }
        checkpoint.write(self._file, state)


def pretrain(config: PretrainConfig) -> Path:
    """Train an embedded dLLM, or go on where a stopped run was last saved.

    Returns:
        The checkpoint folder, ``config.out / "model"``.

    Raises:
        UserError: if the folder holds a run with other settings, or another process writes to it.
        Interrupted: if a signal asked to end; the run is saved.
        Diverged: if a loss, a gradient or a weight is not finite; what was saved before is good.
    """
    torch.set_num_threads(config.threads)
    is_main = parallel.is_main()
    with held(config.out) if is_main else nullcontext():
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


def _advance(run: Pretraining, config: PretrainConfig) -> None:
    try:
        run.advance()
    except Diverged as error:
        saved = "the last good state is saved in" if (config.out / STATE).is_file() else "nothing is in"
        raise Diverged(f"training stopped after step {run.step}, as {error}; {saved} {config.out}") from error


if __name__ == "__main__":
    from train.cli import run

    with parallel.process_group("cpu"):
        run(pretrain, PretrainConfig)
