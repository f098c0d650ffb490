"""Distributions over commit sets: what a trainer samples, scores and explores with."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import ClassVar, Literal, Protocol, get_args

import torch
from torch import Tensor
from torch.nn import functional as F

from envs.numbers import is_number

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
        if not is_number(self.temperature) or not 0 < self.temperature < math.inf:
            raise ValueError(f"temperature of the policy is {self.temperature!r}: it must be above 0")
        if not is_number(self.stop_logit) or not math.isfinite(self.stop_logit):
            raise ValueError(f"stop_logit is {self.stop_logit!r}: it must be a finite number")

    @property
    def has_stop(self) -> bool:
        """Whether positions are drawn one after another until STOP is."""
        return DISTRIBUTIONS[self.distribution].has_stop

    @property
    def is_product(self) -> bool:
        """Whether the likelihood of a set is the product of its positions', the empty set an action like any other."""
        return DISTRIBUTIONS[self.distribution].is_product


NEVER = -1e9
"""Stands for the log of 0: minus infinity would make gradients NaN."""


class CommitDistribution(Protocol):
    """A distribution over the commit sets of B rows.

    An action is (B, L), non-zero where committed; only `PlackettLuce` gives the numbers a further meaning. With a bit
    for a refresh it is (B, L + 1), see `WithRefresh`.
    """

    def sample(self) -> Tensor:
        """Draw an action from torch's global generator."""

    def mode(self) -> Tensor:
        """Return the deterministic decision's action."""

    def log_prob(self, action: Tensor) -> Tensor:
        """Return (B,) float, nats."""

    def entropy(self) -> Tensor | None:
        """Return (B,) float, nats, or None where it has no closed form."""


class Bernoulli:
    """Independent coin flips over the eligible positions; the empty set is an action like any other.

    The env answers an empty set with the most confident position, so no step stalls, and the likelihood of what was
    drawn is the plain product.

    Source: arXiv 2512.09106, Section 3, where an empty draw costs a forward and commits nothing.

    Args:
        logits: (B, L) float, log-odds of committing each position.
        eligible: (B, L) bool.
    """

    has_stop: ClassVar[bool] = False
    is_product: ClassVar[bool] = True

    def __init__(self, logits: Tensor, eligible: Tensor) -> None:
        self.eligible = eligible
        # 0 and not -inf, which times 0 would be NaN.
        self.logits = logits.masked_fill(~eligible, 0.0)
        self._commit = F.logsigmoid(self.logits) * eligible
        # Not log(1 - p): where p rounds to 1 that would be -inf.
        self._keep = F.logsigmoid(-self.logits) * eligible

    def sample(self) -> Tensor:
        """Draw (B, L) bool from torch's global generator."""
        return (torch.rand_like(self.logits) < self.logits.sigmoid()) & self.eligible

    def mode(self) -> Tensor:
        """Return (B, L) bool: the positions with a probability of at least one half."""
        return (self.logits >= 0) & self.eligible

    def position_log_prob(self, action: Tensor) -> Tensor:
        """Return (B, L) float, nats, of each position's own flip; 0 at ineligible positions."""
        return torch.where(action != 0, self._commit, self._keep)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return (B,) float, nats.

        Args:
            action: (B, L), non-zero where committed; ineligible positions are ignored.
        """
        return self.position_log_prob(action).sum(1)

    def entropy(self) -> Tensor:
        """Return (B,) float, nats, exact."""
        probability = self.logits.sigmoid()
        return -(probability * self._commit + (1 - probability) * self._keep).sum(1)


class ForcedBernoulli(Bernoulli):
    """Independent coin flips over the eligible positions, where an empty draw commits the likeliest position.

    Its likelihood is the true one: the set that holds only the likeliest position can come about in two ways,
    by its own draw or by the empty draw, and both count. Released code for arXiv 2512.09106 scores it as a plain
    Bernoulli draw.

    Args:
        logits: (B, L) float, log-odds of committing each position.
        eligible: (B, L) bool; each row needs at least one, or its actions are empty with probability 1.
    """

    is_product: ClassVar[bool] = False

    def __init__(self, logits: Tensor, eligible: Tensor) -> None:
        super().__init__(logits, eligible)
        # Where nothing is eligible the argmax is still a position.
        self.best = F.one_hot(logits.masked_fill(~eligible, -torch.inf).argmax(1), logits.shape[1]).bool() & eligible

    def sample(self) -> Tensor:
        """Draw (B, L) bool from torch's global generator."""
        drawn = super().sample()
        return torch.where(drawn.any(1, keepdim=True), drawn, self.best)

    def mode(self) -> Tensor:
        """Return (B, L) bool: the positions with a probability of at least one half, or the likeliest."""
        likely = super().mode()
        return torch.where(likely.any(1, keepdim=True), likely, self.best)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return (B,) float, nats.

        Args:
            action: (B, L), non-zero where committed; ineligible positions are ignored. An empty set, which is
                never drawn, counts as the forced one.
        """
        action = (action != 0) & self.eligible
        action = torch.where(action.any(1, keepdim=True), action, self.best)
        plain = super().log_prob(action)
        # Where nothing is eligible, both sets are empty and alike, and nothing was forced.
        is_forced = (action == self.best).all(1) & self.best.any(1)
        return torch.where(is_forced, torch.logaddexp(plain, self._keep.sum(1)), plain)

    def entropy(self) -> Tensor:
        """Return (B,) float, nats, exact: the coin flips' entropy less what merging two outcomes loses."""
        flips = super().entropy()
        empty = self._keep.sum(1)
        single = torch.where(self.best, self._commit, self._keep).sum(1)
        both = torch.logaddexp(empty, single)
        merged = empty.exp() * empty + single.exp() * single - both.exp() * both
        return flips + merged * self.best.any(1)


class PlackettLuce:
    """Dynamic Plackett-Luce: positions are drawn without replacement until STOP is drawn; the first is never STOP.

    The first has probability ``exp w_i / sum exp w``, each later one ``exp w_i / (exp s + sum exp w)`` over what is
    left, and so has STOP, whose draw ends the sequence and counts. With nothing left, STOP is certain.

    Source: arXiv 2512.09106, Section 3 and its appendix on sampling.

    Args:
        logits: (B, L) float, log-weights w of the positions.
        eligible: (B, L) bool; each row needs at least one, or its actions are empty with probability 1.
        stop_logit: s, log-weight of STOP.
    """

    has_stop: ClassVar[bool] = True
    is_product: ClassVar[bool] = False

    def __init__(self, logits: Tensor, eligible: Tensor, stop_logit: float = 0.0) -> None:
        self.eligible = eligible
        self.logits = logits.masked_fill(~eligible, NEVER)
        self.stop_logit = torch.full_like(logits[:, :1], stop_logit)

    def sample(self) -> Tensor:
        """Draw (B, L) int64 from torch's global generator: 1 for the position drawn first, 2 for the second, ..."""
        rows, length = self.logits.shape
        # In float32 the least exponential is 6e-8: unlikely positions would be drawn too seldom or too often.
        exponential = torch.empty(rows, 2, length + 1, device=self.logits.device, dtype=torch.float64).exponential_()
        return self.sample_with(-exponential.clamp(min=1e-300).log())

    def sample_with(self, noise: Tensor) -> Tensor:
        """Draw as `sample` does, from given standard Gumbel noise (B, 2, L + 1).

        Gumbel noise on log-weights sorts them as drawing without replacement would. The first draw has noise of its
        own, since STOP takes part only after it.
        """
        first = (self.logits + noise[:, 0, :-1]).argmax(1, keepdim=True)
        # Where nothing is eligible the argmax is still a position.
        is_first = torch.zeros_like(self.eligible).scatter(1, first, True) & self.eligible
        level = self.logits + noise[:, 1, :-1]
        later = (level > self.stop_logit + noise[:, 1, -1:]) & self.eligible & ~is_first
        return order(is_first | later, level.masked_fill(is_first, torch.inf))

    def mode(self) -> Tensor:
        """Return (B, L) int64, the likeliest at each draw: the best, and every other that weighs no less than STOP."""
        best = F.one_hot(self.logits.argmax(1), self.logits.shape[1]).bool()
        return order(((self.logits >= self.stop_logit) | best) & self.eligible, self.logits)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return (B,) float, nats, of the ordered sequence.

        Args:
            action: (B, L), as `sample` returns it; ineligible positions are ignored.
        """
        rank = torch.where(self.eligible, action, torch.zeros_like(action)).long()
        picked = rank > 0
        left = self.logits.masked_fill(picked, NEVER).logsumexp(1, keepdim=True)
        # Column k holds the weight of the position drawn k-th.
        length = self.logits.shape[1]
        place = torch.where(picked, rank - 1, length)
        drawn = torch.full_like(self.logits[:, :1], NEVER).repeat(1, length + 1)
        drawn = drawn.scatter(1, place, self.logits)[:, :length]
        is_draw = torch.arange(length, device=drawn.device) < picked.sum(1, keepdim=True)
        drawn = drawn.masked_fill(~is_draw, NEVER)
        # What was still there at each draw.
        there = torch.logaddexp(drawn.flip(1).logcumsumexp(1).flip(1), left)
        total = torch.cat([there[:, :1], torch.logaddexp(there[:, 1:], self.stop_logit)], 1)
        sequence = torch.where(is_draw, drawn - total, 0.0).sum(1)
        stop = (self.stop_logit - torch.logaddexp(left, self.stop_logit)).squeeze(1)
        return (sequence + stop) * picked.any(1)

    def entropy(self) -> None:
        """Return None: it has no closed form."""


class WithRefresh:
    """A commit set and, drawn apart from it, a bit a row: whether the next forward computes everything.

    An action is (B, L + 1), the commit set's and the bit.

    Args:
        commits: of the commit sets.
        refresh: of (B, 1) bits.
    """

    def __init__(self, commits: CommitDistribution, refresh: Bernoulli) -> None:
        self.commits, self.refresh = commits, refresh

    def sample(self) -> Tensor:
        """Draw (B, L + 1) from torch's global generator."""
        return torch.cat([self.commits.sample(), self.refresh.sample()], 1)

    def mode(self) -> Tensor:
        """Return (B, L + 1): the deterministic decision of the commits, and of a refresh likewise."""
        return torch.cat([self.commits.mode(), self.refresh.mode()], 1)

    def position_log_prob(self, action: Tensor) -> Tensor:
        """Return (B, L + 1) float, nats, of each position's own flip and the bit; the commits' must be a product."""
        assert isinstance(self.commits, Bernoulli)
        flips = self.commits.position_log_prob(action[:, :-1])
        return torch.cat([flips, self.refresh.position_log_prob(action[:, -1:])], 1)

    def log_prob(self, action: Tensor) -> Tensor:
        """Return (B,) float, nats."""
        return self.commits.log_prob(action[:, :-1]) + self.refresh.log_prob(action[:, -1:])

    def entropy(self) -> Tensor | None:
        """Return (B,) float, nats, or None where the commits' has no closed form."""
        commits = self.commits.entropy()
        return None if commits is None else commits + self.refresh.entropy()


def order(commit: Tensor, score: Tensor) -> Tensor:
    """Number the positions of commit sets as `PlackettLuce` does.

    Args:
        commit: (B, L) bool.
        score: (B, L) float, higher was drawn earlier; of equals, the first.

    Returns:
        (B, L) int64, 1 for the first, 2 for the second, ..., 0 where nothing is committed.
    """
    best_first = score.masked_fill(~commit, -torch.inf).argsort(dim=1, descending=True, stable=True)
    numbers = torch.arange(1, commit.shape[1] + 1, device=commit.device).expand_as(best_first)
    return torch.zeros_like(best_first).scatter(1, best_first, numbers) * commit


DISTRIBUTIONS: Mapping[DistributionName, type[Bernoulli] | type[PlackettLuce]] = MappingProxyType(
    {"forced_bernoulli": ForcedBernoulli, "bernoulli": Bernoulli, "plackett_luce": PlackettLuce}
)
"""Every distribution by name."""


def make_distribution(config: ActionConfig, logits: Tensor, eligible: Tensor) -> CommitDistribution:
    """Return the distribution that a policy's log-odds stand for.

    Args:
        config: which, and at what temperature.
        logits: (B, L) float, as the network gives them, or (B, L + 1), the last of a refresh.
        eligible: (B, L) bool.
    """
    cls, length = DISTRIBUTIONS[config.distribution], eligible.shape[1]
    stop = {"stop_logit": config.stop_logit} if config.has_stop else {}
    logits = logits / config.temperature
    commits = cls(logits[:, :length], eligible, **stop)
    if logits.shape[1] == length:
        return commits
    # A finished row has no next forward.
    return WithRefresh(commits, Bernoulli(logits[:, length:], eligible.any(1, keepdim=True)))
