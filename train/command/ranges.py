"""What a configuration's numbers can be, said the same way everywhere."""

from __future__ import annotations

import math
from typing import Any

LARGEST_SEED = 2**32 - 1
"""NumPy and torch both take every seed from 0 to this."""


def check_range(
    config: Any,
    *names: str,
    least: float | None = None,
    above: float | None = None,
    most: float | None = None,
    below: float | None = None,
) -> None:
    """Refuse fields outside an interval; None is no number and passes, the items of a list are checked one by one.

    Args:
        config: a dataclass.
        names: of its fields.
        least: the lowest number possible.
        above: a number that they must exceed.
        most: the highest number possible.
        below: a number that they must not reach.

    Raises:
        ValueError: naming the field, its value and the interval.
    """
    for name in names:
        value = getattr(config, name)
        for number in value if isinstance(value, list | tuple) else [value]:
            if number is not None and not _is_inside(number, least, above, most, below):
                holds = "holds" if isinstance(value, list | tuple) else "is"
                raise ValueError(f"{name} {holds} {number}: it must be {_interval(least, above, most, below)}")


def _is_inside(
    number: float, least: float | None, above: float | None, most: float | None, below: float | None
) -> bool:
    return (
        math.isfinite(number)
        and (least is None or number >= least)
        and (above is None or number > above)
        and (most is None or number <= most)
        and (below is None or number < below)
    )


def _interval(least: float | None, above: float | None, most: float | None, below: float | None) -> str:
    """Say an interval.

    >>> _interval(1, None, None, None), _interval(0, None, 1, None), _interval(None, 0, None, 1)
    ('1 or more', '0 to 1', 'above 0 and below 1')
    """
    if least is not None and most is not None:
        return f"{least} to {most}"
    bounds = {f"{least} or more": least, f"above {above}": above, f"at most {most}": most, f"below {below}": below}
    return " and ".join(text for text, bound in bounds.items() if bound is not None) or "a finite number"


def check_count(config: Any, *names: str, least: int = 1, most: int = 2**31 - 1) -> None:
    """Refuse counts and sizes below 1, or another least one, and those that no machine could hold."""
    # Two checks, so that a count of 0 is not told of a bound that nobody means to reach.
    check_range(config, *names, least=least)
    check_range(config, *names, most=most)


def check_seed(config: Any) -> None:
    """Refuse a seed that NumPy or torch would refuse later."""
    check_range(config, "seed", least=0, most=LARGEST_SEED)
