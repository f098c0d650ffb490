"""Learned policies as a folder: ``model.safetensors`` + ``config.json`` + a model card. Never a pickle."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, get_args

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from envs.noise import uniform
from envs.view import View, ensure_progress
from policies.base import CommitPolicy, Decision
from policies.network import NetworkConfig, UnmaskingNetwork

FORMAT_VERSION = 1


class LearnedPolicy(CommitPolicy):
    """A trained `UnmaskingNetwork` with a decision rule.

    Args:
        network: the trained network.
        decision: ``"deterministic"`` or ``"sample"``; sampling is by the sequence's key, so it is repeatable.
        trained: how it was trained, for the record.

    Raises:
        ValueError: if the decision is unknown.
    """

    def __init__(
        self,
        network: UnmaskingNetwork,
        decision: Decision = "deterministic",
        trained: Mapping[str, Any] | None = None,
    ) -> None:
        if decision not in get_args(Decision):
            raise ValueError(f"decision is {decision!r}: choose one of {', '.join(get_args(Decision))}")
        self.network = network.eval().requires_grad_(False)
        self.decision = decision
        self.trained = dict(trained or {})
        self.features = frozenset(network.config.features)

    @property
    def name(self) -> str:
        """``learned``."""
        return "learned"

    @torch.inference_mode()
    def probabilities(self, view: View) -> Tensor:
        """Return (N, L) float32, the probability of committing each eligible position, 0 elsewhere."""
        probabilities: Tensor = self.network(view.inputs()).sigmoid() * view.eligible
        return probabilities

    @torch.inference_mode()
    def select(self, view: View) -> Tensor:
        """Choose by the decision rule; a row with nothing chosen commits its most probable position."""
        logits = self.network(view.inputs())
        if self.decision == "deterministic":
            chosen = logits >= 0
        else:
            draw = uniform(view.key, view.step, (logits.shape[1],), stream=3)
            chosen = draw < logits.sigmoid()
        return ensure_progress(chosen, view.eligible, logits)


@dataclass(frozen=True)
class PolicyConfig:
    """What ``config.json`` holds.

    Attributes:
        network: architecture and inputs.
        decision: the decision rule to use by default.
        trained: model, tasks, block setting, steps, seed, evaluation: whatever the trainer recorded.
        format_version: of this file.
    """

    network: NetworkConfig
    decision: Decision = "deterministic"
    trained: dict[str, Any] = field(default_factory=dict)
    format_version: int = FORMAT_VERSION


def save(policy: LearnedPolicy, folder: str | Path, card: str = "") -> Path:
    """Write a policy folder; each file appears whole or not at all.

    Args:
        policy: what to save.
        folder: where; it is made, and files of the same names are replaced.
        card: the model card's Markdown.

    Returns:
        The folder.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    config = PolicyConfig(policy.network.config, policy.decision, policy.trained)
    weights = {name: tensor.contiguous() for name, tensor in policy.network.state_dict().items()}
    save_file(weights, folder / "model.safetensors.tmp", metadata={"format": "pt"})
    (folder / "config.json.tmp").write_text(json.dumps(asdict(config), indent=2) + "\n")
    (folder / "README.md.tmp").write_text(card or "An unmasking policy.\n")
    for name in ("model.safetensors", "config.json", "README.md"):
        os.replace(folder / f"{name}.tmp", folder / name)
    return folder


def load(folder: str | Path, decision: Decision | None = None, device: str = "cpu") -> LearnedPolicy:
    """Read a policy folder.

    Args:
        folder: made by `save`.
        decision: overrides the saved decision rule.
        device: where the network runs.

    Raises:
        FileNotFoundError: if a file of the folder is missing.
        ValueError: if a file is damaged or of another format; the message says which and why.
    """
    folder = Path(folder)
    for name in ("config.json", "model.safetensors"):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"policy is {str(folder)!r}: it has no {name}; give a folder made by training")
    config = _read_config(folder / "config.json")
    network = UnmaskingNetwork(config.network)
    try:
        network.load_state_dict(load_file(folder / "model.safetensors"))
    except (SafetensorError, RuntimeError) as error:
        raise ValueError(
            f"policy file {folder / 'model.safetensors'} is damaged or of another architecture: {error}"
        ) from error
    return LearnedPolicy(network.to(device), decision or config.decision, config.trained)


def _read_config(file: Path) -> PolicyConfig:
    try:
        data = json.loads(file.read_text())
        version = data["format_version"]
        if version != FORMAT_VERSION:
            raise ValueError(f"format_version is {version}, this release reads {FORMAT_VERSION}")
        known = {f.name for f in fields(NetworkConfig)}
        network: dict[str, Any] = data["network"] | {"features": tuple(data["network"]["features"])}
        if set(network) - known:
            raise ValueError(f"unknown network fields {sorted(set(network) - known)}")
        if not isinstance(data["trained"], dict):
            raise ValueError(f"trained is {data['trained']!r}, not a mapping")
        return PolicyConfig(NetworkConfig(**network), data["decision"], data["trained"])
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        raise ValueError(f"policy file {file} is damaged: {error!r}") from error
