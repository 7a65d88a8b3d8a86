"""A strength over the steps of a run. Positions are shares of its steps, 0 the first and 1 the last; where a run is
part of a longer schedule, of the steps of that (`part.RunPart`)."""

from __future__ import annotations

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["Schedule", "parse_points"]

LARGEST = 1000.0
"""Of a strength: more would only make numbers that no latent holds."""

Easing = Literal["linear", "smooth", "step"]


@dataclass(frozen=True)
class Schedule:
    """A strength over the steps of a run.

    Args:
        points: (position, value) with positions ascending in [0, 1]; the first and the last value hold to the ends.
        easing: how it goes from one point to the next: "linear", "smooth" (half a cosine) or "step" (the value
            before).
        start, end: outside of [start, end] the strength is 0.

    Raises ValueError for anything else.
    """

    points: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    easing: Easing = "linear"
    start: float = 0.0
    end: float = 1.0

    def __post_init__(self) -> None:
        if not 0 <= self.start <= self.end <= 1:
            raise ValueError(f"start and end are shares of the run with start <= end; got {self.start}, {self.end}")
        positions = [position for position, _ in self.points]
        if not positions or positions != sorted(set(positions)) or not 0 <= positions[0] <= positions[-1] <= 1:
            given = str(positions)[:200]
            raise ValueError(f"a curve's positions ascend from 0 (first step) to 1 (last step); got {given}")
        if not all(0 <= value <= LARGEST for _, value in self.points):
            values = [value for _, value in self.points]
            raise ValueError(f"a curve's values are 0 to {LARGEST:g}; got {str(values)[:200]}")
        if self.easing not in get_args(Easing):
            raise ValueError(f"easing is one of {', '.join(get_args(Easing))}; got {self.easing!r}")

    def at(self, step: float, steps: int) -> float:
        """The strength at one of the `steps` steps of the whole schedule."""
        position = step / (steps - 1) if steps > 1 else 0.0
        if not self.start <= position <= self.end:
            return 0.0
        place = bisect_right([at for at, _ in self.points], position) - 1
        if place < 0 or place == len(self.points) - 1:
            return self.points[max(place, 0)][1]
        (left, low), (right, high) = self.points[place : place + 2]
        share = (position - left) / (right - left)
        if self.easing == "step":
            share = 0.0
        elif self.easing == "smooth":
            share = (1 - math.cos(math.pi * share)) / 2
        return low + (high - low) * share


def parse_points(text: str) -> tuple[tuple[float, float], ...]:
    """Key points from what a person wrote, such as "0: 1, 0.3: 0.5, 1: 0". Raises ValueError with what is accepted."""
    found = []
    for part in filter(str.strip, text.replace("\n", ",").replace(";", ",").split(",")):
        position, colon, value = part.partition(":")
        try:
            if not colon:
                raise ValueError
            found.append((float(position), float(value)))
        except ValueError:
            raise ValueError(
                f"key points are written as 'position: strength', for example '0: 1, 0.3: 0.5, 1: 0'; got {part[:80]!r}"
            ) from None
    return tuple(found)
