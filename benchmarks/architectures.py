"""CPU speed of transformers' bidirectional models at the embedded dLLM's size.

``python benchmarks/architectures.py`` prints milliseconds of a forward and of a training step, and their ratio to
BERT's in the same run. The embedded model is the fastest one whose position ids skip left padding by themselves.
"""

from __future__ import annotations

from train.command.starting import end_quietly

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from transformers import (
    BertConfig,
    BertForMaskedLM,
    DistilBertConfig,
    DistilBertForMaskedLM,
    EsmConfig,
    EsmForMaskedLM,
    ModernBertConfig,
    ModernBertForMaskedLM,
    PreTrainedModel,
    RobertaPreLayerNormConfig,
    RobertaPreLayerNormForMaskedLM,
)

from train.command.ranges import check_count

# The embedded dLLM's own; 85 is a prompt of its suite, 21 words, with a buffer of 64.
VOCAB, WIDTH, LAYERS, HEADS, LENGTH = 144, 128, 4, 4, 85


@dataclass
class ArchitecturesConfig:
    """How to time them.

    Attributes:
        rows: texts side by side.
        repeats: of each call; their median counts.
    """

    rows: int = 64
    repeats: int = 5

    def __post_init__(self) -> None:
        check_count(self, "rows", "repeats")


def build() -> dict[str, PreTrainedModel]:
    """Build each architecture with about 0.9 M parameters."""
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": WIDTH,
        "num_hidden_layers": LAYERS,
        "num_attention_heads": HEADS,
        "max_position_embeddings": 640,
        "pad_token_id": 0,
    }
    plain = {"intermediate_size": 4 * WIDTH, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    distil = DistilBertConfig(
        vocab_size=VOCAB, dim=WIDTH, n_layers=LAYERS, n_heads=HEADS, hidden_dim=4 * WIDTH, dropout=0.0
    )
    modern = ModernBertConfig(
        **sizes,
        # A gated layer has three matrices for two, so two thirds of the width is about as many parameters.
        intermediate_size=336,
        # Every other layer would see near positions only, and the others see all.
        global_attn_every_n_layers=1,
        bos_token_id=0,
        eos_token_id=0,
        cls_token_id=0,
        sep_token_id=0,
    )
    return {
        "BERT": BertForMaskedLM(BertConfig(**sizes, **plain)),
        "RoBERTa pre-LN": RobertaPreLayerNormForMaskedLM(RobertaPreLayerNormConfig(**sizes, **plain)),
        # ESM's token dropout would zero the masks' embeddings, of which a dLLM is shown many.
        "ESM": EsmForMaskedLM(EsmConfig(**sizes, **plain, token_dropout=False, mask_token_id=1)),
        "DistilBERT": DistilBertForMaskedLM(distil),
        "ModernBERT": ModernBertForMaskedLM(modern),
    }


def milliseconds(call: Callable[[], object], repeats: int) -> float:
    """Return the median time of a call, after one warm-up."""
    call()
    times = []
    for _ in range(repeats):
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    return 1000 * sorted(times)[repeats // 2]


def main(config: ArchitecturesConfig) -> None:
    """Time every architecture and print the table."""
    torch.set_num_threads(1)
    # From 4 on, so that none is padding (0), whose position ids some of the models skip.
    tokens = torch.randint(4, VOCAB, (config.rows, LENGTH))
    print(f"{'model':16}{'parameters':>12}{'forward ms':>12}{'/ BERT':>8}{'train ms':>10}{'/ BERT':>8}")
    first: tuple[float, float] | None = None
    for name, model in build().items():
        size = sum(p.numel() for p in model.parameters())

        def train_step(model: PreTrainedModel = model) -> None:
            model(input_ids=tokens).logits.square().mean().backward()

        def forward(model: PreTrainedModel = model) -> None:
            with torch.inference_mode():
                model(input_ids=tokens)

        train = milliseconds(train_step, config.repeats)
        infer = milliseconds(forward, config.repeats)
        first = first or (infer, train)
        print(f"{name:16}{size:12,}{infer:12.0f}{infer / first[0]:8.2f}{train:10.0f}{train / first[1]:8.2f}")


if __name__ == "__main__":
    from train.command.cli import run

    run(main, ArchitecturesConfig)
