"""The paper's own policy network, tensor by tensor: for its configurations and for checkpoints of its released code.

Source: Jazbec et al., arXiv 2512.09106, Section 4, and the shapes of apple/ml-rl-dllm's checkpoints (`train/export.py`
reads and writes those).

It keeps what `policies/networks/transformer.py` departs from: probabilities as they are, a mask bit that does not know
the block, and a time embedding of one frequency in bfloat16. Departures:

1. Probabilities arrive in float32, not rounded to the dLLM's bfloat16.
2. To read hidden states (`DiTConfig.hidden_state_size`) changes the first layer only. The paper's network for that
   ablation is another one, some 300 M parameters as wide as the dLLM itself.

Letters: B rows, L positions, K inputs a position, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from envs.readings import BEST_K
from policies.networks.config import PartConfig, check_has_width, check_hidden_state_size, check_sizes


@dataclass(frozen=True)
class DiTConfig(PartConfig):
    """Architecture, inputs and initialisation of `DiTNetwork`; the defaults are the paper's, 331,265 parameters."""

    hidden_size: int = 128
    """Width D."""
    num_heads: int = 2
    """Attention heads; they must divide the width into even parts."""
    feedforward_size: int = 512
    """Width of the feed-forward part."""
    num_blocks: int = 1
    """Transformer blocks."""
    time_size: int = 128
    """Width of the time embedding; where it is odd, its last entry is 0."""
    time_period: float = 1.0
    """Longest period of the time embedding; at 1 all its frequencies are 1."""
    num_probabilities: int = 1
    """Best probabilities of each position to read, 1 to 50."""
    hidden_state_size: int = 0
    """Width of the dLLM's last hidden states, to read those instead of probabilities; 0 reads probabilities, and -1 is
    the width that the dLLM has which is trained on. Training keeps them of every position and step: 1 MiB a step for 64
    positions of width 4096."""
    reads_time: bool = True
    """Whether norms and gates depend on the time."""
    reads_mask: bool = True
    """Whether they depend on each position's mask bit."""
    bias: float = -2.0
    """Initial log-odds of committing a position, up to the random output weights."""

    @property
    def readings(self) -> frozenset[str]:
        """Name of `envs.readings.READINGS` that the network reads."""
        if self.hidden_state_size:
            return frozenset({"hidden"})
        return frozenset({"best_probabilities" if self.num_probabilities > 1 else "top_probability"})

    def __post_init__(self) -> None:
        check_sizes(self, "hidden_size", "num_heads", "feedforward_size", "num_blocks", "time_size")
        if not math.isfinite(self.bias):
            raise ValueError(f"bias is {self.bias}: it must be a finite number")
        if not 0 < self.time_period < math.inf:
            raise ValueError(f"time_period is {self.time_period}: it must be above 0")
        if not 1 <= self.num_probabilities <= BEST_K:
            raise ValueError(f"num_probabilities is {self.num_probabilities}: it must be 1 to {BEST_K}")
        check_hidden_state_size(self.hidden_state_size, "read probabilities")
        if self.hidden_state_size and self.num_probabilities > 1:
            raise ValueError(
                f"num_probabilities is {self.num_probabilities} and hidden_state_size {self.hidden_state_size}: the "
                "network reads one or the other; leave one of them out"
            )


def embed_time(time: Tensor, size: int, period: float) -> Tensor:
    """Embed (B, 1) times as (B, size) cosines, sines, and a 0 if that is odd, in bfloat16 as the released code does."""
    half = size // 2
    # At a period of 1 the logarithm is 0 and all frequencies are 1; the released configurations have that.
    frequency = torch.exp(-math.log(period) * torch.arange(half, dtype=torch.float32, device=time.device) / half)
    angle = time.float() * frequency
    both = torch.cat([angle.cos(), angle.sin()], -1)
    return F.pad(both, (0, size % 2)).to(torch.bfloat16).float()


class DiTBlock(nn.Module):
    """Pre-norm attention and feed-forward, norms and gates conditioned position by position (adaLN)."""

    inv_freq: Tensor

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        width, head = config.hidden_size, config.hidden_size // config.num_heads
        self.num_heads = config.num_heads
        self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
        self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)
        # A tensor of the released checkpoints, though it could be computed.
        self.register_buffer("inv_freq", 1.0 / 10000 ** (torch.arange(0, head, 2).float() / head))
        self.linear1 = nn.Linear(width, config.feedforward_size)
        self.linear2 = nn.Linear(config.feedforward_size, width)
        self.ada_conditioning = nn.Linear(width, 6 * width)
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)

    def forward(self, x: Tensor, condition: Tensor) -> Tensor:
        """Return (B, L, D) from (B, L, D) positions and conditions."""
        scale1, shift1, gate1, scale2, shift2, gate2 = self.ada_conditioning(condition).chunk(6, -1)
        x = x + (1 + gate1) * self._attend(self.norm1(x) * (1 + scale1) + shift1)
        y = self.norm2(x) * (1 + scale2) + shift2
        output: Tensor = x + (1 + gate2) * self.linear2(F.gelu(self.linear1(y)))
        return output

    def _attend(self, x: Tensor) -> Tensor:
        query, key = self._rotate(self._heads(self.q_proj(x))), self._rotate(self._heads(self.k_proj(x)))
        mixed = F.scaled_dot_product_attention(query, key, self._heads(self.v_proj(x)))
        output: Tensor = self.out_proj(mixed.transpose(1, 2).reshape(x.shape))
        return output

    def _heads(self, x: Tensor) -> Tensor:
        rows, length, width = x.shape
        return x.view(rows, length, self.num_heads, width // self.num_heads).transpose(1, 2)

    def _rotate(self, x: Tensor) -> Tensor:
        """Turn the pairs (2i, 2i + 1) by their position's angle; the turned pairs' halves stand one after the other."""
        # In float32 whatever the weights are: bfloat16 can't tell positions above 256 from their neighbours.
        angle = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * self.inv_freq
        even, odd = x[..., 0::2], x[..., 1::2]
        return torch.cat([even * angle.cos() - odd * angle.sin(), even * angle.sin() + odd * angle.cos()], -1)


class DiTNetwork(nn.Module):
    """From each position's top-1 probability and mask bit, and the time, to the log-odds of committing it.

    The probability is the reading ``top_probability``: of committed positions too, and of the mask token too. Its place
    can be taken by more of ``best_probabilities``, or by ``hidden``.

    Args:
        config: sizes, inputs and initialisation.
    """

    def __init__(self, config: DiTConfig) -> None:
        super().__init__()
        check_has_width(config.hidden_state_size)
        self.config = config
        width = config.hidden_size
        if config.reads_time:
            self.time_mlp = nn.Sequential(nn.Linear(config.time_size, width), nn.SiLU(), nn.Linear(width, width))
        # The released code's name; hidden states come in by it too.
        self.confidence_proj = nn.Linear(config.hidden_state_size or config.num_probabilities, width)
        if config.reads_mask:
            self.mask_embedding = nn.Embedding(2, width)
        self.transformer_blocks = nn.ModuleList(DiTBlock(config) for _ in range(config.num_blocks))
        self.final_norm = nn.LayerNorm(width)
        self.output_proj = nn.Linear(width, 1)
        for block in self.transformer_blocks:
            assert isinstance(block, DiTBlock)
            # At first no condition changes anything: scales and gates are 1 + 0.
            nn.init.zeros_(block.ada_conditioning.weight)
            nn.init.zeros_(block.ada_conditioning.bias)
        nn.init.constant_(self.output_proj.bias, config.bias)

    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Encode the positions.

        Args:
            inputs: ``masked`` (B, L), ``time`` (B, 1) and that of `DiTConfig.readings`: ``top_probability`` (B, L),
                ``best_probabilities`` or ``hidden`` (B, L, K), all as `envs.view.View.inputs` makes them.

        Returns:
            (B, L, D) float32.
        """
        x: Tensor = self.confidence_proj(self._columns(inputs))
        condition = self._condition(inputs, torch.zeros_like(x))
        for block in self.transformer_blocks:
            x = block(x, condition)
        hidden: Tensor = self.final_norm(x)
        return hidden

    def _columns(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (B, L, K) float32, what is read of each position."""
        [name] = self.config.readings
        values = inputs[name].float()
        if name == "top_probability":
            return values.unsqueeze(-1)
        return values if name == "hidden" else values[..., : self.config.num_probabilities]

    def _condition(self, inputs: Mapping[str, Tensor], condition: Tensor) -> Tensor:
        """Add to (B, L, D) zeros what norms and gates depend on."""
        if self.config.reads_mask:
            condition = condition + self.mask_embedding((inputs["masked"] > 0.5).long())
        if self.config.reads_time:
            time = embed_time(inputs["time"], self.config.time_size, self.config.time_period)
            # A row has one time; the layers still run position by position, which rounds as the released code does.
            condition = condition + self.time_mlp(time.unsqueeze(1).expand(-1, condition.shape[1], -1))
        return condition

    def logits_from(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Turn `hidden` into (B, L) log-odds of committing each position."""
        logits: Tensor = self.output_proj(hidden).squeeze(-1)
        return logits

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (B, L) float32 log-odds of committing each position; only eligible ones mean anything."""
        return self.logits_from(self.hidden(inputs), inputs)
