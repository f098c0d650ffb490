"""The speed dial of a policy trained for a range of preferences, and what its places were measured to do."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class DialPoint:
    """What decoding at one place on the dial gave on validation problems.

    Attributes:
        speed: in [0, 1].
        accuracy: in [0, 1], mean score.
        accuracy_ci95: its 95 % interval.
        nfe: forwards an answer.
        nfe_ci95: its 95 % interval.
    """

    speed: float
    accuracy: float
    accuracy_ci95: tuple[float, float]
    nfe: float
    nfe_ci95: tuple[float, float]


class Calibration:
    """Turns what a user asks for into a place on the dial.

    More speed never means more forwards: a place that was measured slower than one below it gives way to the one below.

    Args:
        points: measurements, in any order; at least one.
    """

    def __init__(self, points: Sequence[DialPoint]) -> None:
        self.points = sorted(points, key=lambda point: point.speed)
        self.monotone: list[DialPoint] = []
        """The point used for each place, slow to fast, forwards never rising."""
        for point in self.points:
            last = self.monotone[-1] if self.monotone else point
            self.monotone.append(point if point.nfe <= last.nfe else last)

    def at(self, speed: float) -> float:
        """Return the place on the network's dial for a speed of the user's, the nearest measured one.

        Raises:
            ValueError: unless the speed is in [0, 1].
        """
        check_speed(speed)
        nearest = min(range(len(self.points)), key=lambda i: abs(self.points[i].speed - speed))
        return self.monotone[nearest].speed

    def for_nfe(self, target: float) -> float:
        """Return the most accurate place that needs at most so many forwards.

        Raises:
            ValueError: if none does; the message gives the range.
        """
        enough = [point for point in self.points if point.nfe <= target]
        if not enough:
            fewest = min(point.nfe for point in self.points)
            raise ValueError(f"nfe_target is {target}: this policy needs {fewest:.2f} forwards or more on validation")
        return max(enough, key=lambda point: (point.accuracy, -point.nfe)).speed

    def for_accuracy(self, target: float) -> float:
        """Return the place with the fewest forwards that is at least so accurate.

        Raises:
            ValueError: if none is; the message gives the range.
        """
        enough = [point for point in self.points if point.accuracy >= target]
        if not enough:
            best = max(point.accuracy for point in self.points)
            raise ValueError(f"accuracy_target is {target}: this policy reaches {best:.3f} at most on validation")
        return min(enough, key=lambda point: (point.nfe, -point.accuracy)).speed

    def to_plain(self) -> list[dict[str, Any]]:
        """Return the points as JSON can hold them."""
        return [asdict(point) for point in self.points]

    @staticmethod
    def from_plain(data: Sequence[dict[str, Any]]) -> Calibration:
        """Read what `to_plain` returned."""
        return Calibration(
            [DialPoint(**{**point, **{k: tuple(point[k]) for k in ("accuracy_ci95", "nfe_ci95")}}) for point in data]
        )


def check_speed(speed: float) -> None:
    """Refuse what is not on the dial.

    Raises:
        ValueError: unless the speed is in [0, 1].
    """
    if not 0 <= speed <= 1:
        raise ValueError(f"speed is {speed}: it must be 0 (slow) to 1 (fast)")
