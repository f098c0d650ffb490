"""A policy's folder: read whoever wrote it, and written as `policies.save` does. Never a pickle."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from envs.models.device import check_device
from envs.models.hub import is_hub_id
from policies.base import Decision
from policies.calibration import Calibration
from policies.card import check_trained
from policies.distributions import ActionConfig
from policies.files import MAX_NUMBER, check, parse, read_settings
from policies.formats.exporter import Exporter, ExportOptions
from policies.formats.ml_rl_dllm import is_checkpoint, read_checkpoint
from policies.formats.weights import load_weights
from policies.hub import fetch_policy
from policies.learned import FORMAT_VERSION, LearnedPolicy, save
from policies.networks.config import check_has_width
from policies.networks.kinds import Described, NetworkSpec

SHIPPED: Mapping[str, Path] = {
    file.parent.name: file.parent for file in sorted((Path(__file__).parents[1] / "checkpoints").glob("*/config.json"))
}
"""Folders of the policies that ship with the package, by name."""


class Folder(Exporter):
    """What `load` reads, such as of a checkpoint of others."""

    name = "folder"

    def write(self, policy: LearnedPolicy, out: Path, options: ExportOptions) -> Mapping[str, str]:
        """Save the policy."""
        save(policy, out)
        return {}


def load(
    folder: str | Path,
    decision: Decision | None = None,
    device: str = "cpu",
    threshold: float | None = None,
    temperature: float | None = None,
    beta: float | None = None,
    *,
    revision: str | None = None,
    any_dllm: bool = False,
) -> LearnedPolicy:
    """Read a policy folder.

    Args:
        folder: made by `save`, a checkpoint of apple/ml-rl-dllm (`policies.formats.ml_rl_dllm`), the name of a policy
            that ships (``"tiny"``), or a repository of the Hugging Face hub (``"user/name"``).
        decision: overrides the saved decision rule.
        device: where the network runs.
        threshold: overrides the saved threshold.
        temperature: overrides the saved temperature of its decisions.
        beta: overrides the saved factor on its probabilities.
        revision: commit, branch or tag of a hub repository; None is the newest.
        any_dllm: decode with dLLMs of other kinds than it was trained for too.

    Raises:
        FileNotFoundError: if a file of the folder is missing, or the hub does not give it.
        ValueError: if a file is damaged or of another format, and the message says which and why, or torch can't use
            the device here.
    """
    folder = locate(folder, revision)
    for name in ("config.json", "model.safetensors"):
        try:
            found = (folder / name).is_file()
        except OSError:  # a name that is too long
            found = False
        if not found:
            what = f"it has no {name}" if os.path.isdir(folder) else "there is no such folder"
            raise FileNotFoundError(
                f"policy is {str(folder)[:200]!r}: {what}; give a folder made by training, or one of "
                f"{', '.join(SHIPPED)}"
            )
    check_device(device)
    policy = read_checkpoint(folder) if is_checkpoint(folder) else _read(folder)
    policy.network.to(device)
    given = {"decision": decision, "threshold": threshold, "temperature": temperature, "beta": beta}
    return policy.changed(any_dllm=any_dllm, **{name: value for name, value in given.items() if value is not None})


def locate(folder: str | Path, revision: str | None = None) -> Path:
    """Return where a policy's files are: the folder, that of one that ships, or the hub's cache.

    Raises:
        FileNotFoundError: if the hub does not give what is no folder.
        ValueError: if it is neither a name nor a path.
    """
    if not isinstance(folder, str | Path):
        raise ValueError(f"policy is {folder!r}: give a folder, or the name of one that ships or lies on the hub")
    if str(folder) in SHIPPED:
        return SHIPPED[str(folder)]
    # Unlike Path's, False for what no name can be.
    if not os.path.exists(folder) and is_hub_id(str(folder)):
        return fetch_policy(str(folder), revision)
    return Path(folder)


class _Settings(Described):
    """The form of config.json."""

    decision: Literal["sample", "deterministic"]
    threshold: Annotated[float, Field(gt=0, lt=1)]
    speed: Annotated[float, Field(ge=0, le=1)]
    calibration: list[Any] | None
    actions: dict[str, Any]
    beta: Annotated[float, Field(gt=0, le=MAX_NUMBER)]
    trained: dict[str, Any]


def _read(folder: Path) -> LearnedPolicy:
    try:
        settings, spec = _read_config(folder / "config.json")
    except ValueError as error:
        raise ValueError(f"policy file {folder / 'config.json'} is damaged: {error}") from error
    try:
        # After the settings, which say what sizes its header must have.
        network = load_weights(folder / "model.safetensors", spec)
    except ValueError as error:
        raise ValueError(
            f"policy file {folder / 'model.safetensors'} is damaged or of another architecture: {error}"
        ) from error
    try:
        return LearnedPolicy(network, **settings)
    except ValueError as error:
        raise ValueError(f"policy file {folder / 'config.json'} is damaged: {error}") from error


def _read_config(file: Path) -> tuple[dict[str, Any], NetworkSpec]:
    """Return arguments of `LearnedPolicy` and what to build, of which nothing is built."""
    data = read_settings(file)
    if data.get("format_version") != FORMAT_VERSION or isinstance(data["format_version"], bool):
        given = data.get("format_version", "missing")
        raise ValueError(f"format_version is {given!r}, this release reads {FORMAT_VERSION}")
    found: _Settings = check(_Settings, data)
    check_trained(found.trained)
    settings = {name: getattr(found, name) for name in ("decision", "threshold", "speed", "beta", "trained")}
    points = found.calibration
    settings["calibration"] = None if points is None else Calibration.from_plain(points)
    settings["actions"] = parse(ActionConfig, found.actions, "actions")
    spec = NetworkSpec.read(data)
    for part in spec.parts():
        check_has_width(part.config.hidden_state_size)
    return settings, spec
