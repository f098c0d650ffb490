"""Dream, Fast-dLLM v2, SDAR and Tiny-A2D: Qwen's own tensors under another attention mask.

Their tensor names are those of transformers' Qwen2 or Qwen3, so only the configuration needs a look.

Source: the modelling code and model cards of Dream-org/Dream-v0-Instruct-7B (arXiv 2508.15487),
Efficient-Large-Model/Fast_dLLM_v2_7B (arXiv 2509.26328), JetLM/SDAR-8B-Chat (arXiv 2510.06303) and
dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1 and -bd3lm-v0.1.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from envs.models.families.family import Family

SIZES = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
OTHERS = (
    *("num_key_value_heads", "head_dim", "hidden_act", "max_position_embeddings", "rms_norm_eps", "rope_theta"),
    *("tie_word_embeddings", "attention_bias"),
)


def qwen_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what Qwen2Config or Qwen3Config needs of a checkpoint's config.json.

    Raises:
        ValueError: if a size is missing, some layers see through a sliding window, or the rotary positions are scaled.
    """
    missing = [name for name in SIZES if name not in config]
    if missing:
        raise ValueError(f"config.json lacks {missing[0]}")
    if config.get("use_sliding_window") or "sliding_attention" in (config.get("layer_types") or []):
        raise ValueError("config.json sets use_sliding_window: only full attention is supported")
    # transformers 5 writes rope_parameters, 4 rope_theta and rope_scaling.
    rope = config.get("rope_parameters") or {
        "rope_theta": config.get("rope_theta"),
        **(config.get("rope_scaling") or {}),
    }
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise ValueError(f"config.json scales rotary positions ({kind}): only default is supported")
    # A field that is null means the class's default, not None.
    known = {name: config[name] for name in (*SIZES, *OTHERS) if config.get(name) is not None}
    return known | ({"rope_theta": rope["rope_theta"]} if rope.get("rope_theta") is not None else {})


DREAM = Family(
    "dream",
    model_types=("Dream", "dream"),
    architectures=("DreamModel",),
    native_class="Qwen2ForCausalLM",
    config_map=qwen_config,
    tokenizer_class="Qwen2TokenizerFast",
    mask_token="<|mask|>",
    end_tokens=("<|im_end|>",),
    logit_shift=1,
    # The model card's; config.json has Qwen's 131072.
    max_length=2048,
)

FAST_DLLM_V2 = Family(
    "fast_dllm_v2",
    model_types=("Fast_dLLM_Qwen",),
    architectures=("Fast_dLLM_QwenForCausalLM",),
    native_class="Qwen2ForCausalLM",
    config_map=qwen_config,
    tokenizer_class="Qwen2TokenizerFast",
    mask_token="|<MASK>|",
    end_tokens=("<|im_end|>",),
    block_length=32,
    block_key="bd_size",
    block_origin="absolute",
    # A block's first token comes from the last position of the block before, which does not see the block.
    logit_shift=1,
)

SDAR = Family(
    "sdar",
    model_types=("sdar",),
    architectures=("SDARForCausalLM",),
    native_class="Qwen3ForCausalLM",
    config_map=qwen_config,
    tokenizer_class="Qwen2TokenizerFast",
    mask_token="<|MASK|>",
    end_tokens=("<|im_end|>",),
    block_length=4,
    block_key="block_size",
    block_origin="absolute",
)

A2D_MDLM = Family(
    "a2d_mdlm",
    model_types=("a2d-qwen3",),
    architectures=("A2DQwen3LMHeadModel",),
    native_class="Qwen3ForCausalLM",
    config_map=qwen_config,
    tokenizer_class="Qwen2TokenizerFast",
    mask_token="<|mask|>",
    end_tokens=("<|im_end|>",),
    chat_options={"enable_thinking": False},
)

A2D_BD3LM = replace(A2D_MDLM, name="a2d_bd3lm", block_length=32, block_key="block_size")
