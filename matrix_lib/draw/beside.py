"""Clips side by side, with the outlines of tracks over each: what a change makes of the same seed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..core.tracks.tracks import MaskTracks
from .style import INK, fit_text, readable, write

__all__ = ["side_by_side"]

_GAP, _HEAD, _LEAST = 8, 30, 240


def side_by_side(clips: Mapping[str, NDArray[np.uint8]], tracks: MaskTracks | None = None) -> Iterator[Image.Image]:
    """One picture for each frame, the clips from left to right under their titles, small ones in whole multiples.

    Args:
        clips: by title (F, H, W, 3) uint8, of one size.
        tracks: of that size; each instance is outlined in its colour in every clip, in the frames that it knows.

    Raises ValueError for clips or tracks of other sizes.
    """
    shapes = {clip.shape for clip in clips.values()}
    if len(shapes) != 1 or len(next(iter(shapes))) != 4:
        raise ValueError(f"clips side by side are of one size (F, H, W, 3); here are {sorted(shapes)}")
    frames, height, width, _ = shapes.pop()
    if tracks is not None and (tracks.height, tracks.width) != (height, width):
        raise ValueError(f"the tracks are of {tracks.height}x{tracks.width} pixels, the clips of {height}x{width}")
    times = max(1, -(-_LEAST // width))
    size = (width * times, height * times)
    for at in range(frames):
        picture = Image.new("RGB", (len(clips) * (size[0] + _GAP) - _GAP, size[1] + _HEAD), INK["page"])
        ink = ImageDraw.Draw(picture)
        for place, (title, clip) in enumerate(clips.items()):
            left = place * (size[0] + _GAP)
            write(ink, (left + 4, _HEAD / 2), fit_text(title, 16, size[0] - 8), 16, INK["text"])
            picture.paste(_outlined(clip[at], tracks, at, size), (left, _HEAD))
        yield picture


def _outlined(frame: NDArray[np.uint8], tracks: MaskTracks | None, at: int, size: tuple[int, int]) -> Image.Image:
    """A frame at `size` (width, height) with the outlines of the instances in it, two pixels wide."""
    picture = Image.fromarray(frame).resize(size, Image.Resampling.NEAREST if size[0] > frame.shape[1] else 1)
    if tracks is None or at >= tracks.frames:
        return picture
    for name, colour in zip(tracks.names, tracks.palette):
        mask = Image.fromarray(tracks.mask(name, at).numpy()).convert("L").resize(size, Image.Resampling.NEAREST)
        picture.paste(readable(colour), mask=Image.fromarray(_edge(np.asarray(mask) > 0)))
    return picture


def _edge(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Pixels of a mask that are at most two away from where it ends."""
    inner = mask
    for _ in range(2):
        held = np.pad(inner, 1, mode="edge")
        inner = inner & held[:-2, 1:-1] & held[2:, 1:-1] & held[1:-1, :-2] & held[1:-1, 2:]
    return mask & ~inner
