"""What people are told where tracks and clip differ in length or rate."""

from __future__ import annotations

import math

from ..grid import Grid
from .packed import PackedTracks

__all__ = ["alike", "time_notes"]

_ALIKE = 0.02  # rates that differ by less are one (23.976 and 24)


def alike(one: float, other: float) -> bool:
    """Whether two rates, in frames per second, are one."""
    return math.isclose(one, other, rel_tol=_ALIKE)


def time_notes(tracks: PackedTracks, grid: Grid) -> list[str]:
    """Sentences for people where the tracks are longer or shorter than the clip, with both rates where they are known.
    Tracks of the first frame alone have no length."""
    used = int(grid.pixel_spans()[-1][1])
    if tracks.frames in (1, used):
        return []
    if tracks.frames < used:
        return [
            f"the tracks end {used - tracks.frames} frames before the video: they have {tracks.frames} of its {used} "
            "frames, and its last token frame is known from those alone"
        ]
    if grid.start:
        return []  # told of the first segment
    note = f"the tracks have {tracks.frames} frames; the first {used} are used"
    if grid.start is None:
        note = f"{note}. For a later clip of a chain, say which frame it starts with (start_frame)"
    else:
        note = f"{note} in the clip's first segment, and those behind in further ones, where the pipeline makes any"
    if grid.fps is None or alike(tracks.fps, grid.fps):
        return [note]
    return [
        f"{note}. They run at {tracks.fps:g} frames per second and this model at {grid.fps:g}: what it sees ends "
        f"after {(used - 1) / tracks.fps:.1f} of their {(tracks.frames - 1) / tracks.fps:.1f} s. MATRIX Retime Tracks "
        "brings them to its rate"
    ]
