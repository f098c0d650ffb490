"""Run as a process by `envs.tasks.equivalence`: answers each line of JSON, pairs ``[gold, answer]``, with ``true`` if
Math-Verify finds one of them equal, else ``false``.

A process of its own because algebra on what a model wrote can take for ever or all memory: its parent kills it, which
works in any thread, unlike Math-Verify's own time limit (a signal).
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
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(any(_is_equal(*pair) for pair in json.loads(line))), flush=True)


def _is_equal(gold_latex: str, answer_latex: str) -> bool:
    from math_verify import parse, verify

    gold, answer = (parse(f"${latex}$", parsing_timeout=None) for latex in (gold_latex, answer_latex))
    # An inequality and the interval it describes are the same answer.
    return bool(gold and answer) and verify(gold, answer, allow_set_relation_comp=True, timeout_seconds=None)


if __name__ == "__main__":
    main(int(sys.argv[1]))
