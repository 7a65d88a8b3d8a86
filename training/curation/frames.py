"""The frames of a clip: which frames of its file they are, and those pictures one after the other.

F frames of the clip, counted from 0; numbers of frames of the file are only in `numbers`.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matrix_lib.io.video import each_frame

from .stage import Item, Place

__all__ = ["Frame", "clip_frames", "numbers_of", "picked", "sampled", "video_of"]

Frame = NDArray[np.uint8]


def video_of(item: Item, place: Place) -> Path:
    """The file that a clip is in."""
    return place.raw / item["raw"]["video"]


def numbers_of(shot: Sequence[int], fps: float, wanted: float) -> list[int]:
    """Frames of the file that make the clip: those of the shot [first, last + 1), at `wanted` frames a second.

    wanted: 0 takes every frame; no frame comes twice, so that a slower file keeps its own rate.
    """
    first, stop = shot
    step = max(1.0, fps / wanted) if wanted else 1.0
    return [first + math.floor(n * step + 1e-6) for n in range(math.floor((stop - 1 - first) / step + 1e-6) + 1)]


def clip_frames(item: Item, place: Place) -> Iterator[Frame]:
    """Every frame of a clip, (H, W, 3) uint8, one at a time. ValueError where its file has changed or is damaged."""
    return (frame for _, frame in picked(item, place, range(item["clips"]["frames"])))


def picked(item: Item, place: Place, wanted: Sequence[int]) -> Iterator[tuple[int, Frame]]:
    """(number, picture) of some frames of a clip, in their order."""
    facts: Mapping[str, Any] = item["clips"]
    numbers = numbers_of(facts["shot"], facts["file_fps"], facts["wanted_fps"])
    places: dict[int, int] = {numbers[at]: at for at in sorted(set(wanted))}
    left = len(places)
    for number, frame in enumerate(each_frame(video_of(item, place))):
        if number in places:
            yield places[number], frame
            left -= 1
        if not left:
            return
    raise ValueError(f"{item['raw']['video']!r} has fewer frames than it had: it was changed since")


def sampled(frames: int, count: int) -> list[int]:
    """Frame 0, and `count` frames spread evenly: at (i + 1/2) F / count."""
    return sorted({0, *(min(frames - 1, int((i + 0.5) * frames / count)) for i in range(count))})
