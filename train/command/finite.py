"""Keeping what is no number out of a training: scores that are not known, and what an update made infinite.

Adam and its like turn one infinite gradient into weights that are NaN for ever; what was saved before is still good.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from itertools import chain
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from train.command.errors import UserError

ADVICE = "start anew with a lower learning rate"
"""What mostly helps."""


class Diverged(UserError):
    """A loss, a gradient or a weight is NaN or infinite."""


def watch(optimizer: torch.optim.Optimizer) -> None:
    """Look at every gradient before each step of an optimiser, and at every weight after it.

    The step raises `Diverged`: for a gradient before a weight is changed, for a weight when it is too late for those
    in memory.
    """
    optimizer.register_step_pre_hook(lambda one, *_: _check("gradient", [p.grad for p in _parameters(one)]))
    optimizer.register_step_post_hook(lambda one, *_: _check("weight", _parameters(one)))


def check_loss(loss: float) -> None:
    """Refuse a loss that is NaN or infinite.

    Raises:
        Diverged: if it is.
    """
    if not math.isfinite(loss):
        raise Diverged(f"the loss is {loss:g}: {ADVICE}")


def scored(
    infos: Sequence[dict[str, Any]], dones: npt.NDArray[np.bool_] | None
) -> tuple[list[dict[str, Any]], npt.NDArray[np.bool_] | None]:
    """Return the infos of a step's rows, and whether they ended, without rows that ended with no score."""
    kept = [row for row, info in enumerate(infos) if "score_error" not in info]
    return [infos[row] for row in kept], None if dones is None else dones[kept]


def _parameters(optimizer: torch.optim.Optimizer) -> list[Tensor]:
    groups = (group["params"] for group in optimizer.param_groups)
    return list(chain.from_iterable(groups))


def _check(what: str, values: Iterable[Tensor | None]) -> None:
    # The largest of all: one number, so that a GPU is waited for once, and exact, unlike a sum of squares.
    largest = nn.utils.get_total_norm([value.detach() for value in values if value is not None], math.inf)
    if not math.isfinite(float(largest)):
        raise Diverged(f"a {what} is NaN or infinite: {ADVICE}")
