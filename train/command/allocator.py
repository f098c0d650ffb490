"""What memory stays with a process: what the C library has freed, and few of the kernels that oneDNN makes."""

from __future__ import annotations

import ctypes
import os
import sys

MOST = 2**29
"""Bytes: blocks below this come from memory that the process keeps, and as much of that may lie idle at its end."""

# Of malloc.h; a number never changes its meaning there.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3

CAPACITIES = ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY")
"""Environment variables of how many kernels oneDNN keeps, and what lies between it and torch."""

KERNELS = 16
"""Enough for the layers of one forward."""


def bound_kept_kernels() -> None:
    """Let few of the kernels be kept that oneDNN makes for every shape, unless the environment says how many.

    It computes in bfloat16 on a CPU. Rollouts hardly ever have one shape twice, as rows end one by one: with the 1,024
    that are kept otherwise, two trainings of `small` grew to 11 GB each in 100 updates, and they gain no time.
    """
    for name in CAPACITIES:
        os.environ.setdefault(name, str(KERNELS))


def keep_freed_memory() -> None:
    """Let the allocator keep large blocks that are freed, where it is glibc's.

    A forward on the CPU frees and asks again for blocks of megabytes at each layer. By itself glibc gives them back to
    the system each time, and the system hands them out again page by page, cleared: a quarter of the time of a forward
    of 2 million parameters with 16 to 64 rows of 160 positions.
    """
    if not sys.platform.startswith("linux"):
        return
    # Not every Linux has glibc: others have no such function.
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(MMAP_THRESHOLD, MOST)
        mallopt(TRIM_THRESHOLD, MOST)
