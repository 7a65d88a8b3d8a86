"""The host's VIDEO, frame by frame: a clip in a file is never whole in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .tracks import frame_reader

__all__ = ["Frames", "image_frames", "video_frames"]


@dataclass(frozen=True)
class Frames:
    """A clip that is read as it is needed. `count` may be off by a few frames where a file does not say; `read` makes
    the frames anew, (height, width, 3) uint8 RGB each."""

    count: int
    height: int
    width: int
    fps: float
    read: Callable[[], Iterator[NDArray[np.uint8]]]


def image_frames(images: Any, fps: float) -> Frames:
    """An IMAGE batch (N, H, W, C) that plays at `fps`."""
    count, height, width = (int(size) for size in images.shape[:3])
    read = frame_reader(images)
    return Frames(count, height, width, fps, lambda: map(read, range(count)))


def video_frames(video: Any) -> Frames:
    """A VIDEO. That of a file is decoded as it is read, as the host's own `get_components` does: from its start time
    on, for as long as it lasts, turned as its file says. Any other is asked for its components.

    Raises ValueError for a video without frames."""
    from comfy_api.latest import InputImpl

    if not isinstance(video, InputImpl.VideoFromFile):
        parts = video.get_components()
        return image_frames(parts.images, float(parts.frame_rate))
    first = next(_decoded(video), None)
    if first is None:
        raise ValueError("the video has no frames: look at its start time and duration")
    rate = float(video.get_frame_rate())
    count = max(1, round(float(video.get_duration()) * rate))
    return Frames(count, first.shape[0], first.shape[1], rate, lambda: _decoded(video))


def _decoded(video: Any) -> Iterator[NDArray[np.uint8]]:
    import av

    start, duration = video.get_active_trim_window()
    with av.open(video.get_stream_source(), mode="r") as container:
        stream = container.streams.video[0]
        stream.thread_type = "AUTO"
        first, last = int(start / stream.time_base), int((start + duration) / stream.time_base)
        if first:
            container.seek(first, stream=stream)
        for frame in container.decode(stream):
            if frame.pts is not None and frame.pts < first:
                continue
            if duration and frame.pts is not None and frame.pts >= last:
                return
            turns = round(frame.rotation / 90) % 4
            picture = frame.to_ndarray(format="rgb24")
            yield np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture
