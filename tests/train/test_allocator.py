"""What memory stays with a process: blocks that are freed, which need not be cleared again, and few kernels."""

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

KEPT = """
import torch
from torch.nn.functional import linear
from train.command.allocator import bound_kept_kernels
from test_allocator import in_use

bound_kept_kernels()
weight = torch.ones(512, 192, dtype=torch.bfloat16)
linear(torch.ones(999, 192, dtype=torch.bfloat16), weight)
before = in_use()
for rows in range(1000, 1100):
    linear(torch.ones(rows, 192, dtype=torch.bfloat16), weight)
print(in_use() - before)
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


MEMORY_INFO = [
    *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
]


class MemoryInfo(ctypes.Structure):
    """What glibc's mallinfo2 returns."""

    _fields_ = [(name, ctypes.c_size_t) for name in MEMORY_INFO]


def in_use() -> int:
    """Return the bytes that were asked for and not freed."""
    ask = ctypes.CDLL(None).mallinfo2
    ask.restype = MemoryInfo
    found: int = ask().uordblks
    return found


def told_by(script: str, how: str = "") -> int:
    """Return what a process of its own prints."""
    done = subprocess.run(
        [sys.executable, "-c", script, how],
        capture_output=True,
        text=True,
        check=True,
        env={"PYTHONPATH": ":".join(sys.path)},
    )
    return int(done.stdout)


def test_freed_memory_is_used_again() -> None:
    # A machine that is short of memory takes some pages away between two tensors, here and there.
    assert any(told_by(FAULTS, "keep") < told_by(FAULTS, "leave") / 2 for _ in range(3))


@pytest.mark.skipif(not torch.ops.mkldnn._is_mkldnn_bf16_supported(), reason="a processor without bfloat16")
@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="an old glibc")
def test_kernels_of_a_hundred_shapes_are_not_kept() -> None:
    """Half a megabyte each, which was 55 MB in all."""
    assert told_by(KEPT) < 20e6


def test_it_is_in_workers_too() -> None:
    pages = TENSORS * NUMBERS * 4 / resource.getpagesize()
    with worker_pool(1) as pool:
        assert any(pool.submit(count_faults).result() < pages / 2 for _ in range(3))
