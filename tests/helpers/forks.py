"""What a copy of this process does to be a program of its own."""

from __future__ import annotations

import os
import signal
import traceback
from collections.abc import Callable
from pathlib import Path


def leave_parent() -> None:
    """Leave the session of the process that this is a copy of, and its handlers of signals."""
    os.setsid()
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)


def write_to(log: Path) -> None:
    """Add what is printed from now on to a file."""
    with log.open("a") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)


def status_of(program: Callable[[], object]) -> int:
    """Run a program; return the status that Python would end with, and print what it would of an exception."""
    try:
        program()
    except SystemExit as error:
        if error.code is None or isinstance(error.code, int):
            return error.code or 0
        os.write(2, f"{error.code}\n".encode())
        return 1
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
