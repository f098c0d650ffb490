"""What an experiment is: the commands that make it, the numbers that are kept, and how the results are worded."""

from __future__ import annotations

import json
import textwrap
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from train.command.config import ROOT
from train.command.run_files import RunFiles
from train.evaluation.measures import RESAMPLES, ROUNDING, TOLERANCE, Values, best_rule
from train.evaluation.naming import PolicyName
from train.evaluation.records import Record, mean_interval

SEEDS = (0, 1, 2)

RESULTS = ROOT / "benchmarks" / "results"
"""The published numbers: one JSON file an experiment."""

QUICK_UNTRIED = ("--total_timesteps", "1024")
"""Arguments that make a training short that tries its policy on nothing."""

QUICK_TRAINING = (*QUICK_UNTRIED, "--evaluation.episodes", "2", "--evaluation.validation_episodes", "2")
"""Likewise, for one that does."""

FROM_SCRATCH = ("--filter.learn", "false", "--env.problems", "null", "--policy.hidden_state_size", "0")
"""Arguments of a training that learns no filter to start from, draws new problems all the time, and reads confidences
alone."""

QUICK_DIAL = (*QUICK_TRAINING, "--evaluation.calibration_episodes", "2")
"""Likewise, for a policy that is calibrated."""

Summary = dict[str, Any]
"""What is kept of an experiment, as JSON can hold it."""


@dataclass(frozen=True)
class Step:
    """One command of an experiment.

    Attributes:
        folder: its run's folder, below that of the whole reproduction; it takes the place of ``--out``.
        command: the script and its arguments. ``{out}`` stands for the folder of the whole reproduction.
        quick: arguments that make it short, for ``--quick``.
        resume: arguments that make it go on in a folder that holds something.
        processes: that share its work, by torchrun.
    """

    folder: str
    command: Sequence[str]
    quick: Sequence[str] = ()
    resume: Sequence[str] = ("--resume",)
    processes: int = 1


class Experiment(ABC):
    """One section of the pages in ``docs/results``.

    Attributes:
        name: on the command line, of its file of results and of its place on the page.
    """

    name: str

    @abstractmethod
    def steps(self) -> list[Step]:
        """Return the commands, in order; the folders of earlier experiments may be used."""

    @abstractmethod
    def summarise(self, out: Path) -> Summary:
        """Compute what is kept from the runs' folders.

        Args:
            out: folder of the whole reproduction.
        """

    @abstractmethod
    def markdown(self, summary: Summary) -> str:
        """Word it for ``docs/results``; every number in the text comes from the summary."""

    def headline(self, summary: Summary) -> str:
        """Word the little of it that the README and the page of all results show; an empty text if that is nothing."""
        return ""

    def draw(self, summary: Summary, folder: Path) -> None:  # noqa: B027
        """Draw the figures that the text shows, if there are any, as PNG files."""


def find(records: Iterable[Record], **wanted: Any) -> list[Record]:
    """Return the records whose fields have these values; a function tells whether a value will do.

    >>> find([{"policy": "a", "nfe": 1.0}, {"policy": "b", "nfe": 2.0}], nfe=lambda nfe: nfe > 1)
    [{'policy': 'b', 'nfe': 2.0}]
    """

    def fits(record: Record) -> bool:
        return all(will(record[name]) if callable(will) else record[name] == will for name, will in wanted.items())

    return [record for record in records if fits(record)]


def of_kind(*kinds: str) -> Callable[[str], bool]:
    """Return a test for policies that are one of some rules, or learned, for `find`."""
    return lambda text: PolicyName.read(text).kind in kinds


def is_rule(text: str) -> bool:
    """Tell whether a policy is a rule that knows no answer, for `find`."""
    name = PolicyName.read(text)
    return not name.is_learned and not name.is_oracle


def which(options: str) -> Callable[[str], bool]:
    """Return a test for one of several learned policies, at any setting, for `find`."""
    return lambda text: PolicyName.read(text).options == options


def setting_of(record: Record) -> str:
    """Return where a policy's own knob stood, such as ``speed=0.5``."""
    return PolicyName.read(record["policy"]).setting


def repeat(flag: str, values: Iterable[Any]) -> list[str]:
    """Give a flag once for each value.

    >>> repeat("--block_length", (64, 16))
    ['--block_length', '64', '--block_length', '16']
    """
    return [word for value in values for word in (flag, str(value))]


def provenance(out: Path, steps: Iterable[Step]) -> Summary:
    """Return where the steps' numbers come from: commits, machines and minutes."""
    # Of every step: a reproduction takes hours, and one that was killed may have gone on with another commit.
    versions = [json.loads(RunFiles(out / step.folder).versions.read_text()) for step in steps]
    seconds = [json.loads(marker(out, step).read_text())["seconds"] for step in steps]
    return {
        "commits": sorted(
            {start["commit"] for found in versions for start in (found, *found["starts"]) if "commit" in start}
        ),
        "machines": sorted({found["machine"] for found in versions}),
        "minutes": None if None in seconds else round(sum(seconds) / 60, 1),
    }


def marker(out: Path, step: Step) -> Path:
    """Return the file that says that a step was finished, and how."""
    return out / "finished" / f"{step.folder.replace('/', '.')}.json"


def table(columns: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Write a Markdown table.

    >>> print(table(["rule", "NFE"], [["threshold", 2.5]]))
    | rule | NFE |
    | --- | --- |
    | threshold | 2.5 |
    """
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def over_seeds(values: Sequence[float], digits: int = 1) -> str:
    """Write a mean over seeds and the half-width of its 95 % Student interval; one seed has no interval.

    >>> over_seeds([1.0, 2.0, 3.0]), over_seeds([2.0])
    ('2.0 ± 2.5', '2.0')
    """
    if len(values) == 1:
        return f"{values[0]:.{digits}f}"
    low, high = mean_interval(values)
    return f"{np.mean(values):.{digits}f} ± {(high - low) / 2:.{digits}f}"


def fill(markdown: str) -> str:
    r"""Break the lines of paragraphs anew; tables, figures and code stay as they are.

    >>> fill("one\ntwo\n\n| a |\n| b |")
    'one two\n\n| a |\n| b |'
    """
    parts = markdown.split("\n\n")
    return "\n\n".join(
        part
        if part.startswith(("|", "!", "```"))
        # Not at hyphens, which stand in flags and file names too.
        else textwrap.fill(" ".join(part.split()), 120, break_long_words=False, break_on_hyphens=False)
        for part in parts
    )


def resampled(groups: npt.NDArray[Any]) -> Values:
    """Return what each problem weighs in a mean: in the problems themselves, and in bootstrap resamples of them.

    A resample is how often each problem was drawn, so that the means of many settings are one product.

    Args:
        groups: (problems,), what each belongs to; a resample has as many of every group.

    Returns:
        Of shape (1 + `RESAMPLES`, problems); each row sums to 1.
    """
    weights = np.ones((1 + RESAMPLES, len(groups))) / len(groups)
    generator = np.random.default_rng(0)
    for group in dict.fromkeys(groups.tolist()):
        own = np.flatnonzero(groups == group)
        weights[1:, own] = generator.multinomial(len(own), [1 / len(own)] * len(own), RESAMPLES) / len(groups)
    return weights


def beside_rules(record: Record, rules: Sequence[Record]) -> Summary:
    """Keep what a policy does, and the forwards of the cheapest rule that is as accurate.

    Args:
        record: its accuracy and forwards.
        rules: those of the rules on the same problems. None is to be compared with what is less often right than the
            fastest of them: others that are faster still were not tried.
    """
    fastest = min(rules, key=lambda rule: float(rule["nfe"]))
    is_comparable = record["accuracy"] >= fastest["accuracy"] - TOLERANCE - ROUNDING
    rule = best_rule(rules, record["accuracy"])["nfe"] if is_comparable else None
    return {"accuracy": record["accuracy"], "nfe": record["nfe"], "rules_nfe": rule}


def cell_of(places: Sequence[Summary]) -> str:
    """Word what `beside_rules` kept, of as many seeds as there are; the share where all of them have one.

    >>> cell_of([{"accuracy": 0.9, "nfe": 3.0, "rules_nfe": 6.0}])
    '90.0 in 3.00 (0.50)'
    """
    found = f"{over_seeds([100 * place['accuracy'] for place in places])} in "
    found += over_seeds([place["nfe"] for place in places], 2)
    shares = shares_of(places)
    return f"{found} ({over_seeds(shares, 2)})" if len(shares) == len(places) else found


def shares_of(places: Iterable[Summary]) -> list[float]:
    """Return the share of the rule's forwards at each place that one can be compared with."""
    return [place["nfe"] / place["rules_nfe"] for place in places if place["rules_nfe"] is not None]


def percent(value: float) -> str:
    """Write a share as a percentage.

    >>> percent(0.974)
    '97.4'
    """
    return f"{100 * value:.1f}"
