"""Which devices torch can use here."""

from __future__ import annotations

import torch


def check_device(device: str) -> None:
    """Refuse a device that there is none of here.

    Raises:
        ValueError: if torch can't use it.
    """
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        # torch lists all its backends, a line each.
        reason = str(error).splitlines()[0].partition(". ")[0]
        if "aten::" in reason:  # the name of an operator tells nobody anything
            reason = "it is built without that"
        raise ValueError(f"device is {device!r}: torch can't use it here ({reason}); try cpu") from error
