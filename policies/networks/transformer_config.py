"""Architecture and initialisation of `policies.networks.transformer.UnmaskingNetwork`."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, get_args

from envs.names import hint
from envs.readings import MASK_READINGS
from policies.networks.config import PartConfig, check_hidden_state_size, check_sizes

BEYOND_FILTER = frozenset({"dial_rise", "hidden_state_size", "hidden_state_use", "decides_refresh", "refresh_bias"})
"""Fields that say what a policy can do that starts as a filter without it. Filters learn from traces, which hold
nothing of a cache and no place on a dial, and hidden states only if asked, as these are fifty times as large as all
else."""

HiddenStateUse = Literal["input", "similarity", "both"]


@dataclass(frozen=True)
class NetworkConfig(PartConfig):
    """Architecture and initialisation of `UnmaskingNetwork`."""

    hidden_size: int = 32
    """Width D of the transformer."""
    num_heads: int = 2
    """Attention heads; they must divide the width into even parts."""
    feedforward_size: int = 64
    """Width of the feed-forward part."""
    features: tuple[str, ...] = ()
    """Further per-position inputs: any of `envs.readings.MASK_READINGS`."""
    init: Literal["threshold", "random"] = "threshold"
    """Start as the threshold rule, or as a coin of one bias for every position."""
    threshold: float = 0.9
    """The rule to start as (init: threshold)."""
    slope: float = 1.0
    """How sharply the rule to start as turns from 0 to 1 in log-odds (init: threshold)."""
    bias: float = -2.0
    """Initial log-odds of committing any position (init: random)."""
    context: Literal["buffer", "block"] = "buffer"
    """What it sees: the whole buffer and the time, or the masked positions of the current block alone, as in serving
    engines."""
    has_dial: bool = False
    """One network for a range of preferences: read where on the dial from slow to fast it is to decode."""
    dial_rise: float = 0.0
    """How much higher the initial log-odds are at the dial's fast end than at its slow one (has_dial)."""
    hidden_state_size: int = 0
    """Width of the dLLM's last hidden states, to read those of masked positions too; 0 reads none, and -1 is the width
    that the dLLM has which is trained on."""
    hidden_state_use: HiddenStateUse = "input"
    """What is made of them: an input of each masked position; by their cosine, how much more a head looks from a mask
    at similar masks, whose tokens may depend on one another; or both."""
    decides_refresh: bool = False
    """Also decide at each step whether the next forward computes everything that the cache keeps."""
    refresh_bias: float = -2.0
    """Initial log-odds of that (decides_refresh)."""

    @property
    def inputs_states(self) -> bool:
        """Whether the dLLM's hidden states are inputs."""
        return self.hidden_state_size != 0 and self.hidden_state_use != "similarity"

    @property
    def compares_states(self) -> bool:
        """Whether heads look by how similar they are."""
        return self.hidden_state_size != 0 and self.hidden_state_use != "input"

    def as_filter(self, reads_hidden_states: bool) -> NetworkConfig:
        """Return the same without what a filter can't learn; see `BEYOND_FILTER`.

        Args:
            reads_hidden_states: whether its traces hold hidden states.
        """
        left_out = BEYOND_FILTER - ({"hidden_state_size", "hidden_state_use"} if reads_hidden_states else set())
        plain: dict[str, Any] = {field.name: field.default for field in fields(self) if field.name in left_out}
        return replace(self, **plain)

    @property
    def readings(self) -> frozenset[str]:
        """Names of `envs.readings.READINGS` that the network reads, a filter in it left out."""
        hidden = {"hidden"} if self.hidden_state_size else set()
        return frozenset(self.features) | hidden | ({"age", "unseen"} if self.decides_refresh else set())

    def __post_init__(self) -> None:
        check_sizes(self, "hidden_size", "num_heads", "feedforward_size")
        if self.init not in ("threshold", "random"):
            raise ValueError(f"init is {self.init!r}: choose threshold or random")
        if self.context not in ("buffer", "block"):
            raise ValueError(f"context is {self.context!r}: choose buffer or block")
        if not 0 < self.threshold < 1:
            raise ValueError(f"threshold is {self.threshold}: it must be between 0 and 1, both excluded")
        if not 0 < self.slope < math.inf:
            raise ValueError(f"slope is {self.slope}: it must be above 0")
        for name in ("bias", "dial_rise", "refresh_bias"):
            if not math.isfinite(getattr(self, name)):
                raise ValueError(f"{name} is {getattr(self, name)}: it must be a finite number")
        check_hidden_state_size(self.hidden_state_size, "read none")
        uses = get_args(HiddenStateUse)
        if self.hidden_state_use not in uses:
            raise ValueError(f"hidden_state_use is {self.hidden_state_use!r}: {hint(self.hidden_state_use, uses)}")
        if self.hidden_state_size and self.context == "block":
            raise ValueError(
                f"hidden_state_size is {self.hidden_state_size} and context block: no serving engine shows hidden "
                "states; leave one out"
            )
        unknown = sorted(set(self.features) - MASK_READINGS)
        if unknown:
            raise ValueError(f"features hold {unknown[0]!r}: {hint(unknown[0], sorted(MASK_READINGS))}")
        twice = [name for i, name in enumerate(self.features) if name in self.features[:i]]
        if twice:
            raise ValueError(f"features hold {twice[0]!r} twice: name each once")
