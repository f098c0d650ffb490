"""Programs in several processes, as torchrun starts them.

They are copies of this process, which has imported everything: torchrun itself and a start of Python for each of them
would take seconds more. What only torchrun does is tested with torchrun.
"""

from __future__ import annotations

import os
import runpy
import signal
import socket
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import torch
from forks import leave_parent, status_of, write_to


class Together:
    """Processes that run one program.

    Args:
        pids: of them, by rank.
        log: what they print.
    """

    def __init__(self, pids: list[int], log: Path) -> None:
        self.pids = pids
        self.log = log

    def wait(self) -> tuple[list[int], str]:
        """Wait until all have ended; return their statuses and what they printed."""
        found = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in self.pids]
        self.pids = []
        return found, self.log.read_text()

    def kill(self) -> None:
        """End them at once."""
        for pid in self.pids:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        for pid in self.pids:
            os.waitpid(pid, 0)
        self.pids = []


@contextmanager
def started_together(log: Path, program: Path, *words: str, processes: int = 2) -> Iterator[Together]:
    """Run a program in several processes, which end with the context.

    Args:
        log: file that takes what they print.
        program: file to run, as `__main__`.
        words: its arguments.
        processes: how many.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    about = {"WORLD_SIZE": processes, "LOCAL_WORLD_SIZE": processes, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    about |= {"TORCHELASTIC_RUN_ID": "tests"}
    pids = []
    for rank in range(processes):
        pid = os.fork()
        if not pid:
            _run(log, program, words, {**about, "RANK": rank, "LOCAL_RANK": rank})
        pids.append(pid)
    group = Together(pids, log)
    try:
        yield group
    finally:
        group.kill()


def _run(log: Path, program: Path, words: tuple[str, ...], about: dict[str, object]) -> NoReturn:
    """Become the program."""
    leave_parent()
    write_to(log)
    sys.stdout, sys.stderr = (os.fdopen(stream, "w", closefd=False) for stream in (1, 2))
    os.environ.update({name: str(value) for name, value in about.items()})
    torch.set_num_threads(1)
    sys.argv = [str(program), *words]
    status = status_of(lambda: runpy.run_path(str(program), run_name="__main__"))
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)
