"""Policies by name: rules with their options, and folders with their settings."""

from __future__ import annotations

import os
from collections.abc import Mapping

from policies import RULES, LearnedPolicy

SETTINGS = ("threshold", "speed", "accuracy_target", "nfe_target", "beta", "temperature")
"""What ``FOLDER@...`` can set."""


SAMPLED_SETTINGS = ("beta", "temperature")
"""Those that are evaluated sampled: on the deterministic decision they act like a threshold, or not at all."""


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
    if has_name and name not in SETTINGS[1:]:
        raise ValueError(f"policy is {policy!r}: {name!r} can't be set; choose from {', '.join(SETTINGS[1:])}")
    try:
        return folder, {name or SETTINGS[0]: float(value)}
    except ValueError:
        raise ValueError(f"policy is {policy!r}: write a number after the @, as in {folder}@0.9") from None


def at_setting(policy: LearnedPolicy, setting: Mapping[str, float], block_length: int) -> LearnedPolicy:
    """Return a learned policy at what `split_setting` found, for a block length."""
    if {"threshold", *SAMPLED_SETTINGS} & set(setting):
        return policy.changed(**setting)
    return policy.tuned(block_length, **setting) if setting else policy
