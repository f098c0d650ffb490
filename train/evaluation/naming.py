"""Policies by name: as they are given (rules with options, folders with settings), and as records have them."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace

from policies import RULES, LearnedPolicy

SAMPLED_SETTINGS = ("beta", "temperature")
"""Those that are evaluated sampled: on the deterministic decision they act like a threshold, or not at all."""


PLACES = ("speed", "accuracy_target", "nfe_target")
"""Those that are places on a dial."""


SETTINGS = ("threshold", *PLACES, *SAMPLED_SETTINGS)
"""What ``FOLDER@...`` can set."""


LEARNED, ORACLE, EOTP = "learned", "oracle", "+eotp"
"""What names of learned policies begin with, the rule that knows the answer, and what a name ends in where everything
after a committed end-of-text leaves the computation."""


@dataclass(frozen=True)
class PolicyName:
    """A policy in a record: ``RULE:OPTIONS`` or ``learned:WHICH@SETTING``, perhaps with ``+eotp``.

    Records, W&B, tables and what people type have it as one text, which this class alone puts together and takes apart.
    Nothing is lost on the way: where the name of a run ends in what looks like a setting or ``+eotp``, an at sign with
    nothing behind it says that there is no setting (``learned:alpha@0.5@``).

    Attributes:
        kind: the rule, or `LEARNED`.
        options: a rule's knob and options; which one of several learned policies.
        setting: of a learned policy, as after ``FOLDER@``.
        has_eotp: whether it is with end-of-text prediction.
    """

    kind: str
    options: str = ""
    setting: str = ""
    has_eotp: bool = False

    @classmethod
    def read(cls, text: str) -> PolicyName:
        """Take a name apart; ``str`` puts it together again.

        >>> PolicyName.read("learned:dial_s0@speed=0.5+eotp")
        PolicyName(kind='learned', options='dial_s0', setting='speed=0.5', has_eotp=True)
        >>> PolicyName.read("threshold:0.9")
        PolicyName(kind='threshold', options='0.9', setting='', has_eotp=False)
        """
        rest, setting = text.removesuffix(EOTP), ""
        # A run may have an at sign in its name, and a rule's option too: a setting ends in a number.
        before, has_setting, after = rest.rpartition("@")
        is_setting = not after or _is_number(after.rpartition("=")[2])
        if has_setting and before.partition(":")[0] == LEARNED and is_setting:
            rest, setting = before, after
        kind, _, options = rest.partition(":")
        return cls(kind, options, setting, text.endswith(EOTP))

    def __str__(self) -> str:
        options = f":{self.options}" if self.options else ""
        setting = f"@{self.setting}" if self.setting else ""
        ending = EOTP if self.has_eotp else ""
        text = self.kind + options + setting + ending
        return text if PolicyName.read(text) == self or not self.is_learned else f"{self.kind}{options}@{ending}"

    @property
    def is_learned(self) -> bool:
        """Whether it is a learned policy, or a rule."""
        return self.kind == LEARNED

    @property
    def is_oracle(self) -> bool:
        """Whether it knows the answer, and is no rule to be compared with."""
        return self.kind == ORACLE

    @property
    def family(self) -> PolicyName:
        """What its settings have in common: the rule without knob and options, the learned policy without setting."""
        return replace(self, setting="") if self.is_learned else replace(self, options="")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def is_folder(policy: str) -> bool:
    """Tell whether a policy is given as a folder: it is one, or it names no rule."""
    if os.path.isdir(policy):  # unlike Path's, False for what no name can be
        return True
    # A rule's option may hold an at sign, so the rule's name is looked at first.
    if policy.partition(":")[0] in RULES:
        return False
    return ":" not in policy or os.path.isdir(split_setting(policy)[0])


def split_setting(policy: str) -> tuple[str, dict[str, float]]:
    """Take ``FOLDER@THRESHOLD`` or ``FOLDER@NAME=VALUE`` apart, NAME one of `SETTINGS`.

    >>> split_setting("runs/learn2pd/filters/weighted@0.9")
    ('runs/learn2pd/filters/weighted', {'threshold': 0.9})
    >>> split_setting("runs/dial/policy@speed=0.7")
    ('runs/dial/policy', {'speed': 0.7})

    Raises:
        ValueError: if what follows the at sign is not that.
    """
    folder, has_setting, setting = policy.rpartition("@")
    if not has_setting or os.path.isdir(policy):
        return policy, {}
    name, has_name, value = setting.rpartition("=")
    # A threshold has no name: it is what a number alone means.
    if has_name and name not in SETTINGS[1:]:
        raise ValueError(f"policy is {policy!r}: {name!r} can't be set; choose from {', '.join(SETTINGS[1:])}")
    try:
        return folder, {name or SETTINGS[0]: float(value)}
    except ValueError:
        raise ValueError(f"policy is {policy!r}: write a number after the @, as in {folder}@0.9") from None


def setting_text(policy: str) -> str:
    """Return what stands after ``FOLDER@`` where `split_setting` finds a setting, its number in one spelling.

    >>> setting_text("runs/dial/policy@speed=.50"), setting_text("runs/dial/policy@1.0")
    ('speed=0.5', '1')
    """
    [(name, value)] = split_setting(policy)[1].items()
    # Short where it is exact, as settings are given.
    number = f"{value:g}" if float(f"{value:g}") == value else repr(value)
    return number if name == SETTINGS[0] else f"{name}={number}"


def at_setting(policy: LearnedPolicy, setting: Mapping[str, float], block_length: int) -> LearnedPolicy:
    """Return a learned policy at what `split_setting` found, for a block length."""
    if set(PLACES) & set(setting):
        return policy.tuned(block_length, **setting)
    return policy.changed(**setting) if setting else policy
