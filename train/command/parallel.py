"""Several processes: data-parallel training, evaluation that is shared out, and pools of workers.

``torchrun --nproc-per-node 8 train/grpo.py`` trains in one process a GPU, ``train/evaluate.py`` decodes so.

Each process has its share of the rows, plays episodes of its own, and takes the same optimiser steps as the others, on
the mean of all gradients: so the weights stay equal without being sent. The first process also writes the run's folder.
Without torchrun there is one process, and nothing here does anything.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from multiprocessing import forkserver, get_context, util
from multiprocessing.context import ForkServerContext, SpawnContext
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn

from train.command.allocator import keep_freed_memory
from train.command.interrupt import follow_launcher, follow_parent, held, sheltered

Gathered = TypeVar("Gathered")

READY = "UNMASKING_SERVER_READY"
"""Environment variable that holds the file that `train.command.ready` makes."""

LONGEST_START = 120.0
"""Seconds to wait for the process whose copies workers are."""


def world_size() -> int:
    """Return the number of processes."""
    return int(os.environ["WORLD_SIZE"]) if dist.is_torchelastic_launched() else 1


def rank() -> int:
    """Return this process's number, from 0."""
    return int(os.environ["RANK"]) if dist.is_torchelastic_launched() else 0


def local_rank() -> int:
    """Return this process's number on its machine, from 0."""
    return int(os.environ["LOCAL_RANK"]) if dist.is_torchelastic_launched() else 0


def is_main() -> bool:
    """Tell whether this is the process that writes and prints."""
    return rank() == 0


@contextmanager
def process_group(device: str) -> Iterator[None]:
    """Connect the processes, if there are several, for as long as the context lasts; they end after torchrun does.

    Args:
        device: torch device of this process.
    """
    if world_size() == 1:
        yield
        return
    follow_launcher()
    is_cuda = torch.device(device).type == "cuda"
    if is_cuda:
        # NCCL talks through the current device.
        torch.cuda.set_device(device)
    dist.init_process_group("nccl" if is_cuda else "gloo")
    try:
        yield
    finally:
        dist.destroy_process_group()


def total(value: float) -> float:
    """Return the sum of the processes' values."""
    return float(sum(_gather(value)))


def mean(numbers: Mapping[str, float]) -> dict[str, float]:
    """Return each number's mean over the processes that have it."""
    if world_size() == 1:
        return dict(numbers)
    every = _gather(dict(numbers))
    found: dict[str, list[float]] = {}
    for own in every:
        for name, value in own.items():
            found.setdefault(name, []).append(value)
    return {name: float(np.mean(values)) for name, values in found.items()}


def wait() -> None:
    """Wait until every process is here."""
    if world_size() > 1:
        dist.barrier()


def await_path(path: Path) -> None:
    """Wait until another process has written a file or folder, on disks that all of them see."""
    while not path.exists():
        time.sleep(0.5)


def decoding_workers(device: str) -> int:
    """Return how many workers this process starts: its share of the cores, or one on a GPU.

    Workers would share one GPU, whose memory holds the dLLM once.
    """
    return max(1, (os.cpu_count() or 1) // world_size()) if device == "cpu" else 1


def broadcast(value: Gathered) -> Gathered:
    """Return the first process's value, in all of them."""
    if world_size() == 1:
        return value
    sent = [value]
    dist.broadcast_object_list(sent)
    return sent[0]


def deal(items: Sequence[Gathered]) -> list[Gathered]:
    """Return this process's share of what all have: every so many-th, so that each gets some of each kind."""
    return list(items[rank() :: world_size()])


def collect(own: Sequence[Gathered]) -> list[Gathered]:
    """Return, in all processes, what each made of its share by `deal`, in the order of what was dealt."""
    every = _gather(list(own))
    count = sum(map(len, every))
    return [every[i % len(every)][i // len(every)] for i in range(count)]


def own_device(device: str) -> str:
    """Return the torch device that is this process's.

    Args:
        device: of the configuration; with several processes on GPUs each takes one of its own.

    Raises:
        ValueError: if it is one that processes can't share.
    """
    if world_size() == 1:
        return device
    asked = torch.device(device)
    if asked.index is not None:
        raise ValueError(f"model.device is {device!r}: with {world_size()} processes give {asked.type!r}")
    return f"cuda:{local_rank()}" if asked.type == "cuda" else device


def _gather(value: Gathered) -> Sequence[Gathered]:
    """Return the processes' values, by rank."""
    if world_size() == 1:
        return [value]
    every: list[Gathered] = [value] * world_size()
    dist.all_gather_object(every, value)
    return every


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean over the processes, in one message; one that is missing counts as 0."""
    if world_size() == 1:
        return
    own = [p for p in parameters if p.requires_grad]
    for parameter in own:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [p.grad for p in own if p.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    _average(flat)
    for gradient, shared in zip(gradients, flat.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(shared.view_as(gradient))


def average_gradients_when_made(parameters: Iterable[nn.Parameter]) -> None:
    """Replace every gradient by its mean as soon as ``backward`` has made it.

    For training loops that are not ours; the processes must call ``backward`` equally often, on like graphs.
    """
    if world_size() == 1:
        return

    def hook(parameter: Tensor) -> None:
        assert parameter.grad is not None
        _average(parameter.grad)

    for parameter in parameters:
        if parameter.requires_grad:
            parameter.register_post_accumulate_grad_hook(hook)


def _average(values: Tensor) -> None:
    dist.all_reduce(values)
    values /= world_size()


if sys.platform == "linux":
    # A fork of this process is not the parent of its server, and starts one of its own.
    os.register_at_fork(after_in_child=forkserver._forkserver.__init__)  # type: ignore[misc]


def process_context() -> ForkServerContext | SpawnContext:
    """Return how a process is started: as a copy of one that has imported what it needs and done nothing else.

    A start takes some hundredths of a second then, and seconds where the imports are its own.
    """
    # Not a copy of this process: neither torch's threads nor CUDA survive that.
    if sys.platform != "linux":
        return get_context("spawn")
    context = get_context("forkserver")
    context.set_forkserver_preload(
        ["__main__", "train.evaluation.run", "transformers.modeling_utils", "train.command.ready"]
    )
    return context


def await_server() -> None:
    """Start the process that is copied, if there is none, and wait until it has imported what it is to import.

    It takes seconds, in which a signal ends the wait; to start a copy then takes too little to be in anyone's way.
    """
    if sys.platform != "linux":
        return
    process_context()
    made = Path(util.get_temp_dir(), f"ready-{os.getpid()}")
    os.environ[READY] = str(made)
    try:
        with sheltered():
            forkserver.ensure_running()
    finally:
        del os.environ[READY]
    # One that can't import its modules is found out by the first start.
    until = time.monotonic() + LONGEST_START
    try:
        while not made.exists() and time.monotonic() < until:
            time.sleep(0.02)
    except BaseException:
        # It would hold what we print to open until it has imported all, and found us gone.
        os.kill(forkserver._forkserver._forkserver_pid, signal.SIGKILL)  # type: ignore[attr-defined]
        raise


@contextmanager
def worker_pool(
    workers: int, start: Callable[..., object] | None = None, arguments: Sequence[Any] = ()
) -> Iterator[ProcessPoolExecutor]:
    """Start processes to hand work to; they end with this one, at once if the context is left by an exception.

    Args:
        workers: how many.
        start: called first in each.
        arguments: of `start`.
    """
    await_server()
    pool = _WorkerPool(workers, process_context(), _start_worker, (start, arguments))
    try:
        yield pool
    except BaseException:
        # Not waited for: what they are at may take minutes, and what is finished is written.
        processes = list((pool._processes or {}).values())
        pool.shutdown(wait=False, cancel_futures=True)
        for process in processes:
            process.kill()
        raise
    pool.shutdown()


def starting() -> AbstractContextManager[None]:
    """Let signals wait while a process starts, which would be left half started, and not reach that process."""
    # A copy has the server's mask, not this one.
    return held() if sys.platform == "linux" else sheltered()


class _WorkerPool(ProcessPoolExecutor):
    """Starts processes that a Ctrl-C in the terminal doesn't reach, not even while they still import."""

    def submit(self, fn: Callable[..., Gathered], /, *args: Any, **kwargs: Any) -> Future[Gathered]:
        with starting():
            return super().submit(fn, *args, **kwargs)


def begin_worker() -> None:
    """Begin as every process does that this one has started to do a part of its work."""
    follow_parent()
    keep_freed_memory()


def _start_worker(start: Callable[..., object] | None, arguments: Sequence[Any]) -> None:
    begin_worker()
    if start is not None:
        start(*arguments)
