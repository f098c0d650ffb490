"""Run as a process by `envs.tasks.scoring.equivalence`: compares pairs of answers with Math-Verify.

It answers each line of JSON, ``[seconds, pairs]``, with ``true`` if one of the pairs ``[gold, answer]`` is equal, else
``false``. It ends instead where that takes more than so many seconds of processor time.

It is a process of its own because algebra on what a model wrote can take for ever or all memory: it is killed by its
own timer or its parent, which works in any thread, unlike Math-Verify's own time limit (a signal there).
"""

from __future__ import annotations

import json
import logging
import resource
import signal
import sys


def main(megabytes: int) -> None:
    """Answer until the input ends."""
    logging.disable(logging.CRITICAL)
    # What a first comparison loads and compiles takes seconds, which none that counts is charged for.
    _is_verified("x+1", "1+x")
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    _say(json.dumps("ready"))
    for line in sys.stdin:
        seconds, pairs = json.loads(line)
        # Processor time, so that a busy machine makes no answer wrong; nobody handles the signal, so the process ends.
        signal.setitimer(signal.ITIMER_PROF, seconds)
        is_equal = any(_is_equal(*pair) for pair in pairs)
        signal.setitimer(signal.ITIMER_PROF, 0)
        _say(json.dumps(is_equal))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _is_equal(gold_latex: str, answer_latex: str) -> bool:
    try:
        return _is_verified(gold_latex, answer_latex)
    except Exception:  # whatever a parser of LaTeX makes of what a model wrote; a new process would cost seconds
        return False


def _is_verified(gold_latex: str, answer_latex: str) -> bool:
    from math_verify import parse, verify

    # Without Math-Verify's own time limits, whose signals would meet the timer above.
    gold, answer = (parse(f"${latex}$", parsing_timeout=None) for latex in (gold_latex, answer_latex))
    # An inequality and the interval it describes are the same answer.
    return bool(gold and answer) and verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
