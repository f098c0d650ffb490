"""A task whose scorer does what no scorer should."""

from __future__ import annotations

import asyncio
import contextlib
import sys
import time
from collections.abc import Callable
from fractions import Fraction
from typing import Any

from envs.tasks.base import Problem
from envs.tasks.suite.copy_list import Copy


def raises(text: str) -> float:
    raise ZeroDivisionError("division by\nzero")


def exits(text: str) -> float:
    sys.exit(3)


class Mute(Exception):
    def __str__(self) -> str:
        raise ValueError("of me nothing is said")


def raises_mute(text: str) -> float:
    raise Mute


def sleeps(text: str) -> float:
    while True:
        with contextlib.suppress(Exception):  # as strangers' code does
            time.sleep(60)


def cancels(text: str) -> float:
    """Raise what is no `Exception`."""
    raise asyncio.CancelledError


def escapes(text: str) -> float:
    """Raise a text that would turn a terminal red."""
    raise ValueError("\x1b[31mred")


class NoFloat(Fraction):
    """A number that doesn't become one."""

    def __float__(self) -> float:
        raise RuntimeError


FAULTS: dict[str, tuple[Callable[[str], Any], str]] = {
    "nan": (lambda text: float("nan"), "it returned nan, which is not from 0 to 1"),
    "two": (lambda text: 2.0, "it returned 2, which is not from 0 to 1"),
    "negative": (lambda text: -1, "it returned -1, which is not from 0 to 1"),
    "none": (lambda text: None, "it returned None, which is no number"),
    "text": (lambda text: "1.0", "it returned '1.0', which is no number"),
    "raises": (raises, r"it raised ZeroDivisionError (division by)"),
    "exits": (exits, "it raised SystemExit (3)"),
    "raises what can't be shown": (raises_mute, "it raised Mute"),
    "huge": (lambda text: 10**400, "it returned a number that is too large"),
    "a little more": (lambda text: 1.0000001, "it returned 1.0000001, which is not from 0 to 1"),
    "cancels": (cancels, "it raised CancelledError"),
    "escapes": (escapes, "it raised ValueError (?[31mred)"),
    "no float": (lambda text: NoFloat(1), "it returned a NoFloat, whose float raised RuntimeError"),
    "sleeps": (sleeps, "it took more than 0.05 seconds"),
}


class Faulty(Copy):
    """Copy, whose answers to every `every`-th problem, from number `first` on, are scored by a fault."""

    fault = FAULTS["nan"][0]
    every, first = 1, 0
    time_limit = 0.05

    def score(self, text: str, problem: Problem) -> Any:
        if (problem.index - self.first) % self.every == 0:
            return type(self).fault(text)
        return super().score(text, problem)


def faulty(name: str, every: int = 1, first: int = 0) -> type[Faulty]:
    """A class with one of `FAULTS`."""
    return type("Faulty", (Faulty,), {"fault": staticmethod(FAULTS[name][0]), "every": every, "first": first})
