"""Evaluation records: what one policy did on one task, with intervals. Every later tool reads and writes them."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, NotRequired, Self, TypedDict

import numpy as np
import scipy  # its stats are imported where they are first used, half a second
from pydantic import AfterValidator, FailFast, Field, model_validator

from envs.decoding.settings import CONDITIONS, BlockOrigin, Window
from policies.files import Checked, check, read_json
from train.command.errors import UserError
from train.command.files import write_atomic
from train.command.run_files import RunFiles

Record = dict[str, Any]
"""``{policy, decision, task, block_length, accuracy, accuracy_ci95, nfe, nfe_ci95, token_positions, episodes, seed}``:
one policy with one decision rule on one task, or on ``"all"`` of them; accuracy is the mean score, in [0, 1]. How its
forwards were counted and what the dLLM was shown say ``early_end``, ``window``, ``block_origin``, ``blocks_ahead`` and
``cache`` (see `envs.decoding.settings.DecodingSettings`); records of older runs lack them, which is true, full, buffer,
0 and none. They lack ``tokens_per_forward`` too: the tokens of all answers over their forwards, end-of-text and padding
not counted.

Where there are several answers to each problem also ``samples``, with ``pass@1``, ``pass@2``, ``pass@4`` and so on up
to them of tasks that are scored by running code; and ``unscored``, problems that are left out, where there are any."""

Key = tuple[str, str, int]
"""Policy, decision and block length: what tells a run's evaluations apart."""


class Outcomes(TypedDict):
    """What one policy did on each problem; the lists run in parallel. Kept in ``outcomes.json``, beside the records."""

    policy: str
    """Its name, as in the records."""
    decision: str
    """sample or deterministic."""
    block_length: int
    """Of the decoding."""
    seed: int
    """Of the evaluation."""
    seconds: float
    """Wall time of decoding and scoring them all."""
    task: list[str]
    """Of each problem, its task."""
    index: list[int]
    """Of each problem, its index in the task's split."""
    score: list[float]
    """Of each problem, in [0, 1]."""
    nfe: list[float]
    """Of each problem, forwards."""
    token_positions: list[float]
    """Of each problem, positions computed."""
    said: NotRequired[list[float]]
    """Of each problem, tokens of the answer before its end-of-text; older runs lack it."""
    log_likelihood: NotRequired[list[float]]
    """Of each problem, nats of its answer along its path; see `envs.decoding.rows.Rows.log_likelihood`; likewise."""
    early_end: NotRequired[bool]
    """Of the decoding, as are the next four; older runs lack them."""
    window: NotRequired[Window]
    block_origin: NotRequired[BlockOrigin]
    blocks_ahead: NotRequired[int]
    cache: NotRequired[str]
    samples: NotRequired[int]
    """Answers to each problem, where there are several; the scores and counts are the means over them."""
    runs_tests: NotRequired[list[str]]
    """Where there are several, the tasks that are scored by running code, whose records have pass@k."""
    unscored: NotRequired[list[list[Any]]]
    """Task and index of each problem that is left out, because an answer to it couldn't be scored."""


COUNTING = ("early_end", *CONDITIONS)
"""What a record says of the decoding because forwards are counted, or made, by it."""

MAX_BYTES = 2**28
"""Of a file of records or outcomes: ten thousand problems of a hundred policies have some ten million."""

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""


def _in_order(edges: list[float]) -> list[float]:
    if edges[0] > edges[1]:
        raise ValueError(f"an interval ends below its beginning: {edges}")
    return edges


Interval = Annotated[list[float], Field(min_length=2, max_length=2), AfterValidator(_in_order)]
"""The edges of an interval."""

Count = Annotated[int, Field(ge=0, le=2**53)]
"""How many, as far as floats count."""


class _RecordForm(Checked):
    """What a record in a file must be; records of older runs lack the last ones."""

    policy: str
    decision: Literal["sample", "deterministic"]
    task: str
    block_length: Annotated[int, Field(ge=1)]
    accuracy: Share
    accuracy_ci95: Annotated[list[Share], Field(min_length=2, max_length=2), AfterValidator(_in_order)]
    nfe: Annotated[float, Field(gt=0)]
    nfe_ci95: Interval
    episodes: Annotated[Count, Field(ge=1)]
    token_positions: Annotated[float, Field(ge=0)] = 0
    tokens_per_forward: Annotated[float, Field(ge=0)] = 0
    seed: int = 0
    samples: Annotated[int, Field(ge=1)] = 1
    unscored: Count = 0
    early_end: bool = True
    window: Window = "full"
    block_origin: BlockOrigin = "buffer"
    blocks_ahead: Count = 0
    cache: str = "none"


class _OutcomesForm(Checked):
    """What `Outcomes` in a file must be."""

    policy: str
    decision: Literal["sample", "deterministic"]
    block_length: Annotated[int, Field(ge=1)]
    seed: int
    seconds: Annotated[float, Field(ge=0)]
    # FailFast: a damaged list of thousands would make as many errors, of which one is told.
    task: Annotated[list[str], FailFast(), Field(min_length=1)]
    index: Annotated[list[Annotated[int, Field(ge=0)]], FailFast()]
    score: Annotated[list[Share], FailFast()]
    nfe: Annotated[list[Annotated[float, Field(ge=1)]], FailFast()]
    token_positions: Annotated[list[Annotated[float, Field(ge=0)]], FailFast()]
    said: Annotated[list[Annotated[float, Field(ge=0)]], FailFast()] = []
    log_likelihood: Annotated[list[Annotated[float, Field(le=0)]], FailFast()] = []
    samples: Annotated[int, Field(ge=1)] = 1
    runs_tests: list[str] = []
    early_end: bool = True
    window: Window = "full"
    block_origin: BlockOrigin = "buffer"
    blocks_ahead: Count = 0
    cache: str = "none"
    unscored: list[Annotated[list[str | int], Field(min_length=2, max_length=2)]] = []

    @model_validator(mode="after")
    def _run_in_parallel(self) -> Self:
        newer = [name for name in ("said", "log_likelihood") if getattr(self, name)]
        for name in ("index", "score", "nfe", "token_positions", *newer):
            # A list that is too short would be read as if its problems were others.
            if len(getattr(self, name)) != len(self.task):
                raise ValueError(
                    f"its {name} has {len(getattr(self, name))} entries and its task {len(self.task)}: both must have "
                    "one a problem"
                )
        problems = [*zip(self.task, self.index, strict=True), *map(tuple, self.unscored)]
        twice = _first_repeated(problems)
        if twice is not None:
            raise ValueError(f"it has problem {twice[1]} of {str(twice[0])!r} twice: each must be there once")
        # Only a mean over several answers can be a fraction.
        parts = [count for count in (*self.nfe, *self.token_positions) if not count.is_integer()]
        if self.samples == 1 and parts:
            raise ValueError(f"it counts {parts[0]} forwards or positions for one answer: that must be whole")
        return self


def _first_repeated(keys: Iterable[Any]) -> Any:
    """Return the first of some keys that was there before; None if each is there once."""
    seen = set()
    for key in keys:
        if key in seen:
            return key
        seen.add(key)
    return None


def is_right_or_wrong(scores: Iterable[float]) -> bool:
    """Tell whether all scores are 0 or 1; a task can also score a share."""
    return {*scores} <= {0.0, 1.0}


def accuracy_interval(scores: Sequence[float]) -> list[float]:
    """Return the 95 % interval of a mean score: Wilson's if all are 0 or 1, else Student's, cut to [0, 1].

    >>> [round(edge, 3) for edge in accuracy_interval([1.0] * 8 + [0.0] * 2)]
    [0.49, 0.943]
    """
    if not is_right_or_wrong(scores):
        return [min(max(edge, 0.0), 1.0) for edge in mean_interval(scores)]
    interval = scipy.stats.binomtest(round(sum(scores)), len(scores)).proportion_ci(method="wilson")
    return [float(interval.low), float(interval.high)]


def mean_interval(values: Sequence[float]) -> list[float]:
    """Return the 95 % Student interval of a mean; a single value is its own interval.

    >>> [round(edge, 3) for edge in mean_interval([1.0, 2.0, 3.0])]
    [-0.484, 4.484]
    """
    mean, error = float(np.mean(values)), float(scipy.stats.sem(values)) if len(values) > 1 else 0.0
    half = float(scipy.stats.t.ppf(0.975, max(1, len(values) - 1))) * error
    return [mean - half, mean + half]


def pass_at(scores: Sequence[float], samples: int) -> dict[str, float]:
    """Return pass@k for k = 1, 2, 4, ... up to the samples: the chance that one of k answers is right.

    Args:
        scores: of each problem, the share c / n of its n samples that are right.
        samples: n.

    Returns:
        By name, the mean over problems of the unbiased ``1 - C(n - c, k) / C(n, k)``.

    Source: Chen et al., arXiv 2107.03374, Equation 1.

    >>> found = pass_at([0.5, 0.0], 4)  # 2 of 4 right: two wrong ones are drawn together in 1 of 6 pairs
    >>> {name: round(value, 4) for name, value in found.items()}
    {'pass@1': 0.25, 'pass@2': 0.4167, 'pass@4': 0.5}
    """
    found = {}
    for k in (2**power for power in range(samples.bit_length())):
        # A share of n samples times n is whole but for rounding.
        wrong = [math.comb(samples - round(score * samples), k) / math.comb(samples, k) for score in scores]
        found[f"pass@{k}"] = 1 - sum(wrong) / len(wrong)
    return found


def make_record(name: str, decision: str, task: str, block: int, seed: int, rows: Sequence[Sequence[float]]) -> Record:
    """Summarise one policy's episodes.

    Args:
        name: of the policy.
        decision: "sample" or "deterministic".
        task: name, or "all".
        block: block length.
        seed: of the evaluation.
        rows: (score, NFE, token positions) of each episode.
    """
    scores, nfe, positions = (list(column) for column in zip(*rows, strict=True))
    return {
        "policy": name,
        "decision": decision,
        "task": task,
        "block_length": block,
        "accuracy": float(np.mean(scores)),
        "accuracy_ci95": accuracy_interval(scores),
        "nfe": float(np.mean(nfe)),
        "nfe_ci95": mean_interval(nfe),
        "token_positions": float(np.mean(positions)),
        "episodes": len(rows),
        "seed": seed,
    }


def summarise(outcomes: Outcomes) -> list[Record]:
    """Return one record a task, in the order of the problems, then the one of all tasks."""
    about = (outcomes["block_length"], outcomes["seed"])
    samples, tested = outcomes.get("samples", 1), set(outcomes.get("runs_tests", ()))
    lost = [str(task) for task, _ in outcomes.get("unscored", ())]
    rows = list(zip(outcomes["score"], outcomes["nfe"], outcomes["token_positions"], strict=True))
    by_task: dict[str, list[tuple[float, float, float]]] = {}
    for task, row in zip(outcomes["task"], rows, strict=True):
        by_task.setdefault(task, []).append(row)
    by_task["all"] = rows
    policy, decision = outcomes["policy"], outcomes["decision"]
    records = []
    for task, own in by_task.items():
        record = make_record(policy, decision, task, *about, own)
        record |= {name: outcomes[name] for name in COUNTING if name in outcomes}  # type: ignore[literal-required]
        if "said" in outcomes:
            # The tokens of all answers over their forwards, which is not the mean of the answers' own ratios.
            places = zip(outcomes["said"], outcomes["task"], strict=True)
            said = sum(count for count, name in places if task in ("all", name))
            record["tokens_per_forward"] = said / sum(nfe for _, nfe, _ in own)
        if samples > 1:
            record["samples"] = samples
            # All tasks together have pass@k only where each has it.
            if ({*by_task} - {"all"} if task == "all" else {task}) <= tested:
                record |= pass_at([score for score, _, _ in own], samples)
        unscored = len(lost) if task == "all" else lost.count(task)
        if unscored:
            record["unscored"] = unscored
        records.append(record)
    return records


def key_of(entry: Record | Outcomes) -> Key:
    """Return what tells a record, or a policy's outcomes, apart from others of the run."""
    return entry["policy"], entry["decision"], entry["block_length"]


def _check_once(keys: Iterable[tuple[Any, ...]]) -> None:
    """Refuse what is there twice, of which only one could be true.

    Raises:
        ValueError: if two keys are equal.
    """
    twice = _first_repeated(keys)
    if twice is not None:
        policy, decision, block, *rest = twice
        what = ", ".join((repr(policy), decision, f"blocks of {block}", *rest))
        raise ValueError(f"{what} is there twice: it must be there once")


def read_outcomes(source: Path) -> dict[Key, Outcomes]:
    """Read the outcomes of a run's folder, or those beside its file of records; older runs have none.

    Raises:
        UserError: if there is a file and it can't be read.
    """
    file = RunFiles(source).outcomes if source.is_dir() else RunFiles(source.parent).outcomes
    if not file.is_file():
        return {}
    try:
        entries: list[Outcomes] = read_json(file, MAX_BYTES)
        check(Annotated[list[_OutcomesForm], FailFast()], entries, "outcomes")
        _check_once(map(key_of, entries))
    except (OSError, ValueError) as error:
        raise UserError(f"{str(file)!r} can't be read ({error}): delete it to go on without it") from error
    return {key_of(entry): entry for entry in entries}


def write_outcomes(file: Path, outcomes: Iterable[Outcomes]) -> None:
    """Write outcomes atomically, one line a policy."""
    # A number a problem and list: without spaces and line breaks half as large.
    lines = [json.dumps(entry, separators=(",", ":")) for entry in outcomes]
    write_atomic(file, "[\n" + ",\n".join(lines) + "\n]\n")


def read_records(source: Path) -> list[Record]:
    """Read the records of a run's folder, or of a file.

    Raises:
        UserError: if there are none, or one is no record.
    """
    file = RunFiles(source).evaluation if source.is_dir() else source
    try:
        records: list[Record] = read_json(file, MAX_BYTES)
        check(Annotated[list[_RecordForm], FailFast(), Field(min_length=1)], records, "record")
        _check_once((*key_of(record), f"task {record['task']}") for record in records)
    except FileNotFoundError:
        raise UserError(
            f"run is {str(source)!r}: it has no {file.name}; give the folder of a training or an evaluation"
        ) from None
    except (OSError, ValueError) as error:
        raise UserError(f"run is {str(source)!r}: its evaluation can't be read ({error})") from error
    return records
