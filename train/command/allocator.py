"""Memory of the C library: what is freed stays with the process."""

from __future__ import annotations

import ctypes
import sys

MOST = 2**29
"""Bytes: blocks below this come from memory that the process keeps, and as much of that may lie idle at its end."""

# Of malloc.h; a number never changes its meaning there.
TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3


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
