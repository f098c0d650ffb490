"""Load a checkpoint into a class that transformers already has, without running the checkpoint's own code."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from envs.models.families.family import Family
from envs.models.weights import read_tensors


def load_native(
    family: Family, folder: Path, config: Mapping[str, Any], device: str, dtype: torch.dtype
) -> tuple[Any, dict[str, str]]:
    """Load a checkpoint tensor by tensor, straight to its device.

    Args:
        family: says which class, and how names and configuration translate.
        folder: the checkpoint's.
        config: its config.json.
        device: a torch device.
        dtype: of the weights.

    Returns:
        model: the causal language model; it needs explicit masks.
        names: the checkpoint's tensor names to the model's.

    Raises:
        ValueError: if the configuration is none that the class can stand for, or the tensors are not exactly those
            that it needs.
    """
    import transformers

    native = getattr(transformers, family.native_class)
    # Boolean masks are what this attention takes; the loop keeps no cache.
    settings = {**family.config_map(config), "use_cache": False, "attn_implementation": "sdpa"}
    with torch.device("meta"):
        model = native(native.config_class(**settings))
    model.name_or_path = str(folder)
    wanted = model.state_dict()
    names: dict[str, str] = {}
    for name, tensor in read_tensors(folder, device):
        target = family.key_map(name)
        if target not in wanted:
            raise ValueError(f"its weights hold {name}, which {family.native_class} has no place for")
        if not tensor.is_floating_point():
            raise ValueError(f"its weights hold {name} as {tensor.dtype}, but weights are floating-point numbers")
        if tensor.shape != wanted[target].shape:
            raise ValueError(
                f"its weights hold {name} of shape {tuple(tensor.shape)}, but config.json says "
                f"{tuple(wanted[target].shape)}"
            )
        # Assigned, not copied: the model is on the meta device, which has no memory to copy to.
        model.load_state_dict({target: tensor.to(device, dtype)}, strict=False, assign=True)
        names[name] = target
    if getattr(model.config, "tie_word_embeddings", False):
        # The embedding was replaced by the checkpoint's: the head still points at the old one.
        model.tie_weights()
    missing = [name for name, tensor in model.state_dict().items() if tensor.is_meta]
    if missing:
        raise ValueError(f"its weights lack {len(missing)} tensors, such as {missing[0]}")
    _fill_buffers(model, device)
    return model, names


def _fill_buffers(model: Any, device: str) -> None:
    """Compute what no checkpoint holds, the rotary tables: they came without values from the meta device."""
    for module in model.modules():
        if any(buffer.is_meta for buffer in module.buffers(recurse=False)):
            fresh = type(module)(config=model.config)
            for name, buffer in fresh.named_buffers(recurse=False):
                setattr(module, name, buffer.to(device))
