"""Run as a process by `envs.tasks.sandbox`: runs one program under limits and prints a password if it ends well.

It reads ``{"program", "password", "seconds", "megabytes"}`` as JSON. The program's own output goes nowhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import resource
import sys
import types

FORBIDDEN = (
    *("socket.", "subprocess.", "pty.", "shutil.", "os.system", "os.exec", "os.fork", "os.posix_spawn", "os.spawn"),
    *("os.kill", "os.remove", "os.rename", "os.rmdir", "os.mkdir", "os.chmod", "os.chown", "os.link", "os.symlink"),
    *("os.truncate", "signal.pthread_kill", "sqlite3.", "ctypes.call_function", "ctypes.dlsym"),
)
"""Beginnings of the audit events (docs.python.org/3/library/audit_events.html) that end in a PermissionError."""

CLONE_NEWUSER, CLONE_NEWNET = 0x10000000, 0x40000000


def limit(seconds: int, megabytes: int) -> None:
    """Limit time, memory, files and, where the kernel allows it, take the network away."""
    limits = {
        resource.RLIMIT_CPU: seconds,
        resource.RLIMIT_AS: megabytes << 20,
        resource.RLIMIT_FSIZE: 0,
        resource.RLIMIT_NOFILE: 64,
        resource.RLIMIT_CORE: 0,
    }
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))
    # Fails without a word where user namespaces are off; the audit hook refuses sockets then.
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).unshare(CLONE_NEWUSER | CLONE_NEWNET)


def forbid(event: str, arguments: tuple[object, ...]) -> None:
    """Refuse what a solution to a programming exercise has no need of; an audit hook, which can't be taken off."""
    is_writing = event == "open" and any(letter in str(arguments[1] or "") for letter in "wax+")
    if event.startswith(FORBIDDEN) or is_writing:
        raise PermissionError(f"{event} is not allowed here")


def main() -> None:
    """Read the job, run it, and print its password if nothing was raised."""
    job = json.loads(sys.stdin.read())
    verdict = os.dup(1)
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    limit(job["seconds"], job["megabytes"])
    # A module of its own, so that `if __name__ == "__main__"` doesn't run and dataclasses work.
    module = types.ModuleType("solution")
    sys.modules["solution"] = module
    sys.addaudithook(forbid)
    try:
        exec(compile(job["program"], "<solution>", "exec"), module.__dict__)
    except BaseException:  # SystemExit too: a program that leaves early hasn't passed its tests
        os._exit(1)
    os.write(verdict, job["password"].encode())
    os._exit(0)


if __name__ == "__main__":
    main()
