"""Pretrain the embedded dLLM: a small bidirectional transformer with LLaDA's objective.

``python train/pretrain.py`` writes an ordinary Hugging Face checkpoint folder, ``OUT/model``, and resumes by itself
when run again with the same ``--out``; `train/model_card.py` measures it and writes its card.
``--objective causal`` trains a left-to-right model on the same problems instead, the guide of guided diffusion.
``torchrun --nproc-per-node 2 train/pretrain.py`` shares each batch between two single-threaded processes: on two idle
cores about 1.3 times faster than one process with two threads.

Source: Nie et al., "Large Language Diffusion Models", arXiv 2502.09992, Eq. 3 and Algorithm 2.

Departures from the paper:
1. Of a buffer's L positions exactly ``ceil(t L)`` are masked, t stratified over the batch, instead of each with
   probability t: the same expectation with less variance (the paper does so when it evaluates, Eq. 6). The weight
   1/t then makes a row's loss its mean cross-entropy over masked positions.
2. The buffer's length varies from batch to batch, so that the model decodes into buffers of several lengths.
3. Muon for matrices and AdamW for the rest instead of AdamW for all: it needs fewer steps.
"""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
)

from envs.tasks import SUITE, Task, make_tasks, vocabulary
from train import parallel
from train.progress import progress
from train.run_folder import write_json

TASK_WEIGHTS = {"copy": 0.25, "insert": 0.25, "remove": 0.25, "reverse": 0.5, "add": 10.0, "sudoku": 1.5}
"""How often a task is drawn, by the number of examples it needs; the others have weight 1."""

CAUSAL_LENGTH = 24
"""Answer positions of a causal model's sequences; every answer of the suite and its end-of-text fit."""


@dataclass(frozen=True)
class PretrainConfig:
    """What `pretrain` does."""

    out: Path = Path("runs/pretrain")
    """Folder for the checkpoint and the training state."""
    seed: int = 0
    """Seed of the weights and of the masks."""
    objective: Literal["diffusion", "causal"] = "diffusion"
    """diffusion trains a dLLM, causal an autoregressive model with the same tokenizer."""
    steps: int = 10_000
    """Optimiser steps."""
    batch_size: int = 64
    """Sequences a step, over all processes."""
    hidden_size: int = 128
    """Width of the transformer."""
    num_layers: int = 4
    """Layers of the transformer."""
    num_heads: int = 4
    """Attention heads a layer."""
    learning_rate: float = 5e-3
    """Peak learning rate of both optimisers (Muon's is scaled to match AdamW's update size)."""
    weight_decay: float = 0.05
    """Decoupled weight decay of the matrices."""
    warmup: float = 0.02
    """Share of the steps in which the learning rate rises from 0."""
    decay: float = 0.5
    """Share of the steps, at the end, in which it falls linearly to 0."""
    buffer_lengths: list[tuple[int, float]] = field(default_factory=lambda: [(33, 0.8), (64, 0.19), (256, 0.01)])
    """(buffer length, share of the steps) pairs; lengths over 64 use a smaller batch of as many tokens."""
    max_positions: int = 640
    """Longest prompt and buffer together."""
    threads: int = 1
    """Torch threads; 2 are slower than 1 when anything else runs on two cores."""
    save_every: int = 250
    """Steps between two savings of the training state."""


def build_tokenizer(tasks: list[Task]) -> PreTrainedTokenizerFast:
    """Build a tokenizer with one token a word of the tasks.

    Returns:
        A tokenizer whose ids 0 to 3 are padding, mask, end of text and unknown.
    """
    from tokenizers import Tokenizer, models, pre_tokenizers

    specials = ["[PAD]", "[MASK]", "[EOS]", "[UNK]"]
    words = [*specials, *vocabulary(tasks)]
    backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="[UNK]"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token="[PAD]",
        mask_token="[MASK]",
        eos_token="[EOS]",
        unk_token="[UNK]",
        padding_side="left",
        model_max_length=640,
    )


def build_guide(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    """Build a left-to-right transformer with random weights."""
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=2 * config.hidden_size,
            max_position_embeddings=config.max_positions,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
        )
    )


def build_model(config: PretrainConfig, tokenizer: PreTrainedTokenizerFast) -> RobertaPreLayerNormForMaskedLM:
    """Build the transformer with random weights.

    Chosen by CPU speed among transformers' bidirectional models (docs in ``benchmarks/architectures.py``); its
    position ids skip padding, so a left-padded row gives the same logits as the row alone.
    """
    return RobertaPreLayerNormForMaskedLM(
        RobertaPreLayerNormConfig(
            vocab_size=len(tokenizer),
            hidden_size=config.hidden_size,
            num_hidden_layers=config.num_layers,
            num_attention_heads=config.num_heads,
            intermediate_size=4 * config.hidden_size,
            max_position_embeddings=config.max_positions + 1,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
            type_vocab_size=1,
            pad_token_id=tokenizer.pad_token_id,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            mask_token_id=tokenizer.mask_token_id,
        )
    )


class ProblemStream:
    """Endless batches of training problems as token ids.

    Args:
        tokenizer: made by `build_tokenizer`.
        seed: seeds of the problems, the masks and the buffer lengths.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerFast, config: PretrainConfig, seed: list[int]) -> None:
        self.tasks = make_tasks(SUITE)
        self.vocab = tokenizer.get_vocab()
        self.eos_id, self.mask_id = tokenizer.eos_token_id, tokenizer.mask_token_id
        self.config = config
        self.rng = np.random.default_rng(seed)
        weights = np.array([TASK_WEIGHTS.get(task.name, 1.0) for task in self.tasks])
        self.weights = weights / weights.sum()

    def sequences(self, count: int, length: int) -> Tensor:
        """Draw problems of the training split.

        Returns:
            (count, 21 + length) int64 token ids, answers padded with end-of-text.
        """
        rows = []
        for which in self.rng.choice(len(self.tasks), size=count, p=self.weights):
            problem = self.tasks[which].problem("train", int(self.rng.integers(2**40)))
            answer = problem.answer.split()
            ids = [self.vocab[word] for word in problem.prompt.split() + answer]
            rows.append(ids + [self.eos_id] * (length - len(answer)))
        return torch.tensor(rows)

    def batch(self) -> tuple[Tensor, Tensor, Tensor]:
        """Draw one batch.

        Returns:
            inputs: (B, T) int64, answers partly masked.
            targets: (B, T) int64.
            masked: (B, T) bool, True where the loss counts.
        """
        lengths, shares = zip(*self.config.buffer_lengths, strict=True)
        length = int(self.rng.choice(lengths, p=shares))
        share = self.config.batch_size // parallel.world_size()
        count = max(1, min(share, share * 64 // length))
        targets = self.sequences(count, length)
        ratio = (self.rng.permutation(count) + 1 - self.rng.random()) / count  # (B,) in (0, 1], stratified
        quota = torch.from_numpy(np.ceil(ratio * length).clip(1, length)).long()
        order = torch.from_numpy(self.rng.random((count, length))).argsort(1).argsort(1)
        masked = torch.zeros_like(targets, dtype=torch.bool)
        masked[:, -length:] = order < quota[:, None]
        return targets.masked_fill(masked, self.mask_id), targets, masked


def diffusion_loss(logits: Tensor, targets: Tensor, masked: Tensor) -> Tensor:
    """LLaDA's training loss for one batch.

    Args:
        logits: (B, T, V) float.
        targets: (B, T) int64.
        masked: (B, T) bool, True at the masked answer positions; each row has at least one.

    Returns:
        Scalar, nats: mean over rows of ``1 / (t L) * sum of the masked positions' cross-entropy``, with t the
        row's share of masked positions.
    """
    rows = masked.nonzero(as_tuple=True)[0]
    loss = F.cross_entropy(logits[masked], targets[masked], reduction="none")
    return (loss / masked.sum(1)[rows]).sum() / len(masked)


def causal_loss(logits: Tensor, targets: Tensor, length: int, eos_id: int) -> Tensor:
    """Cross-entropy of each answer token, the first end-of-text included, given everything to its left.

    Args:
        logits: (B, T, V) float.
        targets: (B, T) int64.
        length: positions of the answer, at the end.
        eos_id: end-of-text token; what follows the first one is padding.

    Returns:
        Scalar, nats a token.
    """
    answer = targets[:, -length:]
    is_end = (answer == eos_id).int()
    counts = is_end.cumsum(1) - is_end == 0
    return F.cross_entropy(logits[:, -length - 1 : -1][counts], answer[counts])


def build_optimizers(model: PreTrainedModel, config: PretrainConfig) -> list[torch.optim.Optimizer]:
    """Give the transformer's matrices to Muon and everything else to AdamW."""
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2 and ".layer" in name]
    chosen = {id(p) for p in matrices}
    rest = [p for p in model.parameters() if id(p) not in chosen]
    return [
        torch.optim.Muon(
            matrices, lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
        ),
        torch.optim.AdamW(rest, lr=config.learning_rate, betas=(0.9, 0.98), weight_decay=0.0),
    ]


def learning_rate_factor(step: int, config: PretrainConfig) -> float:
    """Return the learning rate of a step as a share of its peak: rise, plateau, fall."""
    rise = (step + 1) / max(1.0, config.warmup * config.steps)
    fall = (config.steps - step) / max(1.0, config.decay * config.steps)
    return min(1.0, rise, fall)


def pretrain(config: PretrainConfig) -> Path:
    """Train the embedded dLLM, or go on where a killed run stopped.

    Returns:
        The checkpoint folder, ``config.out / "model"``.
    """
    torch.set_num_threads(config.threads)
    torch.manual_seed(config.seed)
    tokenizer = build_tokenizer(make_tasks(SUITE))
    is_causal = config.objective == "causal"
    model = (build_guide if is_causal else build_model)(config, tokenizer)
    optimizers = build_optimizers(model, config)
    state_file, start, elapsed = config.out / "state.pt", 0, 0.0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        start, elapsed = state["step"], state["elapsed"]
        model.load_state_dict(state["model"])
        for optimizer, saved in zip(optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(saved)
    # A resumed run draws new problems instead of replaying those it has seen.
    stream = ProblemStream(tokenizer, config, seed=[config.seed, start, parallel.rank()])
    if parallel.is_main():
        print(f"{sum(p.numel() for p in model.parameters()):,} parameters, steps {start} to {config.steps}", flush=True)
    began, average = time.monotonic() - elapsed, math.nan
    steps = range(start, config.steps)
    hidden = not parallel.is_main()
    for step in (bar := progress(steps, initial=start, total=config.steps, desc="training", disable=hidden)):
        for optimizer in optimizers:
            for group in optimizer.param_groups:
                group["lr"] = config.learning_rate * learning_rate_factor(step, config)
        if is_causal:
            targets = stream.sequences(config.batch_size // parallel.world_size(), CAUSAL_LENGTH)
            loss = causal_loss(model(input_ids=targets).logits, targets, CAUSAL_LENGTH, tokenizer.eos_token_id)
        else:
            inputs, targets, masked = stream.batch()
            loss = diffusion_loss(model(input_ids=inputs).logits, targets, masked)
        loss.backward()
        parallel.average_gradients(model.parameters())
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for optimizer in optimizers:
            optimizer.step()
            optimizer.zero_grad()
        average = loss.item() if math.isnan(average) else 0.98 * average + 0.02 * loss.item()
        bar.set_postfix(loss=f"{average:.4f}", refresh=False)
        if parallel.is_main() and ((step + 1) % config.save_every == 0 or step + 1 == config.steps):
            save(config, step + 1, time.monotonic() - began, model, optimizers, tokenizer)
            tqdm.write(f"step {step + 1} loss {average:.4f} seconds {time.monotonic() - began:.0f}")
    return config.out / "model"


def save(
    config: PretrainConfig,
    step: int,
    elapsed: float,
    model: PreTrainedModel,
    optimizers: list[torch.optim.Optimizer],
    tokenizer: PreTrainedTokenizerFast,
) -> None:
    """Write the checkpoint folder, then the training state, the latter atomically."""
    config.out.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(config.out / "model")
    tokenizer.save_pretrained(config.out / "model")
    facts = {"steps": step, "sequences": step * config.batch_size, "minutes": round(elapsed / 60), "seed": config.seed}
    write_json(config.out / "model" / "training.json", facts)
    state = {
        "step": step,
        "elapsed": elapsed,
        "model": model.state_dict(),
        "optimizers": [optimizer.state_dict() for optimizer in optimizers],
    }
    torch.save(state, config.out / "state.pt.tmp")
    os.replace(config.out / "state.pt.tmp", config.out / "state.pt")


if __name__ == "__main__":
    from train.cli import run

    with parallel.process_group("cpu"):
        run(pretrain, PretrainConfig)
