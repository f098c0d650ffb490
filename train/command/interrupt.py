"""Ending early: Ctrl-C, SIGTERM and SIGHUP (what a cluster sends first) all let a run save what it has.

`raised` turns them into `Interrupted`, which unwinds like any exception; within `deferred` they wait for a place where
the state is whole. A second Ctrl-C ends the process at once; files are written whole or not at all, so it harms none.
Where Python drops exceptions, in destructors and beside a fork, it drops this one too, and it is raised once more.
Where a library makes an error of its own of any exception, as extensions do that are being imported, that one counts.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from multiprocessing import resource_tracker
from multiprocessing.connection import wait
from types import FrameType
from typing import TypeVar

import torch.distributed as dist

Done = TypeVar("Done")

Handler = Callable[[int, FrameType | None], object]
"""What Python calls at a signal."""

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What asks a run to end."""

ECHO = 1.0
"""Seconds in which torchrun passes on a Ctrl-C that the terminal has sent to every process already."""

AGAIN = 0.02
"""Seconds from where an exception was dropped to where it is raised once more."""

LOOK = 0.5
"""Seconds between looks whether torchrun is still there."""


class Interrupted(KeyboardInterrupt):
    """The run was asked to end.

    Args:
        signum: the signal.
        saved: a clause on what is saved; empty where whoever holds the run's folder is to say it.

    Attributes:
        signum: the signal.
        saved: a clause on what is saved.
        command: the command line that goes on from there; empty if there is nothing to go on with.
    """

    def __init__(self, signum: int, saved: str = "") -> None:
        super().__init__(signum)
        self.signum, self.saved, self.command = signal.Signals(signum), saved, ""

    @property
    def status(self) -> int:
        """The exit status that shells give a process ended by the signal."""
        return 128 + self.signum

    def __str__(self) -> str:
        name = "Ctrl-C" if self.signum == signal.SIGINT else self.signum.name
        parts = [f"interrupted by {name}", *([self.saved] if self.saved else [])]
        return "; ".join(parts) + (f"; go on with: {self.command}" if self.command else "")


class Stop:
    """Whether, and by what, the run was asked to end.

    Attributes:
        signum: the signal, if there was one.
        is_urgent: whether a signal raises `Interrupted` at once: what is at work then leaves no half state behind.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self.is_urgent = False

    def attempt(self, work: Callable[[], Done]) -> Done | None:
        """Do something that takes long and changes nothing, unless a signal comes before it is done.

        Args:
            work: what a resumed run will do anew.

        Returns:
            What came of it; None if it was broken off, or not begun.
        """
        try:
            self.is_urgent = True
            # Asked in this order, so that a signal between the two is not missed.
            if self.signum is not None:
                return None
            done = work()
            self.is_urgent = False
            return done
        except BaseException as error:
            if self.signum is None or interruption(error) is None:
                raise
            return None
        finally:
            self.is_urgent = False

    def __bool__(self) -> bool:
        return self.signum is not None


@contextmanager
def raised() -> Iterator[None]:
    """Let each signal raise `Interrupted` where the program happens to be, as Ctrl-C raises KeyboardInterrupt."""

    def on_first(signum: int) -> None:
        raise Interrupted(signum)

    with _handling(on_first):
        try:
            yield
        except Exception as error:
            stop = interruption(error)
            if stop is None:
                raise
            raise stop from error


def interruption(error: BaseException) -> Interrupted | None:
    """Return the request to end that an error is, or that a library made the error of.

    Args:
        error: any; what was raised for reasons of its own while a run was ending is none.
    """
    found: BaseException | None = error
    while found is not None and not isinstance(found, Interrupted):
        # Not what was merely being handled: a disk that is full on the way to the end is worth its own words.
        found = found.__cause__
    return found


@contextmanager
def deferred(saving: str = "saving what was learned") -> Iterator[Stop]:
    """Let the first signal set a mark only; look at it wherever the state is whole.

    Args:
        saving: what the program does about it, for the line that is shown at once.

    Raises:
        Interrupted: at the end, if a signal came that nothing else was raised for.
    """
    stop = Stop()

    def on_first(signum: int) -> None:
        if stop.signum is None:
            _say(f"\n{saving}; Ctrl-C once more ends it at once\n")
        stop.signum = signum
        if stop.is_urgent:
            raise Interrupted(signum)

    with _handling(on_first):
        yield stop
    if stop.signum is not None:
        raise Interrupted(stop.signum)


@contextmanager
def _handling(on_first: Callable[[int], None]) -> Iterator[None]:
    """Call a function at the first signal, and end at the second Ctrl-C; outside the main thread do nothing."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    first: list[float] = []

    def handle(signum: int, frame: FrameType | None) -> None:
        if not first:
            first.append(time.monotonic())
            on_first(signum)
            return
        is_echo = dist.is_torchelastic_launched() and time.monotonic() - first[0] < ECHO
        # A cluster that repeats itself follows up with SIGKILL by itself.
        if signum == signal.SIGINT and not is_echo:
            end_now(signum)

    report, timers = sys.unraisablehook, list[threading.Timer]()

    def on_dropped(dropped: sys.UnraisableHookArgs) -> None:
        if not isinstance(dropped.exc_value, Interrupted):
            report(dropped)
            return
        first.clear()
        # From another thread and a little later: raised from here, it would be dropped again.
        timers.append(threading.Timer(AGAIN, os.kill, (os.getpid(), dropped.exc_value.signum)))
        timers[-1].start()

    with _heard_by(handle):
        sys.unraisablehook = on_dropped
        try:
            yield
        finally:
            sys.unraisablehook = report
            for timer in timers:
                timer.cancel()


@contextmanager
def _heard_by(handle: Handler) -> Iterator[Mapping[int, Handler | int | None]]:
    """Let a function hear the signals, and yield what heard each of them before."""
    before = {int(signum): signal.getsignal(signum) for signum in SIGNALS}
    # What nohup, or a shell's background job, has told us to ignore stays ignored.
    heard = [signum for signum, handler in before.items() if handler is not signal.SIG_IGN]
    for signum in heard:
        signal.signal(signum, handle)
    try:
        yield before
    finally:
        for signum in heard:
            signal.signal(signum, before[signum])


def end_now(signum: int) -> None:
    """End this process and those it started as the signal would have without any handler."""
    for child in multiprocessing.active_children():
        child.kill()
    signal.signal(signum, signal.SIG_DFL)
    os.kill(os.getpid(), signum)


@contextmanager
def held() -> Iterator[None]:
    """Let signals wait for the end of what must not be left half done; outside the main thread do nothing.

    Blocking them in this thread is not enough: the system hands them to any other, and Python handles them in this one.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    waiting: list[int] = []
    is_over = False

    def handle(signum: int, frame: FrameType | None) -> None:
        if not is_over:
            waiting.append(signum)
            return
        # Handlers are given back one by one, and the first to be heard may raise.
        signal.signal(signum, before[signum])
        signal.raise_signal(signum)

    try:
        with _heard_by(handle) as before:
            try:
                yield
            finally:
                is_over = True
    finally:
        for signum in waiting:
            signal.raise_signal(signum)


@contextmanager
def sheltered() -> Iterator[None]:
    """Let a terminal's Ctrl-C not reach the processes that are started within, not even while they still import."""
    # Starting the first process starts multiprocessing's tracker, and that unblocks Ctrl-C before the process begins.
    resource_tracker.ensure_running()
    with held():
        # What is blocked where a process is started is blocked in it.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
        try:
            yield
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


def follow_parent() -> None:
    """Leave signals from the terminal to the parent process, and end when it does, however it does.

    For worker processes that `multiprocessing` has started.
    """
    for signum in (signal.SIGINT, signal.SIGHUP):
        signal.signal(signum, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is None:
        return

    def watch() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def follow_launcher() -> None:
    """Let this process be asked to end, as by SIGTERM, once the one that started it is gone.

    For processes that torchrun has started: killed itself, it tells them nothing, and they would go on for days.
    """
    launcher = os.getppid()

    def watch() -> None:
        while os.getppid() == launcher:
            time.sleep(LOOK)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=watch, daemon=True).start()


def _say(text: str) -> None:
    """Write to standard error at once; where the terminal is gone, lose what is written there from now on."""
    if os.environ.get("RANK", "0") != "0" and dist.is_torchelastic_launched():
        return
    try:
        os.write(2, text.encode())
    except OSError:
        # After SIGHUP: any later write to the terminal would be an error on the way to the checkpoint.
        nowhere = os.open(os.devnull, os.O_WRONLY)
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None and stream.isatty():
                os.dup2(nowhere, stream.fileno())
        os.dup2(nowhere, 2)
