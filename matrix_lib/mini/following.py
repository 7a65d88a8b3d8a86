"""Follows a thing of the mini world from a box in one frame, by pixels alone: what its colour is, and where it was.

Knows what this world's paints are, as a learned tracker knows what the real world looks like, and nothing else of a
clip. F frames, H, W pixels; a box is (x0, y0, x1, y1).
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from ..core.tracks.boxes import Box
from .shapes import PALETTE

__all__ = ["follow", "painted", "spot_box"]

# Brightness and two differences of colour: videos keep brightness in every pixel, and colour in every other one.
_SEEN = np.array([[0.299, 0.587, 0.114], [-0.169, -0.331, 0.5], [0.5, -0.419, -0.081]], dtype=np.float32).T
_SEEN[:, 0] *= 2
_PAINTS = np.array(list(PALETTE.values()), dtype=np.float32)
_SOLID = 45.0  # a pixel this near to a paint is covered by it
_GROUND = 56.0  # grey of a usual background
_LEAST = 6  # solid pixels by which a paint counts as being in a frame
_SLACK = 1.5  # pixels that a thing reaches beyond what the frames before say
_KNOWN = 0.35  # of its area: a thing that is less seen than that stays where it was expected

Frame = NDArray[np.uint8]
Mask = NDArray[np.bool_]
Paints = NDArray[np.int8]
Array = NDArray[np.float32]


def painted(frames: Iterable[Frame]) -> Paints:
    """(F, H, W) int8: which paint covers more than half of a pixel, -1 for none. frames: (H, W, 3) uint8."""
    return np.stack([_painted(frame) for frame in frames])


def follow(paints: Paints, box: Box, at: int) -> list[Mask]:
    """Masks (H, W) bool of one thing in every frame, forwards and backwards from its box in frame `at`.

    A box without a paint in it gives empty masks. paints: from `painted`.
    """
    frames, height, width = paints.shape
    found = [np.zeros((height, width), dtype=bool) for _ in range(frames)]
    inside = np.zeros((height, width), dtype=bool)
    x0, y0, x1, y1 = (round(v) for v in box)
    inside[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    counts = np.bincount(paints[at][inside] + 1, minlength=len(_PAINTS) + 1)[1:]
    if not counts.any():
        return found
    paint = int(counts.argmax())
    spot = (paints[at] == paint) & inside
    centre = _centre(spot)
    reach = float(_distance(centre, height, width)[spot].max()) + _SLACK
    area = int(((paints[at] == paint) & (_distance(centre, height, width) <= reach)).sum())
    for way in (range(at, frames), range(at, -1, -1)):
        last, speed = centre, np.zeros(2, dtype=np.float32)
        for index in way:
            expected = last + speed
            now, mask = _locate(paints[index] == paint, expected, reach)
            if mask.sum() < _KNOWN * area:
                now = expected
            found[index] = mask
            speed, last = (now - last if index != at else speed), now
    return found


def spot_box(paints: Paints, point: tuple[float, float], at: int) -> Box:
    """The box around everything of one paint that hangs together with a point (x, y) of frame `at`; around the point
    alone where there is no paint."""
    frame = paints[at]
    height, width = frame.shape
    x, y = min(max(int(point[0]), 0), width - 1), min(max(int(point[1]), 0), height - 1)
    spot = np.zeros((height + 2, width + 2), dtype=bool)
    spot[y + 1, x + 1] = True
    mine = np.pad(frame == frame[y, x], 1) & (frame[y, x] >= 0)
    while True:
        grown = spot.copy()
        for step, axis in ((1, 0), (-1, 0), (1, 1), (-1, 1)):
            grown |= np.roll(spot, step, axis) & mine
        if (grown == spot).all():
            break
        spot = grown
    rows, columns = np.nonzero(spot[1:-1, 1:-1])
    return float(columns.min()), float(rows.min()), float(columns.max() + 1), float(rows.max() + 1)


def _locate(mine: Mask, centre: Array, reach: float) -> tuple[Array, Mask]:
    """The spot of a paint around where it is expected: its centre (x, y) and its mask."""
    mask = mine & (_distance(centre, *mine.shape) <= reach + 2 * _SLACK)
    for _ in range(3):
        if not mask.any():
            return centre, mask
        centre = _centre(mask)
        mask = mine & (_distance(centre, *mine.shape) <= reach)
    return centre, mask


def _painted(frame: Frame) -> Paints:
    pixels = frame.astype(np.float32)
    far = _far(pixels, _PAINTS)
    nearest = far.min(-1)
    there = (far < _SOLID).sum((0, 1)) >= _LEAST
    plain = nearest > 2 * _SOLID
    ground = np.median(pixels[plain].mean(-1)) if plain.any() else _GROUND
    seen = pixels @ _SEEN
    far = _far(seen, _PAINTS @ _SEEN)
    far[..., ~there] = np.inf
    to_ground = np.linalg.norm(seen - np.float32(ground) * _SEEN.sum(0), axis=-1)
    return np.where(far.min(-1) < to_ground, far.argmin(-1), -1).astype(np.int8)


def _far(pixels: Array, colours: Array) -> Array:
    """Distances (H, W, C) of pixels (H, W, 3) to colours (C, 3)."""
    square = (pixels**2).sum(-1)[..., None] + (colours**2).sum(-1) - 2 * pixels @ colours.T
    return np.asarray(np.sqrt(np.maximum(square, 0)))


def _centre(mask: Mask) -> Array:
    rows, columns = np.nonzero(mask)
    return np.array([columns.mean() + 0.5, rows.mean() + 0.5], dtype=np.float32)


def _distance(centre: Array, height: int, width: int) -> Array:
    x = np.arange(width, dtype=np.float32) + 0.5 - centre[0]
    y = np.arange(height, dtype=np.float32) + 0.5 - centre[1]
    return np.hypot(y[:, None], x[None, :])
