"""Video files in and out: uint8 frames through PyAV, with sizes and counts checked before memory is taken."""

from __future__ import annotations

import os
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .files import whole_file

if TYPE_CHECKING:
    import av

__all__ = ["Clip", "VideoFacts", "check_video", "read_video", "write_video"]

MAX_BYTES = 8 << 30


class Clip(NamedTuple):
    """Frames (F, H, W, 3) uint8 RGB and frames per second."""

    frames: Tensor
    fps: float


class VideoFacts(NamedTuple):
    """Frames, rows and columns (as it is shown) and frames per second of a video file."""

    frames: int
    height: int
    width: int
    fps: float


def _library() -> Any:
    """PyAV, asked for only where a video is read or written: a machine that trains on synthetic clips or from a
    filled cache can do without. Raises ValueError with the install line where it is absent."""
    try:
        import av
    except ImportError as error:
        raise ValueError(f"video files need PyAV, which is not installed ({error}): run `pip install av`") from error
    return av


def check_video(path: str | os.PathLike[str]) -> VideoFacts:
    """Decodes a whole video file without keeping it.

    Raises ValueError for a file that is missing, empty, no video, damaged, or shorter than it says, and for one whose
    frames change their size.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"there is no video file {source.name!r}")
    if not source.stat().st_size:
        raise ValueError(f"the video {source.name!r} is empty: 0 bytes")
    av = _library()
    try:
        with av.open(str(source)) as container:
            return _facts(container, source.name)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{source.name!r} cannot be read as a video: {error}") from None


def _facts(container: av.container.InputContainer, name: str) -> VideoFacts:
    if not container.streams.video:
        raise ValueError(f"{name!r} has no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    count, size = 0, (0, 0)
    for frame in container.decode(stream):
        turned = round(getattr(frame, "rotation", 0) / 90) % 2
        seen = (frame.width, frame.height) if turned else (frame.height, frame.width)
        size = seen if not count else size
        if seen != size:
            raise ValueError(f"frame {count} of {name!r} is {seen[0]}x{seen[1]} pixels, the ones before it {size}")
        if frame.is_corrupt:
            raise ValueError(f"frame {count} of {name!r} is damaged")
        count += 1
    if not count:
        raise ValueError(f"{name!r} has no frames")
    if count < stream.frames - 1:  # some writers count one frame more than there are
        raise ValueError(f"{name!r} breaks off after {count} of {stream.frames} frames")
    return VideoFacts(count, *size, float(stream.average_rate or stream.guessed_rate or 0) or 8.0)


def read_video(
    path: str | os.PathLike[str], start: int = 0, stop: int | None = None, max_bytes: int = MAX_BYTES
) -> Clip:
    """Reads frames [start, stop) of a video file, all after `start` when `stop` is None. Turned phones are turned back.

    Args:
        max_bytes: refuse to hold more than this in memory (F*H*W*3).

    Raises ValueError for a file that is missing, is no video or breaks off, for a range that the clip does not have and
    for one that is too large.
    """
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"there is no video file {str(source)!r}")
    if start < 0 or (stop is not None and stop <= start):
        raise ValueError(
            f"frames are counted from 0 and the range [start, stop) has to hold one; got [{start}, {stop})"
        )
    av = _library()
    try:
        with av.open(str(source)) as container:
            frames, count, fps = _decode(container, start, stop, max_bytes)
    except (av.error.FFmpegError, OSError) as error:
        raise ValueError(f"{source.name!r} cannot be read as a video: {error}") from None
    if not frames or (stop is not None and count < stop):
        raise ValueError(f"{source.name!r} has {count} frames, so it has no frames [{start}, {stop or 'end'})")
    return Clip(torch.from_numpy(np.stack(frames)), fps)


def _decode(
    container: av.container.InputContainer, start: int, stop: int | None, max_bytes: int
) -> tuple[list[NDArray[np.uint8]], int, float]:
    """The wanted frames, how many frames went by, and frames per second."""
    if not container.streams.video:
        raise ValueError("the file has no video stream")
    stream = container.streams.video[0]
    stream.thread_type = "AUTO"
    fps = float(stream.average_rate or stream.guessed_rate or 0) or 8.0
    frames: list[NDArray[np.uint8]] = []
    size: tuple[int, int] | None = None
    count = 0
    for frame in container.decode(stream):
        if stop is not None and count >= stop:
            break
        count += 1
        if count <= start:
            continue
        size = size or (frame.height, frame.width)
        if size != (frame.height, frame.width):
            raise ValueError(f"frame {count - 1} is {frame.height}x{frame.width} pixels, the ones before it {size}")
        _check_room(max(len(frames) + 1, (stop or 0) - start), size, max_bytes)
        picture = frame.to_ndarray(format="rgb24").astype(np.uint8, copy=False)
        turns = round(getattr(frame, "rotation", 0) / 90) % 4
        frames.append(np.ascontiguousarray(np.rot90(picture, turns)) if turns else picture)
    return frames, count, fps


def _check_room(frames: int, size: tuple[int, int], max_bytes: int) -> None:
    need = frames * size[0] * size[1] * 3
    if need > max_bytes:
        raise ValueError(
            f"{frames} frames of {size[0]}x{size[1]} pixels take {need / 2**30:.1f} GiB, and no more than "
            f"{max_bytes / 2**30:.1f} GiB are read at once: ask for fewer frames"
        )


def write_video(
    path: str | os.PathLike[str], frames: Tensor | NDArray | Iterable[Tensor | NDArray], fps: float = 8.0, crf: int = 16
) -> Path:
    """Writes an H.264 MP4 that browsers play, whole or not at all.

    Args:
        frames: (F, H, W, 3), or an iterable of (H, W, 3): uint8, or floats in [0, 1]. Odd sizes get one more row or
            column (a copy of the last), because H.264 wants even ones.
        crf: quality; 0 is lossless, 16 looks it.

    Raises ValueError where there are no frames, their sizes differ, or the name does not end in .mp4.
    """
    target = Path(path)
    if target.suffix.lower() != ".mp4":
        raise ValueError(f"videos are written as .mp4; got {target.name!r}")
    if not 0 < fps <= 1000:
        raise ValueError(f"frames per second are above 0 and at most 1000; got {fps}")
    with whole_file(target) as temporary:
        _encode(str(temporary), frames, fps, crf)
    return target


def _encode(temporary: str, frames: Iterable[Tensor | NDArray], fps: float, crf: int) -> None:
    size: tuple[int, ...] | None = None
    av = _library()
    with av.open(temporary, "w", format="mp4", options={"movflags": "+faststart"}) as container:
        stream = container.add_stream("libx264", rate=Fraction(fps).limit_denominator(1001))
        stream.pix_fmt, stream.options = "yuv420p", {"crf": str(crf), "preset": "medium"}
        for i, frame in enumerate(frames):
            picture = _as_uint8(frame)
            if size is None:
                size = picture.shape
                stream.height, stream.width = size[0] + size[0] % 2, size[1] + size[1] % 2
            if picture.shape != size:
                raise ValueError(f"frame {i} is {picture.shape}, the ones before it {size}: a video has one size")
            even = np.pad(picture, ((0, size[0] % 2), (0, size[1] % 2), (0, 0)), mode="edge")
            container.mux(stream.encode(av.VideoFrame.from_ndarray(even, format="rgb24")))
        if size is None:
            raise ValueError("a video needs at least one frame; got none")
        container.mux(stream.encode(None))


def _as_uint8(frame: Tensor | NDArray) -> NDArray[np.uint8]:
    array = frame.detach().cpu().numpy() if isinstance(frame, Tensor) else np.asarray(frame)
    if array.ndim != 3 or array.shape[-1] != 3 or 0 in array.shape:
        raise ValueError(f"frames are (height, width, 3); got {array.shape}")
    if array.dtype != np.uint8:
        array = np.round(np.clip(np.nan_to_num(array.astype(np.float32)), 0, 1) * 255).astype(np.uint8)
    return np.ascontiguousarray(array)
