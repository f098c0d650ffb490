"""The first import of every script: until it runs, while Python imports for seconds, Ctrl-C ends it without a word.

Python's own way is a traceback through whatever was being imported. Once there is something to say
`train.command.interrupt` takes over.
"""

from __future__ import annotations

import signal
import sys
import threading
from pathlib import Path

SCRIPTS = ("train", "train/harness", "benchmarks")
"""Folders of scripts, in that of the repository."""


def end_quietly() -> None:
    """Let Ctrl-C end this process as it ends one without a handler, if a script of ours is what runs.

    One that a user or a test runs, and that imports ours, keeps its own handler.
    """
    main = Path(getattr(sys.modules["__main__"], "__file__", None) or ".").resolve()
    is_ours = main.parent in [Path(__file__).resolve().parents[2] / folder for folder in SCRIPTS]
    # What nohup, or a shell's background job, has told us to ignore stays ignored.
    is_pythons = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if is_ours and is_pythons and threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGINT, signal.SIG_DFL)


end_quietly()
