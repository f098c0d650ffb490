"""Running code that a model wrote: in a process of its own that can change no file, within limits, without network.

What keeps files whole is the kernel; `envs.tasks.scoring.confinement` says which layer keeps what:

| system | layers |
| --- | --- |
| Linux 5.13 and later, Landlock on, x86-64 or 64-bit Arm | Landlock and seccomp, each enough by itself |
| Linux without Landlock, x86-64 or 64-bit Arm | seccomp |
| other Linux with Landlock | Landlock: rights and times of the user's own files are kept by names only |
| everything else | none: programs are refused |

Within them a list of names (`envs.tasks.scoring.program_runner`) refuses early what a solution has no need of, and
limits keep processor time, memory and the size of files (none) in bounds. A program may read: what it must not see,
such as keys, belongs into another container. And it runs inside of Python beside what judges it, so that one that means
to could call itself right.
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
from functools import cache
from pathlib import Path

from envs.tasks.scoring.confinement import LANDLOCK, SECCOMP

RUNNER = Path(__file__).with_name("program_runner.py")
CONFINEMENT = Path(__file__).with_name("confinement.py")

# -I: no PYTHON* variables, no user site, not the working folder.
_PYTHON = (sys.executable, "-I", "-B")

# The same but that PYTHONHASHSEED is heeded: the environment is all ours, and -I would pass over it too.
_RUNNING = (sys.executable, "-s", "-P", "-B")

WAIT = 3
"""Seconds by the clock for each of processor time: other processes want the processor too."""


@cache
def protection() -> tuple[str, ...]:
    """Return the layers that hold on this system, `LANDLOCK` and `SECCOMP` among them where the kernel has them."""
    # A process of its own, since none of them can be taken off again.
    asked = subprocess.run([*_PYTHON, str(CONFINEMENT)], capture_output=True, check=False)
    try:
        return tuple(json.loads(asked.stdout))
    except ValueError:
        return ()


def need_protection() -> None:
    """Find out before a long job whether programs can be run here.

    Raises:
        ValueError: if no layer holds that keeps a program from changing files.
    """
    if not {LANDLOCK, SECCOMP} & set(protection()):
        raise ValueError(
            "programs can't be run here: the system can't keep them from changing files. It takes Linux with seccomp "
            "(on x86-64 or 64-bit Arm) or Landlock (5.13 and later): use such a machine, virtual machine or container"
        )


def passes(program: str, seconds: int = 10, megabytes: int = 1024) -> bool:
    """Run a Python program and tell whether it comes to its end without an exception.

    It has `seconds` of processor time and three times as many by the clock, `megabytes` of memory, an empty working
    folder, none of this process's environment, and no right to write files, start processes or open sockets.

    Raises:
        ValueError: if a limit is below 1, or the system has nothing to keep programs from changing files.

    >>> passes("assert 1 + 1 == 2"), passes("assert 1 + 1 == 3"), passes("raise SystemExit(0)")
    (True, False, False)
    """
    for name, value in (("seconds", seconds), ("megabytes", megabytes)):
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be 1 or more")
    need_protection()
    # An exit code alone could be had by leaving early; the password is written only after the last test.
    password = secrets.token_hex(16)
    job = {"program": program, "password": password, "seconds": seconds, "megabytes": megabytes}
    with tempfile.TemporaryDirectory() as folder:
        process = subprocess.Popen(
            [*_RUNNING, str(RUNNER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=folder,
            # No key of this process's environment; hashes alike in every run, or a program's verdict could vary.
            env={"PATH": os.defpath, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"},
            # A group of its own, so that all of it can be killed and a Ctrl-C here is not the program's.
            start_new_session=True,
        )
        try:
            output, _ = process.communicate(json.dumps(job).encode(), timeout=WAIT * seconds)
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
