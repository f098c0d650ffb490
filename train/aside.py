"""Evaluating the rules in a process of its own while the policy is learned: they don't depend on what is learned."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path

from train.evaluate import EvaluateConfig, Job, run_jobs


class Aside:
    """An evaluation beside the training, on a core that would stand idle.

    It adds to the run's records as it goes on. What it could not do is left to whoever evaluates next.

    Args:
        config: what the evaluation is told.
        jobs: what it evaluates.
        file: of the records.
    """

    def __init__(self, config: EvaluateConfig, jobs: Sequence[Job], file: Path) -> None:
        # Spawned, not forked: torch's threads do not survive a fork.
        self._process = get_context("spawn").Process(target=_evaluate, args=(config, jobs, file), daemon=True)
        self._process.start()

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.join()

    def stop(self) -> None:
        """End it now; the policies that it has finished stay."""
        self._process.terminate()
        self._process.join()


def _evaluate(config: EvaluateConfig, jobs: Sequence[Job], file: Path) -> None:
    # The parent hears the keyboard, and ends this process; a bar of its own would be drawn over the parent's.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    threading.Thread(target=_end_with, args=(os.getppid(),), daemon=True).start()
    run_jobs(config, jobs, file)


def _end_with(parent: int) -> None:
    """End this process when its parent is gone, killed perhaps: two must never write one folder."""
    while os.getppid() == parent:
        time.sleep(0.2)
    os._exit(1)
