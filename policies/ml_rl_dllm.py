"""Checkpoints of apple/ml-rl-dllm, the released code of arXiv 2512.09106: read and written.

Such a folder holds ``model.safetensors``, thirty tensors under ``base_policy.``, and a ``config.json`` that says
nothing of the architecture. The tensors' shapes do, but for the period of the time embedding: that is read from a
``policy.yaml`` beside them, with the fields of their YAML, or is 1 as in every configuration released.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from policies.dit import DiTConfig, DiTNetwork

if TYPE_CHECKING:
    from policies.learned import LearnedPolicy

PREFIX = "base_policy."

ARCHITECTURE = "PolicyHFWrapper"


def is_checkpoint(folder: Path) -> bool:
    """Tell whether a folder's ``config.json`` is one of theirs."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(config, dict) and ARCHITECTURE in (config.get("architectures") or ())


def infer_config(weights: dict[str, Tensor], time_period: float) -> DiTConfig:
    """Read the architecture off the tensors' shapes.

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
            time_period=time_period,
            num_probabilities=weights["confidence_proj.weight"].shape[1],
        )
    except KeyError as error:
        missing = PREFIX + str(error.args[0])
        raise ValueError(f"it has no tensor {missing}: only policies of type dit_confidence are read") from None


def read_checkpoint(folder: Path, time_period: float | None = None) -> LearnedPolicy:
    """Read a checkpoint.

    It decides as its evaluation does: sampled, and the likeliest position where nothing is drawn.

    Args:
        folder: with ``model.safetensors``.
        time_period: ``policy_time_period`` of the YAML it was trained with; None takes that of ``policy.yaml``, or 1.

    Raises:
        ValueError: if the file is damaged or of another architecture.
    """
    from policies.learned import LearnedPolicy

    file, sizes = folder / "model.safetensors", folder / "policy.yaml"
    try:
        if time_period is None:
            told = yaml.safe_load(sizes.read_text()) if sizes.is_file() else {}
            time_period = float(told.get("policy_time_period", 1.0))
        weights = {name.removeprefix(PREFIX): values.float() for name, values in load_file(file).items()}
        network = DiTNetwork(infer_config(weights, time_period))
        network.load_state_dict(weights)
    except (SafetensorError, RuntimeError, ValueError) as error:
        raise ValueError(f"policy file {file} is damaged or of another architecture: {error}") from error
    return LearnedPolicy(network, "sample", {"format": "ml-rl-dllm"})


def write_checkpoint(policy: LearnedPolicy, folder: Path) -> Path:
    """Write a checkpoint that the released code loads; its ``policy.yaml`` has the fields that their YAML needs.

    Returns:
        The folder.

    Raises:
        ValueError: if the policy's network is of another kind, or has other inputs than theirs can have.
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
    import transformers

    folder.mkdir(parents=True, exist_ok=True)
    weights = {PREFIX + name: values.float().contiguous() for name, values in network.state_dict().items()}
    about: dict[str, Any] = {
        "architectures": [ARCHITECTURE],
        "model_type": "policy",
        "torch_dtype": "float32",
        "transformers_version": transformers.__version__,
    }
    save_file(weights, folder / "model.safetensors.tmp", metadata={"format": "pt"})
    (folder / "config.json.tmp").write_text(json.dumps(about, indent=2) + "\n")
    (folder / "policy.yaml.tmp").write_text(_yaml(config))
    for name in ("model.safetensors", "config.json", "policy.yaml"):
        os.replace(folder / f"{name}.tmp", folder / name)
    return folder


def _yaml(config: DiTConfig) -> str:
    """Return the fields of their YAML that say the architecture."""
    return f"""# The architecture of this checkpoint, as fields of ml-rl-dllm's YAML: its config.json has none.
policy_type: dit_confidence
policy_hidden_dim: {config.hidden_size}
policy_feedforward_dim: {config.feedforward_size}
policy_num_heads: {config.num_heads}
policy_num_blocks: {config.num_blocks}
policy_time_embed_dim: {config.time_size}
policy_time_period: {config.time_period:g}
confidences_top_p: {config.num_probabilities}
policy_smart_init: {config.bias:g}
policy_full_context: true
"""
