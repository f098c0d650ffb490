"""Checkpoints of apple/ml-rl-dllm, the released code of arXiv 2512.09106: read and written.

Such a folder holds ``model.safetensors``, thirty tensors under ``base_policy.``, and a ``config.json`` that says
nothing of the architecture, nor of how the policy decides. Their code takes both from the YAML that the policy was
trained with and from its command line; here they come from a ``policy.yaml`` beside the tensors, with the fields of
their YAML. Without one the period of the time embedding is 1 and the decision ``bernoulli-argmax``, as in every
configuration released.

A policy that was written comes back as it was, its deterministic decision too, though their code always draws; what
would make it decide otherwise even so is refused.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field
from safetensors.torch import save

from envs.readings import BEST_K
from policies.card import check_trained
from policies.distributions import ActionConfig, DistributionName
from policies.files import (
    MAX_NUMBER,
    MAX_SIZE,
    Checked,
    Header,
    check,
    plain_weights,
    read_header,
    read_settings,
    show,
    write_together,
)
from policies.formats.exporter import Exporter, ExportOptions
from policies.formats.weights import load_weights
from policies.learned import LearnedPolicy
from policies.networks.dit import DiTConfig, DiTNetwork
from policies.networks.kinds import NetworkSpec

PREFIX = "base_policy."

ARCHITECTURE = "PolicyHFWrapper"

MODES: Mapping[str, DistributionName] = MappingProxyType(
    {"bernoulli": "bernoulli", "bernoulli-argmax": "forced_bernoulli", "dpls": "plackett_luce"}
)
"""Values of their ``sampling_mode`` and the distributions that they name."""

OWN = "unmasking_policies"
"""Entry of config.json, which their code does not read, for what only policies here have: the way back."""


class MLRLDLLM(Exporter):
    """A checkpoint that the released code loads, for policies with the paper's network."""

    name = "ml_rl_dllm"

    def write(self, policy: LearnedPolicy, out: Path, options: ExportOptions) -> Mapping[str, str]:
        """Write a checkpoint; see `write_checkpoint`."""
        write_checkpoint(policy, out)
        if policy.decision == "deterministic":
            return {"decision": "deterministic, which only the way back knows: ml-rl-dllm always draws"}
        return {}


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder's ``config.json`` is one of theirs."""
    try:
        architectures = read_settings(folder / "config.json").get("architectures")
    except (OSError, ValueError):
        return False
    return isinstance(architectures, list) and ARCHITECTURE in architectures


def infer_config(header: Header, told: Mapping[str, Any]) -> DiTConfig:
    """Read the architecture off the tensors' shapes, and what they don't show from a ``policy.yaml``.

    Raises:
        ValueError: if they are of another network, such as one over hidden states.
    """

    def size(name: str, axis: int) -> int:
        if name not in header:
            raise ValueError(f"it has no tensor {PREFIX}{name}: only policies of type dit_confidence are read")
        shape = header[name][1]
        if axis >= len(shape) or not 1 <= shape[axis] <= MAX_SIZE:
            raise ValueError(f"{PREFIX}{name} has shape {show(shape)}, which is none of a dit_confidence policy's")
        return shape[axis]

    width = size("mask_embedding.weight", 1)
    inputs = size("confidence_proj.weight", 1)
    if inputs > BEST_K:
        raise _Unsupported(f"reads the best {inputs} probabilities, but policies here read {BEST_K} at most")
    return DiTConfig(
        hidden_size=width,
        # A rotary table has an entry for each pair of a head's numbers.
        num_heads=width // (2 * size("transformer_blocks.0.inv_freq", 0)),
        feedforward_size=size("transformer_blocks.0.linear1.weight", 0),
        num_blocks=len({name.split(".")[1] for name in header if name.startswith("transformer_blocks.")}),
        time_size=size("time_mlp.0.weight", 1),
        time_period=_number(told, "policy_time_period", 1.0),
        num_probabilities=inputs,
        bias=_number(told, "policy_smart_init", DiTConfig.bias),
    )


def read_checkpoint(folder: Path, time_period: float | None = None) -> LearnedPolicy:
    """Read a checkpoint.

    It decides as its evaluation does: sampled, by the ``sampling_mode`` of ``policy.yaml``.

    Args:
        folder: with ``model.safetensors``.
        time_period: ``policy_time_period`` of the YAML it was trained with; None takes that of ``policy.yaml``, or 1.

    Raises:
        ValueError: if a file is damaged or of another architecture, or says something that no policy here can do.
    """
    file = folder / "model.safetensors"
    told = _read_yaml(folder / "policy.yaml")
    if time_period is not None:
        told["policy_time_period"] = time_period
    try:
        own = _read_own(folder / "config.json")
    except ValueError as error:
        raise ValueError(f"policy file {folder / 'config.json'} is damaged: {error}") from error
    try:
        actions = _read_actions(told)
    except ValueError as error:
        raise ValueError(f"policy file {folder / 'policy.yaml'} is damaged: {error}") from error
    try:
        # The architecture stands in the tensors' shapes alone, so the header is read before there is a network.
        header = {name.removeprefix(PREFIX): about for name, about in read_header(file).items()}
        network = load_weights(file, NetworkSpec("dit", infer_config(header, told)), PREFIX)
    except _Unsupported as error:
        raise ValueError(f"policy file {file} {error}") from error
    except ValueError as error:
        raise ValueError(f"policy file {file} is damaged or of another architecture: {error}") from error
    return LearnedPolicy(network, actions=actions, **{"decision": "sample", "trained": {"format": "ml-rl-dllm"}, **own})


class _Unsupported(ValueError):
    """A whole checkpoint that their code takes, and policies here can't be."""


def _read_yaml(file: Path) -> dict[str, Any]:
    """Return the fields of a ``policy.yaml``; none where there is no such file."""
    try:
        told = read_settings(file) if file.is_file() else {}
    except ValueError as error:
        raise ValueError(f"policy file {file} is damaged: {error}") from error
    if told.get("policy_type", "dit_confidence") != "dit_confidence":
        kind = show(told["policy_type"])
        raise ValueError(f"policy file {file} has policy_type {kind}: only dit_confidence is read")
    if told.get("policy_full_context", True) is not True:
        raise ValueError(
            f"policy file {file} has policy_full_context {show(told['policy_full_context'])}: such a policy sees one "
            "block alone, but policies here see the whole buffer, so it would decide otherwise; only true is read"
        )
    return told


class _Own(Checked):
    """The form of the entry `OWN`."""

    model_config = ConfigDict(extra="forbid")

    decision: Literal["sample", "deterministic"] | None = None
    threshold: Annotated[float, Field(gt=0, lt=1)] | None = None
    trained: dict[str, Any] | None = None


def _read_own(file: Path) -> dict[str, Any]:
    """Return what `write_checkpoint` left in ``config.json`` of policies here: arguments of `LearnedPolicy`."""
    own: _Own = check(_Own, read_settings(file).get(OWN, {}), OWN)
    check_trained(own.trained or {})
    return {name: value for name, value in own if value is not None}


def _read_actions(told: Mapping[str, Any]) -> ActionConfig:
    """Return how a policy decides, by the fields of a ``policy.yaml``."""
    mode = told.get("sampling_mode", "bernoulli-argmax")
    if not isinstance(mode, str) or mode not in MODES:
        raise ValueError(f"policy.yaml has sampling_mode {show(mode)}: choose one of {', '.join(MODES)}")
    # Their ``temperature`` is the sampled token's; the policy's is an argument of their evaluation.
    temperature, stop = _number(told, "temperature_policy", 1.0), _number(told, "dpls_stop_logit", 0.0)
    return ActionConfig(MODES[mode], temperature, stop)


def _number(told: Mapping[str, Any], name: str, default: float) -> float:
    value = told.get(name)
    if value is None:
        return default
    # YAML takes 1e-3 for a text.
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    # Not "greater than", which NaN isn't.
    if isinstance(value, bool) or not abs(number) <= MAX_NUMBER:
        raise ValueError(f"policy.yaml has {name} {show(value)}: it must be a number, {MAX_NUMBER:g} at most")
    return number


def write_checkpoint(policy: LearnedPolicy, folder: Path) -> Path:
    """Write a checkpoint that the released code loads; its ``policy.yaml`` has the fields that their YAML needs.

    Returns:
        The folder.

    Raises:
        ValueError: if the policy's network is of another kind, or has other inputs than theirs can have, or weights
            that are not finite, or the policy decides in a way that their fields can't say; the message says what
            would be lost.
    """
    network = policy.network
    if not isinstance(network, DiTNetwork):
        raise ValueError(
            f"the policy's network is a {type(network).__name__}: ml-rl-dllm has only the paper's; train one with a "
            "dit section"
        )
    config = network.config
    if config.hidden_state_size or not (config.reads_time and config.reads_mask):
        raise ValueError(
            f"the policy's network has hidden_state_size {config.hidden_state_size}, reads_time {config.reads_time} "
            f"and reads_mask {config.reads_mask}: ml-rl-dllm has only networks over probabilities, time and mask bits; "
            "train such a one"
        )
    if policy.beta != 1:
        raise ValueError(
            f"the policy has beta {policy.beta}: ml-rl-dllm has no field for that, so it would be lost and the policy "
            "decide otherwise there; export it with beta 1, or as a folder"
        )
    weights = {PREFIX + name: values.float() for name, values in plain_weights(network).items()}
    # Here, not above: only who writes one needs it, for its version.
    import transformers

    about: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "model_type": "policy",
        "torch_dtype": "float32",
        "transformers_version": transformers.__version__,
        OWN: {"decision": policy.decision, "threshold": policy.threshold, "trained": policy.trained},
    }
    contents = {
        "model.safetensors": save(weights, {"format": "pt"}),
        "config.json": (json.dumps(about, indent=2) + "\n").encode(),
        "policy.yaml": _yaml(config, policy.actions).encode(),
    }
    write_together(folder, contents)
    return folder


def _yaml(config: DiTConfig, actions: ActionConfig) -> str:
    """Return the fields of their YAML that the tensors don't show or their code needs to build the network."""
    mode = next(mode for mode, distribution in MODES.items() if distribution == actions.distribution)
    # repr keeps every digit of a float.
    return f"""# This checkpoint's architecture and decisions, as fields of ml-rl-dllm's YAML: its config.json has none.
policy_type: dit_confidence
policy_hidden_dim: {config.hidden_size}
policy_feedforward_dim: {config.feedforward_size}
policy_num_heads: {config.num_heads}
policy_num_blocks: {config.num_blocks}
policy_time_embed_dim: {config.time_size}
policy_time_period: {float(config.time_period)!r}
confidences_top_p: {config.num_probabilities}
policy_smart_init: {float(config.bias)!r}
policy_full_context: true
sampling_mode: {mode}
dpls_stop_logit: {float(actions.stop_logit)!r}
# An argument of eval.py, no field of their configuration: --temperature_policy.
temperature_policy: {float(actions.temperature)!r}
"""
