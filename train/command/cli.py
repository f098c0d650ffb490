"""How every entry point starts: parse, run, and turn a user's mistake into one line and exit status 2."""

from __future__ import annotations

import io
import os
import select
import signal
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from typing import Any, TypeVar

from envs.beliefs import DenoiserError
from envs.tasks.scoring.scorer import ScoringError
from train.command import parallel
from train.command.allocator import bound_kept_kernels, keep_freed_memory
from train.command.config import parse
from train.command.errors import UserError
from train.command.escaping import printable_lines
from train.command.interrupt import Interrupted, raised

ConfigT = TypeVar("ConfigT")

LONGEST_NAME = 200
"""Characters of a file's name that a message shows."""


def run(
    main: Callable[[ConfigT], Any],
    config_class: type[ConfigT],
    default_file: str | None = None,
    *,
    positional: str | None = None,
) -> None:
    """Parse the command line and call `main`.

    Exit status 2 for what the user can put right, 1 for a failure of the dLLM or the machine; when
    interrupted 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP), and 141 without a word once nobody reads what it prints.

    Args:
        main: what the command does.
        config_class: its configuration; see `train.command.config.parse`, also for the rest.
        default_file: a file of `configs/` to start from.
        positional: the field that words without a flag belong to.
    """
    for stream in (sys.stdout, sys.stderr):
        # Where the terminal or the pipe knows no such character, a question mark instead of the end of a long job.
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    keep_freed_memory()
    bound_kept_kernels()
    try:
        with raised(), _flushed():
            main(parse(config_class, default_file, positional=positional))
    except BrokenPipeError as error:
        # That of a worker says something; a reader such as head that has seen enough ends the command as any other.
        unread = _unread()
        sys.exit(_leave(unread) if unread else complain(error, 1))
    except (UserError, ValueError, FileNotFoundError) as error:
        sys.exit(complain(error, 2))
    except (DenoiserError, ScoringError, OSError) as error:
        sys.exit(complain(error, 1))
    except Interrupted as stop:
        sys.exit(complain(stop, stop.status) if parallel.is_main() else stop.status)
    except KeyboardInterrupt:
        sys.exit(complain("interrupted", 130))


@contextmanager
def _flushed() -> Iterator[None]:
    """Write out at the end what was printed: at Python's own end nothing can be made of a reader that has gone."""
    try:
        yield
    except SystemExit:
        # What --help ends in.
        _flush()
        raise
    _flush()


def _flush() -> None:
    # A process that was started without one has none.
    if sys.stdout is not None:
        sys.stdout.flush()


def _unread() -> list[int]:
    """Return the descriptors of what is printed to that nobody reads any more."""
    poll = select.poll()
    for stream in (sys.stdout, sys.stderr):
        # What stands in for them in a notebook has no descriptor.
        with suppress(OSError, AttributeError):
            # Asked for nothing, a poll still tells of a pipe without a reader.
            poll.register(stream.fileno(), 0)
    return [number for number, event in poll.poll(0) if event & (select.POLLERR | select.POLLHUP)]


def _leave(unread: Iterable[int]) -> int:
    """Let the rest of what is printed go nowhere, and return the status that a shell has for SIGPIPE."""
    # Python writes out what it still holds when it ends, and would complain of that.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for number in unread:
        os.dup2(nowhere, number)
    return 128 + signal.SIGPIPE


def complain(message: object, status: int) -> int:
    """Print what went wrong as one line.

    Args:
        message: an error, or its text.
        status: to exit with.

    Returns:
        The status.
    """
    if isinstance(message, OSError) and message.strerror and message.filename is not None:
        # In words, without the system's number; of a file that is put in the place of another, that place.
        message = f"{message.strerror}: {str(message.filename2 or message.filename)[:LONGEST_NAME]!r}"
    # After SIGHUP there may be nowhere to write.
    with suppress(OSError):
        print(f"error: {printable_lines(str(message))}", file=sys.stderr)
    return status
