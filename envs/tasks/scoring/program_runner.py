"""Run as a process by `sandbox`: runs one program under limits and prints a password if it ends well.

It reads ``{"program", "password", "seconds", "megabytes"}`` as JSON. The program's own output goes nowhere.
"""

from __future__ import annotations

import json
import os
import resource
import runpy
import sys
import types
from collections.abc import Callable
from pathlib import Path

FORBIDDEN = (
    *("socket.", "subprocess.", "pty.", "shutil.", "tempfile.", "sqlite3.", "signal.pthread_kill"),
    *("os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn", "os.kill"),
    *("os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.link", "os.symlink", "os.truncate"),
    *("os.chmod", "os.chown", "os.chflags", "os.utime", "os.setxattr", "os.removexattr"),
    *("ctypes.call_function", "ctypes.dlsym"),
)
"""Beginnings of the audit events (docs.python.org/3/library/audit_events.html) that end in a PermissionError."""

UNPROTECTED = 3
"""Exit code where the kernel offers no layer that keeps a program from writing."""


def limit(seconds: int, megabytes: int, is_filtered: bool) -> None:
    """Limit processor time, memory and files; and processes where no filter does."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: megabytes << 20,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    # It counts threads too, and all those of the user.
    if not is_filtered:
        limits[resource.RLIMIT_NPROC] = 0
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


def forbidding(writing: int) -> Callable[[str, tuple[object, ...]], None]:
    """Return an audit hook, which can't be taken off, that refuses what an exercise's solution has no need of.

    Args:
        writing: flags of an opening that can change a file.
    """

    def forbid(event: str, arguments: tuple[object, ...]) -> None:
        is_writing = event == "open" and isinstance(arguments[2], int) and bool(arguments[2] & writing)
        if is_writing or event.startswith(FORBIDDEN):
            raise PermissionError(f"{event} is not allowed here")

    return forbid


def main() -> None:
    """Read the job, run it, and print its password if nothing was raised."""
    job = json.loads(sys.stdin.read())
    # The verdict goes through a copy: what the program prints on the usual ones is lost.
    verdict = os.dup(1)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    # By its path: this process is isolated, and what lies beside it is no library for the program.
    confinement = runpy.run_path(str(Path(__file__).with_name("confinement.py")))
    layers = confinement["confine"]()
    if not {confinement["LANDLOCK"], confinement["SECCOMP"]} & set(layers):
        os._exit(UNPROTECTED)
    limit(job["seconds"], job["megabytes"], confinement["SECCOMP"] in layers)
    # A module of its own, so that `if __name__ == "__main__"` doesn't run and dataclasses work.
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    sys.addaudithook(forbidding(confinement["WRITING"]))
    try:
        exec(compile(job["program"], "<solution>", "exec"), module.__dict__)
    except BaseException:  # SystemExit too: a program that leaves early hasn't passed its tests
        os._exit(1)
    os.write(verdict, job["password"].encode())
    # At once: what the program left for the end, such as atexit handlers and threads, is not run.
    os._exit(0)


if __name__ == "__main__":
    main()
