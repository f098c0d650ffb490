"""A process that answers questions one by one, started when first needed and again after it was killed.

It is for strangers' code on a model's text, which may take for ever, take all memory or never return from C, where no
timer of this process could stop it.
"""

from __future__ import annotations

import atexit
import json
import os
import selectors
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

START_SECONDS = 60.0
"""Time by the clock that a worker may take to start."""


class Worker:
    """Runs a script that writes a line of JSON when it is ready, and one for each that it reads.

    Args:
        script: the file.
        arguments: of its command line.
        missing: what the error says where it doesn't start.
    """

    def __init__(self, script: Path, arguments: Sequence[str], missing: str) -> None:
        # -P: the modules beside the script have names of libraries.
        self.command = [sys.executable, "-P", str(script), *arguments]
        self.missing = missing
        self.process: subprocess.Popen[str] | None = None
        self.lock = threading.Lock()
        atexit.register(self.stop)

    def ask(self, question: Any, seconds: float) -> Any:
        """Return the answer, or None where there is none in so many seconds by the clock, or the process died.

        Raises:
            ValueError: if it doesn't start.
        """
        with self.lock:
            if self.process is None or self.process.poll() is not None:
                self._start()
            assert self.process is not None
            assert self.process.stdin is not None
            try:
                self.process.stdin.write(json.dumps(question) + "\n")
                self.process.stdin.flush()
                line = self._read_line(seconds)
            except BrokenPipeError:  # it died since the last answer
                self.stop()
                return None
            except BaseException:
                self.stop()  # so that this answer, if it still comes, is not taken for the next one's
                raise
        return None if line is None else json.loads(line)

    def stop(self) -> None:
        """End the process, if there is one."""
        if self.process is not None:
            self.process.kill()
            self.process.communicate()
            self.process = None

    def _start(self) -> None:
        # -P drops the working folder; whatever else this process imports from must be there too.
        path = os.pathsep.join(path for path in sys.path if path)
        self.process = subprocess.Popen(
            self.command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env={**os.environ, "PYTHONPATH": path},
        )
        if self._read_line(START_SECONDS) is None:
            raise ValueError(self.missing)

    def _read_line(self, seconds: float) -> str | None:
        """Return the next line, or stop the process and return None: nothing came in time, or it died."""
        assert self.process is not None
        assert self.process.stdout is not None
        with selectors.DefaultSelector() as selector:
            selector.register(self.process.stdout, selectors.EVENT_READ)
            line = self.process.stdout.readline() if selector.select(seconds) else ""
        if not line:
            self.stop()
        return line or None
