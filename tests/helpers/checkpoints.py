"""Tiny random checkpoints in each family's own format on disk: names, config.json, tokenizer files, chat template.

``python tests/helpers/checkpoints.py llada /tmp/llada_tiny`` writes one to try the commands on; the families are those
of `BUILDERS`. Their tokenizers spell bytes, so any text goes in and out. Nothing here uses the library's own tables.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from torch import Tensor

HIDDEN, HEADS, KV_HEADS, LAYERS, INNER, ROWS = 64, 4, 2, 2, 96, 320
HEAD = HIDDEN // HEADS

LLADA_TEMPLATE = (
    "{% for message in messages %}{% set content = '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + "
    "message['content'] | trim + '<|eot_id|>' %}{% if loop.first %}{% set content = bos_token + content %}{% endif %}"
    "{{ content }}{% endfor %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}"
)
"""Ends in the assistant's header whatever it is asked, as LLaDA's does."""

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think>\n\n</think>\n\n' }}{% endif %}{% endif %}"
)


def byte_alphabet() -> list[str]:
    """The 256 characters that stand for bytes."""
    return sorted(pre_tokenizers.ByteLevel.alphabet())


def write_json(file: Path, value: Any) -> None:
    file.write_text(json.dumps(value, indent=1, ensure_ascii=False))


def added(tokens: list[str], first: int) -> dict[str, dict[str, Any]]:
    """``added_tokens_decoder`` of special tokens numbered from `first`."""
    flags = {"lstrip": False, "normalized": False, "rstrip": False, "single_word": False, "special": True}
    return {str(first + i): {"content": token, **flags} for i, token in enumerate(tokens)}


def write_llada_tokenizer(folder: Path) -> None:
    """A tokenizer.json; the mask is a token like another, and declared nowhere."""
    tokens = ["<|startoftext|>", "<|endoftext|>", "<|mdm_mask|>"]
    tokens += ["<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(byte_alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(tokens)
    backend.save(str(folder / "tokenizer.json"))
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": added(tokens, 256),
            "bos_token": "<|startoftext|>",
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            "chat_template": LLADA_TEMPLATE,
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
    )


def write_qwen_tokenizer(folder: Path, mask: str, tokenizer_class: str, mask_is_declared: bool) -> None:
    """A vocab.json and a merges.txt, without a tokenizer.json."""
    tokens = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", mask]
    vocabulary = {char: i for i, char in enumerate([*byte_alphabet(), "th", "in"])}
    write_json(folder / "vocab.json", vocabulary)
    (folder / "merges.txt").write_text("#version: 0.2\nt h\ni n\n")
    write_json(
        folder / "tokenizer_config.json",
        {
            "added_tokens_decoder": added(tokens, len(vocabulary)),
            "additional_special_tokens": tokens[1:],
            "bos_token": None,
            "eos_token": "<|endoftext|>",
            "pad_token": "<|endoftext|>",
            **({"mask_token": mask} if mask_is_declared else {}),
            "chat_template": CHATML,
            "model_max_length": 2048,
            "tokenizer_class": tokenizer_class,
        },
    )


def draw(shapes: Mapping[str, tuple[int, ...]], seed: int) -> dict[str, Tensor]:
    """Random tensors large enough to have opinions; norms near 1."""
    generator = torch.Generator().manual_seed(seed)

    def one(name: str, shape: tuple[int, ...]) -> Tensor:
        values = torch.randn(shape, generator=generator)
        if len(shape) == 1:
            return 1 + 0.2 * values if "norm" in name or "ln_f" in name else 0.5 * values
        return values * (1.0 if shape[0] == ROWS else 1.5 / shape[1] ** 0.5)

    return {name: one(name, shape) for name, shape in shapes.items()}


def llada_shapes() -> dict[str, tuple[int, ...]]:
    block = {
        "attn_norm.weight": (HIDDEN,),
        "ff_norm.weight": (HIDDEN,),
        "q_proj.weight": (HIDDEN, HIDDEN),
        "k_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "v_proj.weight": (KV_HEADS * HEAD, HIDDEN),
        "attn_out.weight": (HIDDEN, HIDDEN),
        "ff_proj.weight": (INNER, HIDDEN),
        "up_proj.weight": (INNER, HIDDEN),
        "ff_out.weight": (HIDDEN, INNER),
    }
    top = {"wte.weight": (ROWS, HIDDEN), "ln_f.weight": (HIDDEN,), "ff_out.weight": (ROWS, HIDDEN)}
    shapes = {f"model.transformer.{name}": shape for name, shape in top.items()}
    return shapes | {
        f"model.transformer.blocks.{i}.{name}": shape for i in range(LAYERS) for name, shape in block.items()
    }


def qwen_shapes(has_bias: bool, has_qk_norm: bool, is_tied: bool) -> dict[str, tuple[int, ...]]:
    layer: dict[str, tuple[int, ...]] = {
        "input_layernorm.weight": (HIDDEN,),
        "post_attention_layernorm.weight": (HIDDEN,),
        "mlp.gate_proj.weight": (INNER, HIDDEN),
        "mlp.up_proj.weight": (INNER, HIDDEN),
        "mlp.down_proj.weight": (HIDDEN, INNER),
        "self_attn.o_proj.weight": (HIDDEN, HIDDEN),
    }
    for name, width in (("q", HIDDEN), ("k", KV_HEADS * HEAD), ("v", KV_HEADS * HEAD)):
        layer[f"self_attn.{name}_proj.weight"] = (width, HIDDEN)
        if has_bias:
            layer[f"self_attn.{name}_proj.bias"] = (width,)
    if has_qk_norm:
        layer |= {"self_attn.q_norm.weight": (HEAD,), "self_attn.k_norm.weight": (HEAD,)}
    shapes: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (ROWS, HIDDEN), "model.norm.weight": (HIDDEN,)}
    if not is_tied:
        shapes["lm_head.weight"] = (ROWS, HIDDEN)
    return shapes | {f"model.layers.{i}.{name}": shape for i in range(LAYERS) for name, shape in layer.items()}


def write_shards(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Two files and their index, as large checkpoints come."""
    names = sorted(tensors)
    shards = {
        "model-00001-of-00002.safetensors": names[: len(names) // 2],
        "model-00002-of-00002.safetensors": names[len(names) // 2 :],
    }
    for file, held in shards.items():
        save_file({name: tensors[name] for name in held}, folder / file, metadata={"format": "pt"})
    write_json(
        folder / "model.safetensors.index.json",
        {"metadata": {}, "weight_map": {name: file for file, held in shards.items() for name in held}},
    )


def write_llada(folder: Path, **changes: Any) -> None:
    """As GSAI-ML/LLaDA-8B-Instruct."""
    config = {
        "activation_type": "silu",
        "alibi": False,
        "architectures": ["LLaDAModelLM"],
        "attention_layer_norm": False,
        "auto_map": {"AutoConfig": "configuration_llada.LLaDAConfig", "AutoModel": "modeling_llada.LLaDAModelLM"},
        "bias_for_layer_norm": False,
        "block_type": "llama",
        "d_model": HIDDEN,
        "embedding_size": ROWS,
        "eos_token_id": 257,
        "include_bias": False,
        "include_qkv_bias": False,
        "input_emb_norm": False,
        "layer_norm_type": "rms",
        "mask_token_id": 258,
        "max_sequence_length": 2048,
        "mlp_hidden_size": INNER,
        "mlp_ratio": 4,
        "model_type": "llada",
        "n_heads": HEADS,
        "n_kv_heads": KV_HEADS,
        "n_layers": LAYERS,
        "pad_token_id": 257,
        "rms_norm_eps": 1e-5,
        "rope": True,
        "rope_theta": 500000.0,
        "scale_logits": False,
        "use_cache": False,
        "vocab_size": ROWS,
        "weight_tying": False,
    }
    write_json(folder / "config.json", config | changes)
    write_llada_tokenizer(folder)
    write_shards(folder, draw(llada_shapes(), seed=1))


def write_qwen(
    folder: Path,
    config: Mapping[str, Any],
    mask: str,
    tokenizer_class: str,
    is_qwen3: bool,
    is_tied: bool = False,
    mask_is_declared: bool = False,
) -> None:
    sizes = {
        "attention_dropout": 0.0,
        "hidden_act": "silu",
        "hidden_size": HIDDEN,
        "intermediate_size": INNER,
        "max_position_embeddings": 2048,
        "num_attention_heads": HEADS,
        "num_hidden_layers": LAYERS,
        "num_key_value_heads": KV_HEADS,
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1000000.0,
        "tie_word_embeddings": is_tied,
        "use_sliding_window": False,
        "vocab_size": ROWS,
        **({"head_dim": HEAD, "attention_bias": False} if is_qwen3 else {}),
    }
    write_json(folder / "config.json", {**sizes, **config})
    write_qwen_tokenizer(folder, mask, tokenizer_class, mask_is_declared)
    shapes = qwen_shapes(has_bias=not is_qwen3, has_qk_norm=is_qwen3, is_tied=is_tied)
    save_file(draw(shapes, seed=2), folder / "model.safetensors", metadata={"format": "pt"})


def write_dream(folder: Path, **changes: Any) -> None:
    """As Dream-org/Dream-v0-Instruct-7B."""
    config = {
        "architectures": ["DreamModel"],
        "auto_map": {"AutoConfig": "configuration_dream.DreamConfig", "AutoModel": "modeling_dream.DreamModel"},
        "bos_token_id": 258,
        "eos_token_id": 258,
        "mask_token_id": 261,
        "max_window_layers": 28,
        "model_type": "Dream",
        "pad_token_id": 258,
        "sliding_window": None,
    }
    write_qwen(folder, config | changes, "<|mask|>", "DreamTokenizer", is_qwen3=False, mask_is_declared=True)


def write_fast_dllm_v2(folder: Path, **changes: Any) -> None:
    """As Efficient-Large-Model/Fast_dLLM_v2_1.5B: tied, and the mask is named nowhere."""
    config = {
        "architectures": ["Fast_dLLM_QwenForCausalLM"],
        "bd_size": 8,
        "layer_types": ["full_attention"] * LAYERS,
        "model_type": "Fast_dLLM_Qwen",
    }
    write_qwen(folder, config | changes, "|<MASK>|", "Qwen2Tokenizer", is_qwen3=False, is_tied=True)


def write_sdar(folder: Path, **changes: Any) -> None:
    """As JetLM/SDAR-1.7B-Chat."""
    config = {"architectures": ["SDARForCausalLM"], "block_size": 4, "model_type": "sdar"}
    write_qwen(folder, config | changes, "<|MASK|>", "Qwen2Tokenizer", is_qwen3=True)


def write_a2d(folder: Path, **changes: Any) -> None:
    """As dllm-hub/Qwen3-0.6B-diffusion-mdlm-v0.1 and, with the same config.json, -bd3lm-v0.1."""
    config = {"architectures": ["A2DQwen3LMHeadModel"], "model_type": "a2d-qwen3"}
    write_qwen(folder, config | changes, "<|mask|>", "Qwen2Tokenizer", is_qwen3=True, is_tied=True)


def write_modernbert(folder: Path, **changes: Any) -> None:
    """As dllm-hub/ModernBERT-large-chat-v0.1, by transformers' own class."""
    from transformers import ModernBertConfig, ModernBertForMaskedLM, PreTrainedTokenizerFast

    tokens = ["[PAD]", "[MASK]", "[CLS]", "[SEP]", "[UNK]"]
    backend = Tokenizer(models.BPE({char: i for i, char in enumerate(byte_alphabet())}, []))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(tokens)
    names = {"pad_token": "[PAD]", "mask_token": "[MASK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="[UNK]", **names)
    tokenizer.chat_template = (
        "{{ '[CLS]' }}{% for m in messages %}{{ '[Question]' + m['content'] + '[/Question]' }}{% endfor %}"
    )
    torch.manual_seed(3)
    sizes = {"hidden_size": HIDDEN, "intermediate_size": INNER, "num_hidden_layers": 3, "num_attention_heads": HEADS}
    ids = {"pad_token_id": 256, "cls_token_id": 258, "sep_token_id": 259, "bos_token_id": 258, "eos_token_id": 259}
    options: dict[str, Any] = {"vocab_size": ROWS, "local_attention": 8, "initializer_range": 0.3, **sizes, **ids}
    model = ModernBertForMaskedLM(ModernBertConfig(**options | changes))
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


BUILDERS: Mapping[str, Callable[..., None]] = {
    "llada": write_llada,
    "dream": write_dream,
    "fast_dllm_v2": write_fast_dllm_v2,
    "sdar": write_sdar,
    "a2d": write_a2d,
    "modernbert": write_modernbert,
}


def build(family: str, folder: Path, **changes: Any) -> Path:
    """Write a tiny checkpoint.

    Args:
        family: a name of `BUILDERS`.
        folder: where to; it is made.
        **changes: fields of config.json to set otherwise.
    """
    folder.mkdir(parents=True, exist_ok=True)
    BUILDERS[family](folder, **changes)
    return folder


if __name__ == "__main__":
    if len(sys.argv) != 3 or sys.argv[1] not in BUILDERS:
        sys.exit(f"usage: python tests/helpers/checkpoints.py {'|'.join(BUILDERS)} FOLDER")
    print(build(sys.argv[1], Path(sys.argv[2])))  # noqa: T201
