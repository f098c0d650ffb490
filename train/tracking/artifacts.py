"""Policies as artifacts of Weights & Biases, under names that it allows."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from train.evaluation.headline import headline
from train.evaluation.naming import PolicyName
from train.evaluation.records import Key, Outcomes, Record

LONGEST_NAME = 128
"""Characters that W&B allows in the name of an artifact."""


def policy_artifact(policy: Path, records: Sequence[Record], outcomes: Mapping[Key, Outcomes]) -> Any:
    """Make an artifact of an exported policy, with its training and its evaluation as metadata.

    The name is that of the dLLM (and the filter), the same in all runs of a project, so that versions line up.

    Args:
        policy: a folder that `policies.save` wrote.
        records: of the policy, and of rules on the same problems.
        outcomes: of them, problem by problem, where they were kept.
    """
    # Imported where it is used: it takes a second, which no other command should wait.
    import wandb

    trained = json.loads((policy / "config.json").read_text()).get("trained") or {}
    parts = ["policy", Path(str(trained.get("model", ""))).name, "" if policy.name == "policy" else policy.name]
    metadata = {"evaluation": headline(records, outcomes), "trained": trained}
    artifact = wandb.Artifact(allowed_name("-".join(part for part in parts if part)), type="policy", metadata=metadata)
    # Sorted, as an artifact's digest goes by its files in order: the same policy is then the same version.
    for file in sorted(policy.iterdir()):
        artifact.add_file(str(file))
    return artifact


def without_others(records: Sequence[Record], name: str) -> list[Record]:
    """Return the records of one of several learned policies, and of the rules."""
    policies = [PolicyName.read(record["policy"]) for record in records]
    return [r for r, own in zip(records, policies, strict=True) if not own.is_learned or own.options == name]


def allowed_name(name: str) -> str:
    """Return a name that W&B allows for an artifact or an alias: ASCII letters, digits, ``_.-``, at most 128.

    A name that has to be changed ends in a hash of what it was, so that different names stay different.

    >>> allowed_name("policy-tiny")
    'policy-tiny'
    >>> allowed_name("policy-模型 v1")
    'policy-___v1-21432367'
    """
    allowed = re.sub(r"[^A-Za-z0-9_.-]", "_", name)
    if allowed == name and len(name) <= LONGEST_NAME:
        return name
    mark = "-" + hashlib.sha256(name.encode()).hexdigest()[:8]
    return allowed[: LONGEST_NAME - len(mark)] + mark
