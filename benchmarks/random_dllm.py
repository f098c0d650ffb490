"""A dLLM of LLaDA's class with random weights: what it writes means nothing, what it costs does."""

from __future__ import annotations

from train.command.starting import end_quietly

from typing import TYPE_CHECKING

import torch

from envs.models import Family
from envs.models.adapter import MaskedLMDenoiser
from envs.tasks import SUITE, make_tasks

if TYPE_CHECKING:
    from transformers import LlamaConfig


def random_dllm(config: LlamaConfig, device: str = "cpu", dtype: str = "float32", seed: int = 0) -> MaskedLMDenoiser:
    """Return it, with the tokenizer of the embedded suite.

    Args:
        config: its sizes.
        device: a torch device.
        dtype: of the weights.
        seed: of them.
    """
    from transformers import AutoModelForCausalLM

    from train.pretraining.architectures import build_tokenizer

    torch.manual_seed(seed)
    # Transformers' own, in which no dLLM reads: no checkpoint that is loaded has it either.
    config.use_cache = False
    # Made where it will be: billions of random numbers take minutes on a CPU.
    with torch.device(device):
        model = AutoModelForCausalLM.from_config(config, dtype=getattr(torch, dtype), attn_implementation="sdpa")
    # LLaDA's, but for its tokenizer.
    family = Family("llada", native_class="LlamaForCausalLM")
    return MaskedLMDenoiser(model.eval(), build_tokenizer(make_tasks(SUITE)), family, name="random")
