"""A denoiser without weights: deterministic, instant, and exact in any batch. For tests and examples."""

from __future__ import annotations

import torch
from torch import Tensor

from envs.tasks import SUITE, make_tasks, vocabulary
from envs.tasks.suite.form import EMPTY


class ToyDenoiser:
    """Predicts that the answer copies the prompt's cells; its confidence is a hash of what it sees.

    The confidence at a position changes with the prompt, the position and the number of committed tokens, and
    takes eleven values from about 0.02 to 0.998, so decoding rules have something to choose between.
    """

    pad_id, mask_id, eos_id = 0, 1, 2
    end_ids: tuple[int, ...] = (eos_id,)
    block_length: int | None = None
    absolute_blocks = False
    logit_shift = 0
    max_length = 4096
    hidden_size = 1

    def __init__(self, device: torch.device | str = "cpu") -> None:
        """Make it.

        Args:
            device: where its logits are.
        """
        self.device = torch.device(device)
        self.words = ["[PAD]", "[MASK]", "[EOS]", *vocabulary(make_tasks(SUITE))]
        self._ids = {word: i for i, word in enumerate(self.words)}

    def logits(self, tokens: Tensor, attention_mask: Tensor, length: int, position_ids: Tensor | None = None) -> Tensor:
        """Run one forward; see `envs.denoiser.Denoiser.logits`. What sees what makes no difference to the toy."""
        prompt, buffer = tokens[:, :-length], tokens[:, -length:]
        present = attention_mask if attention_mask.ndim == 2 else attention_mask.any(1)
        prompt = prompt.masked_fill(~present[:, :-length], self.pad_id)
        place = torch.arange(length, device=tokens.device).expand_as(buffer)
        if position_ids is not None:
            place = (position_ids[:, -length:] - present[:, :-length].sum(1, keepdim=True)).clamp(0, length - 1)
        target = torch.full_like(buffer, self.eos_id)
        for row, ids in enumerate(prompt.tolist()):
            words = [self.words[i] for i in ids if i != self.pad_id]
            # A form's cells stand between "task argument argument :" and "=".
            cells = [self._ids[word] for word in words[4:-1] if word != EMPTY][:length]
            target[row, : len(cells)] = torch.tensor(cells, dtype=torch.long, device=tokens.device)
        committed = ((buffer != self.mask_id) & present[:, -length:]).sum(1, keepdim=True)
        height = 1 + (7 * place + 5 * committed + prompt.sum(1, keepdim=True)) % 11
        logits = torch.zeros(*buffer.shape, len(self.words), device=tokens.device)
        return logits.scatter(-1, target.gather(1, place).unsqueeze(-1), height.unsqueeze(-1).float())

    def logits_and_hidden(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Run one forward; the hidden state is the token's id."""
        return self.logits(tokens, attention_mask, length), tokens[:, -length:].unsqueeze(-1).float()

    def logits_and_attention(self, tokens: Tensor, attention_mask: Tensor, length: int) -> tuple[Tensor, Tensor]:
        """Run one forward; a position attends to those before and after it, and to itself as to both together."""
        place = torch.arange(tokens.shape[1], device=tokens.device)
        near = 2.0 - (place - place.unsqueeze(1)).abs()
        weights = near.clamp(min=0).expand(len(tokens), -1, -1) * attention_mask.unsqueeze(1)
        return self.logits(tokens, attention_mask, length), weights / weights.sum(-1, keepdim=True).clamp(min=1e-9)

    def encode_prompt(self, prompt: str) -> list[int]:
        """Turn words into ids; an unknown word becomes the empty cell."""
        return self.encode_text(prompt)

    def encode_text(self, text: str) -> list[int]:
        """Turn words into ids, likewise."""
        return [self._ids.get(word, self._ids[EMPTY]) for word in text.split()]

    def decode(self, tokens: list[int]) -> str:
        """Turn buffer tokens into text up to the first end-of-text."""
        end = tokens.index(self.eos_id) if self.eos_id in tokens else len(tokens)
        return " ".join(self.words[i] for i in tokens[:end] if i > self.eos_id)

    def token_strings(self, tokens: list[int]) -> list[str]:
        """Return one printable string a token."""
        return [self.words[i] for i in tokens]
