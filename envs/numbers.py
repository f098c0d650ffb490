"""What counts as a whole number wherever one is asked for."""

from __future__ import annotations

from typing import Any, TypeGuard


def is_whole(value: Any) -> TypeGuard[int]:
    """Tell whether a value is a whole number.

    >>> is_whole(3), is_whole(3.0), is_whole(True)
    (True, False, False)
    """
    # To Python, True is a whole number too.
    return isinstance(value, int) and not isinstance(value, bool)
