"""Run as a process by `envs.tasks.equivalence`: compares pairs of answers with Math-Verify.

It answers each line of JSON, a list of pairs ``[gold, answer]``, with ``true`` if one is equal, else ``false``.

It is a process of its own because algebra on what a model wrote can take for ever or all memory: its parent kills it,
which works in any thread, unlike Math-Verify's own time limit (a signal).
"""

from __future__ import annotations

import json
import logging
import resource
import sys


def main(megabytes: int) -> None:
    """Answer until the input ends."""
    import math_verify  # noqa: F401 - so that the first comparison isn't charged for it

    logging.disable(logging.CRITICAL)
    resource.setrlimit(resource.RLIMIT_AS, (megabytes << 20, megabytes << 20))
    _say("ready")
    for line in sys.stdin:
        _say(json.dumps(any(_is_equal(*pair) for pair in json.loads(line))))


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def _is_equal(gold_latex: str, answer_latex: str) -> bool:
    from math_verify import parse, verify

    gold, answer = (parse(f"${latex}$", parsing_timeout=None) for latex in (gold_latex, answer_latex))
    # An inequality and the interval it describes are the same answer.
    return bool(gold and answer) and verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
