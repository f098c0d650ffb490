"""Run as a process by `envs.tasks.benchmarks.reasoning_gym`: scores answers by reasoning-gym's own scorers.

It answers each line of JSON, ``[seconds, data set, size, problem, answer]``, with a score in [0, 1], 0 where the scorer
raises; the problem is pickled, in base64. It ends instead where that takes more than so many seconds of processor time.

It is a process of its own because scorers evaluate what a model wrote as Python (``9**9**9`` never returns, and other
expressions do more than count): it is killed by its own timer or its parent, and can change no file where the system
offers what `envs.tasks.scoring.confinement` needs.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import pickle
import resource
import runpy
import signal
import sys
from pathlib import Path
from typing import Any


def main(megabytes: int) -> None:
    """Answer until the input ends."""
    logging.disable(logging.CRITICAL)
    from reasoning_gym import create_dataset

    # What a scorer prints must not be read as an answer.
    questions, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    quiet = os.open(os.devnull, os.O_RDWR)
    for stream in (0, 1, 2):
        os.dup2(quiet, stream)
    runpy.run_path(str(Path(__file__).with_name("confinement.py")))["confine"]()
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    datasets: dict[str, Any] = {}
    print(json.dumps("ready"), file=answers, flush=True)
    for line in questions:
        seconds, name, size, problem, answer = json.loads(line)
        if name not in datasets:
            datasets[name] = create_dataset(name, seed=0, size=size)
        entry = pickle.loads(base64.b64decode(problem))
        # Processor time, so that a busy machine makes no answer wrong; nobody handles the signal, so the process ends.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        score = _score(datasets[name], answer, entry)
        signal.setitimer(signal.ITIMER_PROF, 0)
        print(json.dumps(score), file=answers, flush=True)


def _score(dataset: Any, answer: str, entry: Any) -> float:
    try:
        return min(1.0, max(0.0, float(dataset.score_answer(answer, entry))))
    except BaseException:  # several scorers raise whatever a malformed answer leads to, an exit() in it included
        return 0.0


if __name__ == "__main__":
    main(int(sys.argv[1]))
