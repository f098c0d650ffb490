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
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from envs.beliefs import BEST_K
from policies.actions import ActionConfig, DistributionName
from policies.dit import DiTConfig, DiTNetwork

if TYPE_CHECKING:
    from policies.learned import LearnedPolicy

PREFIX = "base_policy."

ARCHITECTURE = "PolicyHFWrapper"

MODES: Mapping[str, DistributionName] = MappingProxyType(
    {"bernoulli": "bernoulli", "bernoulli-argmax": "forced_bernoulli", "dpls": "plackett_luce"}
)
"""Values of their ``sampling_mode`` and the distributions that they name."""

OWN = "unmasking_policies"
"""Entry of config.json, which their code does not read, for what only policies here have: the way back."""


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder's ``config.json`` is one of theirs."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and ARCHITECTURE in (config.get("architectures") or ())


def infer_config(weights: dict[str, Tensor], told: Mapping[str, Any]) -> DiTConfig:
    """Read the architecture off the tensors' shapes, and what they don't show from a ``policy.yaml``.

    Raises:
        ValueError: if they are of another network, such as one over hidden states.
    """
    try:
        width = weights["mask_embedding.weight"].shape[1]
        return DiTConfig(
            hidden_size=width,
            num_heads=width // (2 * len(weights["transformer_blocks.0.inv_freq"])),
            feedforward_size=weights["transformer_blocks.0.linear1.weight"].shape[0],
            num_blocks=len({name.split(".")[1] for name in weights if name.startswith("transformer_blocks.")}),
            time_size=weights["time_mlp.0.weight"].shape[1],
            time_period=_number(told, "policy_time_period", 1.0),
            num_probabilities=weights["confidence_proj.weight"].shape[1],
            bias=_number(told, "policy_smart_init", DiTConfig.bias),
        )
    except KeyError as error:
        missing = PREFIX + str(error.args[0])
        raise ValueError(f"it has no tensor {missing}: only policies of type dit_confidence are read") from None


def read_checkpoint(folder: Path, time_period: float | None = None) -> LearnedPolicy:
    """Read a checkpoint.

    It decides as its evaluation does: sampled, by the ``sampling_mode`` of ``policy.yaml``.

    Args:
        folder: with ``model.safetensors``.
        time_period: ``policy_time_period`` of the YAML it was trained with; None takes that of ``policy.yaml``, or 1.

    Raises:
        ValueError: if a file is damaged or of another architecture, or says something that no policy here can do.
    """
    from policies.learned import LearnedPolicy

    file = folder / "model.safetensors"
    told = _read_yaml(folder / "policy.yaml")
    if time_period is not None:
        told["policy_time_period"] = time_period
    try:
        actions, own = _read_actions(told), _read_own(folder / "config.json")
        weights = {name.removeprefix(PREFIX): values.float() for name, values in load_file(file).items()}
        _check_inputs(weights)
        network = DiTNetwork(infer_config(weights, told))
        network.load_state_dict(weights)
    except _Unsupported as error:
        raise ValueError(f"policy file {file} {error}") from error
    except (SafetensorError, RuntimeError, ValueError, IndexError, ZeroDivisionError) as error:
        raise ValueError(f"policy file {file} is damaged or of another architecture: {error}") from error
    return LearnedPolicy(network, actions=actions, **{"decision": "sample", "trained": {"format": "ml-rl-dllm"}, **own})


class _Unsupported(ValueError):
    """A whole checkpoint that their code takes, and policies here can't be."""


def _check_inputs(weights: Mapping[str, Tensor]) -> None:
    inputs = weights["confidence_proj.weight"].shape[-1] if "confidence_proj.weight" in weights else 0
    if inputs > BEST_K:
        raise _Unsupported(f"reads the best {inputs} probabilities, but policies here read {BEST_K} at most")


def _read_yaml(file: Path) -> dict[str, Any]:
    """Return the fields of a ``policy.yaml``; none where there is no such file."""
    try:
        told = yaml.safe_load(file.read_text()) if file.is_file() else {}
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        place = str(error).splitlines()[0]
        raise ValueError(f"policy file {file} is no YAML: {place}") from error
    if not isinstance(told, dict):
        raise ValueError(f"policy file {file} is damaged: it holds {told!r}, not fields of ml-rl-dllm's YAML")
    if told.get("policy_type", "dit_confidence") != "dit_confidence":
        raise ValueError(f"policy file {file} has policy_type {told['policy_type']!r}: only dit_confidence is read")
    if told.get("policy_full_context", True) is not True:
        raise ValueError(
            f"policy file {file} has policy_full_context {told['policy_full_context']!r}: such a policy sees one block "
            "alone, but policies here see the whole buffer, so it would decide otherwise; only true is read"
        )
    return told


def _read_own(file: Path) -> dict[str, Any]:
    """Return what `write_checkpoint` left in ``config.json`` of policies here: arguments of `LearnedPolicy`."""
    own = json.loads(file.read_text()).get(OWN, {})
    kinds = {"decision": str, "threshold": float, "trained": dict}
    if not isinstance(own, dict) or any(not isinstance(value, kinds.get(key, ())) for key, value in own.items()):
        raise ValueError(f"config.json has {OWN} {own!r}: it must hold a decision, a threshold and trained")
    return own


def _read_actions(told: Mapping[str, Any]) -> ActionConfig:
    """Return how a policy decides, by the fields of a ``policy.yaml``."""
    mode = told.get("sampling_mode", "bernoulli-argmax")
    if str(mode) not in MODES:
        raise ValueError(f"policy.yaml has sampling_mode {mode!r}: choose one of {', '.join(MODES)}")
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
    except (TypeError, ValueError):
        number = math.nan
    if isinstance(value, bool) or not math.isfinite(number):
        raise ValueError(f"policy.yaml has {name} {value!r}: it must be a number")
    return number


def write_checkpoint(policy: LearnedPolicy, folder: Path) -> Path:
    """Write a checkpoint that the released code loads; its ``policy.yaml`` has the fields that their YAML needs.

    Returns:
        The folder.

    Raises:
        ValueError: if the policy's network is of another kind, or has other inputs than theirs can have, or the policy
            decides in a way that their fields can't say; the message says what would be lost.
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
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    weights = {PREFIX + name: values.float().contiguous() for name, values in network.state_dict().items()}
    about: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "model_type": "policy",
        "torch_dtype": "float32",
        "transformers_version": transformers.__version__,
        OWN: {"decision": policy.decision, "threshold": policy.threshold, "trained": policy.trained},
    }
    save_file(weights, folder / "model.safetensors.tmp", metadata={"format": "pt"})
    (folder / "config.json.tmp").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "policy.yaml.tmp").write_text(_yaml(config, policy.actions))
    for name in ("model.safetensors", "config.json", "policy.yaml"):
        os.replace(folder / f"{name}.tmp", folder / name)
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
