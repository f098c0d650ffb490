"""Random blocks as an engine shows them, and what our decoder commits of them."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from denoisers import EOS, MASK, PAD, A, V
from networks import perturbed
from torch import Tensor

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from policies import LearnedPolicy, NetworkConfig
from policies.distributions import ActionConfig
from policies.formats import EXPORTERS
from policies.formats.engine import Engine
from policies.formats.exporter import ExportOptions

FEATURES = ("is_eos", "entropy", "margin", "repeated", "eos_probability", "logit_gap")


SIZES = range(4, 65)


ROWS = 200


CONFIG = NetworkConfig(hidden_size=16, features=FEATURES, context="block")

ENGINES = {name: one for name, one in EXPORTERS.items() if isinstance(one, Engine)}


def write_engine(policy: LearnedPolicy, engine: str, folder: Path, **options: Any) -> Path:
    """Export a policy for an engine; returns the folder, which pip takes."""
    EXPORTERS[engine].write(policy, folder, ExportOptions(**options))
    return folder


def policy_of(**more: Any) -> LearnedPolicy:
    return LearnedPolicy(perturbed(replace(CONFIG, **more), 0.1))


class Told:
    """A dLLM that says of each row's block what it is told, whatever it is shown."""

    pad_id, mask_id, eos_id, end_ids, max_length = PAD, MASK, EOS, (EOS,), 256
    block_length, absolute_blocks = None, False
    device = torch.device("cpu")

    def __init__(self, logits: Tensor, known: Tensor) -> None:
        self.told, self.known = logits, known

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        # A prompt begins with the number of its row.
        rows = tokens.gather(1, attention_mask.int().argmax(1, keepdim=True)) - V
        columns = self.known[rows] + torch.arange(length)
        return self.told[rows, columns.clamp(max=self.told.shape[1] - 1)]


def blocks_of(size: int, rows: int = ROWS) -> tuple[Tensor, Tensor, Tensor]:
    """Draw blocks as engines show them: logits (B, N, V), tokens (B, N), and how many of them are prompt, (B,)."""
    draws = torch.Generator().manual_seed(size)
    logits = 3 * torch.randn(rows, size, V, generator=draws)
    logits[: rows // 4] = logits[: rows // 4].round()  # ties, within a position and between positions
    near = slice(rows // 4, rows // 2)
    logits[near] = logits[near].round() + 1e-4 * torch.randn(logits[near].shape, generator=draws)
    logits[rows // 2 : rows // 2 + rows // 8] = logits[0, :1]  # every position says the same
    logits[-20:] = logits[-20:].to(torch.bfloat16).float()
    known = torch.randint(0, size, (rows,), generator=draws)
    known[::3] = 0
    tokens = torch.randint(A, V, (rows, size), generator=draws)
    inside = torch.arange(size) >= known.unsqueeze(1)
    share = torch.rand(rows, 1, generator=draws)
    is_mask = inside & (torch.rand(rows, size, generator=draws) < share)
    is_mask[torch.arange(rows), known] = True
    return logits, tokens.masked_fill(is_mask, MASK), known


def load(batch: DecodingBatch, tokens: Tensor, known: Tensor) -> None:
    """Load blocks, each after a whole block of prompt, so that there is one where the block has none."""
    rows, size = tokens.shape
    parts = list(enumerate(zip(tokens.tolist(), known.tolist(), strict=True)))
    prompts = [[V + row] + [A] * (size - 1) + block[:part] for row, (block, part) in parts]
    batch.load(range(rows), prompts, given=[block[part:] for _, (block, part) in parts])


def decided(policy: LearnedPolicy, logits: Tensor, tokens: Tensor, known: Tensor) -> Tensor:
    """Return the (B, N) blocks after a step of the decoder, prompt and buffer as the engine's one block."""
    rows, size = tokens.shape
    settings = DecodingSettings(
        size, size, 0.0, policy.features, early_end=False, window="truncated", block_origin="absolute"
    )
    batch = DecodingBatch(Told(logits, known), rows, settings)  # type: ignore[arg-type]
    load(batch, tokens, known)
    batch.apply(policy.bind(batch.denoiser, settings).act(batch.forward()))
    after = tokens.clone()
    for row, part in enumerate(known.tolist()):
        after[row, part:] = batch.buffer[row, : size - part]
    return after


POLICIES = {
    "untrained": LearnedPolicy(perturbed(CONFIG, 0.0)),
    "trained": policy_of(),
    "random start": policy_of(init="random", bias=0.5),
    "no features": policy_of(features=()),
    "never": policy_of().changed(beta=0.3),
    "turns": policy_of().changed(actions=ActionConfig("plackett_luce", 0.7, 0.4), threshold=0.6),
    "coins": policy_of().changed(actions=ActionConfig("bernoulli", 2.0), threshold=0.8),
    "dial": policy_of(has_dial=True).changed(speed=0.75),
}


@cache
def expected(name: str, size: int) -> Tensor:
    return decided(POLICIES[name], *blocks_of(size))
