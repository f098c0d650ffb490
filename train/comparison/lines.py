"""Which policies of several runs are the same but for the seed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from train.comparison.runs import (
    MISSING,
    NOT_COMPARED,
    Problems,
    Run,
    differing,
    fingerprint,
    flatten,
    identity,
    policy_folders,
    problems_of,
    training_run,
)
from train.evaluation.naming import LEARNED, PolicyName
from train.evaluation.records import Key, Outcomes, Record, key_of


@dataclass(frozen=True)
class Replicate:
    """One seed of a line.

    Attributes:
        name: of the training run, or of the run that evaluated a rule.
        source: what tells it from replicates of the same name.
        tasks: records by task, "all" among them.
        outcomes: problem by problem, if the run kept them.
        training: where it was trained, if that is known.
    """

    name: str
    source: str
    tasks: dict[str, Record]
    outcomes: Outcomes | None
    training: Run | None = None

    @property
    def record(self) -> Record:
        """The record of all tasks."""
        return self.tasks["all"]


@dataclass
class Line:
    """A policy's setting on a set of problems; see the module.

    Attributes:
        problems: the set.
        block: block length.
        policy: name, the same for all seeds.
        family: policies that differ by a knob, a threshold, a speed or the decision only.
        decision: "sample" or "deterministic".
        name: of one of its records.
        replicates: one a seed.
    """

    problems: Problems
    block: int
    policy: str
    family: str
    decision: str
    name: PolicyName
    replicates: list[Replicate] = field(default_factory=list)

    @property
    def is_learned(self) -> bool:
        """Whether it is a learned policy, or a rule."""
        return self.name.is_learned


def collect_lines(runs: Sequence[Run]) -> list[Line]:
    """Gather the lines of all runs, seeds together, in the order of the runs."""
    # All policies first: how one is called depends on what the others are called.
    labels = _Labels()
    for run in runs:
        for policy in dict.fromkeys(r["policy"] for r in run.records):
            if PolicyName.read(policy).is_learned:
                labels.add(run, policy)
    lines: dict[tuple[Any, ...], Line] = {}
    for run in runs:
        problems = problems_of(run)
        tasks: dict[Key, dict[str, Record]] = {}
        for record in run.records:
            tasks.setdefault(key_of(record), {})[record["task"]] = record
        for key, own in tasks.items():
            if "all" not in own:
                continue  # the run was killed within this policy
            policy, decision, block = key
            family, label, name, training = labels.of(run, policy)
            line = Line(problems, block, label, family, decision, PolicyName.read(policy))
            line = lines.setdefault((problems, block, label, decision), line)
            source = identity(run.path) + name if training is None else identity(training.path)
            _add(line, Replicate(name, source, own, run.outcomes.get(key), training))
    return list(lines.values())


def _add(line: Line, new: Replicate) -> None:
    """Add a replicate unless it is there; of the same, the one with outcomes is kept."""
    for i, old in enumerate(line.replicates):
        same = old.source == new.source
        if not line.is_learned:  # a rule without random choices is the same under every seed
            same = all(old.record[key] == new.record[key] for key in ("accuracy", "nfe"))
        if same:
            if old.outcomes is None and new.outcomes is not None:
                line.replicates[i] = new
            return
    line.replicates.append(new)


_Origin = tuple[str, str, str, Run | None]
"""A learned policy's group, its seed's name, which of the seed's run's policies it is, and that run."""


def _origin(run: Run, policy: PolicyName) -> _Origin:
    own = policy.options
    base = str(PolicyName(LEARNED, own))
    training = training_run(run, base)
    if training is None:
        # Without the training's folder, only the endings of names tell seeds: x_s0 and x_s1 are of x.
        name = own or run.name
        stem = re.sub(r"[_.-]?s(eed)?\d+$", "", name) or name
        return f"named {run.path if own else ''} {stem}", name, "", None
    is_filter = training.kind == "Learn2PD"
    folder = policy_folders(run).get(base)
    part = folder.name if folder else own
    which = f":{part}" if is_filter and part else ""
    return fingerprint(training), training.name, which, training


class _Labels:
    """Names for learned policies that seeds share.

    Groups of seeds whose runs would have the same name are told apart by the settings in which they differ, or by the
    folders that they stand in.
    """

    def __init__(self) -> None:
        self.groups: dict[str, list[str]] = {}
        self.origins: dict[tuple[str, str], _Origin] = {}
        self.settings: dict[str, dict[str, Any]] = {}
        self.places: dict[str, str] = {}

    def _origin(self, run: Run, policy: str) -> _Origin:
        if (run.name, policy) not in self.origins:
            self.origins[run.name, policy] = _origin(run, PolicyName.read(policy))
        return self.origins[run.name, policy]

    def add(self, run: Run, policy: str) -> None:
        """Take note of a policy."""
        group, name, _, training = self._origin(run, policy)
        names = self.groups.setdefault(group, [])
        if name not in names:
            names.append(name)
        source = training or run
        config = {key: value for key, value in source.config.items() if key not in NOT_COMPARED}
        self.settings.setdefault(group, flatten(config) if training else {})
        self.places.setdefault(group, source.path.resolve().parent.name)

    def _label(self, group: str) -> str:
        stems = {key: common_name(names) for key, names in self.groups.items()}
        alike = [key for key in stems if stems[key] == stems[group]]
        if len(alike) == 1:
            return stems[group]
        for details in (self._differences(alike), {key: f"in {self.places[key]}" for key in alike}):
            if len(set(details.values())) == len(alike):
                return f"{stems[group]} [{details[group]}]".replace(" []", "")
        # Nothing tells them apart but the order in which they came.
        return f"{stems[group]} [{chr(ord('a') + alike.index(group))}]"

    def _differences(self, groups: Sequence[str]) -> dict[str, str]:
        """Return in short, for each group, the settings in which they differ: two of them at most."""
        settings = [self.settings[group] for group in groups]
        different = differing(settings)[:2]
        return {
            group: ", ".join(f"{name.rpartition('.')[2]} {values.get(name, MISSING)}" for name in different)
            for group, values in zip(groups, settings, strict=True)
        }

    def of(self, run: Run, policy: str) -> tuple[str, str, str, Run | None]:
        """Return a policy's family, its label, its seed's name and its training run."""
        own = PolicyName.read(policy)
        if not own.is_learned:
            return str(own.family), policy, run.name, None
        group, name, which, training = self._origin(run, policy)
        label = replace(own, kind=self._label(group) + which, options="")
        return str(replace(label, setting="")), str(label), name, training


def common_name(names: Sequence[str]) -> str:
    """Return a name for runs that differ by seed.

    >>> common_name(["news_s10", "news_s11"]), common_name(["news_s0"]), common_name(["a", "b"])
    ('news', 'news_s0', 'a+b')
    """
    if len(names) == 1:
        return names[0]
    # What the first and the last in order begin with, all do.
    first, last = min(names), max(names)
    same = next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), len(first))
    stem = re.sub(r"([_.-](s|seed)?)?\d*[_.-]?$", "", first[:same])
    return stem or "+".join(names)
