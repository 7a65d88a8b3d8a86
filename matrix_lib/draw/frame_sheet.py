"""Frames of a clip as cells of one picture, small enough to travel: what a page draws boxes on."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

__all__ = ["FrameSheet", "frame_sheet"]

_MOST_CELLS, _MOST_PIXELS, _LONGEST = 128, 4_000_000, 16_000


@dataclass(frozen=True)
class FrameSheet:
    """Every `every`-th frame of a clip of `frames` frames, from the first on, in rows of `columns` cells of one size.
    `size` is (width, height) of the clip in pixels, which the cells may be smaller than."""

    picture: Image.Image
    columns: int
    count: int
    every: int
    frames: int
    size: tuple[int, int]


def frame_sheet(frames: Iterator[NDArray[np.uint8]], count: int, height: int, width: int) -> FrameSheet:
    """The sheet of a clip that is read frame by frame.

    Args:
        frames: (height, width, 3) uint8 RGB each.
        count: how many there are about; a few more or fewer do no harm.

    Raises ValueError for a clip without frames.
    """
    every = max(1, math.ceil(count / _MOST_CELLS))
    cells = math.ceil(count / every)
    columns = math.ceil(math.sqrt(cells))
    rows = math.ceil(cells / columns)
    room = math.sqrt(_MOST_PIXELS / (columns * rows * height * width))
    scale = min(1.0, room, _LONGEST / (columns * width), _LONGEST / (rows * height))
    cell = max(1, int(width * scale)), max(1, int(height * scale))
    page = Image.new("RGB", (columns * cell[0], rows * cell[1]))
    found = seen = 0
    for number, frame in enumerate(frames):
        seen += 1
        if number % every or found == cells:
            continue
        picture = Image.fromarray(frame).resize(cell, Image.Resampling.BILINEAR, reducing_gap=2.0)
        page.paste(picture, (found % columns * cell[0], found // columns * cell[1]))
        found += 1
    if not found:
        raise ValueError("a clip without frames has no picture")
    return FrameSheet(page, columns, found, every, seen, (width, height))
