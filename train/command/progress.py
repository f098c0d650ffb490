"""Progress bars: moving on a terminal, a line every half minute in a log."""

from __future__ import annotations

import math
import sys
import threading
import time
from collections.abc import Callable
from typing import Any

from tqdm import tqdm

LINE = "{desc}: {percentage:.0f}% {n_fmt}/{total_fmt} {units} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"
"""A line of a log."""

SECONDS = 30.0
"""Between two lines of a log."""


# Its own lock is one for several processes, which draw no common bars here; a process that is ended would leak it.
tqdm.set_lock(threading.RLock())


class Bar(tqdm):  # type: ignore[type-arg]
    """tqdm's bar, whatever happens to the clock: set back by an hour, tqdm's own is not drawn for an hour."""

    # What would draw a bar that waits for too many steps; ours count every step, and it asks the clock.
    monitor_interval = 0

    @property
    def _time(self) -> Callable[[], float]:
        return time.monotonic

    @_time.setter
    def _time(self, clock: Callable[[], float]) -> None:
        pass  # tqdm sets the wall clock


class ProgressLines(Bar):
    """tqdm's bar for a file: whole lines instead of carriage returns, the first at once, the last when it is done."""

    shown_at = -math.inf
    shown_n: float = -1

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Write a line, unless the last one is too recent."""
        now = time.monotonic()
        if now - self.shown_at >= SECONDS:
            self.shown_at, self.shown_n = now, self.n
            self.fp.write(f"{self}\n")
            self.fp.flush()

    def clear(self, nolock: bool = False) -> None:
        """Do nothing: what is in a file stays there."""

    def close(self) -> None:
        """Write the last line, if it says something new."""
        if not self.disable and self._time() >= self.start_t + (self.delay or 0) and self.n != self.shown_n:
            self.shown_at = -math.inf
            self.display()
        # Without a printer tqdm doesn't end the line that a bar would have left open.
        self.sp = None
        super().close()


def progress(iterable: Any = None, **kwargs: Any) -> Any:
    """Return tqdm's bar of the same arguments, with rate and remaining time, drawn as often as suits where it goes."""
    if sys.stderr.isatty():
        return Bar(iterable, mininterval=0.5, miniters=1, **kwargs)
    about: dict[str, Any] = {"mininterval": SECONDS, "maxinterval": SECONDS, "miniters": 1}
    unit = kwargs.get("unit", "it")
    units = f"{unit[:-1]}ies" if unit.endswith("y") else f"{unit}s"
    return ProgressLines(iterable, bar_format=LINE.replace("{units}", units), **about, **kwargs)
