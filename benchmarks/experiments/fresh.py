"""Dials of the prose world against the rules near them, on problems that nothing was chosen on."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from experiments.base import (
    RESULTS,
    SEEDS,
    Experiment,
    Step,
    Summary,
    beside_rules,
    is_rule,
    over_seeds,
    percent,
    provenance,
    resampled,
    shares_of,
    table,
    which,
)
from experiments.dial import Dial, dials
from experiments.worlds import PROSE_WORLD
from train.evaluation.measures import ROUNDING, Values
from train.evaluation.naming import LEARNED, PolicyName
from train.evaluation.records import Outcomes, Record, read_outcomes

FIRST = 1000
"""Number of the first problem: far from those on which anything was compared or tuned."""

PART = 50
"""Problems a task of one evaluation; of more, there are several, so that a killed reproduction loses little."""

SPEEDS = (0.0, 0.125, 0.25, 0.375, 0.5)
"""Places on the dial: those around one point below one token per step."""

RULES = (
    *(f"threshold:{t:g}" for t in (0.8, 0.9, 0.95, 0.97)),
    *(f"eb_sampler:{b:g}" for b in (0.02, 0.05, 0.1, 0.2)),
    *("ete:0.8", "ete:0.85", "credit:0.9", "credit:0.95", "factor:0.5", "frechet:0.5"),
)
"""Settings that were right on 88 % or more of the dial's comparison in about the fewest forwards."""

ONE, ORACLE = "low_confidence:1", "oracle:1"

POINT = 0.01
"""How much less accurate than that a place may be."""


@dataclass(frozen=True)
class Decoding:
    """How the problems are decoded.

    Attributes:
        wording: its name.
        block: its block length.
        flags: what else the evaluations are told.
    """

    wording: str
    block: int
    flags: Sequence[str] = ()


DECODINGS = {
    "full": Decoding("full diffusion", PROSE_WORLD.blocks[0]),
    "ahead": Decoding(
        f"blocks of {PROSE_WORLD.blocks[1]}, a block ahead allowed",
        PROSE_WORLD.blocks[1],
        ("--blocks_ahead", str(PROSE_WORLD.ahead)),
    ),
}
"""Both decodings by the name of their folders."""


@dataclass(frozen=True)
class Lines:
    """Settings on the same problems, for the problems themselves and for resamples of them.

    Attributes:
        policies: name of each setting.
        accuracy: of shape (1 + resamples, settings), in [0, 1]; the first row is of the problems themselves.
        nfe: likewise, forwards.
    """

    policies: Sequence[str]
    accuracy: Values
    nfe: Values

    def where(self, fits: Callable[[str], bool]) -> list[int]:
        """Return the settings whose names fit."""
        return [i for i, policy in enumerate(self.policies) if fits(policy)]

    def cheapest(self, settings: Sequence[int], accuracy: Values) -> npt.NDArray[np.int64]:
        """Return, for every row, the cheapest of some settings that is accurate enough, or the most accurate one.

        Args:
            settings: to choose from.
            accuracy: of shape (1 + resamples,): what is enough.

        Returns:
            Indices of shape (1 + resamples,), int64.
        """
        enough = self.accuracy[:, settings] >= accuracy[:, None] - ROUNDING
        cost = np.where(enough, self.nfe[:, settings], np.inf)
        chosen = np.where(enough.any(1), cost.argmin(1), self.accuracy[:, settings].argmax(1))
        found: npt.NDArray[np.int64] = np.asarray(settings)[chosen]
        return found


@dataclass(frozen=True)
class Decoded:
    """What some settings did on the same problems, by task and then by number.

    Attributes:
        policies: name of each setting.
        tasks: of shape (problems,), strings.
        numbers: likewise, of each problem in its task, int.
        score: of shape (settings, problems), in [0, 1].
        nfe: likewise, forwards.
    """

    policies: Sequence[str]
    tasks: npt.NDArray[np.str_]
    numbers: npt.NDArray[np.int64]
    score: Values
    nfe: Values

    def only(self, fits: Callable[[str], bool]) -> Decoded:
        """Return the settings whose names fit."""
        kept = [i for i, policy in enumerate(self.policies) if fits(policy)]
        return replace(self, policies=[self.policies[i] for i in kept], score=self.score[kept], nfe=self.nfe[kept])

    def beside(self, other: Decoded) -> Decoded:
        """Return these settings and others.

        Raises:
            ValueError: if those decoded other problems.
        """
        if not (np.array_equal(self.tasks, other.tasks) and np.array_equal(self.numbers, other.numbers)):
            raise ValueError(f"{other.policies} decoded other problems than {self.policies}")
        return replace(
            self,
            policies=[*self.policies, *other.policies],
            score=np.concatenate([self.score, other.score]),
            nfe=np.concatenate([self.nfe, other.nfe]),
        )

    def mean(self, policy: str, task: str) -> tuple[float, float]:
        """Return what a setting did on a task: accuracy in [0, 1], and forwards."""
        row, own = self.policies.index(policy), self.tasks == task
        return float(self.score[row, own].mean()), float(self.nfe[row, own].mean())

    def lines(self) -> Lines:
        """Return their means, and those of resamples."""
        # By task, as the design has it: tasks differ most in how many forwards they take.
        weights = resampled(self.tasks)
        return Lines(self.policies, weights @ self.score.T, weights @ self.nfe.T)


def join(parts: Sequence[Iterable[Outcomes]]) -> Decoded:
    """Put the problems of several evaluations of the same settings together.

    Args:
        parts: outcomes of each evaluation.
    """
    by_name = [{entry["policy"]: entry for entry in part} for part in parts]
    policies = list(by_name[0])
    tasks, numbers = (
        np.array([value for part in by_name for value in part[policies[0]][field]]) for field in ("task", "index")
    )
    score, nfe = (
        np.array([[value for part in by_name for value in part[policy][field]] for policy in policies], np.float64)
        for field in ("score", "nfe")
    )
    places = {task: place for place, task in enumerate(dict.fromkeys(tasks.tolist()))}
    order = np.lexsort((numbers, np.array([places[task] for task in tasks.tolist()])))
    return Decoded(policies, tasks[order], numbers[order], score[:, order], nfe[:, order])


def published_rules(decoding: str) -> list[Summary]:
    """Return what the rules do on these problems by the published results, for those who look at the same ones later.

    Args:
        decoding: name of it in `DECODINGS`.
    """
    found = json.loads((RESULTS / f"{Fresh.name}.json").read_text())["blocks"][decoding]["others"]
    rules = [one for one in found if is_rule(one[0])]
    return [{"policy": policy, "accuracy": accuracy, "nfe": nfe} for policy, accuracy, nfe in rules]


class Fresh(Experiment):
    """Three seeds' dials and the rules near them, on problems that nothing was chosen on.

    Attributes:
        first: number of the first problem.
        parts: evaluations of `PART` problems a task, in each decoding.
        rules: settings that came near the frontier where they were chosen.
        others: further policies, as `train/evaluate.py` takes them.
        flags: what else the evaluations are told.
        has_oracle: whether the oracle decodes all of them; it takes as long as one token per step.
    """

    name = "prose_fresh"
    first = FIRST
    parts = 1
    rules: Sequence[str] = RULES
    others: Sequence[str] = (f"{PROSE_WORLD.filter}@0.9",)
    flags: Sequence[str] = ()
    has_oracle = True

    def dials(self) -> list[Step]:
        """Return the trainings of the dials, one a seed."""
        return dials(PROSE_WORLD)

    def names(self) -> list[str]:
        """Return the names of the runs that trained the dials, by seed."""
        return [step.folder.rpartition("/")[2] for step in self.dials()]

    def before(self) -> list[Step]:
        """Return all that comes before the evaluation, with the trainings."""
        return Dial(PROSE_WORLD).steps()

    def steps(self) -> list[Step]:
        """Evaluate dials, rules, the oracle and one token per step."""
        learned = [f"{{out}}/{step.folder}/policy@speed={s:g}" for step in self.dials() for s in SPEEDS]
        policies = [*learned, *self.others, *([ORACLE] if self.has_oracle else []), ONE, *self.rules]
        found = self.before()
        for part in range(self.parts):
            first = self.first + PART * part
            found += [self.evaluation(f"{name}{part}", name, policies, first, PART) for name in DECODINGS]
        return found

    def evaluation(self, folder: str, decoding: str, policies: Sequence[str], first: int, problems: int) -> Step:
        """Return one evaluation.

        Args:
            folder: its name below the experiment's.
            decoding: name of it in `DECODINGS`.
            policies: as `train/evaluate.py` takes them.
            first: number of the first problem.
            problems: of each task.
        """
        about = DECODINGS[decoding]
        flags = (*about.flags, *self.flags)
        command = PROSE_WORLD.evaluation(policies, (about.block,), *flags, first=first, episodes=problems)
        return Step(f"{self.name}/{folder}", command, ("--episodes", "1"))

    def summarise(self, out: Path) -> Summary:
        """Compare each seed with the rules, resampling problems with all that is chosen on them."""
        blocks = {name: self.compare(self.decoded(out, name)) for name in DECODINGS}
        return {"blocks": blocks, "provenance": provenance(out, self.steps())}

    def compare(self, decoded: Decoded) -> Summary:
        """Compare each seed with the rules in one decoding."""
        return _compare(decoded.lines(), self.names())

    def decoded(self, out: Path, decoding: str) -> Decoded:
        """Read what all that are compared did.

        Args:
            out: folder of the whole reproduction.
            decoding: name of it in `DECODINGS`.
        """
        folders = [out / self.name / f"{decoding}{part}" for part in range(self.parts)]
        return join([read_outcomes(folder).values() for folder in folders])

    def markdown(self, summary: Summary) -> str:
        """Word it."""
        parts = []
        for name, decoding in DECODINGS.items():
            found = summary["blocks"][name]
            rows = [
                [
                    f"s{seed}: {row['speed']:g}",
                    percent(row["accuracy"]),
                    f"{row['nfe']:.2f}",
                    f"{row['rules_nfe']:.2f} (`{row['rule']}`)",
                    *self._shares(row),
                ]
                for seed, row in enumerate(found["nearly"])
            ]
            rows.append(["mean", "", "", "", *self._shares(found)])
            places = [
                [
                    f"{row['speed']:g}",
                    over_seeds([100 * value for value in row["accuracy"]]),
                    over_seeds(row["nfe"], 2),
                    of_some(row["rules_nfe"]),
                    of_some(row["share"]),
                ]
                for row in found["places"]
            ]
            best = ["speed", "accuracy %", "NFE", "best rule's NFE", "share of the rule's"]
            best += [*(["times the oracle's"] if self.has_oracle else []), "reached in % of resamples"]
            others = ", ".join(f"`{policy}` {percent(a)} in {n:.2f}" for policy, a, n in found["others"])
            parts.append(
                f"""**In {decoding.wording}**, {self.parts * PART} problems a task. One token per step is right on
{percent(found["one"])} %; the cheapest place on each seed's dial that is right on {percent(found["wanted"])} %,
a point less (or its most accurate one, and then no share), and the cheapest rule, if it must be one token per step:

{table(best, rows)}

At equal accuracy, half a point less allowed to the rules; seeds that are less often right
there than the fastest of these rules are left out, as faster ones were not tried:

{table(["speed", "accuracy %", "NFE", "rules' NFE", "dial's share"], places)}

Beside it: {others}."""
            )
        body = "\n\n".join(parts)
        return f"""{self.preface()} Brackets are 95 % bootstrap intervals over the problems of each task: on every
resample it is computed anew what one token per step is right on, and place and rule are chosen anew; those on which a
seed's dial does not reach what is wanted have no share, and the last column says how many do. Where no other rule is as
accurate, it is one token per step, so that intervals are wide. ± is a Student interval over seeds.

{body}"""

    def _shares(self, row: Summary) -> list[str]:
        """Return the cells of what a seed, or the mean of them, needs of the rule's forwards and of the oracle's."""
        times = [_interval(row["times_oracle"])] if self.has_oracle else []
        return [_interval(row["share"]), *times, f"{100 * row['reached']:.0f}"]

    def preface(self) -> str:
        """Say what is held against what, on which problems."""
        return f"""Three seeds' dials, {len(self.rules) + 1} settings of rules that came near the frontier, the filter
and the oracle on problems from number {self.first} on, none of which anything was chosen on (of the puzzles, of which
there are few short ones, one in thirteen is also among the comparison's or before them)."""


def _compare(lines: Lines, dials: Sequence[str]) -> Summary:
    """Set every seed's dial against the rules.

    Args:
        lines: all settings.
        dials: names of the runs that trained them, by seed.
    """
    one = lines.policies.index(ONE)
    # Without it there is nothing to be so many times as fast.
    oracle = lines.nfe[:, lines.policies.index(ORACLE)] if ORACLE in lines.policies else np.full(len(lines.nfe), np.nan)
    rules = lines.where(is_rule)
    wanted = lines.accuracy[:, one] - POINT
    rows = np.arange(len(wanted))
    rule = lines.cheapest(rules, wanted)
    nearly, shares, times = [], [], []
    for dial in dials:
        place = lines.cheapest(lines.where(which(dial)), wanted)
        nfe = np.where(lines.accuracy[rows, place] >= wanted - ROUNDING, lines.nfe[rows, place], np.nan)
        shares.append(nfe / lines.nfe[rows, rule])
        times.append(nfe / oracle)
        nearly.append(
            {
                "speed": float(PolicyName.read(lines.policies[place[0]]).setting.removeprefix("speed=")),
                "accuracy": float(lines.accuracy[0, place[0]]),
                "nfe": float(lines.nfe[0, place[0]]),
                "rule": lines.policies[rule[0]],
                "rules_nfe": float(lines.nfe[0, rule[0]]),
                "share": _with_interval(shares[-1]),
                "times_oracle": _with_interval(times[-1]),
                "reached": _reached(shares[-1]),
            }
        )
    records: list[Record] = [
        {"accuracy": float(accuracy), "nfe": float(nfe)}
        for accuracy, nfe in zip(lines.accuracy[0], lines.nfe[0], strict=True)
    ]
    places = []
    for speed in SPEEDS:
        names = [str(PolicyName(LEARNED, dial, f"speed={speed:g}")) for dial in dials]
        own = [records[lines.policies.index(name)] for name in names]
        found = [beside_rules(record, [records[i] for i in rules]) for record in own]
        places.append(
            {
                "speed": speed,
                "accuracy": [place["accuracy"] for place in found],
                "nfe": [place["nfe"] for place in found],
                "rules_nfe": [place["rules_nfe"] for place in found if place["rules_nfe"] is not None],
                "share": shares_of(found),
            }
        )
    others = lines.where(lambda policy: PolicyName.read(policy).options not in dials and policy != ONE)
    others.sort(key=lambda i: -float(lines.accuracy[0, i]))
    return {
        "one": float(lines.accuracy[0, one]),
        "wanted": float(wanted[0]),
        "nearly": nearly,
        "share": _with_interval(np.mean(shares, 0)),
        "times_oracle": _with_interval(np.mean(times, 0)),
        "reached": _reached(np.mean(shares, 0)),
        "places": places,
        "others": [(lines.policies[i], float(lines.accuracy[0, i]), float(lines.nfe[0, i])) for i in others],
    }


def _with_interval(values: Values) -> list[float] | None:
    """Return what the problems themselves give, and the 95 % interval of what resamples give; None without the first.

    Args:
        values: of shape (1 + resamples,), NaN where there is none.
    """
    if np.isnan(values[0]):
        return None
    return [float(values[0]), *np.nanpercentile(values[1:], [2.5, 97.5]).tolist()]


def _reached(values: Values) -> float:
    """Return the share of resamples that have a value."""
    return float(np.mean(~np.isnan(values[1:])))


def of_some(values: Sequence[float]) -> str:
    """Write a mean over the seeds that have a value, and how many do where it isn't all."""
    if not values:
        return ""
    return over_seeds(values, 2) + ("" if len(values) == len(SEEDS) else f" ({len(values)} of {len(SEEDS)})")


def _interval(values: Sequence[float] | None) -> str:
    if values is None:
        return ""
    value, low, high = values
    return f"{value:.2f} [{low:.2f}, {high:.2f}]"
