"""Progress bars: moving on a terminal, a line every half minute in a log."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress(iterable: Any = None, **kwargs: Any) -> Any:
    """Return tqdm's bar of the same arguments, with rate and remaining time, drawn as often as suits where it goes."""
    return tqdm(iterable, mininterval=0.5 if sys.stderr.isatty() else 30, **kwargs)
