"""Denoisers that say exactly what they are told, and short ways to decode with them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import places
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast, RobertaPreLayerNormForMaskedLM

from envs.decoding.batch import DecodingBatch
from envs.decoding.settings import DecodingSettings
from envs.episodes import Episode, Episodes
from envs.tasks import SUITE, make_tasks
from envs.view import Action, View
from train.pretraining.architectures import build_model, build_tokenizer
from train.pretraining.config import PretrainConfig

PAD, MASK, EOS, A, B, C, D = range(7)
V = 7
Rule = Callable[[list[int], list[int]], list[tuple[int, float]]]


class Placed:
    """Where the test runs."""

    @property
    def device(self) -> torch.device:
        return places.here


class HandWritten(Placed):
    """A denoiser that says for each buffer position (token, its probability), from the prompt and the buffer."""

    pad_id, mask_id, eos_id, end_ids, max_length = PAD, MASK, EOS, (EOS,), 64
    block_length, absolute_blocks, logit_shift = None, False, 0

    def __init__(self, rule: Rule) -> None:
        self.rule = rule
        self.seen: list[tuple[list[list[int]], list[list[bool]]]] = []

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        self.seen.append((tokens.tolist(), attention_mask.tolist()))
        logits = torch.zeros(len(tokens), length, V, device=tokens.device)
        for row, ids in enumerate(tokens.tolist()):
            prompt = [i for i in ids[:-length] if i != PAD]
            for position, (token, p) in enumerate(self.rule(prompt, ids[-length:])[:length]):
                logits[row, position] = math.log((1 - p) / (V - 2))
                logits[row, position, token] = math.log(p)
                logits[row, position, MASK] = 20.0
        return logits


def fixed(*believed: tuple[int, float]) -> Any:
    """Says the same of each position whatever it sees."""
    return HandWritten(lambda prompt, buffer: list(believed))


class Mixing(Placed):
    """A denoiser whose every answer changes with every token that is present, and is exact in any batch.

    What it says of padding changes with the width of the batch, so that a view that shows it is not the row's alone.
    """

    pad_id, mask_id, eos_id, end_ids, max_length = PAD, MASK, EOS, (EOS,), 64
    block_length, absolute_blocks, logit_shift = None, False, 0

    def __init__(self) -> None:
        self.seen: list[tuple[list[list[int]], list[list[bool]]]] = []

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int) -> Tensor:
        self.seen.append((tokens.tolist(), attention_mask.tolist()))
        place = attention_mask.cumsum(1) * attention_mask
        mixed = ((tokens + 2) * place * (place + 3)).sum(1).view(-1, 1, 1)
        place = torch.where(attention_mask, place, tokens.shape[1])[:, -length:].unsqueeze(-1)
        token = torch.arange(V, device=tokens.device)
        logits = (mixed * (token + 3) * 7 + place * (token + 5) * 11) % 101 * 0.06
        logits[..., PAD] = -20.0
        logits[..., EOS] -= 2.0  # else hardly a row lives long
        return logits


class SeedZero(Episodes):
    """Draws problems as always, but gives each the random numbers that decoding outside the env gives it."""

    def begin(self, *args: Any) -> list[Episode]:
        return [replace(episode, seed=0) for episode in super().begin(*args)]


def start(denoiser: Any, prompts: Sequence[Sequence[int]], length: int, **kwargs: Any) -> DecodingBatch:
    kwargs = {"block_length": length, **kwargs}
    batch = DecodingBatch(denoiser, len(prompts), DecodingSettings(length, **kwargs))
    batch.load(range(len(prompts)), prompts)
    return batch


def bits(*rows: str) -> Tensor:
    """Choices written like "x..x"."""
    return torch.tensor([[cell == "x" for cell in row] for row in rows], device=places.here)


def commit(batch: DecodingBatch, *rows: str) -> list[bool]:
    """One step; rows are written like "x..x"."""
    batch.forward()
    finished: list[bool] = batch.apply(Action(bits(*rows))).tolist()
    return finished


def act(batch: DecodingBatch, *rows: str, **action: Any) -> list[bool]:
    """One step of an action that also does something else than commit; see `Action`."""
    batch.forward()
    finished: list[bool] = batch.apply(Action(bits(*rows), **action)).tolist()
    return finished


def same_row(one: View, row: int, two: View, other: int) -> bool:
    """Tell whether a row of one view equals a row of another in all they hold, padding of prompts aside."""

    def flat(view: View) -> dict[str, Tensor]:
        values = {name: value for name, value in vars(view).items() if isinstance(value, Tensor)}
        tensors = {name: value for name, value in view.tensors.items() if name != "prompt"}
        return {**values, **view.features, **tensors, **view.memory}

    mine, theirs = flat(one), flat(two)
    return mine.keys() == theirs.keys() and all(torch.equal(mine[k][row], theirs[k][other]) for k in mine)


def tiny_model(
    max_positions: int = 48, num_layers: int = 2
) -> tuple[RobertaPreLayerNormForMaskedLM, PreTrainedTokenizerFast]:
    """A random model like the one that ships, but tiny, and with weights large enough to have opinions."""
    torch.manual_seed(0)
    tokenizer = build_tokenizer(make_tasks(SUITE))
    config = PretrainConfig(hidden_size=32, num_layers=num_layers, num_heads=2, max_positions=max_positions)
    model = build_model(config, tokenizer)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5)
    return model, tokenizer


class Context(Placed):
    """A denoiser whose predictions depend on the nearest known token that a position sees."""

    pad_id, mask_id, eos_id, end_ids, max_length, vocabulary = 0, 1, 2, (2,), 64, 13
    block_length, absolute_blocks, logit_shift = None, False, 0

    def __init__(self, with_end: bool = True) -> None:
        self.with_end = with_end

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        width = tokens.shape[1]
        sees = attention_mask if attention_mask.ndim == 3 else attention_mask[:, None].expand(-1, width, -1)
        numbers = (sees[:, 0].cumsum(1) - 1 if position_ids is None else position_ids).tolist()
        logits = torch.zeros(len(tokens), length, self.vocabulary, device=tokens.device)
        for row, ids in enumerate(tokens.tolist()):
            known = [j for j, token in enumerate(ids) if token != self.mask_id]
            for query in range(width - length, width):
                place, seen = numbers[row][query], sees[row, query].tolist()
                near = min((abs(numbers[row][j] - place), ids[j]) for j in known if seen[j])[1]
                heights = [(31 * near + 7 * place + 13 * token * (near + token)) % 23 / 4 for token in range(3, 13)]
                end = (5 * near + 11 * place) % 31 / 5 if self.with_end else 0.0
                logits[row, query - width, 2:] = torch.tensor([end, *heights], device=tokens.device)
        return logits

    def logits_and_hidden(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        raise NotImplementedError

    def logits_and_attention(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """A known token is paid twice what a mask is, and nothing that is more than two positions away."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        near = (place - place.unsqueeze(1)).abs() <= 2
        weights = near * (1.0 + (tokens != self.mask_id)).unsqueeze(1) * attention_mask.unsqueeze(1)
        return self.logits(tokens, attention_mask, length), weights / weights.sum(-1, keepdim=True).clamp(min=1)

    def encode_prompt(self, prompt: str) -> list[int]:
        return self.encode_text(prompt)

    def encode_text(self, text: str) -> list[int]:
        return [3 + int(word) for word in text.split()]

    def decode(self, tokens: list[int]) -> str:
        end = tokens.index(self.eos_id) if self.eos_id in tokens else len(tokens)
        return " ".join(str(token - 3) for token in tokens[:end])

    def token_strings(self, tokens: list[int]) -> list[str]:
        return [str(token) for token in tokens]


NUMBERS = [" ".join(str((i * k) % 10) for k in (1, 3, 7)[: 1 + i % 3]) for i in range(18)]


def whole(*values: int) -> Tensor:
    """Whole numbers, one a row."""
    return torch.tensor(values)


def blocks(batch: DecodingBatch, row: int = 0) -> tuple[int, int, int]:
    """Where a row's block begins and ends, and the steps that it has had."""
    return int(batch.block_start[row]), int(batch.block_end[row]), int(batch.block_step[row])
