"""What decoding costs: forwards, positions computed or milliseconds, all counted in forwards of the whole text.

In that unit the weight of speed, alpha, means about the same whatever is priced, and without a cache all three are near
the number of forwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from envs.decoding.rows import Rows
from envs.numbers import is_whole

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Price:
    """A linear price: a batch's forward costs `forward`, which its rows share, and `position` a position computed.

    Attributes:
        forward: 0 or more, such as milliseconds.
        position: 0 or more, in the same unit; not both are 0.
        rows: of the batch, 1 or more.

    Raises:
        ValueError: if one of them is not possible.
    """

    forward: float
    position: float
    rows: int = 1

    def __post_init__(self) -> None:
        for name in ("forward", "position"):
            value = getattr(self, name)
            if not isinstance(value, int | float) or not 0 <= value < math.inf:
                raise ValueError(f"{name} is {value!r}: a price must be a finite number of 0 or more")
        if self.forward == self.position == 0:
            raise ValueError("forward and position are 0: something must cost something")
        if not is_whole(self.rows) or self.rows < 1:
            raise ValueError(f"rows is {self.rows!r}: it must be a whole number of 1 or more")

    def cost(self, nfe: npt.ArrayLike, token_positions: npt.ArrayLike, whole: npt.ArrayLike) -> Floats:
        """Return what rows have cost, in forwards of their whole texts.

        Args:
            nfe: (N,) forwards.
            token_positions: (N,) positions computed.
            whole: (N,) positions of the whole text, prompt and buffer.

        >>> FORWARDS.cost([3], [90], [40]).tolist(), POSITIONS.cost([3], [90], [40]).tolist()
        ([3.0], [2.25])
        >>> Price(forward=40.0, position=0.5, rows=4).cost([3], [90], [40]).tolist()  # (3 * 10 + 45) / (10 + 20)
        [2.5]
        """
        forwards, computed, all_of_it = (np.asarray(one, dtype=np.float64) for one in (nfe, token_positions, whole))
        own = self.forward / self.rows
        return (forwards * own + computed * self.position) / (own + all_of_it * self.position)


FORWARDS, POSITIONS = Price(1.0, 0.0), Price(0.0, 1.0)

PRICES: Mapping[str, Price] = MappingProxyType({"forwards": FORWARDS, "positions": POSITIONS})
"""Those that need no measurement, by name."""


def get_price(price: str | Price) -> Price:
    """Return a price by name, or as it is.

    Raises:
        ValueError: if there is none of this name.
    """
    if isinstance(price, Price):
        return price
    if price not in PRICES:
        raise ValueError(
            f"price is {price!r}: choose {' or '.join(PRICES)}, or give a Price, such as one that was measured "
            "(train.job.price)"
        )
    return PRICES[price]


class Bill:
    """What N rows have cost and gained so far, so that each step is charged and credited with what is its own.

    What a forward settles (`envs.view.Action.drafts`) counts with the step after it.

    Args:
        price: of what they need.
        num_rows: N.
    """

    def __init__(self, price: Price, num_rows: int) -> None:
        self.price = price
        self.charged: Floats = np.zeros(num_rows)
        self.credited: Floats = np.zeros(num_rows)

    def charge(self, rows: Rows) -> tuple[Floats, Floats]:
        """Return (N,) what each row's sequence has cost, and (N,) what of it was not charged before."""
        whole = (rows.prompt_length + rows.text_length).cpu().numpy()
        total = self.price.cost(rows.nfe.cpu().numpy(), rows.token_positions.cpu().numpy(), whole)
        # A text that has grown makes its whole forwards dearer, but nothing is paid back.
        new = np.maximum(total - self.charged, 0.0)
        self.charged = total
        return total, new

    def credit(self, rows: Rows) -> Floats:
        """Return (N,) nats, what each row's log-likelihood has gained that was not credited before."""
        total = rows.log_likelihood.cpu().numpy()
        new: Floats = total - self.credited
        self.credited = total
        return new

    def forget(self, rows: Sequence[int]) -> None:
        """Let rows begin anew."""
        # They may be the very arrays that were returned, or made of a tensor's memory.
        self.charged, self.credited = self.charged.copy(), self.credited.copy()
        self.charged[list(rows)] = self.credited[list(rows)] = 0.0

    def state(self) -> dict[str, Any]:
        """Return what was charged and credited, with memory of its own."""
        return {"charged": self.charged.copy(), "credited": self.credited.copy()}

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on from what `state` returned."""
        self.charged = np.array(state["charged"], dtype=np.float64)
        self.credited = np.array(state["credited"], dtype=np.float64)
