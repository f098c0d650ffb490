"""The speed dial of a policy trained for a range of preferences, and what its places were measured to do."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Annotated, Any

from pydantic import Field

from policies.files import check, parse

Share = Annotated[float, Field(ge=0, le=1)]
"""A number from 0 to 1."""


@dataclass(frozen=True)
class DialPoint:
    """What decoding at one place on the dial gave on validation problems.

    Attributes:
        block_length: of the decoding.
        speed: in [0, 1].
        accuracy: in [0, 1], mean score.
        accuracy_ci95: its 95 % interval.
        nfe: forwards an answer.
        nfe_ci95: its 95 % interval.
    """

    block_length: Annotated[int, Field(ge=1)]
    speed: Share
    accuracy: Share
    accuracy_ci95: tuple[float, float]
    nfe: Annotated[float, Field(gt=0)]
    nfe_ci95: tuple[float, float]


class Calibration:
    """Turns what a user asks for into a place on the dial.

    Blocks that were not measured go by those whose length is nearest in ratio, the longer of two. More speed never
    means more forwards: a place that was measured slower than one below it gives way to the one below.

    Args:
        points: measurements, in any order; at least one.
    """

    def __init__(self, points: Sequence[DialPoint]) -> None:
        self.points = sorted(points, key=lambda point: (-point.block_length, point.speed))

    def measured(self, block_length: int) -> list[DialPoint]:
        """Return the measurements that count for a block length, slow to fast."""
        lengths = [point.block_length for point in self.points]
        # In ratio, as blocks come in powers of two: 24 lies nearer to 32 than to 16.
        nearest = min(lengths, key=lambda length: (abs(math.log(length / block_length)), -length))
        return [point for point in self.points if point.block_length == nearest]

    def monotone(self, block_length: int) -> list[DialPoint]:
        """Return the point used for each place, slow to fast, forwards never rising."""
        found: list[DialPoint] = []
        for point in self.measured(block_length):
            last = found[-1] if found else point
            # The slower point of two is measured noise or a flaw of the dial; either way nobody who asks for speed
            # wants it.
            found.append(point if point.nfe <= last.nfe else last)
        return found

    def at(self, speed: float, block_length: int) -> float:
        """Return the place on the network's dial for a speed of the user's, the nearest measured one.

        Raises:
            ValueError: unless the speed is in [0, 1].
        """
        check_speed(speed)
        points = self.measured(block_length)
        nearest = min(range(len(points)), key=lambda i: abs(points[i].speed - speed))
        # The nearest may have been measured slower than one below it.
        return self.monotone(block_length)[nearest].speed

    def for_nfe(self, target: float, block_length: int) -> float:
        """Return the most accurate place that needs at most so many forwards.

        Raises:
            ValueError: if none does; the message gives the range.
        """
        points = self.measured(block_length)
        enough = [point for point in points if point.nfe <= target]
        if not enough:
            fewest = min(point.nfe for point in points)
            raise ValueError(f"nfe_target is {target}: this policy needs {fewest:.2f} forwards or more on validation")
        # Of equals the cheaper: more forwards that bring nothing are no one's wish.
        return max(enough, key=lambda point: (point.accuracy, -point.nfe)).speed

    def for_accuracy(self, target: float, block_length: int) -> float:
        """Return the place with the fewest forwards that is at least so accurate.

        Raises:
            ValueError: if none is; the message gives the range.
        """
        if not 0 <= target <= 1:
            raise ValueError(f"accuracy_target is {target}: it is a share of the answers, 0 to 1")
        points = self.measured(block_length)
        enough = [point for point in points if point.accuracy >= target]
        if not enough:
            best = max(point.accuracy for point in points)
            raise ValueError(f"accuracy_target is {target}: this policy reaches {best:.3f} at most on validation")
        return min(enough, key=lambda point: (point.nfe, -point.accuracy)).speed

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the points as JSON can hold them."""
        return [asdict(point) for point in self.points]

    @staticmethod
    def from_plain(data: Any) -> Calibration:
        """Read what `to_plain` returned.

        Raises:
            ValueError: if it is something else; the message says what.
        """
        points = check(Annotated[list[Any], Field(min_length=1)], data, "calibration")
        return Calibration([parse(DialPoint, point, f"calibration.{i}") for i, point in enumerate(points)])


def check_speed(speed: float) -> None:
    """Refuse what is not on the dial.

    Raises:
        ValueError: unless the speed is in [0, 1].
    """
    if not isinstance(speed, int | float) or not 0 <= speed <= 1:
        raise ValueError(f"speed is {speed!r}: it must be 0 (slow) to 1 (fast)")
