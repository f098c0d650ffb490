"""An unmasking policy in pure torch: which masks of a block to fill in, from the logits of that block alone.

Written by ``train/export.py`` of the unmasking-policies library. It needs torch and safetensors, keeps no state, draws
no random numbers, fills in at least one mask of every block that has one, and never waits for the device.

Letters: B blocks, N positions of a block, V vocabulary, D width.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional as F

# As in the library's transformer, which nothing here may import.
LARGEST_BLOCK = 64
MAX_LOG_ODDS = 14.0


class BlockPolicy(nn.Module):
    """Decides which masked positions of a block to fill in, and with what.

    Args:
        settings: of ``policy.json``.
        speed: 0 (slow) to 1 (fast), where it has a dial; None takes the one that the settings name, if they do, or
            else their place.

    Raises:
        ValueError: if the speed is not in [0, 1], or given to a policy without a dial.
    """

    def __init__(self, settings: Mapping[str, Any], speed: float | None = None) -> None:
        super().__init__()
        if speed is not None and not settings["has_dial"]:
            raise ValueError(f"speed is {speed}, but this policy has no dial: leave it out")
        self.settings = dict(settings)
        self.speed = settings["speed"] if speed is None else speed
        if self.speed is not None and not 0 <= self.speed <= 1:
            raise ValueError(f"speed is {self.speed}: it must be 0 (slow) to 1 (fast)")
        width, features = settings["hidden_size"], settings["features"]
        self.heads = settings["num_heads"]
        self.input = nn.Linear(4 + len(features), width)
        self.state = nn.Embedding(3, width)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        if settings["has_dial"]:
            self.dial = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
            self.dial_bias = nn.Linear(1, 1, bias=False)
        self.condition = nn.Linear(width, 6 * width)
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_feedforward = nn.LayerNorm(width, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        inner = settings["feedforward_size"]
        self.feedforward = nn.Sequential(nn.Linear(width, inner), nn.GELU(), nn.Linear(inner, width))
        self.norm_output = nn.LayerNorm(width)
        self.output = nn.Linear(width, 1)

    @classmethod
    def load(cls, folder: str | Path, speed: float | None = None) -> BlockPolicy:
        """Read ``policy.json`` and ``policy.safetensors`` of a folder.

        Raises:
            FileNotFoundError: if one of them is missing.
        """
        folder = Path(folder)
        policy = cls(json.loads((folder / "policy.json").read_text()), speed)
        policy.load_state_dict(load_file(folder / "policy.safetensors"))
        return policy.eval().requires_grad_(False)

    @torch.inference_mode()
    def decide(self, logits: Tensor, masked: Tensor, mask_id: int) -> tuple[Tensor, Tensor, Tensor]:
        """Decide one step of some blocks.

        Args:
            logits: (B, N, V) float of any dtype, about the token at each position.
            masked: (B, N) bool, True where a mask is to be filled in.
            mask_id: the mask token, which is never predicted.

        Returns:
            commit: (B, N) bool, masks to fill in now; at least one in each block that has a mask.
            tokens: (B, N) int64, what to fill in.
            confidence: (B, N) float32, each token's probability.

        Raises:
            ValueError: if the mask token is another than that of the dLLM that the policy was trained for.
        """
        own = self.settings["mask_id"]
        if own is not None and mask_id != own:
            raise ValueError(
                f"the mask token is {mask_id}, but the policy was trained for a dLLM whose mask token is {own}: what "
                "is certain to one is not to another; export one trained for it, or this one with --any_dllm true"
            )
        # Only the first step tells which device the engine uses.
        if self.output.weight.device != logits.device:
            self.to(logits.device)
        tokens, readings = self._read(logits, masked, mask_id)
        score = self._log_odds(readings, masked, logits.shape[1])
        cut = self.settings["least_log_odds"]
        commit = masked & (score >= (math.inf if cut is None else cut))
        fallback = readings["confidence"] if self.settings["falls_back_on_confidence"] else score
        # A score of -inf still beats a position without a mask.
        fallback = fallback.clamp(min=torch.finfo(torch.float32).min).masked_fill(~masked, -torch.inf)
        places = torch.arange(masked.shape[1], device=masked.device)
        # By comparison: to index by what is on the device would wait for it.
        best = places == fallback.argmax(1, keepdim=True)
        is_stuck = masked.any(1, keepdim=True) & ~commit.any(1, keepdim=True)
        return commit | (best & is_stuck), tokens, readings["confidence"]

    def _read(self, logits: Tensor, masked: Tensor, mask_id: int) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the predictions and the readings that the network takes, 0 but for the confidence where not masked."""
        # A copy of float32 too: the logits are the engine's.
        logits = logits.to(torch.float32, copy=True)
        logits[..., mask_id] = -torch.inf
        normalizer = logits.logsumexp(-1)
        best, tokens = logits.max(-1)
        confidence = (best - normalizer).exp().clamp(0, 1)
        readings = {"confidence": confidence}
        for name in self.settings["features"]:
            if name in ("margin", "logit_gap"):
                first, second = logits.topk(2, dim=-1).values.unbind(-1)
                is_gap = name == "logit_gap"
                readings[name] = first - second if is_gap else (first - normalizer).exp() - (second - normalizer).exp()
            elif name == "entropy":
                log_probabilities = logits - normalizer.unsqueeze(-1)
                readings[name] = -(log_probabilities.exp() * log_probabilities.clamp(min=-1e9)).sum(-1)
            elif name == "repeated":
                readings[name] = _repeated(tokens, confidence, masked).float()
            else:
                readings[name] = self._end_of_text(name, logits, normalizer, tokens)
        return tokens, {name: values.where(masked, float(name == "confidence")) for name, values in readings.items()}

    def _end_of_text(self, name: str, logits: Tensor, normalizer: Tensor, tokens: Tensor) -> Tensor:
        ends: Sequence[int] = self.settings["end_ids"]
        if name == "is_eos":
            return torch.stack([tokens == end for end in ends]).any(0).float()
        return torch.stack([(logits[..., end] - normalizer).exp() for end in ends]).sum(0)

    def _log_odds(self, readings: Mapping[str, Tensor], masked: Tensor, block_length: int) -> Tensor:
        """Return (B, N) float32 log-odds of filling in each mask."""
        shown = masked.float()
        confidence = readings["confidence"]
        level = _log_odds(confidence)
        columns = [level / 4, confidence, shown / (1 + shown.cumsum(1) - shown), _gap_above(level, masked) / 4]
        columns += [readings[name] for name in self.settings["features"]]
        x = self.input(torch.stack(columns, -1) * shown.unsqueeze(-1))
        left = (shown.sum(1, keepdim=True) / LARGEST_BLOCK).clamp(max=1)
        row = self.time(_embed(left))
        if self.settings["has_dial"]:
            speed = torch.full_like(left, self._place(block_length))
            row = row + self.dial(_embed(speed))
        table = self.condition(self.state.weight + row.unsqueeze(1))  # (B, 3, 6 D): committed, masked, eligible
        terms = table[:, 2:].where(masked.unsqueeze(-1), table[:, :1])
        scale1, shift1, gate1, scale2, shift2, gate2 = terms.chunk(6, -1)
        x = x + (1 + gate1) * self._attend(self.norm_attention(x) * (1 + scale1) + shift1, masked)
        x = x + (1 + gate2) * self.feedforward(self.norm_feedforward(x) * (1 + scale2) + shift2)
        score: Tensor = self.output(self.norm_output(x)).squeeze(-1)
        if self.settings["has_dial"]:
            score = score + self.dial_bias(speed - 0.5)
        if self.settings["threshold"] is not None:
            offset = math.log(self.settings["threshold"] / (1 - self.settings["threshold"]))
            score = score + self.settings["slope"] * (level - offset)
        return score / self.settings["temperature"] - self.settings["stop_logit"]

    def _attend(self, x: Tensor, masked: Tensor) -> Tensor:
        rows, length, width = x.shape
        qkv = self.query_key_value(x).view(rows, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        query, key, value = qkv.unbind(0)
        # Every position sees the masked ones, and itself so that it sees something.
        seen = masked[:, None, :] | torch.eye(length, dtype=torch.bool, device=x.device)
        mixed = F.scaled_dot_product_attention(_rotate(query), _rotate(key), value, attn_mask=seen.unsqueeze(1))
        output: Tensor = self.attention_output(mixed.transpose(1, 2).reshape(rows, length, width))
        return output

    def _place(self, block_length: int) -> float:
        """Return the place on the network's dial for a speed, by what was measured at the most similar blocks."""
        measured: list[list[float]] = self.settings["dial"]  # block length, speed, place
        speed = self.speed
        if speed is None:
            return float(self.settings["place"])
        if not measured:
            return speed
        nearest = min({entry[0] for entry in measured}, key=lambda one: (abs(math.log(one / block_length)), -one))
        entries = [entry for entry in measured if entry[0] == nearest]
        return min(entries, key=lambda entry: abs(entry[1] - speed))[2]


def _log_odds(probability: Tensor) -> Tensor:
    return torch.logit(probability, eps=1e-7).clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS)


def _gap_above(level: Tensor, masked: Tensor) -> Tensor:
    """Return how far each masked position lies below the next better one."""
    best_first, order = level.masked_fill(~masked, -torch.inf).sort(dim=1, descending=True, stable=True)
    gap = F.pad(best_first[:, :-1] - best_first[:, 1:], (1, 0))
    return torch.zeros_like(level).scatter(1, order, gap).masked_fill(~masked, 0.0)


def _repeated(tokens: Tensor, confidence: Tensor, masked: Tensor) -> Tensor:
    """Tell which masked positions predict what a better masked position predicts too."""
    best_first = confidence.masked_fill(~masked, -1.0).argsort(dim=1, descending=True, stable=True)
    runs, order = tokens.masked_fill(~masked, -1).gather(1, best_first).sort(dim=1, stable=True)
    again = F.pad(runs[:, 1:] == runs[:, :-1], (1, 0))
    return torch.zeros_like(masked).scatter(1, best_first.gather(1, order), again) & masked


def _embed(value: Tensor) -> Tensor:
    angle = value * math.pi * 2.0 ** torch.arange(8, device=value.device)
    return torch.cat([angle.cos(), angle.sin()], -1)


def _rotate(x: Tensor) -> Tensor:
    """Apply rotary position embedding with base 10000."""
    half = x.shape[-1] // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * frequency
    first, second = x[..., :half], x[..., half:]
    return torch.cat([first * angle.cos() - second * angle.sin(), first * angle.sin() + second * angle.cos()], -1)
