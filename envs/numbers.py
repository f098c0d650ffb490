"""What counts as a number, and as a whole one, wherever one is asked for."""

from __future__ import annotations

from numbers import Real
from typing import Any, TypeGuard


def is_whole(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a whole number.

    >>> is_whole(3), is_whole(3.0), is_whole(True)
    (True, False, False)
    """
    # To Python, True is a whole number too.
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> TypeGuard[float]:
    """Tell whether a value is a number that a float can hold; NaN and infinity are.

    >>> is_number(3), is_number(0.5), is_number(True), is_number("3"), is_number(10**400)
    (True, True, False, False, False)
    """
    if not isinstance(value, Real) or isinstance(value, bool):
        return False
    try:
        float(value)
    except OverflowError:
        return False
    return True
