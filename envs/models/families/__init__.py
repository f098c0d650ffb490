"""The table of families, and which of them a checkpoint belongs to."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from envs.models.families.family import PLAIN, Family
from envs.models.families.llada import LLADA
from envs.models.families.qwen import A2D_BD3LM, A2D_MDLM, DREAM, FAST_DLLM_V2, SDAR
from envs.names import hint

MODERNBERT = Family(
    "modernbert",
    model_types=("modernbert",),
    architectures=("ModernBertForMaskedLM",),
    route="masked_lm",
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
            raise ValueError(f"family is {family!r}: {hint(family, FAMILIES)}")
        return FAMILIES[family]
    told = [config.get("model_type"), *architectures_of(config)]
    fits = [one for one in FAMILIES.values() if _is_meant(one, told)]
    if len(fits) <= 1:
        return fits[0] if fits else PLAIN
    # The two Tiny-A2D models share a config.json; their repositories end in mdlm and bd3lm.
    named = [one for one in fits if one.name.rpartition("_")[2] in name.lower()]
    if len(named) != 1:
        choices = " or ".join(one.name for one in fits)
        raise ValueError(f"model is {name!r}: its config.json does not say which model it is; set family to {choices}")
    return named[0]


def _is_meant(family: Family, told: Sequence[Any]) -> bool:
    return any(word in (*family.model_types, *family.architectures) for word in told)


def architectures_of(config: Mapping[str, Any]) -> list[Any]:
    """Return the ``architectures`` of a config.json, none where it has no list of them."""
    told = config.get("architectures")
    return told if isinstance(told, list) else []


def check_supported(config: Mapping[str, Any], family: Family) -> None:
    """Refuse what would load as something that it is not, or not at all.

    Args:
        config: a checkpoint's config.json.
        family: that it is taken for.

    Raises:
        ValueError: if it is quantised, or is taken for a masked language model and is none of transformers'.
    """
    check_unquantised(config)
    if family.is_masked_lm:
        check_kind(config, "masked")


def check_unquantised(config: Mapping[str, Any]) -> None:
    """Refuse a checkpoint that says it is quantised.

    Raises:
        ValueError: naming the method.
    """
    told = config.get("quantization_config")
    if told:
        method = told.get("quant_method") if isinstance(told, Mapping) else told
        raise ValueError(
            f"config.json says that it is quantised ({method}), which is not supported; give the one that it was "
            "made from, in bfloat16, float16 or float32"
        )


def check_kind(config: Mapping[str, Any], kind: Literal["masked", "causal"]) -> None:
    """Refuse a config.json that describes no language model of transformers of this kind.

    Raises:
        ValueError: saying what it is instead.
    """
    from transformers.models.auto import modeling_auto

    known = {
        "masked": modeling_auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES,
        "causal": modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
    }
    model_type, names = str(config.get("model_type")), architectures_of(config)
    # Some types have models of both kinds.
    is_other = kind == "masked" and any(str(name).endswith("ForCausalLM") for name in names)
    if model_type in known[kind] and not is_other:
        return
    if kind == "causal":
        raise ValueError(f"config.json describes a model of type {model_type!r}, which is no causal language model")
    if model_type in known["causal"]:
        raise ValueError(
            f"config.json describes {names[0] if names else model_type}, a causal language model and no dLLM; give a "
            "checkpoint trained to fill in masks, or set family if it is one under another name"
        )
    own_code = " (its own code is not run)" if config.get("auto_map") else ""
    raise ValueError(
        f"config.json describes a model of type {model_type!r}{own_code}, which is none of the families "
        f"{', '.join(name for name in FAMILIES if name != PLAIN.name)} and no masked language model of transformers; "
        "set family if it is one of them under another name"
    )
