"""The architectures that `train.pretrain` trains: tokenizer, random weights, forward and checkpoint of each.

``roberta`` is transformers' fastest bidirectional class on a CPU (`benchmarks/architectures.py`); its position ids skip
padding by themselves. ``llada`` is LLaDA's: transformers' Llama class under an explicit mask, written under LLaDA's own
names, so that it is loaded as the released checkpoints are. ``causal`` is the same class under its own causal mask.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from safetensors import SafetensorError
from safetensors.torch import save
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import Tensor, nn
from transformers import (
    AttentionInterface,
    AttentionMaskInterface,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
)
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from envs.models.adapter import MaskedLMDenoiser
from envs.models.attention import attention, position_numbers
from envs.models.families.llada import IN_BLOCK, TOP
from envs.models.load import load_denoiser
from envs.tasks import Task, vocabulary
from train.command.errors import UserError
from train.command.files import write_atomic, write_json

if TYPE_CHECKING:
    from train.pretraining.config import PretrainConfig

Architecture = Literal["roberta", "llada"]

_ATTENTION = "sdpa_float32"


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **options: Any
) -> tuple[Tensor, Tensor | None]:
    """Attend in float32 whatever is autocast: a CPU's backward is two to three times slower in bfloat16."""
    with torch.autocast(query.device.type, enabled=False):
        attended: tuple[Tensor, Tensor | None] = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **options
        )
        return attended


AttentionInterface.register(_ATTENTION, _attend)
AttentionMaskInterface.register(_ATTENTION, sdpa_mask)


def build_tokenizer(tasks: list[Task], architecture: Architecture = "roberta") -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token a word of the tasks.

    Returns:
        A tokenizer whose first ids are the special tokens, padding first. LLaDA pads with its end of text, and has a
        token that ends a turn.
    """
    if architecture == "llada":
        names = {"pad_token": "<|endoftext|>", "eos_token": "<|endoftext|>", "mask_token": "<|mdm_mask|>"}
        specials = ["<|endoftext|>", "<|mdm_mask|>", "<|eot_id|>", "[UNK]"]
    else:
        names = {"pad_token": "[PAD]", "eos_token": "[EOS]", "mask_token": "[MASK]"}
        specials = ["[PAD]", "[MASK]", "[EOS]", "[UNK]"]
    words = [*specials, *vocabulary(tasks)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    extra = {"additional_special_tokens": ["<|eot_id|>"]} if architecture == "llada" else {}
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, unk_token="[UNK]", padding_side="left", model_max_length=640, **names, **extra
    )


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> PreTrainedModel:
    """Build the transformer with random weights."""
    if config.objective == "causal" or config.architecture == "llada":
        return _build_llama(config, tokenizer)
    return RobertaPreLayerNormForMaskedLM(
        RobertaPreLayerNormConfig(
            **_sizes(config, tokenizer),
            intermediate_size=config.inner_size or 4 * config.hidden_size,
            # RoBERTa numbers positions from its padding's id + 1, which is 1 here.
            max_position_embeddings=config.max_positions + 1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            type_vocab_size=1,
            mask_token_id=tokenizer.mask_token_id,
        )
    )


def start_from(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, name: str) -> None:
    """Give a model the weights of a checkpoint of the same architecture, its embeddings word by word.

    Words that the checkpoint does not know keep their random embeddings, so that a suite may change its words.

    Args:
        model: made by `build_model`; changed in place.
        tokenizer: made by `build_tokenizer`.
        name: checkpoint folder, or the name of an embedded dLLM.

    Raises:
        UserError: if the checkpoint has other tensors than the model.
        DenoiserError: if it can't be loaded.
    """
    known = load_denoiser(name)
    if not isinstance(known, MaskedLMDenoiser):
        raise UserError(f"init is {name!r}, which has no weights: give a checkpoint folder")
    own, theirs = model.state_dict(), known.model.state_dict()
    ids, words = known.tokenizer.get_vocab(), tokenizer.get_vocab()
    shared = [word for word in words if word in ids]
    here, there = (torch.tensor([table[word] for word in shared], dtype=torch.int64) for table in (words, ids))
    by_word = {
        tensor.data_ptr()
        for module in (model.get_input_embeddings(), model.get_output_embeddings())
        for tensor in module.parameters()
    }
    for key, tensor in own.items():
        found = theirs.get(key)
        is_by_word = tensor.data_ptr() in by_word
        if found is None or found.shape[is_by_word:] != tensor.shape[is_by_word:]:
            shape = None if found is None else tuple(found.shape)
            raise UserError(
                f"init is {name!r}, whose {key} has shape {shape}, not {tuple(tensor.shape)}: "
                "give a checkpoint of the same architecture and sizes"
            )
        if is_by_word:
            tensor[here] = found[there]
        else:
            tensor.copy_(found)


def _sizes(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> dict[str, Any]:
    """Return what both kinds of configuration call by one name."""
    return {
        "vocab_size": len(tokenizer),
        "hidden_size": config.hidden_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "pad_token_id": tokenizer.pad_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": None,
    }


def _build_llama(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return LlamaForCausalLM(
        LlamaConfig(
            **_sizes(config, tokenizer),
            intermediate_size=config.inner_size or 2 * config.hidden_size,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            use_cache=False,
            attn_implementation=_ATTENTION,
        )
    )


def answer_logits(model: PreTrainedModel, inputs: Tensor, present: Tensor, asked: Tensor) -> Tensor:
    """Run a dLLM forward in which every position sees all that is not padding.

    Args:
        model: a ``roberta`` or ``llada`` model.
        inputs: (B, T) int64, left-padded.
        present: (B, T) bool, False on padding.
        asked: (B, T) bool, the positions to answer about.

    Returns:
        (M, V) float, a row for each asked position, row by row.
    """
    if isinstance(model, LlamaForCausalLM):
        states = model.model(inputs, attention_mask=attention(present, None), position_ids=position_numbers(present))
        logits: Tensor = model.lm_head(states.last_hidden_state[asked])
        return logits
    # Without padding no mask is passed: the attention kernel is faster then.
    seen = None if bool(present.all()) else present.long()
    answered: Tensor = model(input_ids=inputs, attention_mask=seen).logits
    return answered[asked]


def save_checkpoint(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path, is_llada: bool) -> None:
    """Write a checkpoint folder: ``config.json``, ``model.safetensors`` and the tokenizer's files.

    Raises:
        OSError: if it can't be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save_pretrained(folder)
    if is_llada:
        _save_llada(model, tokenizer, folder)
    else:
        _save_native(model, folder)


def _save_native(model: PreTrainedModel, folder: Path) -> None:
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:
        # Of the disk it tells in words only: "I/O error: No space left on device (os error 28)".
        found = re.search(r"os error (\d+)", str(error))
        if found is None:
            raise
        raise OSError(int(found[1]), os.strerror(int(found[1])), str(folder)) from error


def _save_llada(model: PreTrainedModel, tokenizer: PreTrainedTokenizerFast, folder: Path) -> None:
    config = model.config
    facts = {
        "activation_type": "silu",
        "architectures": ["LLaDAModelLM"],
        "block_type": "llama",
        "d_model": config.hidden_size,
        "embedding_size": config.vocab_size,
        "eos_token_id": tokenizer.eos_token_id,
        "include_bias": False,
        "include_qkv_bias": False,
        "layer_norm_type": "rms",
        "mask_token_id": tokenizer.mask_token_id,
        "max_sequence_length": config.max_position_embeddings,
        "mlp_hidden_size": config.intermediate_size,
        "model_type": "llada",
        "n_heads": config.num_attention_heads,
        "n_kv_heads": config.num_key_value_heads,
        "n_layers": config.num_hidden_layers,
        "pad_token_id": tokenizer.pad_token_id,
        "rms_norm_eps": config.rms_norm_eps,
        "rope": True,
        "rope_theta": config.rope_parameters["rope_theta"],
        "scale_logits": False,
        "vocab_size": config.vocab_size,
        "weight_tying": True,
    }
    write_json(folder / "config.json", facts)
    # safetensors refuses tensors that are not in one piece.
    tensors = {_llada_name(name): tensor.contiguous() for name, tensor in model.state_dict().items()}
    tensors.pop("model.transformer.ff_out.weight")  # is the embedding
    write_atomic(folder / "model.safetensors", save(tensors, {"format": "pt"}))


def _llada_name(name: str) -> str:
    """Return LLaDA's name of a tensor of LlamaForCausalLM, the inverse of `envs.models.families.llada.llada_key`.

    >>> _llada_name("model.layers.3.mlp.down_proj.weight")
    'model.transformer.blocks.3.ff_out.weight'
    """
    top = {native: own for own, native in TOP.items()}
    if name in top:
        return f"model.{top[name]}"
    _, _, number, *path = name.removesuffix(".weight").split(".")
    own = {native: own for own, native in IN_BLOCK.items()}[".".join(path)]
    return f"model.transformer.blocks.{number}.{own}.weight"
