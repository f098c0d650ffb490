"""Evaluating the rules in a process of its own while the policy is learned: they don't depend on what is learned."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from pathlib import Path

from train.command.parallel import await_server, begin_worker, process_context, starting
from train.evaluation.jobs import Job
from train.evaluation.run import EvaluateConfig, run_jobs


class Aside:
    """An evaluation beside the training, on a core that would stand idle.

    It adds to the run's records as it goes on. What it could not do is left to whoever evaluates next.

    Args:
        config: what the evaluation is told.
        jobs: what it evaluates.
        file: of the records.
    """

    def __init__(self, config: EvaluateConfig, jobs: Sequence[Job], file: Path) -> None:
        await_server()
        self._process = process_context().Process(target=_evaluate, args=(config, jobs, file), daemon=True)
        try:
            with starting():
                self._process.start()
        except BaseException:
            # A signal that came meanwhile: nobody would stop it.
            self.stop()
            raise

    def wait(self) -> None:
        """Wait until it has ended."""
        self._process.join()

    def stop(self) -> None:
        """End it now, if it began; the policies that it has finished stay."""
        if self._process.pid is not None:
            self._process.terminate()
            self._process.join()


def _evaluate(config: EvaluateConfig, jobs: Sequence[Job], file: Path) -> None:
    # Two must never write one folder; and a bar of its own would be drawn over the parent's.
    begin_worker()
    sys.stderr = open(os.devnull, "w")  # noqa: SIM115
    run_jobs(config, jobs, file)
