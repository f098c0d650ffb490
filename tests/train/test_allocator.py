"""The allocator's setting: what is freed and asked for again is not cleared page by page each time."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

FAULTS = """
import resource, sys
import torch
from train.command.allocator import keep_freed_memory

if sys.argv[1] == "keep":
    keep_freed_memory()
torch.ones(2**24)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(20):
    torch.ones(2**24)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(how: str) -> int:
    """Return the page faults of twenty tensors of 64 MiB, one after the other."""
    done = subprocess.run([sys.executable, "-c", FAULTS, how], capture_output=True, text=True, check=True)
    return int(done.stdout)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="Linux alone has glibc")
@pytest.mark.slow
def test_freed_memory_is_used_again() -> None:
    if not hasattr(ctypes.CDLL(None), "mallopt"):
        pytest.skip("no glibc")
    # A machine that is short of memory takes some pages away between two tensors, here and there.
    assert any(faults("keep") < faults("leave") / 2 for _ in range(3))
