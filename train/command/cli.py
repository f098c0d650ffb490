"""How every entry point starts: parse, run, and turn a user's mistake into one line and exit status 2."""

from __future__ import annotations

import io
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, TypeVar

from envs.beliefs import DenoiserError
from envs.tasks.scoring.scorer import ScoringError
from train.command import parallel
from train.command.config import parse
from train.command.errors import UserError
from train.command.interrupt import Interrupted, raised

ConfigT = TypeVar("ConfigT")


def run(
    main: Callable[[ConfigT], Any],
    config_class: type[ConfigT],
    default_file: str | None = None,
    *,
    positional: str | None = None,
) -> None:
    """Parse the command line and call `main`.

    Exit status 2 for what the user can put right, 1 for a failure of the dLLM or the machine; when
    interrupted 130 (Ctrl-C), 143 (SIGTERM) or 129 (SIGHUP).

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
    try:
        with raised():
            main(parse(config_class, default_file, positional=positional))
    except (UserError, ValueError, FileNotFoundError) as error:
        sys.exit(_complain(error, 2))
    except (DenoiserError, ScoringError, OSError) as error:
        sys.exit(_complain(error, 1))
    except Interrupted as stop:
        sys.exit(_complain(stop, stop.status) if parallel.is_main() else stop.status)
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted", 130))


def _complain(message: object, status: int) -> int:
    # After SIGHUP there may be nowhere to write.
    with suppress(OSError):
        print(f"error: {message}", file=sys.stderr)
    return status
