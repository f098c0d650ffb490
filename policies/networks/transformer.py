"""The policy network: a single-layer transformer over what the dLLM believes about each position.

Source: Jazbec et al., "Learning Unmasking Policies for Diffusion Language Models", arXiv 2512.09106, Section 4.

Departures from the paper:
1. Inputs are float32 log-odds of the confidence, not a bfloat16 probability (whose step near 1 is 0.004).
2. A position's state has three values (committed, masked, eligible), so the network knows the block.
3. The time embedding has several frequencies; the released code's single one makes it two distinct numbers.
4. Each eligible position knows how many eligible ones stand to its left, so that "all but the first" can be said of
   positions that look alike; relative attention alone can hardly tell them apart.
5. So does the gap to the next better position: the best of the doubtful positions is not seen in its own readings.
6. ``init="threshold"`` adds ``slope * (logit(confidence) - logit(threshold))`` to the output and starts the rest
   at zero: the untrained network *is* the threshold rule, and training departs from it.
7. ``decides_refresh`` adds an output a row: the log-odds that the next forward computes everything that a cache keeps,
   from the mean over masks of their encodings and ages, the masks left in the block, and the tokens that are unseen.

A network with ``context="block"`` decides from the masked positions of the current block alone, which is all that a
serving engine shows: committed positions, other blocks and the time are not read; how many masks are left there is.

Letters: B rows, L positions, F input features, D width.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from policies.networks.config import check_has_width
from policies.networks.inputs import MAX_LOG_ODDS, gap_above, log_odds, share_left, sized
from policies.networks.transformer_config import BEYOND_FILTER, NetworkConfig

REFRESH_GAIN = 10.0
"""How much further than their weights the log-odds of a refresh move. What starts as a filter is trained at a rate at
which it stays one, and a few hundred updates move weights by some hundredths, which would change no decision."""


def rotate(x: Tensor, head: int) -> Tensor:
    """Apply rotary position embedding (arXiv 2104.09864) with base 10000.

    Args:
        x: (..., L, G * head) float, the numbers of G heads side by side: few numbers a head would make slow loops of
            operations on each of them.
        head: width of a head, even.

    Returns:
        Of the same shape, each pair (i, i + head/2) of a head turned by position * 10000^(-2i/head).
    """
    half = head // 2
    frequency = 10000.0 ** (-torch.arange(half, device=x.device) / half)
    angle = torch.arange(x.shape[-2], device=x.device)[:, None] * frequency
    groups = x.shape[-1] // head
    cos, sin = angle.cos().repeat(1, 2 * groups), torch.cat([-angle.sin(), angle.sin()], -1).repeat(1, groups)
    partner = torch.arange(x.shape[-1], device=x.device).view(groups, 2, half).flip(1).reshape(-1)
    return x * cos + x.index_select(-1, partner) * sin


def _see(visible: Tensor) -> Tensor:
    """Return (B, 1, L, L) bool: every position sees the visible ones, and itself so that it sees something."""
    itself = torch.eye(visible.shape[1], dtype=torch.bool, device=visible.device)
    return (visible[:, None, :] | itself).unsqueeze(1)


class UnmaskingNetwork(nn.Module):
    """One pre-norm transformer layer, its norms conditioned (adaLN) on each position's state and the time.

    Args:
        config: sizes, inputs and initialisation.
        filter: a trained network of this or another kind whose log-odds are one more input; it is frozen.
    """

    def __init__(self, config: NetworkConfig, filter: nn.Module | None = None) -> None:
        super().__init__()
        check_has_width(config.hidden_state_size)
        self.config = config
        self.filter = filter.requires_grad_(False) if filter is not None else None
        width = config.hidden_size
        self.input = nn.Linear(4 + len(config.features) + (filter is not None), width)
        if config.inputs_states:
            self.dllm_state = nn.Linear(config.hidden_state_size, width, bias=False)
        if config.compares_states:
            self.similarity = nn.Parameter(torch.zeros(config.num_heads))
        self.state = nn.Embedding(3, width)
        self.time = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
        if config.has_dial:
            self.dial = nn.Sequential(nn.Linear(16, width), nn.SiLU(), nn.Linear(width, width))
            self.dial_bias = nn.Linear(1, 1, bias=False)
        self.condition = nn.Linear(width, 6 * width)
        self.norm_attention = nn.LayerNorm(width, elementwise_affine=False)
        self.norm_feedforward = nn.LayerNorm(width, elementwise_affine=False)
        self.query_key_value = nn.Linear(width, 3 * width)
        self.attention_output = nn.Linear(width, width)
        self.feedforward = nn.Sequential(
            nn.Linear(width, config.feedforward_size), nn.GELU(), nn.Linear(config.feedforward_size, width)
        )
        self.norm_output = nn.LayerNorm(width)
        self.output = nn.Linear(width, 1)
        if config.decides_refresh:
            # Last, so that all else begins as it does without.
            self.refresh = nn.Sequential(nn.Linear(width + 3, width), nn.Tanh(), nn.Linear(width, 1))
        self._initialize()

    def _initialize(self) -> None:
        nn.init.zeros_(self.condition.weight)
        nn.init.zeros_(self.condition.bias)
        if self.config.has_dial:
            nn.init.constant_(self.dial_bias.weight, self.config.dial_rise)
            # Its last layer alone: with zeros before that one too, neither would get a gradient.
            nn.init.zeros_(self.dial[-1].weight)  # type: ignore[arg-type]
            nn.init.zeros_(self.dial[-1].bias)  # type: ignore[arg-type]
        # So that the untrained network is the rule, or the coin, and nothing else.
        nn.init.zeros_(self.output.weight)
        nn.init.constant_(self.output.bias, self.config.bias if self.config.init == "random" else 0.0)
        if self.config.decides_refresh:
            nn.init.zeros_(self.refresh[-1].weight)  # type: ignore[arg-type]
            nn.init.constant_(self.refresh[-1].bias, self.config.refresh_bias / REFRESH_GAIN)  # type: ignore[arg-type]

    def start_as(self, other: UnmaskingNetwork) -> None:
        """Take over the weights of a network of the same configuration; what only this one has counts 0 at first.

        That can be a filter's column and the dLLM's hidden states. A dial and an output for refreshes that the other
        has not keep their own start.

        Raises:
            ValueError: if the configurations differ, or the other network has a filter of its own.
        """
        if other.filter is not None:
            raise ValueError("the network to start as has a filter of its own, which would be lost")
        own = {name: getattr(self.config, name) for name in ("has_dial", *BEYOND_FILTER)}
        is_more = any(
            getattr(other.config, name) and not getattr(self.config, name) for name in ("has_dial", "decides_refresh")
        )
        if other.config.hidden_state_size:
            states = [(one.hidden_state_size, one.hidden_state_use) for one in (other.config, self.config)]
            is_more = is_more or states[0] != states[1]
        if is_more or replace(other.config, **own) != self.config:
            raise ValueError(f"the network to start as has another configuration: {other.config}, not {self.config}")
        weights = {name: value for name, value in other.state_dict().items() if not name.startswith("filter.")}
        columns = 4 + len(self.config.features)
        weights["input.weight"] = F.pad(weights["input.weight"][:, :columns], (0, self.input.in_features - columns))
        # Not strict: a filter and a dial keep the weights that they have.
        self.load_state_dict(weights, strict=False)
        if self.config.inputs_states and not other.config.hidden_state_size:
            nn.init.zeros_(self.dllm_state.weight)

    def steeper(self, steepness: float, threshold: float) -> UnmaskingNetwork:
        """Return a copy that is surer of itself: its log-odds are multiplied, and even where this network's are higher.

        Sampled decisions of a network with even chances for many positions commit a few wrong ones in every step.

        Args:
            steepness: what the log-odds are multiplied by; above 0.
            threshold: probability of this network that the copy commits at even odds; between 0 and 1.
        """
        # Not built anew, which would draw random numbers that a training counts on.
        copy = deepcopy(self)
        copy.config = replace(self.config, slope=self.config.slope * steepness)
        with torch.no_grad():
            copy.output.weight.mul_(steepness)
            copy.output.bias.sub_(math.log(threshold / (1 - threshold))).mul_(steepness)
            if self.config.has_dial:
                copy.dial_bias.weight.mul_(steepness)
        return copy

    def hidden(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Encode the positions.

        Args:
            inputs: ``confidence``, ``masked``, ``eligible`` (B, L), ``time`` (B, 1) and the configured features
                (B, L), all as `envs.view.View.inputs` makes them; with a dial also ``speed`` (B, 1) in [0, 1], and
                where hidden states are read ``hidden`` (B, L, `NetworkConfig.hidden_state_size`).

        Returns:
            (B, L, D) float32.
        """
        confidence, eligible = inputs["confidence"].float(), inputs["eligible"].float()
        # 1 for the row's first eligible position, 1/2 for the second, ...
        place = eligible / (1 + eligible.cumsum(1) - eligible)
        level = log_odds(confidence)
        gap = gap_above(level, inputs["eligible"] > 0.5)
        # Log-odds go to 14 either way; a quarter is of the size of the other inputs.
        columns = [level / 4, confidence, place, gap / 4]
        columns += [sized(name, inputs[name].float()) for name in self.config.features]
        if self.filter is not None:
            # Of a filter that decides refreshes too, the commits count.
            columns.append(self.filter(inputs)[:, : confidence.shape[1]].clamp(-MAX_LOG_ODDS, MAX_LOG_ODDS) / 4)
        is_local, masked = self.config.context == "block", self._masks(inputs)
        x = self.input(torch.stack(columns, -1) * masked.unsqueeze(-1))
        nearness = None
        if size := self.config.hidden_state_size:
            # Normalised: their scale is the dLLM's own, and says nothing that the policy needs.
            states = F.layer_norm(inputs["hidden"].float(), (size,))
            if self.config.inputs_states:
                x = x + self.dllm_state(states) * masked.unsqueeze(-1)
            if self.config.compares_states:
                # Of masks alone; each state has the norm sqrt(size).
                open_states = states * masked.unsqueeze(-1)
                cosine = torch.bmm(open_states, open_states.transpose(1, 2)) / size  # (B, L, L)
                nearness = cosine.unsqueeze(1) * self.similarity.view(1, -1, 1, 1)
        left = share_left(eligible)
        row = self.time(self._embed(left if is_local else inputs["time"].float()))
        if self.config.has_dial:
            row = row + self.dial(self._embed(inputs["speed"].float()))
        # What is eligible is masked too, so the sum numbers the three states.
        scale1, shift1, gate1, scale2, shift2, gate2 = self._modulation(masked + eligible, row)
        # No network does both: hidden states are not for one that sees the block alone.
        seen = _see(eligible > 0.5) if is_local else nearness
        x = x + (1 + gate1) * self._attend(self.norm_attention(x) * (1 + scale1) + shift1, seen)
        x = x + (1 + gate2) * self.feedforward(self.norm_feedforward(x) * (1 + scale2) + shift2)
        hidden: Tensor = self.norm_output(x)
        return hidden

    def _masks(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (B, L) float, 1 at the masks that the network sees."""
        return inputs["eligible" if self.config.context == "block" else "masked"].float()

    def _modulation(self, state: Tensor, row: Tensor) -> tuple[Tensor, ...]:
        """Return the six (B, L, D) adaLN terms, from (B, L) states and (B, D) embeddings of time and dial.

        A row has one time and three possible states, so the wide layer runs on three vectors a row, not on L.
        """
        table = self.condition(self.state.weight + row.unsqueeze(1))  # (B, 3, 6 D)
        one_hot = F.one_hot(state.long(), 3).float()  # (B, L, 3)
        return torch.bmm(one_hot, table).chunk(6, -1)

    def _attend(self, x: Tensor, seen: Tensor | None) -> Tensor:
        """Attend to the positions that are seen (bool), or with (B, H, L, L) float added to the scores."""
        rows, length, width = x.shape
        heads = self.config.num_heads
        query_key, value = self.query_key_value(x).split([2 * width, width], -1)
        turned = rotate(query_key, width // heads)
        query, key, value = (
            # All sizes are said, as there may be no rows: of a process whose groups have nothing to teach.
            part.view(rows, length, heads, width // heads).transpose(1, 2)
            for part in (*turned.chunk(2, -1), value)
        )
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=seen)
        output: Tensor = self.attention_output(mixed.transpose(1, 2).reshape(rows, length, width))
        return output

    @staticmethod
    def _embed(value: Tensor) -> Tensor:
        """Embed (B, 1) values in [0, 1] as (B, 16) sines and cosines of 8 frequencies."""
        angle = value * math.pi * 2.0 ** torch.arange(8, device=value.device)
        return torch.cat([angle.cos(), angle.sin()], -1)

    def logits_from(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Turn `hidden` into log-odds, see `forward`."""
        logits: Tensor = self.output(hidden).squeeze(-1)
        if self.config.has_dial:
            logits = logits + self.dial_bias(inputs["speed"].float() - 0.5)
        if self.config.init == "threshold":
            offset = math.log(self.config.threshold / (1 - self.config.threshold))
            logits = logits + self.config.slope * (log_odds(inputs["confidence"]) - offset)
        return torch.cat([logits, self._refresh_logit(hidden, inputs)], 1) if self.config.decides_refresh else logits

    def _refresh_logit(self, hidden: Tensor, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (B, 1) log-odds that the next forward computes everything."""
        masked = self._masks(inputs)
        columns = torch.cat([hidden, sized("age", inputs["age"].float()).unsqueeze(-1)], -1)
        count = masked.sum(1, keepdim=True).clamp(min=1)
        mean = torch.bmm(masked.unsqueeze(1), columns).squeeze(1) / count
        # The same at every position that was shown, 0 at others.
        unseen = sized("unseen", inputs["unseen"].float().amax(1, keepdim=True))
        left = share_left(inputs["eligible"].float())
        learned: Tensor = self.refresh(torch.cat([mean, unseen, left], -1))
        return REFRESH_GAIN * learned

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return (B, L) float32 log-odds of committing each position; only eligible ones mean anything.

        Where it decides refreshes it is (B, L + 1), the last the log-odds that the next forward computes everything.
        """
        return self.logits_from(self.hidden(inputs), inputs)
