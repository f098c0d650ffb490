"""One process writes to a folder; another is told which."""

from __future__ import annotations

import json
import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from train.command.errors import UserError
from train.command.escaping import printable
from train.command.provenance import MACHINE, command_line, redact

try:
    import fcntl
except ImportError:  # Windows has none: there, who holds a folder is known by its process alone
    fcntl = None  # type: ignore[assignment]

LOCK = ".lock"
"""The file that a process locks, and that says who it is, as long as it writes to the folder."""


FREE = ("out", "resume", "dry_run", "wandb", "checkpoint_every", *MACHINE)
"""Settings in which a resumed run may differ: where it runs and who is told, not what comes of it. (On other devices,
or with more threads, sums of floats may differ in their last bits.)"""


LONGEST_COMMAND = 160
"""Characters of a command line that a message shows."""


NO_LINK, NO_WAIT = getattr(os, "O_NOFOLLOW", 0), getattr(os, "O_NONBLOCK", 0)
"""Where the system has them."""


@contextmanager
def held(folder: Path) -> Iterator[None]:
    """Lock a folder while it is written; a process that ends, however it does, leaves it unlocked.

    The lock is advisory and the kernel's (flock), on NFS as far as that has one. Where there is none, the process
    that the lock file names counts as long as it lives, and one of another machine until the file is deleted.

    Raises:
        UserError: naming who holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    file = folder / LOCK
    descriptor = _lock(file)
    try:
        about = {"pid": os.getpid(), "host": socket.gethostname(), "command": redact(command_line())}
        about["started"] = datetime.now().astimezone().isoformat(timespec="seconds")
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, json.dumps(about).encode() + b"\n", 0)
        yield
    finally:
        file.unlink(missing_ok=True)
        os.close(descriptor)


def _lock(file: Path) -> int:
    """Lock a file and return its descriptor."""
    while True:
        descriptor = _open(file)
        if not _try_lock(descriptor, file):
            os.close(descriptor)
            holder = read_holder(file)
            said = {name: printable(str(value)) for name, value in holder.items()}
            who = f"process {said['pid']} on {said['host']}" if said else "another process"
            # An evaluation of many policies has a command of pages.
            command = said.get("command", "")
            command = command if len(command) <= LONGEST_COMMAND else f"{command[:LONGEST_COMMAND]}..."
            about = f" ({command}, started {said['started']})" if said else ""
            raise UserError(
                f"out is {str(file.parent)!r}, which {who} writes to{about}: wait for it, end it, or choose "
                "another --out"
            )
        # Its last holder may have deleted the file after we opened it: then another process can lock a new one.
        with suppress(FileNotFoundError):
            if os.path.samestat(os.fstat(descriptor), file.lstat()):
                return descriptor
        os.close(descriptor)


def _open(file: Path) -> int:
    """Open a lock file, and no other that a link leads to."""
    refusal = UserError(f"{str(file)!r} is no plain file: delete it, or choose another --out")
    try:
        # Not to wait for whoever reads, if it is a pipe.
        descriptor = os.open(file, os.O_RDWR | os.O_CREAT | NO_LINK | NO_WAIT, 0o644)
    except OSError as error:
        if file.is_symlink() or file.is_dir():
            raise refusal from error
        raise
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise refusal
    return descriptor


def _try_lock(descriptor: int, file: Path) -> bool:
    try:
        if fcntl is not None:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
    except BlockingIOError:
        return False
    except OSError:
        pass  # a file system without locks
    holder = read_holder(file)
    return not holder or (holder["host"] == socket.gethostname() and not _is_alive(holder["pid"]))


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # another user's
    return True


def read_holder(file: Path) -> dict[str, Any]:
    """Return who wrote a lock file: ``pid``, ``host``, ``command``, ``started``; nothing if it says nothing whole."""
    try:
        found = json.loads(file.read_text())
        return found if {"pid", "host", "command", "started"} <= set(found) and isinstance(found["pid"], int) else {}
    except (OSError, ValueError, TypeError):
        return {}
