"""Ways in which a program that means harm could create, change or empty a file, each tried for real."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest

from envs.tasks.scoring import confinement, sandbox
from envs.tasks.scoring.confinement import LANDLOCK, SECCOMP
from envs.tasks.scoring.sandbox import CONFINEMENT, passes, protection

SYSTEM_CALLS = """
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
"""

WAYS = {
    # Opening for writing, one way or another. FILE exists and holds "precious", NEW doesn't, FOLDER is theirs.
    "open": "open(FILE, 'w')",
    "open new": "open(NEW, 'x')",
    "open append": "open(FILE, 'a').write('x')",
    "open update": "open(FILE, 'r+').write('x')",
    "fileio": "import io; io.FileIO(FILE, 'w')",
    "pyio": "import _pyio; _pyio.open(FILE, 'w')",
    "opener": "open(FILE, 'w', opener=lambda path, flags: os.open(path, flags))",
    "codecs": "import codecs; codecs.open(FILE, 'w')",
    "gzip": "import gzip; gzip.open(NEW, 'w').write(b'x')",
    "os.open truncate": "os.open(FILE, os.O_WRONLY | os.O_TRUNC)",
    "os.open read truncate": "os.open(FILE, os.O_RDONLY | os.O_TRUNC)",
    "os.open create": "os.open(NEW, os.O_RDONLY | os.O_CREAT)",
    "os.open dir_fd": "os.open(os.path.basename(NEW), os.O_WRONLY | os.O_CREAT, dir_fd=os.open(FOLDER, os.O_RDONLY))",
    "posix.open": "import posix; posix.open(FILE, posix.O_RDWR | posix.O_TRUNC)",
    "mmap": "import mmap; mmap.mmap(os.open(FILE, os.O_RDWR), 0)[:4] = b'xxxx'",
    "pwrite": "os.pwrite(os.open(FILE, os.O_RDWR), b'xxxx', 0)",
    "reopen by /proc/self/fd": "open(f'/proc/self/fd/{os.open(FILE, os.O_RDONLY)}', 'w')",
    "reopen by /dev/fd": "os.open(f'/dev/fd/{os.open(FILE, os.O_RDONLY)}', os.O_WRONLY | os.O_TRUNC)",
    "sendfile": "os.sendfile(os.open(FILE, os.O_WRONLY), os.open(sys.executable, os.O_RDONLY), 0, 100)",
    "copy_file_range": "os.copy_file_range(os.open(sys.executable, 0), os.open(FILE, os.O_WRONLY), 100)",
    "fallocate": "os.posix_fallocate(os.open(FILE, os.O_RDWR), 0, 1 << 20)",
    "unnamed file, then a name": SYSTEM_CALLS
    + "unnamed = f'/proc/self/fd/{os.open(FOLDER, os.O_TMPFILE | os.O_RDWR)}'\n"
    + "libc.linkat(-100, unnamed.encode(), -100, NEW.encode(), 0x400)",
    # Names.
    "touch": "import pathlib; pathlib.Path(NEW).touch()",
    "mkstemp": "import tempfile; tempfile.mkstemp(dir=FOLDER)",
    "mkdtemp": "import tempfile; tempfile.mkdtemp(dir=FOLDER)",
    "truncate": "os.truncate(FILE, 0)",
    "mkdir": "os.mkdir(NEW)",
    "mkfifo": "os.mkfifo(NEW)",
    "mknod": "os.mknod(NEW)",
    "symlink": "os.symlink(FILE, NEW)",
    "hard link": "os.link(FILE, NEW)",
    "rename": "os.rename(FILE, NEW)",
    "replace": "os.replace(FILE, FILE2)",
    "remove": "os.remove(FILE)",
    "rmdir": "os.rmdir(EMPTY)",
    "change folder": "os.chdir(FOLDER); open('made', 'w')",
    "link in, then write": "os.symlink(FILE, 'inside'); open('inside', 'w')",
    # Libraries.
    "rmtree": "import shutil; shutil.rmtree(FOLDER)",
    "copy": "import shutil; shutil.copyfile(sys.executable, FILE)",
    "move": "import shutil; shutil.move(FILE, NEW)",
    "sqlite": "import sqlite3; sqlite3.connect(NEW).execute('create table t (x)')",
    "shelve": "import shelve; shelve.open(NEW)['x'] = 1",
    "dbm": "import dbm.dumb; dbm.dumb.open(NEW, 'c')['x'] = 'y'",
    "log handler": "import logging; logging.FileHandler(NEW)",
    "numpy": "import numpy as np; np.save(FILE, np.ones(3))",
    "numpy memmap": "import numpy as np; np.memmap(FILE, dtype='u1', mode='r+')[0] = 1",
    "zip": "import zipfile; zipfile.ZipFile(NEW, 'w')",
    "cProfile": "import cProfile; cProfile.run('1', FILE)",
    "faulthandler": "import faulthandler; faulthandler.dump_traceback(open(FILE, 'w'))",
    "compiled": "import py_compile; open\npy_compile.compile(sys.modules['os'].__file__, cfile=NEW)",
    "unix socket": "import socket; os.chdir(FOLDER); socket.socket(socket.AF_UNIX).bind(MARK)",
    # Other processes.
    "shell": "os.system(f'echo x > {FILE}')",
    "subprocess": "import subprocess; subprocess.run(['touch', NEW])",
    "spawn": "os.waitpid(os.posix_spawn('/bin/sh', ['sh', '-c', f'echo x > {FILE}'], {}), 0)",
    "fork": "os.waitpid(os.fork() or (open(FILE, 'w').close(), os._exit(0)), 0)",
    "exec": "os.execv('/bin/sh', ['sh', '-c', f'echo x > {FILE}'])",
    "multiprocessing": "import multiprocessing as m; p = m.get_context('fork').Process(target=open, args=(FILE, 'w'))\n"
    "p.start(); p.join()",
    "pty": "import pty; pty.spawn(['touch', NEW])",
    "_posixsubprocess": "import subprocess; subprocess.getoutput(f'touch {NEW}')",
    "thread": "import threading; t = threading.Thread(target=open, args=(FILE, 'w')); t.start(); t.join()",
    # The C library.
    "libc open": SYSTEM_CALLS + "libc.open(FILE.encode(), os.O_WRONLY | os.O_TRUNC)",
    "libc creat": SYSTEM_CALLS + "libc.creat(FILE.encode(), 0o600)",
    "libc fopen": SYSTEM_CALLS + "libc.fopen(FILE.encode(), b'w')",
    "libc rename": SYSTEM_CALLS + "libc.rename(FILE.encode(), NEW.encode())",
    "libc truncate": SYSTEM_CALLS + "libc.truncate(FILE.encode(), ctypes.c_long(0))",
    "libc system": SYSTEM_CALLS + "libc.system(f'touch {NEW}'.encode())",
    "libc mkdirat": SYSTEM_CALLS + "libc.mkdirat(os.open(FOLDER, 0), b'made', 0o700)",
    "openat2": SYSTEM_CALLS
    + "how = (ctypes.c_uint64 * 3)(os.O_WRONLY | os.O_TRUNC, 0, 0)\n"
    + "libc.syscall(ctypes.c_long(437), ctypes.c_long(-100), FILE.encode(), how, ctypes.c_long(24))",
    "libc fork": SYSTEM_CALLS
    + "pid = libc.fork()\nif pid == 0:\n    libc.creat(NEW.encode(), 0o600)\n    os._exit(0)\nos.waitpid(pid, 0)",
}

ABOUT_FILES = {
    # What is written about a file, which Landlock leaves to others.
    "chmod": "os.chmod(FILE, 0)",
    "touch old": "import pathlib; pathlib.Path(FILE).touch()",
    "fchmod": "os.fchmod(os.open(FILE, os.O_RDONLY), 0)",
    "utime": "os.utime(FILE, (0, 0))",
    "chown": "os.chown(FILE, 1, 1)",
    "setxattr": "os.setxattr(FILE, 'user.mark', b'x')",
    "libc chmod": SYSTEM_CALLS + "libc.chmod(FILE.encode(), 0)",
}

MEMORY = {
    # What has no counterpart that is sure to work unconfined.
    "own memory": "open('/proc/self/mem', 'r+b')",
    "parent's memory": "open(f'/proc/{os.getppid()}/mem', 'r+b').write(b'x')",
    "shared memory": "from multiprocessing import shared_memory as s; s.SharedMemory(MARK, create=True, size=64)",
    "message queue": SYSTEM_CALLS + "libc.mq_open(f'/{MARK}'.encode(), os.O_CREAT | os.O_RDWR, 0o600, None)",
    "mount": SYSTEM_CALLS + "libc.mount(b'none', FOLDER.encode(), b'tmpfs', 0, None)",
    "namespaces": SYSTEM_CALLS
    + "libc.unshare(0x10000000 | 0x20000); libc.mount(b'none', FOLDER.encode(), b'tmpfs', 0, None)",
    "core pattern": "open('/proc/sys/kernel/core_pattern', 'w').write('|/bin/sh')",
    "own limits": "import resource as r; r.setrlimit(r.RLIMIT_FSIZE, (1 << 20, 1 << 20)); open(FILE, 'w')",
    "asyncio": "import asyncio; asyncio.run(asyncio.create_subprocess_shell(f'touch {NEW}'))",
}


class Theirs:
    """Files in a folder that anybody may write to, and what there is to be seen of it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "around" / "theirs"
        (self.folder / "empty").mkdir(parents=True)
        self.files = [self.folder / name for name in ("file", "other")]
        for file in self.files:
            file.write_text("precious")
            # Nothing but the confinement stands between the program and these.
            file.chmod(0o666)
        for place in (self.folder, self.folder / "empty"):
            place.chmod(0o777)
        self.mark = f"mark-{uuid.uuid4().hex}"

    def program(self, way: str) -> str:
        names = {"FILE": self.files[0], "FILE2": self.files[1], "FOLDER": self.folder, "EMPTY": self.folder / "empty"}
        lines = [f"{name} = {str(value)!r}" for name, value in (names | {"NEW": self.folder / self.mark}).items()]
        head = "\n".join(["import os, sys", *lines, f"MARK = {self.mark!r}"])
        return f"{head}\ntry:\n    exec({way!r})\nexcept BaseException:\n    pass\n"

    def seen(self) -> Any:
        """Names, rights, times, sizes, attributes and contents of what is there, and what this mark made elsewhere."""
        found: list[Any] = []
        for path in sorted(self.folder.parent.rglob("*")):
            about = path.lstat()
            content = path.read_bytes() if stat.S_ISREG(about.st_mode) and about.st_size < 10**6 else b""
            marks = os.listxattr(path) if not path.is_symlink() else []
            found.append((path.name, about.st_mode, about.st_uid, about.st_mtime_ns, about.st_size, content, marks))
        elsewhere = [path for place in ("/dev/shm", "/dev/mqueue") for path in Path(place).glob(f"*{self.mark}*")]
        return found, elsewhere


@pytest.fixture
def theirs(tmp_path: Path) -> Theirs:
    return Theirs(tmp_path)


every_way = pytest.mark.parametrize("way", [*WAYS, *ABOUT_FILES, *MEMORY])


def code_of(way: str) -> str:
    return (WAYS | ABOUT_FILES | MEMORY)[way]


def run_with(layer: str, program: str, folder: Path) -> None:
    """Run a program with one layer of the kernel's and nothing else: no names, no limits, no other user."""
    use = {LANDLOCK: "use_landlock", SECCOMP: "use_seccomp"}
    head = f"import runpy\nlayers = runpy.run_path({str(CONFINEMENT)!r})\nlayers['keep_privileges_as_they_are']()\n"
    held = f"assert layers[{use[layer]!r}]()\n" if layer else ""
    done = subprocess.run([sys.executable, "-I", "-B", "-c", head + held + program], cwd=folder, capture_output=True)
    assert b"AssertionError" not in done.stderr


@pytest.mark.slow
@every_way
def test_a_program_changes_no_file(way: str, theirs: Theirs) -> None:
    before = theirs.seen()
    passes(theirs.program(code_of(way)), seconds=5)
    assert theirs.seen() == before


@pytest.mark.slow
@pytest.mark.parametrize("way", [*WAYS, *ABOUT_FILES])
def test_these_ways_do_work_where_nothing_stops_them(way: str, theirs: Theirs, tmp_path: Path) -> None:
    before = theirs.seen()
    run_with("", theirs.program(code_of(way)), tmp_path)
    if way not in ("setxattr", "chown"):  # not every file system has them, nor every user the right
        assert theirs.seen() != before


@pytest.mark.parametrize("layer", [LANDLOCK, SECCOMP])
def test_each_layer_is_enough_by_itself(layer: str, theirs: Theirs, tmp_path: Path) -> None:
    if layer not in protection():
        pytest.skip(f"this kernel has no {layer}")
    ways = WAYS | (ABOUT_FILES if layer == SECCOMP else {})
    before = theirs.seen()
    programs = [theirs.program(way) for name, way in ways.items() if name != "exec"]
    run_with(layer, "\n".join(programs), tmp_path)
    assert theirs.seen() == before
    run_with(layer, theirs.program(WAYS["exec"]), tmp_path)
    assert theirs.seen() == before


def test_nothing_is_run_where_nothing_protects(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "protection", lambda: ("own network",))
    with pytest.raises(ValueError, match=r"can't keep them from changing files\. It takes Linux with seccomp"):
        passes("pass")


def test_the_tables_of_system_calls_are_whole() -> None:
    for table in (confinement.DENIED, confinement.ABSENT, confinement.ASKED):
        words = [word for line in table.split("\n") if not line.strip().startswith("#") for word in line.split()]
        names = [word.partition("=")[0] for word in words]
        assert len(set(names)) == len(names)
        for column in (0, 1):
            numbers = [word.partition("=")[2].split("/")[column] for word in words]
            present = [number for number in numbers if number != "-"]
            assert len(set(present)) == len(present)


def test_what_solutions_need_is_still_there() -> None:
    assert passes(
        "import threading, numpy as np, random, time, collections, re, math, itertools, functools, json, heapq\n"
        "seen = []\n"
        "t = threading.Thread(target=seen.append, args=(1,)); t.start(); t.join()\n"
        "assert seen == [1] and np.linalg.det(np.eye(3)) == 1\n"
        "from concurrent.futures import ThreadPoolExecutor\n"
        "assert list(ThreadPoolExecutor(2).map(abs, [-1, 2])) == [1, 2]\n"
        "assert 'import' in open(re.__file__).read()\n"
        "import signal; signal.signal(signal.SIGALRM, lambda *_: seen.append(2))\n"
        "signal.setitimer(signal.ITIMER_REAL, 0.01); time.sleep(0.05)\n"
        "assert seen == [1, 2]\n",
        seconds=20,
    )
