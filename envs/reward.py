"""Rewards: how a task's score and what was spent become what the policy maximises.

NFE (number of function evaluations) counts the dLLM's forwards, L is the buffer length. What is priced are forwards, or
by `envs.price` the positions that they computed or milliseconds, counted in forwards of the whole text all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from envs.names import hint

Floats = npt.NDArray[np.float64]


class Reward(Protocol):
    """What the env asks of a reward. alpha, the weight of speed, can differ from row to row."""

    def per_step(self, cost: Floats, alpha: Floats, log_likelihood: Floats) -> Floats:
        """Return what a step pays whatever comes of it.

        Args:
            cost: (N,) float, of the step, in forwards of the whole text.
            alpha: (N,) float, 0 or more.
            log_likelihood: (N,) float, nats, of the tokens that the step committed; see
                `envs.decoding.rows.Rows.log_likelihood`.

        Returns:
            (N,) float.
        """

    def final(self, score: Floats, cost: Floats, buffer_length: int, alpha: Floats) -> Floats:
        """Return what the end of an episode pays on top.

        Args:
            score: (N,) float in [0, 1], the task's score.
            cost: (N,) float, of the episode, in forwards of the whole text: NFE where forwards are priced.
            buffer_length: L.
            alpha: (N,) float, 0 or more.

        Returns:
            (N,) float.
        """


class Multiplicative:
    """``score * ((L - (cost - 1)) / L) ** alpha`` at the end: a wrong answer earns nothing, however fast.

    Source: arXiv 2512.09106, where the cost is the NFE, with the +1 of the released code, which keeps the factor above
    0.
    """

    def per_step(self, cost: Floats, alpha: Floats, log_likelihood: Floats) -> Floats:
        """Pay nothing."""
        return np.zeros_like(alpha)

    def final(self, score: Floats, cost: Floats, buffer_length: int, alpha: Floats) -> Floats:
        """Return the score times the speed factor."""
        # A policy that takes tokens back, or fills a block beyond the buffer, can need more forwards than L.
        return score * (np.maximum(buffer_length - (cost - 1), 0) / buffer_length) ** alpha


class Additive:
    """``score - alpha * cost / L`` at the end.

    Source: the ablation of arXiv 2512.09106, which finds that giving up on the answer can pay.
    """

    def per_step(self, cost: Floats, alpha: Floats, log_likelihood: Floats) -> Floats:
        """Pay nothing."""
        return np.zeros_like(alpha)

    def final(self, score: Floats, cost: Floats, buffer_length: int, alpha: Floats) -> Floats:
        """Return the score less the price of all forwards."""
        return score - alpha * cost / buffer_length


class ForwardCost:
    """``-alpha * cost`` at every step, 1 for a forward of the whole text, and the score at the end.

    Credit for a forward goes to the step that caused it.
    """

    def per_step(self, cost: Floats, alpha: Floats, log_likelihood: Floats) -> Floats:
        """Charge the price of the step."""
        return -alpha * cost

    def final(self, score: Floats, cost: Floats, buffer_length: int, alpha: Floats) -> Floats:
        """Return the score alone."""
        return score


class Likelihood:
    """``log p(what the step commits) - alpha * cost`` at every step: alpha is the nats that a forward must gain.

    No verifier is asked, and each step hears at once what it was worth: tokens that depend on one another are less
    likely committed together than one after the other. A model that is confidently wrong is paid all the same.

    Source: the idea of arXiv 2606.23567 (abstract only; no code is public), the frozen model's likelihood along the
    path as a dense reward. Departures: the price of forwards, which fixes the trade that the paper fixes by the number
    of steps.
    """

    def per_step(self, cost: Floats, alpha: Floats, log_likelihood: Floats) -> Floats:
        """Return the log-likelihood of what was committed less the price of the step."""
        return log_likelihood - alpha * cost

    def final(self, score: Floats, cost: Floats, buffer_length: int, alpha: Floats) -> Floats:
        """Pay nothing."""
        return np.zeros_like(alpha)


REWARDS: Mapping[str, Reward] = MappingProxyType(
    {
        "multiplicative": Multiplicative(),
        "additive": Additive(),
        "forward_cost": ForwardCost(),
        "likelihood": Likelihood(),
    }
)
"""Every reward by name."""


def get_reward(name: str) -> Reward:
    """Return a reward.

    Raises:
        ValueError: if the name is unknown.
    """
    if not isinstance(name, str) or name not in REWARDS:
        raise ValueError(f"reward is {name!r}: {hint(str(name), REWARDS)}")
    return REWARDS[name]


@dataclass(frozen=True)
class Preference:
    """How much speed is worth: alpha between two ends, on a logarithmic dial from 0 (slow) to 1 (fast).

    Attributes:
        slow: alpha at 0.
        fast: alpha at 1; the same as `slow` for one fixed alpha.

    Raises:
        ValueError: unless 0 <= slow <= fast, both finite, and slow > 0 where they differ.
    """

    slow: float
    fast: float

    def __post_init__(self) -> None:
        for alpha in (self.slow, self.fast):
            if not 0 <= alpha < float("inf"):
                raise ValueError(f"alpha is {alpha}: it must be 0 (speed doesn't matter) or more")
        # On a logarithmic dial nothing lies between 0 and another alpha.
        if self.slow > self.fast or (self.slow == 0 < self.fast):
            raise ValueError(f"alpha range is {self.slow} to {self.fast}: it must rise, from above 0")

    @classmethod
    def of(cls, alpha: float | Sequence[float]) -> Preference:
        """Return the preference that a fixed alpha, or a range of two, stands for.

        Raises:
            ValueError: for another number of numbers.
        """
        ends = [alpha, alpha] if isinstance(alpha, int | float) else alpha
        # A text has a length too.
        is_range = isinstance(ends, Sequence | np.ndarray) and not isinstance(ends, str) and len(ends) == 2
        # To Python, True is a number too.
        if not is_range or not all(
            isinstance(end, int | float | np.number) and not isinstance(end, bool) for end in ends
        ):
            raise ValueError(f"alpha is {alpha!r}: it must be a number or a range of two")
        return cls(float(ends[0]), float(ends[1]))

    def alpha(self, speed: npt.NDArray[np.floating]) -> Floats:
        """Return the alpha of each dial position.

        >>> Preference(1.0, 64.0).alpha(np.array([0.0, 0.5, 1.0])).round(6).tolist()
        [1.0, 8.0, 64.0]
        """
        # No dial begins at 0, so an alpha of 0 is a fixed one.
        ratio = self.fast / self.slow if self.slow else 1.0
        return self.slow * ratio ** np.asarray(speed, dtype=np.float64)


def pay(
    reward: Reward,
    running: npt.NDArray[np.bool_],
    finals: Mapping[int, Mapping[str, Any]],
    costs: tuple[Floats, Floats],
    log_likelihood: Floats,
    length: int,
    alpha: Floats,
) -> Floats:
    """Return (N,) float, what a step pays.

    Args:
        reward: the env's.
        running: (N,) bool, rows that took it.
        finals: by row that it finished, its ``score``, NaN where there is none.
        costs: (N,) float each, of the episodes so far and of their last step, as `envs.price.Bill.charge` returns them.
        log_likelihood: (N,) float, nats, of what the step committed.
        length: L, positions of a text.
        alpha: (N,) float, each row's weight of speed.
    """
    total, of_step = costs
    paid: Floats = np.where(running, reward.per_step(of_step, alpha, log_likelihood), 0.0)
    if finals:
        rows = list(finals)
        scores = np.array([finals[row]["score"] for row in rows])
        final = reward.final(scores, total[rows], length, alpha[rows])
        # What has no score pays nothing for it; whoever learns leaves the episode out.
        paid[rows] += np.where(np.isnan(scores), 0.0, final)
    return paid
