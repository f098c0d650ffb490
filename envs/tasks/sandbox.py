"""Running code that a model wrote: in a process of its own, with limits of time and memory and no network.

This guards against accidents, such as an endless loop or a deleted file. It is no security boundary against code that
means harm: for that, run the whole job in a container or a virtual machine.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

RUNNER = Path(__file__).with_name("program_runner.py")


def passes(program: str, seconds: int = 10, megabytes: int = 1024) -> bool:
    """Run a Python program and tell whether it comes to its end without an exception.

    It has `seconds` of time, `megabytes` of memory, an empty working folder, none of this process's environment, and
    no right to write files, start processes or open sockets.

    Raises:
        ValueError: if a limit is below 1.

    >>> passes("assert 1 + 1 == 2"), passes("assert 1 + 1 == 3"), passes("raise SystemExit(0)")
    (True, False, False)
    """
    for name, value in (("seconds", seconds), ("megabytes", megabytes)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be 1 or more")
    password = secrets.token_hex(16)
    job = {"program": program, "password": password, "seconds": seconds, "megabytes": megabytes}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            # -I: no PYTHON* variables, no user site, not the working folder.
            [sys.executable, "-I", "-B", str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            env={"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(json.dumps(job).encode(), timeout=seconds)
        except subprocess.TimeoutExpired:
            output = b""
        finally:
            _end(process)
    return output.decode(errors="replace") == password


def _end(process: subprocess.Popen[bytes]) -> None:
    """Kill a process and whatever it started."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.communicate()
