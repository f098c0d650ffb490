"""Batches that fit the accelerator's memory: where one doesn't, a smaller one is tried, and remembered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeVar

import torch

from train.command.errors import UserError

Result = TypeVar("Result")

_logger = logging.getLogger(__name__)
_fitting: dict[str, int] = {}  # by device, the batch that fitted after one that didn't


def with_memory(device: str, batch_size: int, call: Callable[[int], Result]) -> Result:
    """Return what a call returns whose answer doesn't depend on the size of its batches.

    Where the device has too little memory the size is halved. That is said once, and later calls of this process begin
    with what fitted.

    Args:
        device: whose memory it takes.
        batch_size: most sequences at a time.
        call: takes the batch size; called again from its start with another.

    Raises:
        UserError: if there is not enough for one sequence.
    """
    size = min(batch_size, _fitting.get(device, batch_size))
    while True:
        try:
            return call(size)
        except torch.OutOfMemoryError as error:
            if size == 1:
                raise UserError(
                    f"the memory of {device} is too small for one sequence: give a shorter buffer, or another device"
                ) from error
        # Out of the handler, whose traceback holds the tensors that were too many.
        if device not in _fitting:
            _logger.warning(
                "warning: the memory of %s is too small for a batch of %d: going on with smaller ones", device, size
            )
        size //= 2
        _fitting[device] = size
