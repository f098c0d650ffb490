"""Taking the scores of answers, wherever one is taken: a score that can't be believed is no score.

A task's `score` is a stranger's code on a model's text. Whatever it does, one answer costs at most its task's
`Task.time_limit`, and the result is a number in [0, 1] or `Unscored`, which every caller leaves out of its means.
"""

from __future__ import annotations

import logging
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any

import numpy as np

from envs.tasks.base import Problem, Task

MOST_UNSCORED = 0.05
"""Share of the answers beyond which a run ends: it would be about other problems than those it was asked for."""

FEWEST_ANSWERS, FEWEST_EXPECTED, LATEST_ANSWERS = 20, 100, 1000
"""Answers from which on the share is looked at, those that it is the share of at least, and the latest ones at most: so
one bad start doesn't end a long run, and one that breaks late ends soon."""

ROUNDING = 1e-9
"""What a score may lie outside [0, 1] by, as sums of shares do; it is cut."""

_logger = logging.getLogger(__name__)


class ScoringError(RuntimeError):
    """Too many answers couldn't be scored."""


@dataclass(frozen=True)
class Unscored:
    """An answer whose score is not known.

    Attributes:
        reason: what the task did, as a clause.
    """

    reason: str


class _CutOff(BaseException):
    """Ends a scorer; no scorer's own ``except Exception`` catches it."""


class Scorer:
    """Scores answers, says which can't be scored, and ends the run when they are too many.

    The first such answer of each task is logged (logger ``envs.tasks.scoring.scorer``, which prints to stderr unless
    told otherwise) with its problem's task, split and index.

    Args:
        tasks: that made the problems.
        expected: answers that there will be, where that is known.

    Attributes:
        answers: that were given to it.
        unscored: of those, the ones without a score.
    """

    def __init__(self, tasks: Sequence[Task], expected: int = FEWEST_EXPECTED) -> None:
        self.tasks = {task.name: task for task in tasks}
        self.expected = expected
        self.answers = 0
        self.unscored = 0
        self._reported: set[str] = set()
        self._last = ""  # which had none, and why
        self._latest: deque[bool] = deque(maxlen=max(expected, LATEST_ANSWERS))

    def score(self, text: str, problem: Problem) -> float | Unscored:
        """Return an answer's score in [0, 1], or why it has none.

        Raises:
            ScoringError: if more than `MOST_UNSCORED` of the expected answers, or of the latest where those are more,
                have none; never before there are `FEWEST_ANSWERS`.
        """
        task = self.tasks[problem.task]
        found = _take(lambda: task.score(text, problem), task.time_limit)
        self.answers += 1
        self._latest.append(isinstance(found, Unscored))
        if isinstance(found, Unscored):
            self.unscored += 1
            self._last = f"{problem.task}'s {problem.split} problem {problem.index}: {found.reason}"
            if problem.task not in self._reported:
                self._reported.add(problem.task)
                _logger.warning(
                    "warning: no score for an answer to %s. Such answers are left out and counted; more of this task "
                    "are not announced.",
                    self._last,
                )
        self._check()
        return found

    def state(self) -> dict[str, Any]:
        """Return what was counted; see `load_state`."""
        return {
            "answers": self.answers,
            "unscored": self.unscored,
            "reported": sorted(self._reported),
            "latest": [int(one) for one in self._latest],
            "last": self._last,
        }

    def load_state(self, state: Mapping[str, Any]) -> None:
        """Go on counting from what `state` returned."""
        self.answers, self.unscored, self._last = state["answers"], state["unscored"], state["last"]
        self._reported = {*state["reported"]}
        self._latest.clear()
        self._latest.extend(map(bool, state["latest"]))

    def _check(self) -> None:
        count, answers = sum(self._latest) if self.unscored else 0, len(self._latest)
        if answers >= FEWEST_ANSWERS and count > MOST_UNSCORED * max(answers, self.expected):
            raise ScoringError(
                f"{count} of {answers} answers have no score, the last to {self._last}. At most {MOST_UNSCORED:.0%} "
                "may be left out: mend the task's score, which must return a number from 0 to 1"
            )


def _take(score: Callable[[], Any], seconds: float) -> float | Unscored:
    """Call a scorer and return a score that can be believed, or why there is none."""
    try:
        value = limited(score, seconds)
    except _CutOff:
        return Unscored(f"it took more than {seconds:g} seconds")
    except KeyboardInterrupt:
        raise
    except BaseException as error:  # whatever a stranger's code raises
        said = _first_line(error)
        return Unscored(f"it raised {type(error).__name__}" + (f" ({said})" if said else ""))
    # numpy's bool is no Real, yet a verdict.
    if not isinstance(value, Real | np.bool_):
        return Unscored(f"it returned {_shown(value)}, which is no number")
    try:
        number = float(value)
    except OverflowError:
        return Unscored("it returned a number that is too large")
    except Exception as error:  # a stranger's kind of number
        return Unscored(f"it returned {_shown(value)}, whose float raised {type(error).__name__}")
    if not math.isfinite(number) or not -ROUNDING <= number <= 1 + ROUNDING:
        return Unscored(f"it returned {number:.9g}, which is not from 0 to 1")
    return min(max(number, 0.0), 1.0)


def _first_line(error: BaseException) -> str:
    try:
        return "".join(c if c.isprintable() else "?" for c in next(iter(str(error).splitlines()), "")[:200])
    except Exception:  # its __str__ is the stranger's too
        return ""


def _shown(value: Any) -> str:
    """Return what a scorer returned, short, and without trusting its ``repr``."""
    if value is None or isinstance(value, str):
        return repr(value)[:80]
    return f"a {type(value).__name__}"


def limited(call: Callable[[], Any], seconds: float) -> Any:
    """Return what a call returns, or raise `_CutOff` in it when it takes longer by the clock, where that is possible.

    A timer's signal (SIGALRM) interrupts Python code, sleeping, waiting for processes, and matching of regular
    expressions. It can't interrupt a call into C code that doesn't return, and there is no limit outside the main
    thread or on systems without such timers (Windows): a task that can take for ever there needs a process of its own,
    as programs and the comparison of formulas have. A timer that somebody else has set goes on afterwards.
    """
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        return call()
    is_running, began, left, interval = False, time.monotonic(), 0.0, 0.0

    def cut_off(*_: object) -> None:
        if is_running:
            raise _CutOff

    handler = signal.signal(signal.SIGALRM, cut_off)
    # The signal can come between any two lines, in the inner cleanup too: whatever happens, the timer ends. (As a
    # context manager this would not hold: it could come when the block has ended and the manager not yet gone on.)
    try:
        try:
            is_running = True
            # Again and again: an exception is lost if it comes in a destructor, or to code that catches everything.
            left, interval = signal.setitimer(signal.ITIMER_REAL, seconds, 0.5)
            return call()
        finally:
            is_running = False
    finally:
        is_running = False
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, signal.SIG_DFL if handler is None else handler)
        if left:
            signal.setitimer(signal.ITIMER_REAL, max(left - (time.monotonic() - began), 1e-3), interval)
