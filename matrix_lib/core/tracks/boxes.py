"""Key-framed boxes: what is in between, and how a box becomes whole pixels.

A box is (x0, y0, x1, y1) in pixels, x1 and y1 exclusive; keys are {frame: box}, None where the instance leaves.
"""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping

__all__ = ["Box", "boxes_at", "check_boxes", "in_pixels", "whole_pixels"]

Box = tuple[float, float, float, float]
_SMALL = 8  # pixels: in a larger frame nobody draws a box of one


def check_boxes(name: str, keys: Mapping[int, Box | None], frames: int, height: int, width: int) -> None:
    if not any(box is not None for box in keys.values()):
        raise ValueError(f"{name!r} has no box; give one for at least one frame")
    for frame, box in keys.items():
        if not 0 <= frame < frames:
            raise ValueError(f"{name!r} has a box for frame {frame}, but the clip has frames 0 to {frames - 1}")
        if box is None:
            continue
        if len(box) != 4 or not all(math.isfinite(v) for v in box) or box[2] <= box[0] or box[3] <= box[1]:
            raise ValueError(f"boxes are x0, y0, x1, y1 with x1 > x0 and y1 > y0; {name!r} has {box} in frame {frame}")
        if max(map(abs, box)) <= 1 and min(width, height) > _SMALL:
            raise ValueError(
                f"the box {box} of {name!r} in frame {frame} lies in the first pixel of the {width}x{height} frame "
                "(width x height). Shares of the frame, 0 to 1, are not read as such here: multiply x by the width and "
                "y by the height, or write percent where boxes are typed"
            )
        if box[0] >= width or box[1] >= height or box[2] <= 0 or box[3] <= 0:
            raise ValueError(
                f"the box {box} of {name!r} in frame {frame} lies outside the {width}x{height} frame (width x height)"
            )


def in_pixels(
    boxes: Mapping[str, Mapping[int, Box | None]], height: int, width: int
) -> tuple[dict[str, dict[int, Box | None]], str]:
    """The same boxes in pixels where all of them are in shares of the frame (0 to 1), and a sentence that says so.

    Shares are known by two things: nothing lies beyond 1, and somewhere there is a fraction.
    """
    values = [v for keys in boxes.values() for box in keys.values() if box is not None for v in box]
    same = {name: dict(keys) for name, keys in boxes.items()}
    if not values or not all(0 <= v <= 1 for v in values) or all(v in (0, 1) for v in values):
        return same, ""
    scale = (width, height, width, height)
    for keys in same.values():
        for frame, box in keys.items():
            if box is not None:
                x0, y0, x1, y1 = (v * size for v, size in zip(box, scale))
                keys[frame] = (x0, y0, x1, y1)
    return same, f"the boxes lie in 0 to 1 and were read as shares of the {width}x{height} frame (width x height)"


def boxes_at(
    keys: Mapping[int, Box | None], frames: int, hold: bool, progress: Callable[[], None] | None = None
) -> Iterator[Box | None]:
    """The box in each frame: of its key, between two keys, or held at the ends."""
    order = sorted(keys)
    for frame in range(frames):
        if progress is not None:
            progress()
        at = bisect_right(order, frame)
        before, after = order[at - 1] if at else None, order[at] if at < len(order) else None
        if before == frame:
            yield keys[frame]
        elif before is None or after is None:
            yield keys[after if before is None else before] if hold else None  # type: ignore[index]
        else:
            yield _between(keys[before], keys[after], (frame - before) / (after - before))


def _between(first: Box | None, second: Box | None, share: float) -> Box | None:
    if first is None or second is None:
        return first
    x0, y0, x1, y1 = (a + (b - a) * share for a, b in zip(first, second))
    return x0, y0, x1, y1


def whole_pixels(box: Box, height: int, width: int) -> tuple[int, int, int, int]:
    """The box in whole pixels inside the frame, at least one pixel large."""
    x0, y0 = min(max(math.floor(box[0] + 0.5), 0), width - 1), min(max(math.floor(box[1] + 0.5), 0), height - 1)
    x1, y1 = max(min(math.floor(box[2] + 0.5), width), x0 + 1), max(min(math.floor(box[3] + 0.5), height), y0 + 1)
    return x0, y0, x1, y1
