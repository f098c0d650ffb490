"""What each cache saves beside no cache: ``python benchmarks/caches.py``.

A random dLLM of LLaDA's class decodes random prompts of 32 tokens in blocks of 32, four tokens a forward, with every
cache in turn, all in one run. Positions are those that were really computed, seconds those of the whole decoding; both
as how many times less than with `none`, so a number below 1 is a loss. Random weights say nothing about accuracy.
"""

from __future__ import annotations

import time

import torch
from rich.console import Console
from rich.table import Table
from transformers import LlamaConfig, LlamaForCausalLM

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.models import Family
from envs.models.adapter import MaskedLMDenoiser
from envs.tasks import SUITE, make_tasks
from policies import make_rule
from policies.playing import play_out
from train.pretraining.architectures import build_tokenizer

CACHED = ("none", "prefix", "dual", "dual:refresh=4", "dkv")
LENGTHS, ROWS, PROMPT, BLOCK = (128, 256), (1, 32), 32, 32
FAMILY = Family("llada", native_class="LlamaForCausalLM")
"""LLaDA's, but for its tokenizer."""

REPEATS = {1: 2, 32: 1}
"""Decodings by rows, of which the fastest counts."""


def random_dllm() -> MaskedLMDenoiser:
    """Return a dLLM of 2 layers of width 128, with grouped heads."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(make_tasks(SUITE))
    config = LlamaConfig(
        vocab_size=256,
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        attn_implementation="sdpa",
    )
    return MaskedLMDenoiser(LlamaForCausalLM(config), tokenizer, FAMILY, name="random")


def decoded(denoiser: MaskedLMDenoiser, cache: str, rows: int, length: int) -> tuple[float, int]:
    """Return the seconds of decoding a batch to its end and the positions computed."""
    policy = make_rule("low_confidence:4")
    settings = DecodingSettings(length, BLOCK, early_end=False, cache=cache)
    policy, seconds = policy.bind(denoiser, settings), float("inf")
    draw = torch.Generator().manual_seed(1)
    prompts = torch.randint(10, 40, (rows, PROMPT), generator=draw).tolist()
    for _ in range(REPEATS[rows]):
        batch = DecodingBatch(denoiser, rows, settings)
        batch.load(range(rows), prompts)
        began = time.perf_counter()
        play_out(batch, policy)
        seconds = min(seconds, time.perf_counter() - began)
    return seconds, int(batch.token_positions.sum())


def main() -> None:
    """Print the table."""
    torch.set_num_threads(1)
    denoiser = random_dllm()
    decoded(denoiser, "dual", 1, BLOCK)  # the first forwards are slower
    title = f"random dLLM of LLaDA's class, blocks of {BLOCK}, one thread"
    table = Table(title=title, title_justify="left")
    for column in ("L", "rows", "cache", "positions", "seconds", "fewer positions", "faster"):
        table.add_column(column, justify="left" if column == "cache" else "right")
    for length in LENGTHS:
        for rows in ROWS:
            plain, all_positions = decoded(denoiser, "none", rows, length)
            for cache in CACHED:
                seconds, positions = (
                    (plain, all_positions) if cache == "none" else decoded(denoiser, cache, rows, length)
                )
                ratios = f"{all_positions / positions:.2f}", f"{plain / seconds:.2f}"
                table.add_row(f"{length}", f"{rows}", cache, f"{positions}", f"{seconds:.2f}", *ratios)
    Console(width=90).print(table)


if __name__ == "__main__":
    main()
