"""What to answer to a name that nobody knows."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


def nearest(name: str, known: Iterable[str]) -> str:
    """Return the known name that is most like a given one, empty if none is.

    >>> nearest("alhpa", ["alpha", "tasks"]), nearest("model", ["order"])
    ('alpha', '')
    """
    # At difflib's own 0.6 "model" is taken for "order".
    return next(iter(difflib.get_close_matches(name, list(known), 1, 0.7)), "")


def hint(name: str, known: Iterable[str]) -> str:
    """Say which name was probably meant, or which there are.

    >>> hint("thresold", ["threshold", "klass"]), hint("x", ["threshold", "klass"])
    ('did you mean threshold?', 'choose from threshold, klass')
    """
    known = list(known)
    close = nearest(name, known)
    return f"did you mean {close}?" if close else f"choose from {', '.join(known)}"
