"""What there is to evaluate: each policy under each decision, at each block length."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
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
    temperature: sampled). Several folders are told apart by their runs' names.

    Raises:
        ValueError: if a rule is unknown.
    """
    expanded: list[str] = []
    for policy in policies:
        expanded += sweep() if policy == "all" else [policy]
    # By folder: several settings of one policy are told apart by the settings.
    folders = list(dict.fromkeys(split_setting(text)[0] for text in expanded if is_folder(text)))
    variants: list[tuple[str, str, Decision]] = []
    # What is named twice, or beside the sweep that holds it, is evaluated once.
    for text in dict.fromkeys(expanded):
        if is_folder(text):
            folder, setting = split_setting(text)
            name = PolicyName(LEARNED, "" if len(folders) == 1 else run_name(Path(folder)))
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
    return folder.parent.name if folder.name == "policy" and folder.parent.name else folder.name


def sweep() -> Iterator[str]:
    """Yield every rule at every knob that its ``sweep`` names."""
    for name, cls in RULES.items():
        yield from (f"{name}:{knob:g}" for knob in cls.sweep)
