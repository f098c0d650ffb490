"""The table of families, and which of them a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from envs.models.family import PLAIN, Family
from envs.models.llada import LLADA
from envs.models.qwen import A2D_BD3LM, A2D_MDLM, DREAM, FAST_DLLM_V2, SDAR

MODERNBERT = Family(
    "modernbert",
    model_types=("modernbert",),
    architectures=("ModernBertForMaskedLM",),
    route="masked_lm",
    eos_tokens=("eos_token_id", "sep_token_id"),
    # Several tokens, so decoding can't stop there; source: dllm-hub/ModernBERT-large-chat-v0.1.
    stop_strings=("[/Answer]",),
    sees_far=False,
)

LLADA2 = Family(
    "llada2",
    model_types=("llada2_moe",),
    architectures=("LLaDA2MoeModelLM",),
    route="remote",
    mask_token="<|mask|>",
    end_tokens=("<|role_end|>",),
    block_length=32,
    block_key="block_size",
    block_origin="absolute",
)
"""Source: inclusionAI/LLaDA2.0-mini (arXiv 2512.15745)."""

FAMILIES: Mapping[str, Family] = {
    family.name: family for family in (PLAIN, LLADA, DREAM, FAST_DLLM_V2, SDAR, A2D_MDLM, A2D_BD3LM, MODERNBERT, LLADA2)
}
"""Every family by name."""


def find_family(config: Mapping[str, Any], name: str, family: str | None = None) -> Family:
    """Return the family of a checkpoint.

    Args:
        config: its config.json.
        name: the model's name; it decides where config.json leaves several families open.
        family: the family's name where the user gives it.

    Raises:
        ValueError: if there is no family of that name, or several fit and the name tells nothing.
    """
    if family is not None:
        if family not in FAMILIES:
            raise ValueError(f"family is {family!r}: choose one of {', '.join(FAMILIES)}")
        return FAMILIES[family]
    known = {config.get("model_type"), *(config.get("architectures") or [])}
    fits = [one for one in FAMILIES.values() if known & {*one.model_types, *one.architectures}]
    if len(fits) <= 1:
        return fits[0] if fits else PLAIN
    named = [one for one in fits if one.name.rpartition("_")[2] in name.lower()]
    if len(named) != 1:
        choices = " or ".join(one.name for one in fits)
        raise ValueError(f"model is {name!r}: its config.json does not say which model it is; set family to {choices}")
    return named[0]
