"""What a forward costs on this machine: a cost model fitted before a training whose reward prices milliseconds.

The dLLM decodes training problems as the training will, with its cache, its rows and fewer of them, and each forward is
timed: milliseconds = forward + position * positions. The fit is kept in the run's folder and read from there ever
after, so that a resumed run pays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.infilling import encode_all_given
from envs.decoding.settings import DecodingSettings
from envs.denoiser import Denoiser
from envs.price import Price, get_price
from envs.tasks import make_tasks
from envs.view import View
from policies import make_rule
from policies.files import read_json
from policies.playing import play
from train.command import parallel
from train.command.files import write_json
from train.command.run_files import RunFiles
from train.evaluation.measure import choose_problems
from train.job.config import JobConfig
from train.job.counting import CountingDenoiser, timed

MILLISECONDS = "milliseconds"

RULE, MOST_FORWARDS, REPEATS = "threshold:0.9", 16, 3
"""What decodes, how many of a batch's forwards are timed, and how often each: the fastest counts, since whatever else
the machine does only ever adds."""


def price_of(config: JobConfig) -> Price:
    """Return what a job's forwards are priced at; where that is measured, as it was when the run began.

    Raises:
        ValueError: if the run's folder holds no measurement that can be read.
    """
    if config.env.price != MILLISECONDS:
        return get_price(config.env.price)
    return read_price(RunFiles(config.out).price)


def read_price(file: Path) -> Price:
    """Read what `measure_price` wrote.

    Raises:
        ValueError: if it is missing or damaged.
    """
    advice = "start the training anew, in another --out"
    if not file.is_file():
        raise ValueError(f"{file} is missing, which says what a forward costs here: {advice}")
    try:
        found = read_json(file)
        return Price(float(found["forward"]), float(found["position"]), int(found["rows"]))
    except (ValueError, TypeError, KeyError) as error:
        raise ValueError(f"{file}, which says what a forward costs here, can't be read ({error}): {advice}") from None


def measure_price(config: JobConfig, denoiser: Denoiser) -> str:
    """Fit the cost model of a job, unless its run has one, and say what it is.

    The first process measures its part of the rows while the others wait for the file.

    Args:
        config: this process's part of the job.
        denoiser: its frozen dLLM.
    """
    file = RunFiles(config.out).price
    if not file.is_file() and parallel.is_main():
        samples = sample_forwards(denoiser, config)
        price, error = fit(samples, config.env.num_envs)
        about = {"unit": MILLISECONDS, "forward": price.forward, "position": price.position, "rows": price.rows}
        # Positions are whole numbers, and what is timed has no more digits than these.
        listed = [[int(positions), round(float(spent), 4)] for positions, spent in samples]
        write_json(file, about | {"error": round(error, 4), "samples": listed})
    parallel.await_path(file)
    price = read_price(file)
    return f"a forward costs {price.forward:.3g} ms and {1000 * price.position:.3g} us a position"


class _TimedBatch(DecodingBatch):
    """Rows whose forwards are timed.

    Args:
        denoiser: the dLLM, counting.
        settings: how they are decoded.
        num_rows: N.
        device: the dLLM's.
    """

    def __init__(self, denoiser: CountingDenoiser, settings: DecodingSettings, num_rows: int, device: str) -> None:
        super().__init__(denoiser, num_rows, settings)
        self._counting, self._device = denoiser, device
        self.forwards: list[tuple[int, float]] = []
        """Of each so far, the positions that it computed, padding included, and its milliseconds."""

    def forward(self, rows: Tensor | None = None) -> View:
        """Run the dLLM; see `DecodingBatch.forward`."""
        run, before = super().forward, self._counting.positions
        view, seconds = timed(lambda: run(rows), self._device)
        self.forwards.append((self._counting.positions - before, 1000 * seconds))
        return view


def sample_forwards(denoiser: Denoiser, config: JobConfig) -> npt.NDArray[np.float64]:
    """Time forwards of a decoding like the training's, with all rows, half of them, and one.

    Returns:
        (S, 2) float64, the positions that each forward computed, padding included, and its milliseconds.
    """
    env, rule = config.env, make_rule(RULE)
    rows, counting = env.num_envs, CountingDenoiser(denoiser)
    block = env.block_lengths[0] if env.block_lengths else None
    settings = DecodingSettings(block_length=block, **env.decoding)
    tasks = make_tasks(env.tasks)
    problems = choose_problems(tasks, "train", 0, -(-rows // len(tasks)))
    samples = []
    for count in sorted({1, max(1, rows // 2), rows}):
        chosen = [problems[i % len(problems)] for i in range(count)]
        prompts = [denoiser.encode_prompt(problem.prompt) for problem in chosen]
        given = encode_all_given(denoiser, [problem.given for problem in chosen])
        repeats: list[list[tuple[int, float]]] = []
        for _ in range(REPEATS):
            batch = _TimedBatch(counting, settings, count, config.model.device)
            batch.load(range(count), prompts, given=given)
            for _ in islice(play(batch, rule.bind(counting, settings)), MOST_FORWARDS):
                pass
            repeats.append(batch.forwards)
        # Decoded alike each time, so a forward of one repeat is that of the others.
        samples += [min(same) for same in zip(*repeats, strict=True)]
    return np.array(samples, dtype=np.float64)


def fit(samples: npt.NDArray[np.float64] | Sequence[Sequence[float]], rows: int) -> tuple[Price, float]:
    """Fit milliseconds = forward + position * positions by least squares of the relative error, neither below 0.

    Args:
        samples: (S, 2) float, positions and milliseconds above 0.
        rows: of the batch that shares a forward.

    Returns:
        The price, and the mean relative error of its milliseconds.

    >>> fit([[100, 12.0], [200, 14.0], [400, 18.0]], 4)
    (Price(forward=10.0, position=0.02, rows=4), 0.0)
    """
    positions, spent = np.asarray(samples, dtype=np.float64).T
    # Relative to each time, or the largest batches alone would decide.
    columns = np.stack([1 / spent, positions / spent], 1)
    ones = np.ones(len(spent))
    best, *_ = np.linalg.lstsq(columns, ones, rcond=None)
    if best.min() < 0:
        # One of the two explains it better alone: at a bound the other is a fit of its own.
        alone = [float(column.sum() / (column @ column)) for column in columns.T]
        errors = [((column * value - 1) ** 2).sum() for column, value in zip(columns.T, alone, strict=True)]
        best = np.zeros(2)
        best[int(np.argmin(errors))] = alone[int(np.argmin(errors))]
    error = float(np.abs(columns @ best - 1).mean())
    forward, position = (float(f"{value:.6g}") for value in best)
    return Price(forward, position, rows), round(error, 12)


def without_measurement(config: JobConfig) -> JobConfig:
    """Return the configuration with a price that needs no file, for trials that no reward is learned from."""
    if config.env.price != MILLISECONDS:
        return config
    return replace(config, env=replace(config.env, price="positions"))
