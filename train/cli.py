"""How every entry point starts: parse, run, and turn a user's mistake into one line and exit status 2."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any, TypeVar

from envs.beliefs import DenoiserError
from train.config import parse
from train.run_folder import UserError

ConfigT = TypeVar("ConfigT")


def run(main: Callable[[ConfigT], Any], config_class: type[ConfigT], default_file: str | None = None) -> None:
    """Parse the command line and call `main`.

    Exit status 2 for what the user can put right, 1 for a failure of the dLLM, 130 when interrupted.
    """
    try:
        main(parse(config_class, default_file))
    except (UserError, ValueError, FileNotFoundError) as error:
        sys.exit(_complain(error, 2))
    except DenoiserError as error:
        sys.exit(_complain(error, 1))
    except KeyboardInterrupt:
        sys.exit(_complain("interrupted; what was finished is saved", 130))


def _complain(message: object, status: int) -> int:
    print(f"error: {message}", file=sys.stderr)
    return status
