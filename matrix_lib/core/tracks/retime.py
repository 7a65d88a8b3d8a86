"""Tracks of another length or rate: frames picked by their time.

F frames. A clip of F frames at r frames per second lasts from its first to its last frame, (F - 1) / r seconds.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

from .checks import check_size
from .tracks import MaskTracks

__all__ = ["RETIMES", "Retime", "retime"]

Retime = Literal["resample", "cut", "hold"]
RETIMES: tuple[Retime, ...] = get_args(Retime)


def retime(tracks: MaskTracks, how: Retime, frames: int = 0, fps: float = 0.0, start: int = 0) -> MaskTracks:
    """Tracks of another length or rate.

    Args:
        how: "resample" shows what is there at the time of each new frame: at `fps`, or, with `frames` alone, all of the
            clip in that many frames. "cut" takes frames one for one, `frames` of them. "hold" does so and goes on with
            the last one where the tracks end.
        frames: of the result; 0: as many as there are ("resample": as the time takes).
        fps: of the result; 0: as it is ("resample" with `frames`: as it comes out); "cut" and "hold" only note it.
        start: the frame to begin with.

    Resampled clips that are given `frames` as well are cut, or hold their last frame. Raises ValueError for what would
    drop or invent frames without being asked to: "cut" to more frames than there are, "hold" to fewer.
    """
    if how not in RETIMES:
        raise ValueError(f"how is one of {', '.join(RETIMES)}; got {how!r}")
    if frames < 0 or not (math.isfinite(fps) and fps >= 0):
        raise ValueError(f"frames and fps are above 0, or 0 for as they are; got {frames} frames at {fps} fps")
    if not 0 <= start < tracks.frames:
        raise ValueError(f"the tracks have frames 0 to {tracks.frames - 1}, so they cannot start with {start}")
    check_size(frames or 1, 1, 1, fps or tracks.fps)
    left = tracks.frames - start
    if how == "resample":
        return tracks.take(*_resampled(tracks, frames, fps, start))
    count = frames or left
    if how == "cut" and count > left:
        raise ValueError(f"there are {left} frames from frame {start} on, fewer than {count}: hold, or resample")
    if how == "hold" and count < left:
        raise ValueError(f"there are {left} frames from frame {start} on, more than {count}: cut, or resample")
    return tracks.take([min(start + i, tracks.frames - 1) for i in range(count)], fps or tracks.fps)


def _resampled(tracks: MaskTracks, frames: int, fps: float, start: int) -> tuple[list[int], float]:
    """Old frame of each new one (the nearest in time), and the new rate."""
    left = tracks.frames - start
    if not fps:
        count = frames or left
        step = (left - 1) / (count - 1) if count > 1 else 0.0
        rate = tracks.fps / step if step else tracks.fps
        return [start + math.floor(i * step + 0.5) for i in range(count)], rate
    step = tracks.fps / fps
    count = frames or math.floor((left - 1) / step + 1e-6) + 1
    return [start + min(math.floor(i * step + 0.5), left - 1) for i in range(count)], fps
