"""How log-odds become commit sets: settings that a policy is trained with, and keeps when it is exported."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, get_args

DistributionName = Literal["forced_bernoulli", "bernoulli", "plackett_luce"]
"""See `policies.distributions.DISTRIBUTIONS`."""


@dataclass(frozen=True)
class ActionConfig:
    """From the network's log-odds to a distribution over commit sets."""

    distribution: DistributionName = "forced_bernoulli"
    """forced_bernoulli: a coin a position, where an empty draw commits the likeliest; bernoulli: the same coins, where
    an empty draw is an action of its own (the env answers it with the most confident position); plackett_luce:
    positions are drawn one after another until STOP is drawn (DPLS)."""
    temperature: float = 1.0
    """Divides the log-odds: below 1 is nearer to the deterministic decision."""
    stop_logit: float = 0.0
    """Log-weight of STOP (distribution: plackett_luce); the temperature does not divide it."""

    def __post_init__(self) -> None:
        if self.distribution not in get_args(DistributionName):
            allowed = ", ".join(get_args(DistributionName))
            raise ValueError(f"distribution is {self.distribution!r}: choose one of {allowed}")
        if not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature of the policy is {self.temperature}: it must be above 0")
        if not math.isfinite(self.stop_logit):
            raise ValueError(f"stop_logit is {self.stop_logit}: it must be a finite number")
