"""A `python` that starts soon: programs run in copies of a process that has imported the libraries, nothing of ours.

To import torch and transformers takes four seconds, and the pages of docs/ start Python some fifty times. Put
`bin_folder` first into PATH, and `python FILE ARGUMENTS` is handed to that process, which forks: the program has its
own arguments, folder, environment, terminal, signals and exit status. README's main job is run by Python itself.
"""

from __future__ import annotations

import atexit
import importlib
import json
import multiprocessing.process
import os
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import types
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from forks import leave_parent, status_of

LIBRARIES = [
    *("torch", "gymnasium", "stable_baselines3", "transformers.modeling_utils", "transformers.models.auto"),
    *("transformers.models.roberta_prelayernorm.modeling_roberta_prelayernorm", "matplotlib.pyplot", "scipy.stats"),
    *("wandb", "rich.table", "safetensors.torch", "tokenizers", "torch.distributed.run"),
]
"""What most commands import; one that is missing is left to the command."""

PLACES = [
    place
    for place in sys.path
    if place not in ("", str(Path(__file__).parent), *os.environ.get("PYTHONPATH", "").split(os.pathsep))
]
"""Where libraries are: what the path holds but for this file's folder and what the environment adds."""

PATIENCE = 120.0
"""Seconds to wait for the libraries."""

CLIENT = r"""#!{python} -IS
import json, os, signal, socket, sys

words, real, waiting, pid = sys.argv[1:], {python!r}, [], None
if not words or words[0].startswith("-"):
    os.execv(real, [real, *words])

def forward(signum, frame):
    if pid is None:
        waiting.append(signum)
    else:
        try:
            os.kill(pid, signum)
        except ProcessLookupError:
            pass

for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
    if signal.getsignal(signum) is not signal.SIG_IGN:
        signal.signal(signum, forward)
server = socket.socket(socket.AF_UNIX)
server.connect({address!r})
asked = json.dumps(dict(words=words, folder=os.getcwd(), environment=dict(os.environ))).encode()
socket.send_fds(server, [len(asked).to_bytes(8, "big")], [0, 1, 2])
server.sendall(asked)
answers = server.makefile()
pid = int(answers.readline())
for signum in waiting:
    forward(signum, None)
status = int(answers.readline() or 1)
if status < 0:
    signal.signal(-status, signal.SIG_DFL)
    os.kill(os.getpid(), -status)
os._exit(status)
"""
"""Stands for `python`: sends what it was asked and its streams, forwards signals, and ends as the program did."""


def bin_folder(shared: Path) -> Path:
    """Return a folder with a `python` in it, and start what it asks if nobody has.

    Args:
        shared: a folder of all workers of one session of tests.
    """
    shared.mkdir(parents=True, exist_ok=True)
    address, folder = shared / "socket", shared / "bin"
    try:
        os.mkdir(folder)
    except FileExistsError:
        # Another worker is starting it.
        _await(address)
        return folder
    client = folder / "python"
    client.write_text(CLIENT.format(python=sys.executable, address=str(address)))
    client.chmod(client.stat().st_mode | stat.S_IXUSR)
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    # It outlives a worker, not the session.
    session = os.getppid() if "PYTEST_XDIST_WORKER" in os.environ else os.getpid()
    command, nowhere = [sys.executable, __file__, str(address), str(session)], subprocess.DEVNULL
    subprocess.Popen(command, env=environment, start_new_session=True, stdin=nowhere, stdout=nowhere, stderr=nowhere)
    _await(address)
    return folder


def _await(address: Path) -> None:
    end = time.monotonic() + PATIENCE
    while not address.exists():
        assert time.monotonic() < end, f"nothing listens at {address}"
        time.sleep(0.05)


def serve(address: Path, owner: int) -> None:
    """Fork a copy for each that asks, until the owner has ended."""
    for library in LIBRARIES:
        with suppress(ImportError):
            importlib.import_module(library)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for them
    with socket.socket(socket.AF_UNIX) as listener:
        early = address.with_name("early")
        listener.bind(str(early))
        listener.listen(64)
        early.rename(address)
        listener.settimeout(1.0)
        while os.path.exists(f"/proc/{owner}"):
            with suppress(TimeoutError):
                asker, _ = listener.accept()
                if not os.fork():
                    listener.close()
                    asker.settimeout(None)
                    _attend(asker)
                asker.close()


def _attend(asker: socket.socket) -> NoReturn:
    """Start a program, tell its number, and its status once it has ended."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    head, streams, _, _ = socket.recv_fds(asker, 8, 3)
    size, asked = int.from_bytes(head, "big"), b""
    while len(asked) < size:
        asked += asker.recv(size - len(asked))
    pid = os.fork()
    if not pid:
        asker.close()
        for stream in range(3):
            os.dup2(streams[stream], stream)
            os.close(streams[stream])
        _become(**json.loads(asked))
    for stream in streams:
        os.close(stream)
    asker.sendall(f"{pid}\n".encode())
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    with suppress(OSError):  # whoever asked may be gone
        asker.sendall(f"{status}\n".encode())
    os._exit(0)


def _become(words: list[str], folder: str, environment: dict[str, str]) -> NoReturn:
    """Run a program as `python WORDS` would in that folder, and end as it would."""
    leave_parent()
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    multiprocessing.process.ORIGINAL_DIR = folder  # type: ignore[attr-defined]
    program = os.path.abspath(words[0])
    first = filter(None, environment.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:] = [os.path.dirname(program), *first, *PLACES]
    sys.argv = words
    sys.stdin = sys.__stdin__ = os.fdopen(0, closefd=False)
    sys.stdout = sys.__stdout__ = os.fdopen(1, "w", closefd=False)  # line by line where it is a terminal
    sys.stderr = sys.__stderr__ = os.fdopen(2, "w", closefd=False, errors="backslashreplace", buffering=1)
    main = types.ModuleType("__main__")
    main.__file__ = program
    sys.modules["__main__"] = main
    code = compile(Path(program).read_bytes(), program, "exec")
    status = status_of(lambda: exec(code, main.__dict__))
    # Python would also take down every library, which takes seconds where its pages are shared with others.
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
    os._exit(status)


if __name__ == "__main__":
    serve(Path(sys.argv[1]), int(sys.argv[2]))
