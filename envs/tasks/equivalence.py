r"""Whether two mathematical answers are the same: by their text, as numbers, or as Math-Verify sees it."""

from __future__ import annotations

import atexit
import json
import os
import re
import selectors
import subprocess
import sys
import threading
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

from envs.tasks.answers import numbers

SECONDS, START_SECONDS, MEGABYTES = 5.0, 60.0, 2048
"""What one comparison may take, what starting the worker may take, and the worker's memory."""

_SAME: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern), plain)
    for pattern, plain in (
        (r"\\(?:left|right|displaystyle|big|Big|bigl|bigr|Bigl|Bigr)(?![a-zA-Z])", ""),
        (r",\\!\s*", ""),
        (r"\\[,!;: ]|~|\\quad|\\qquad", ""),
        (r"\\[dtc]frac", r"\\frac"),
        (r"(?<=[\w})])\s*\\(?:text|mbox|mathrm|textrm)\s*\{\s*(?!\s*(?:and|or)\b)[^{}\d]*\}(?:\^\{?\d\}?)?\s*$", ""),
        (r"\\(?:text|mbox|mathrm|textrm|textbf|mathbf|operatorname)\s*\{([^{}]*)\}", r"\1"),
        (r"\^\s*\{?\s*\\circ\s*\}?|°|\\degree|\\circ(?![a-zA-Z])", ""),
        (r"\\?[%$]", ""),
        (r"(?<=\d)\{?,\}?(?=\d{3}(?!\d))", ""),
        (r"\\le(?![a-zA-Z])", r"\\leq"),
        (r"\\ge(?![a-zA-Z])", r"\\geq"),
        (r"\s+", ""),
        (r"\\frac(\d)(\d)", r"\\frac{\1}{\2}"),
        (r"\\frac(\d)\{", r"\\frac{\1}{"),
        (r"\\sqrt(\d)", r"\\sqrt{\1}"),
        (r"^(?:[a-zA-Z]|[a-z]\([a-z]\))(?:=|\\in)", ""),
        (r"^\\\((.*)\\\)$|^\\\[(.*)\\\]$", r"\1\2"),
        (r"^(-?)\{([^{}]*)\}$", r"\1\2"),
        (r"\.$", ""),
        (r"(?<![\d.])\.(?=\d)", "0."),
    )
)
_NUMBER = re.compile(r"-?(?:\d+(?:\.\d+)?|\d*\\frac\{-?\d+\}\{\d+\}|\d+/\d+)")
_BASE = re.compile(r"(\d)_\{?\d+\}?$")
_CHOICE = re.compile(r"\(?([A-Z])\)?")


def plain(answer: str) -> str:
    r"""Write an answer so that the same answer is the same text: no spaces, units, currency or decoration.

    >>> plain(r"x = \dfrac12 \text{ cm}"), plain(r"11,\! 111"), plain(r"\text{Evelyn}")
    ('\\frac{1}{2}', '11111', 'Evelyn')
    """
    answer = answer.strip()
    for pattern, replacement in _SAME:
        answer = pattern.sub(replacement, answer)
    choice = _CHOICE.fullmatch(answer)
    return choice[1] if choice else answer


def same_answer(answer: str, gold: str) -> bool:
    r"""Tell whether an answer equals the reference.

    Args:
        answer: what stands in the solution's slot, LaTeX or text.
        gold: the reference.

    Raises:
        ValueError: if it takes Math-Verify to tell, and that is not installed.

    >>> same_answer("0.5", r"\frac{1}{2}"), same_answer("(C)", r"\text{C}"), same_answer("3", "4")
    (True, True, False)
    """
    one, other = plain(answer), plain(gold)
    if one == other or (one.lower() == other.lower() and one.isalpha()):
        return bool(one)
    if _NUMBER.fullmatch(one) and _NUMBER.fullmatch(other):
        return numbers(one) == numbers(other)
    # A number's base is part of the question: 2516 and 2516_8 are the same answer to "in base 8".
    if _BASE.search(one) or _BASE.search(other):
        has_both = bool(_BASE.search(one) and _BASE.search(other))
        return not has_both and _BASE.sub(r"\1", one) == _BASE.sub(r"\1", other)
    if not one or len(one) > 20 + 20 * len(other) or not re.search(r"[\d\\a-z]", one):
        return False
    return _verified(((gold, answer), (other, one)))


@lru_cache(maxsize=65536)
def _verified(pairs: tuple[tuple[str, str], ...]) -> bool:
    return _worker.compare(pairs)


class _Worker:
    """A process that compares, started when first needed and again after it was killed."""

    def __init__(self) -> None:
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()

    def start(self) -> None:
        if find_spec("math_verify") is None:
            raise ValueError("math-verify is not installed: pip install 'unmasking-policies[tasks]' to score MATH")
        self.process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("math_worker.py")), str(MEGABYTES)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)},
        )
        if self.read_line(START_SECONDS) is None:
            raise ValueError("math-verify can't be imported: pip install 'unmasking-policies[tasks]' to score MATH")

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def read_line(self, seconds: float) -> str | None:
        """Return the next line, or stop the process and return None: nothing came in time, or it died."""
        assert self.process is not None
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(seconds) else ""
        if not line:
            self.stop()
        return line or None

    def compare(self, pairs: tuple[tuple[str, str], ...]) -> bool:
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self.start()
            assert self.process is not None
            assert self.process.stdin is not None
            self.process.stdin.write(json.dumps(pairs) + "\n")
            self.process.stdin.flush()
            return self.read_line(SECONDS) == "true\n"


_worker = _Worker()
atexit.register(_worker.stop)
