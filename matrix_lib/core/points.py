"""Places of a clip that a person pins before it is sampled, as text: "60,90@8".

    60,90@8; 50%,25%

x,y are pixels of the frames that the model makes, from the upper left, or percent of them with a % behind, with at most
three decimals. @ says in which frame, from 0, and may be left out for frame 0. Points are separated by semicolons or
lines; digits are 0 to 9.

`web/js/editor/points.js` reads and prints the same text in the page; `tests/data/tracks_text.json` and generated cases
hold the two together.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from .grid import Grid

__all__ = ["MOST_POINTS", "Point", "parse_points", "point_named"]

MOST_POINTS = 64
_COORDINATE = r"(?:[0-9]{1,9}(?:\.[0-9]{0,3})?|\.[0-9]{1,3})%?"
_POINT = re.compile(rf"({_COORDINATE})[ \t]*,[ \t]*({_COORDINATE})(?:[ \t]*@[ \t]*([0-9]{{1,7}}))?")
_NAME = re.compile(rf"point ({_COORDINATE}) ({_COORDINATE}) @([0-9]{{1,7}})")
_BETWEEN = re.compile(r"[;\r\n]")


@dataclass(frozen=True)
class Point:
    """A place in one frame of a clip.

    Args:
        x, y: pixels from the left and from the top; percent of the frame where `percent` says so, for each of them.
        frame: pixel frame, from 0.
    """

    x: float
    y: float
    frame: int = 0
    percent: tuple[bool, bool] = (False, False)

    @property
    def name(self) -> str:
        """What its map is called. It holds no comma: lists of names have commas in between."""
        x, y = (f"{_decimal(value)}{'%' * percent}" for value, percent in zip((self.x, self.y), self.percent))
        return f"point {x} {y} @{self.frame}"

    def pixels(self, grid: Grid) -> tuple[float, float]:
        """x and y in pixels of a clip."""
        height, width = grid.frame_pixels
        return (
            self.x / 100 * width if self.percent[0] else self.x,
            self.y / 100 * height if self.percent[1] else self.y,
        )

    def inside(self, grid: Grid) -> bool:
        """Whether the point lies in the clip."""
        (x, y), (height, width) = self.pixels(grid), grid.frame_pixels
        return 0 <= x <= width and 0 <= y <= height and 0 <= self.frame < grid.pixel_frames

    def token(self, grid: Grid) -> tuple[int, int, int]:
        """The token (frame, row, column) that holds the point. Raises ValueError where it lies outside of the clip."""
        (x, y), (height, width) = self.pixels(grid), grid.frame_pixels
        if not self.inside(grid):
            raise ValueError(
                f"the {self.name} lies outside of the clip: the model makes {grid.pixel_frames} frames (0 to "
                f"{grid.pixel_frames - 1}) of {width}x{height} pixels"
            )
        down, across = grid.token_pixels
        frame = next(f for f, (_, stop) in enumerate(grid.pixel_spans()) if self.frame < stop)
        return frame, min(int(y // down), grid.height - 1), min(int(x // across), grid.width - 1)


def parse_points(text: str) -> tuple[Point, ...]:
    """The points of a text, each once, in their order; none for an empty text. Raises ValueError with what cannot be
    read."""
    found: dict[str, Point] = {}
    for piece in _BETWEEN.split(text):
        said = piece.strip(" \t")
        if not said:
            continue
        match = _POINT.fullmatch(said)
        if match is None:
            raise ValueError(
                "points are written as 'x,y' or 'x,y@frame' (pixels, or percent with a %), with semicolons between; "
                f"got {said[:60]!r}"
            )
        (x, left), (y, top) = (_length(match[part]) for part in (1, 2))
        point = Point(x, y, int(match[3] or 0), (left, top))
        found[point.name] = point
    if len(found) > MOST_POINTS:
        raise ValueError(f"at most {MOST_POINTS} points can be pinned; got {len(found)}")
    return tuple(found.values())


def point_named(name: str) -> Point | None:
    """The point whose map is called so (`Point.name`); None where a name is not of that form."""
    match = _NAME.fullmatch(name)
    if match is None:
        return None
    (x, left), (y, top) = (_length(match[part]) for part in (1, 2))
    return Point(x, y, int(match[3]), (left, top))


def _length(text: str) -> tuple[float, bool]:
    return float(text.rstrip("%")), text.endswith("%")


def _decimal(value: float) -> str:
    return f"{value:.3f}".rstrip("0").rstrip(".")
