"""Traces of decoding under the oracle: what the dLLM believed at each step, and which positions were already final.

A trace folder holds shards, one of `SHARD` problems each; a shard is a folder with one ``.npy`` file a column and the
recorded answers, written whole or not at all, and read back memory-mapped. Collecting goes on where it was killed.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.infilling import encode_all_given
from envs.decoding.settings import BlockOrigin, DecodingSettings, Window, conditions_of
from envs.denoiser import Denoiser
from envs.tasks import SUITE, Problem, Split, make_tasks
from envs.tasks.scoring.scorer import Scorer
from envs.view import View, ensure_progress
from policies import UnmaskingPolicy, load, make_rule
from policies.base import CommitPolicy
from policies.playing import play
from policies.rules import Oracle
from train.command import parallel
from train.command.errors import UserError
from train.command.model_config import ModelConfig
from train.command.progress import progress

SHARD = 64
"""Problems of a shard."""

Target = Literal["agreement", "margin"]
"""What a filter learns of a position: whether the prediction is the reference's token, as Learn2PD does; or by how much
that token is likelier than the best other one.

Source: the ground-truth margin of arXiv 2602.09501. Departure: it is a soft label between 0 and 1, where positions are
ranked by it there, as a rank doesn't say how many to commit.
"""

ANSWERS = "answers.safetensors"
"""File of a shard beside its columns: what the reference made of its problems."""

FIRST_PROBLEM = 10_000_000
"""Training problems are taken from this index on."""


@dataclass(frozen=True)
class TraceConfig:
    """What one folder of traces holds.

    Attributes:
        folder: where.
        problems: how many.
        split: of the problems.
        block_length: of the decoding.
        buffer_length: L.
        features: readings to keep beside the confidence; hidden states in half precision.
        behaviour: a policy's folder whose own states are recorded, at `threshold`; None records the oracle's.
        threshold: probability at which the behaviour commits.
        rejoins: the behaviour's positions are committed where the oracle agrees, so that it stays on the way to the
            reference's answer; see `Rejoining`.
        reference: the rule whose result the oracle knows; the published one is one token per step.
        only_right: leave out problems that the reference answers wrong.
        answers: a folder of traces of the same problems and reference, in blocks as long or longer, whose answers are
            taken.
        target: what is to be learned of a position; see `Target`.
        model: the dLLM.
        tasks: by name, or suite.
        window: see `envs.decoding.settings.DecodingSettings`.
        block_origin: see `envs.decoding.settings.DecodingSettings`.
        blocks_ahead: see `envs.decoding.settings.DecodingSettings`.
        cache: see `envs.decoding.settings.DecodingSettings`.
    """

    folder: Path
    problems: int
    split: Split = "train"
    block_length: int = 64
    buffer_length: int = 64
    features: tuple[str, ...] = ()
    behaviour: str | None = None
    threshold: float = 0.5
    rejoins: bool = False
    model: ModelConfig = field(default_factory=ModelConfig)
    reference: str = "low_confidence:1"
    only_right: bool = False
    answers: Path | None = None
    target: Target = "agreement"
    tasks: tuple[str, ...] = (SUITE,)
    window: Window = "full"
    block_origin: BlockOrigin = "buffer"
    blocks_ahead: int = 0
    cache: str = "none"

    def __post_init__(self) -> None:
        if self.rejoins and self.behaviour is None:
            raise ValueError("rejoins is given without a behaviour: the oracle leaves no recorded answer")


@dataclass(frozen=True)
class Rejoining(CommitPolicy):
    """A student's choice of positions, on the way to a recorded answer.

    Commits what the student chooses and the oracle agrees with; where that is nothing, the most confident position that
    the oracle agrees with, or if there is none, as the oracle does.

    Source: the "student rejoins the recorded trajectory" of OnTrack (Sakurai, Xu and Yoon, "What Makes a Good Unmasking
    Policy? A Controlled Study", 2026), after its model card, as its code is not public. Departure: a position that the
    student is wrong about stays masked, where a recorded token in its place would be none that the dLLM predicts.

    Attributes:
        student: chooses, bound.
        oracle: knows the recorded answer, bound.
    """

    student: UnmaskingPolicy
    oracle: Oracle

    @property
    def name(self) -> str:
        """Of the student."""
        return self.student.name

    def select(self, view: View) -> Tensor:
        """Choose what both would commit."""
        agreed = self.oracle.agreement_with(view)
        careful = ensure_progress(agreed, view.eligible, view.confidence)
        return ensure_progress(self.student.act(view).commit & agreed, careful, view.confidence)


def shard_name(shard: int) -> str:
    """Return what a shard's folder is called."""
    return f"shard_{shard:05d}"


def problems_of(config: TraceConfig, shard: int) -> list[Problem]:
    """Return a shard's problems, the tasks in turn."""
    tasks = make_tasks(list(config.tasks))
    numbers = range(shard * SHARD, min(config.problems, (shard + 1) * SHARD))
    # From a number on that no training of a policy reaches, so a filter that it starts from has seen none of its
    # problems.
    if config.split == "train":
        places = [(tasks[n % len(tasks)], FIRST_PROBLEM + n // len(tasks)) for n in numbers]
        return [task.wrapped_problem("train", place) for task, place in places]
    return [tasks[n % len(tasks)].problem(config.split, n // len(tasks)) for n in numbers]


def right_rows(config: TraceConfig, problems: Sequence[Problem], denoiser: Denoiser, answers: Tensor) -> Tensor:
    """Tell which problems are answered right.

    Args:
        config: of the folder.
        problems: N of them.
        denoiser: the dLLM.
        answers: (N, L) int64, decoded buffers; what lies beyond the settings' ``buffer_length`` is not of the text.

    Returns:
        (N,) bool, False too where there is no score.

    Raises:
        ScoringError: if too many have none.
    """
    scorer = Scorer(make_tasks(list(config.tasks)), len(problems))
    texts = [denoiser.decode(ids) for ids in answers[:, : config.buffer_length].tolist()]
    scores = [scorer.score(text, problem) for text, problem in zip(texts, problems, strict=True)]
    return torch.tensor([score == 1 for score in scores], device=answers.device)


def target_of(target: Target, view: View, oracle: Oracle) -> Tensor:
    """Return what is to be learned of each position.

    Args:
        target: see `Target`.
        view: of N rows; with ``probabilities`` where the target is the margin.
        oracle: knows the recorded answer, bound.

    Returns:
        (N, L) float32 in [0, 1], 0 where nothing may be committed: 1 where the prediction is the reference's token; or
        (1 + p(that token) - p(best other)) / 2, which is above a half there.
    """
    if target == "agreement":
        return oracle.agreement_with(view).float()
    right, probabilities = oracle.reference_of(view).unsqueeze(-1), view.tensors["probabilities"]
    of_right = probabilities.gather(-1, right).squeeze(-1)
    of_others = probabilities.scatter(-1, right, 0.0).amax(-1)
    return (1 + of_right - of_others) / 2 * view.eligible


@contextmanager
def _readable(shard: Path) -> Iterator[None]:
    """Say what to do about a shard that can't be read: it was written whole, so a disk or a hand has damaged it."""
    try:
        yield
    except (OSError, ValueError, EOFError, SafetensorError) as error:
        raise UserError(f"{str(shard)!r} can't be read ({error}): delete that folder to collect it again") from error


def collect_shard(config: TraceConfig, shard: int) -> None:
    """Decode a shard's problems as the reference does, replay them under the oracle, and write what was seen."""
    torch.set_num_threads(config.model.threads)
    denoiser = config.model.load()
    own = None
    if config.behaviour is not None:
        # Deterministic, as a filter is used: states that only sampling reaches are none that it will meet.
        own = load(config.behaviour, "deterministic", config.model.device, threshold=config.threshold)
    features = {*config.features, *Oracle.features, *(own.features if own is not None else ())}
    if config.target == "margin":
        features.add("probabilities")
    settings = DecodingSettings(
        config.buffer_length,
        config.block_length,
        features=frozenset(features),
        **conditions_of(config),
    )
    oracle = Oracle(careful=make_rule(config.reference)).bind(denoiser, settings)
    assert oracle.references is not None
    if config.answers is not None:
        recorded = config.answers / shard_name(shard)
        with _readable(recorded):
            oracle.references.remember(load_file(recorded / ANSWERS))
    behaviour: UnmaskingPolicy = oracle if own is None else own.bind(denoiser, settings)
    if own is not None and config.rejoins:
        behaviour = Rejoining(behaviour, oracle)
    problems = problems_of(config, shard)
    prompts = [denoiser.encode_prompt(problem.prompt) for problem in problems]
    batch = DecodingBatch(denoiser, len(prompts), settings)
    batch.load(range(len(prompts)), prompts, given=encode_all_given(denoiser, [problem.given for problem in problems]))
    columns: dict[str, list[npt.NDArray[np.floating[Any]]]] = {}
    wanted = torch.ones_like(batch.running)
    for step in play(batch, behaviour):
        view = step.view
        # At the first step: then the references are there, and no row is recorded yet.
        if config.only_right and not columns:
            wanted = right_rows(config, problems, denoiser, oracle.reference_of(view))
        # A row that has ended still has a view, of which nothing is to be learned.
        rows = view.eligible.any(1) & wanted
        inputs = {**view.inputs(), "oracle": target_of(config.target, view, oracle)}
        for name, values in inputs.items():
            # Hidden states, which networks normalise, are most of it by far.
            kind = torch.float16 if name == "hidden" else torch.float32
            columns.setdefault(name, []).append(values[rows].to(kind).cpu().numpy())
    place = config.folder / shard_name(shard)
    partial = config.folder / f"partial_{shard:05d}"
    # What a killed run left half written.
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    for name, parts in columns.items():
        np.save(partial / f"{name}.npy", np.concatenate(parts))
    save_file(oracle.references.known(), partial / ANSWERS)
    # Whole or not at all: a shard that is there is taken for done.
    os.replace(partial, place)


def collect(config: TraceConfig, workers: int = 1) -> Traces:
    """Collect what a folder lacks and open it; torchrun's processes call it together, and each collects its share.

    Args:
        config: of the folder.
        workers: processes that this one starts.
    """
    places = [config.folder / shard_name(shard) for shard in range(-(-config.problems // SHARD))]
    # The first process says what is missing: another that looks later would miss less.
    missing = parallel.broadcast([shard for shard, place in enumerate(places) if not place.is_dir()])
    own = parallel.deal(missing)
    if own:
        hidden = not parallel.is_main()
        with (
            parallel.worker_pool(workers) as pool,
            progress(total=len(own), desc=f"collecting {config.folder.name}", unit="shard", disable=hidden) as bar,
        ):
            for future in [pool.submit(collect_shard, config, shard) for shard in own]:
                future.result()
                bar.update()
    # Not in a collective operation, which gives up after minutes.
    for place in places:
        parallel.await_path(place)
    traces = Traces(places)
    # And not a step further before all have opened them: the first process deletes them in the end.
    parallel.wait()
    return traces


class Traces:
    """Steps of decoding, one row each, memory-mapped.

    Args:
        shards: folders written by `collect_shard`.

    Raises:
        UserError: if one can't be read.
    """

    def __init__(self, shards: Sequence[Path]) -> None:
        # Of all of them, so that a column that one has lost is missed there.
        names = sorted({file.stem for shard in shards for file in shard.glob("*.npy")})
        self.columns: dict[str, list[npt.NDArray[np.floating[Any]]]] = {name: [] for name in names}
        for shard in shards:
            with _readable(shard):
                for name in names:
                    self.columns[name].append(np.load(shard / f"{name}.npy", mmap_mode="r"))
        self.sizes = [len(part) for part in self.columns["oracle"]]
        self.bytes = sum(part.nbytes for part in chain.from_iterable(self.columns.values()))

    def __len__(self) -> int:
        return sum(self.sizes)

    @property
    def large_batch(self) -> int:
        """Rows that take some hundreds of MB at most, 4096 where there are no hidden states."""
        return max(1, min(4096, 2**28 * len(self) // max(1, self.bytes)))

    def rows(self, index: npt.NDArray[np.int64]) -> dict[str, Tensor]:
        """Read some rows, in any order.

        Args:
            index: (B,) int64.

        Returns:
            (B, L) float32 tensors by name (``time`` is (B, 1), ``hidden`` (B, L, D)), with ``oracle``, see `target_of`.
        """
        starts = np.cumsum([0, *self.sizes])
        shard = np.searchsorted(starts, index, side="right") - 1
        found = {}
        for name, parts in self.columns.items():
            # Shard by shard, as each is a file of its own; together they may exceed the memory.
            values = np.empty((len(index), *parts[0].shape[1:]), np.float32)
            for which in np.unique(shard):
                here = shard == which
                values[here] = parts[which][index[here] - starts[which]]
            found[name] = torch.from_numpy(values)
        return found

    def batches(self, size: int, rng: np.random.Generator | None = None) -> Iterator[dict[str, Tensor]]:
        """Go through all rows once, shuffled if `rng` is given."""
        order = np.arange(len(self)) if rng is None else rng.permutation(len(self))
        for start in range(0, len(order), size):
            yield self.rows(order[start : start + size])
