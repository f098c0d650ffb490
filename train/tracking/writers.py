"""What Stable-Baselines3's logger writes to."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from stable_baselines3.common.logger import KVWriter

from train.command import parallel
from train.tracking.history import STEP
from train.tracking.tracker import Tracker


class TrackerWriter(KVWriter):
    """Sends what Stable-Baselines3 logs to a `Tracker`."""

    def __init__(self, tracker: Tracker) -> None:
        self.tracker = tracker

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Send one update's numbers."""
        numbers = {key: float(v) for key, v in key_values.items() if isinstance(v, int | float | np.number)}
        self.tracker.log({**numbers, STEP: step})


class MeanWriter(KVWriter):
    """Hands numbers on as their means over the processes of a data-parallel training.

    Args:
        writers: what they go to; none in processes beside the first.
    """

    def __init__(self, writers: Sequence[KVWriter]) -> None:
        self.writers = writers

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        """Average one update's numbers and write them."""
        # In every process, since each must take part in the mean.
        means = parallel.mean(key_values)
        for writer in self.writers:
            writer.write(means, key_excluded, step)
