"""The allocator's setting: what is freed and asked for again is not cleared page by page each time."""

from __future__ import annotations

import ctypes
import resource
import subprocess
import sys

import pytest
import torch

from train.command.parallel import worker_pool

TENSORS, NUMBERS = 20, 2**24
"""Float32 tensors of 64 MiB, one after the other."""

FAULTS = """
import sys
from train.command.allocator import keep_freed_memory
from test_allocator import count_faults

if sys.argv[1] == "keep":
    keep_freed_memory()
print(count_faults())
"""

pytestmark = [
    pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone has glibc"),
    pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="no glibc"),
    pytest.mark.slow,
]


def count_faults() -> int:
    """Return the page faults of the tensors, after a first one."""
    torch.ones(NUMBERS)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(TENSORS):
        torch.ones(NUMBERS)
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before


def faults(how: str) -> int:
    """Return those of a process of its own."""
    done = subprocess.run(
        [sys.executable, "-c", FAULTS, how],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    return int(done.stdout)


def test_freed_memory_is_used_again() -> None:
    # A machine that is short of memory takes some pages away between two tensors, here and there.
    assert any(faults("keep") < faults("leave") / 2 for _ in range(3))


def test_it_is_in_workers_too() -> None:
    pages = TENSORS * NUMBERS * 4 / resource.getpagesize()
    with worker_pool(1) as pool:
        assert any(pool.submit(count_faults).result() < pages / 2 for _ in range(3))
