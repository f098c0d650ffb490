"""Processes as threads."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import torch


class InThreads(ThreadPoolExecutor):
    """Instead of processes, whose start takes seconds; like them, it leaves this process's random numbers alone."""

    def __init__(self, workers: int) -> None:
        super().__init__(1)

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        def apart() -> Any:
            with torch.random.fork_rng():
                return fn(*args, **kwargs)

        return super().submit(apart)
