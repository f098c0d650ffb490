"""LLaDA-8B and LLaDA-1.5: a LLaMA without the causal mask, under OLMo's names.

Source: the modelling code of GSAI-ML/LLaDA-8B-Instruct (arXiv 2502.09992) and GSAI-ML/LLaDA-1.5 (arXiv 2505.19223).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from envs.models.families.family import Family

EXPECTED: Mapping[str, Any] = {
    "block_type": "llama",
    "layer_norm_type": "rms",
    "activation_type": "silu",
    "rope": True,
    "alibi": False,
    "include_bias": False,
    "bias_for_layer_norm": False,
    "attention_layer_norm": False,
    "input_emb_norm": False,
    "scale_logits": False,
}
"""What config.json must say, where it says anything, for the model to be a LLaMA."""

NEEDED = ("d_model", "n_heads", "n_layers", "vocab_size")

TOP = {
    "transformer.wte.weight": "model.embed_tokens.weight",
    "transformer.ln_f.weight": "model.norm.weight",
    # Within a block the same name is the feedforward's.
    "transformer.ff_out.weight": "lm_head.weight",
}

IN_BLOCK = {
    "attn_norm": "input_layernorm",
    "ff_norm": "post_attention_layernorm",
    "q_proj": "self_attn.q_proj",
    "k_proj": "self_attn.k_proj",
    "v_proj": "self_attn.v_proj",
    "attn_out": "self_attn.o_proj",
    "ff_proj": "mlp.gate_proj",
    "up_proj": "mlp.up_proj",
    "ff_out": "mlp.down_proj",
}


def llada_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the LlamaConfig of a LLaDA config.json.

    Raises:
        ValueError: if a size is missing or the model is no LLaMA.
    """
    missing = [name for name in NEEDED if name not in config]
    if missing:
        raise ValueError(f"config.json lacks {missing[0]}")
    for name, value in EXPECTED.items():
        # bias_for_layer_norm may be null, which means as include_bias.
        if config.get(name, value) not in (value, None):
            raise ValueError(f"config.json sets {name} to {config[name]!r}: only {value!r} is supported")
    heads = config["n_heads"]
    kv_heads = config.get("n_kv_heads") or (1 if config.get("multi_query_attention") else heads)
    return {
        "vocab_size": config.get("embedding_size") or config["vocab_size"],
        "hidden_size": config["d_model"],
        "intermediate_size": config.get("mlp_hidden_size") or config.get("mlp_ratio", 4) * config["d_model"],
        "num_hidden_layers": config["n_layers"],
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": config.get("max_sequence_length", 1024),
        "rms_norm_eps": config.get("rms_norm_eps", 1e-5),
        "rope_theta": config.get("rope_theta", 10000.0),
        "attention_bias": bool(config.get("include_qkv_bias", False)),
        "tie_word_embeddings": bool(config.get("weight_tying", True)),
    }


def llada_key(key: str) -> str:
    """Return a tensor's name in LlamaForCausalLM.

    >>> llada_key("model.transformer.blocks.3.ff_out.weight")
    'model.layers.3.mlp.down_proj.weight'
    """
    name = key.removeprefix("model.")
    block = re.fullmatch(r"transformer\.blocks\.(\d+)\.(\w+)\.(weight|bias)", name)
    if block is None or block[2] not in IN_BLOCK:
        # An unknown name goes on as it is: the loader refuses what the class has no place for.
        return TOP.get(name, key)
    return f"model.layers.{block[1]}.{IN_BLOCK[block[2]]}.{block[3]}"


LLADA = Family(
    "llada",
    model_types=("llada",),
    architectures=("LLaDAModelLM",),
    native_class="LlamaForCausalLM",
    config_map=llada_config,
    key_map=llada_key,
    tokenizer_class="PreTrainedTokenizerFast",
    mask_token="<|mdm_mask|>",
    end_tokens=("<|eot_id|>",),
)
