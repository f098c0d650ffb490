"""What there is to evaluate: each policy under each decision, at each block length."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product
from pathlib import Path

from policies import RULES, UnmaskingPolicy, load, make_rule
from policies.base import Decision
from policies.rules import Rule
from train.evaluation.naming import (
    LEARNED,
    SAMPLED_SETTINGS,
    PolicyName,
    at_setting,
    is_folder,
    setting_text,
    split_setting,
)

SWEEP_EPISODES, SWEEP_BLOCKS = 25, (64, 32, 16, 8)
"""What ``--policy all`` evaluates unless told otherwise: a sweep has some 160 settings a block length."""


@dataclass(frozen=True)
class Job:
    """One policy at one block length.

    Attributes:
        policy: a rule's text or a policy's folder.
        name: what the records call it.
        decision: of a learned policy.
        block_length: of the decoding.
    """

    policy: str
    name: str
    decision: Decision
    block_length: int

    def make(self, device: str = "cpu", any_dllm: bool = False) -> UnmaskingPolicy:
        """Build the policy; see `policies.load`."""
        if not is_folder(self.policy):
            return make_rule(self.policy)
        folder, setting = split_setting(self.policy)
        return at_setting(load(folder, self.decision, device, any_dllm=any_dllm), setting, self.block_length)


def plan(policies: Sequence[str], block_lengths: Sequence[int]) -> list[Job]:
    """List what to evaluate, as `list_jobs` does, and check that every folder holds a policy that can be set so.

    Raises:
        ValueError: if a rule is unknown, or a policy can't be set as asked.
        FileNotFoundError: if a folder holds no policy.
    """
    jobs = list_jobs(policies, block_lengths)
    for job in jobs:
        policy = job.make()
        if isinstance(policy, Rule):
            policy.check_files()
    return jobs


def list_jobs(policies: Sequence[str], block_lengths: Sequence[int]) -> list[Job]:
    """List what to evaluate; folders need not be there yet.

    A folder is evaluated under both of its decision rules, ``FOLDER@SETTING`` under the deterministic one (a beta or a
    temperature: sampled). Several folders are told apart by `run_names`.

    Raises:
        ValueError: if a rule is unknown.
    """
    expanded: list[str] = []
    for policy in policies:
        expanded += sweep() if policy == "all" else [policy]
    # By folder: several settings of one policy are told apart by the settings.
    names = run_names(split_setting(text)[0] for text in expanded if is_folder(text))
    variants: list[tuple[str, str, Decision]] = []
    # What is named twice, or beside the sweep that holds it, is evaluated once.
    for text in dict.fromkeys(expanded):
        if is_folder(text):
            folder, setting = split_setting(text)
            name = PolicyName(LEARNED, names[folder])
            if setting:
                decision: Decision = "sample" if set(SAMPLED_SETTINGS) & set(setting) else "deterministic"
                variants.append((text, str(replace(name, setting=setting_text(text))), decision))
            else:
                # Sampled is how it was trained, rounded how it mostly runs; which is better differs from policy to
                # policy.
                variants += [(text, str(name), "sample"), (text, str(name), "deterministic")]
        else:
            rule = make_rule(text)
            variants.append((text, rule.name, rule.decision))
    return [Job(*variant, block) for block, variant in product(block_lengths, variants)]


def one_job(policy: str, block_length: int) -> Job:
    """Return what there is of a policy that is to decode alone: of a folder's two decisions, the deterministic one.

    Raises:
        ValueError: if a rule is unknown, or the text stands for several.
    """
    if policy in ("all", "list"):
        raise ValueError(f"policy is {policy!r}: give one, such as threshold:0.9; train/evaluate.py takes more")
    return list_jobs([policy], [block_length])[-1]


def run_name(folder: Path) -> str:
    """Return what tells a policy's folder apart: its run's name, or its own."""
    return _run_folder(folder).name


def _run_folder(folder: Path) -> Path:
    return folder.parent if folder.name == "policy" and folder.parent.name else folder


def run_names(folders: Iterable[str]) -> dict[str, str]:
    """Return what tells policies' folders apart in records: nothing where there is one, else their runs' names.

    Where runs in different places have one name, theirs have as much of their paths as it takes.
    """
    # Unlike Path's, without an error for what no name can be.
    found = {folder: Path(os.path.realpath(folder)) for folder in folders}
    places = {path: _run_folder(path).parts for path in found.values()}
    if len(places) == 1:
        return dict.fromkeys(found, "")

    def name(path: Path) -> str:
        for depth in range(1, len(places[path])):
            ending = places[path][-depth:]
            if [place[-depth:] for place in places.values()].count(ending) == 1:
                return "/".join(ending)
        return str(path)

    return {folder: name(path) for folder, path in found.items()}


def sweep() -> Iterator[str]:
    """Yield every rule at every knob that its ``sweep`` names."""
    for name, cls in RULES.items():
        yield from (f"{name}:{knob:g}" for knob in cls.sweep)
