"""Video files in and out: uint8 frames through PyAV, with sizes and counts checked before memory is taken.

The film of a file is its one stream that moves: cover pictures are none. Frames are as they are shown: turned and
mirrored as the file says.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from .files import whole_file

if TYPE_CHECKING:
    import av

__all__ = [
    "Clip",
    "VideoFacts",
    "check_video",
    "checked_frames",
    "each_frame",
    "frame_times",
    "frames_at",
    "is_even",
    "read_video",
    "write_video",
]

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
    with _opened(path) as (container, name):
        return _facts(container, name)


def frames_at(path: str | os.PathLike[str], wanted: Collection[int]) -> tuple[VideoFacts, dict[int, NDArray[np.uint8]]]:
    """What `check_video` finds, and the wanted frames (H, W, 3) uint8 by number: decoded once, the rest not kept.

    Frames that the video does not have are left out. Raises as `check_video` does.
    """
    kept: dict[int, NDArray[np.uint8]] = {}
    with _opened(path) as (container, name):
        scaler = _scaler()

        def see(index: int, frame: av.VideoFrame) -> None:
            if index in wanted:
                kept[index] = _shown(frame, scaler)

        return _facts(container, name, see), kept


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[tuple[av.container.InputContainer, str]]:
    """An open file and its name; ValueError in words where it cannot be read, then or later."""
    source = Path(path)
    if not source.is_file():
        raise ValueError(f"there is no video file {source.name!r}")
    if not source.stat().st_size:
        raise ValueError(f"the video {source.name!r} is empty: 0 bytes. Copy it again")
    av = _library()
    try:
        with av.open(str(source)) as container:
            yield container, source.name
    except (av.error.FFmpegError, OSError) as error:
        why = getattr(error, "strerror", None) or error
        raise ValueError(
            f"{source.name!r} cannot be read as a video: {why}. Copy it again, or encode it anew with ffmpeg"
        ) from None


def _film(container: av.container.InputContainer, name: str) -> av.video.stream.VideoStream:
    """The stream that is the film. A cover is none: a picture that is attached, or one frame beside a moving stream."""
    av = _library()
    streams = [s for s in container.streams.video if not s.disposition & av.stream.Disposition.attached_pic]
    if len(streams) > 1:
        streams = [s for s in streams if not _is_still(s)] or streams
    if not streams:
        found = "only a cover picture" if container.streams.video else "sound alone, or it is damaged"
        raise ValueError(f"{name!r} has no video stream: {found}")
    if len(streams) > 1:
        raise ValueError(
            f"{name!r} has {len(streams)} films ({', '.join(f'{s.width}x{s.height}' for s in streams)}): keep one of "
            f"them, as `ffmpeg -i {name} -map 0:v:0 -c copy OUT` does"
        )
    streams[0].thread_type = "AUTO"
    return streams[0]


def _is_still(stream: av.video.stream.VideoStream) -> bool:
    """A stream of one picture: it says so, or it lasts no longer than a frame."""
    return stream.frames == 1 or (stream.codec_context.name in ("png", "mjpeg", "bmp") and stream.frames < 2)


def _facts(
    container: av.container.InputContainer, name: str, see: Callable[[int, av.VideoFrame], None] | None = None
) -> VideoFacts:
    """see: is shown each frame with its number."""
    looking, count = _looked_at(container, name), 0
    while True:
        try:
            frame = next(looking)
        except StopIteration as end:
            found: VideoFacts = end.value
            return found
        if see is not None:
            see(count, frame)
        count += 1


def _looked_at(container: av.container.InputContainer, name: str) -> Generator[av.VideoFrame, None, VideoFacts]:
    """Every frame as it is decoded, and at the end what the file is; ValueError as of `check_video`."""
    stream = _film(container, name)
    count, size, left_out = 0, (0, 0), 0
    for packet in container.demux(stream):
        left_out += packet.is_discard  # behind the cuts of an edit list
        for frame in packet.decode():
            seen = _shown_size(frame)
            size = seen if not count else size
            if seen != size:
                raise ValueError(f"frame {count} of {name!r} is {seen[0]}x{seen[1]} pixels, the ones before it {size}")
            if frame.is_corrupt:
                raise ValueError(f"frame {count} of {name!r} is damaged")
            count += 1
            yield frame
    if not count:
        raise ValueError(f"{name!r} has no frames")
    if count < stream.frames - left_out - 1:  # some writers count one frame more than there are
        raise ValueError(f"{name!r} breaks off after {count} of {stream.frames} frames")
    return VideoFacts(count, *size, _rate(stream))


def checked_frames(path: str | os.PathLike[str]) -> Generator[NDArray[np.uint8], None, VideoFacts]:
    """The frames of a video, each (H, W, 3) uint8, looked at as `check_video` does, whose result is this generator's.

    Raises ValueError as `check_video` does, where it comes to what is wrong.
    """
    with _opened(path) as (container, name):
        looking, scaler = _looked_at(container, name), _scaler()
        while True:
            try:
                frame = next(looking)
            except StopIteration as end:
                found: VideoFacts = end.value
                return found
            yield _shown(frame, scaler)


def _rate(stream: av.video.stream.VideoStream) -> float:
    return float(stream.average_rate or stream.guessed_rate or 0) or 8.0


def frame_times(path: str | os.PathLike[str]) -> tuple[float, ...]:
    """When each frame of a video is shown, in seconds after its first one. Nothing is decoded.

    Empty where the file has no time for every frame. Raises ValueError for a file that cannot be read.
    """
    with _opened(path) as (container, name):
        stream = _film(container, name)
        packets = [p for p in container.demux(stream) if p.size and not p.is_discard]
        unit = stream.time_base
        stamps = [float(p.pts * unit) for p in packets if p.pts is not None and unit is not None]
        if not stamps or len(stamps) < len(packets):
            return ()
        found = sorted(stamps)
    times = tuple(round(time - found[0], 6) for time in found)
    return times if len(set(times)) == len(times) else ()


def is_even(times: tuple[float, ...]) -> bool:
    """Whether frames come at one rate: none is further from where that puts it than rounding explains (2 ms, or a tenth
    of a frame)."""
    if len(times) < 3:
        return True
    step = times[-1] / (len(times) - 1)
    usual = statistics.median(b - a for a, b in pairwise(times))
    return all(abs(time - n * step) <= max(2e-3, usual / 10) for n, time in enumerate(times))


def _shown_size(frame: av.VideoFrame) -> tuple[int, int]:
    size = (frame.height, frame.width)
    return size[::-1] if _turn(frame)[0] else size


def _turn(frame: av.VideoFrame) -> tuple[bool, bool, bool]:
    """How a frame is to be shown: whether rows and columns change places, and then which of them run backwards."""
    found: Any = frame.side_data.get("DISPLAYMATRIX")
    if found is None:
        return False, False, False
    a, b, _, c, d = (int(n) for n in np.frombuffer(bytes(found)[:20], dtype="<i4"))
    swap = abs(b) + abs(c) > abs(a) + abs(d)
    down, right = (b, c) if swap else (d, a)
    return swap, down < 0, right < 0


def _scaler() -> Any:
    """Converts frames of one video; made once, since making it takes longer than a small frame."""
    return _library().video.reformatter.VideoReformatter()


def _shown(frame: av.VideoFrame, scaler: Any) -> NDArray[np.uint8]:
    """(H, W, 3) uint8 of a frame as it is to be shown."""
    picture = scaler.reformat(frame, format="rgb24").to_ndarray().astype(np.uint8, copy=False)
    swap, down, right = _turn(frame)
    picture = picture.swapaxes(0, 1) if swap else picture
    picture = picture[::-1] if down else picture
    return np.ascontiguousarray(picture[:, ::-1] if right else picture)


def each_frame(path: str | os.PathLike[str]) -> Iterator[NDArray[np.uint8]]:
    """The frames of a video file one after the other, each (H, W, 3) uint8. ValueError where it cannot be read."""
    with _opened(path) as (container, name):
        scaler = _scaler()
        for frame in container.decode(_film(container, name)):
            yield _shown(frame, scaler)


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
    with _opened(source) as (container, name):
        frames, count, fps = _decode(container, name, start, stop, max_bytes)
    if not frames or (stop is not None and count < stop):
        raise ValueError(f"{source.name!r} has {count} frames, so it has no frames [{start}, {stop or 'end'})")
    return Clip(torch.from_numpy(np.stack(frames)), fps)


def _decode(
    container: av.container.InputContainer, name: str, start: int, stop: int | None, max_bytes: int
) -> tuple[list[NDArray[np.uint8]], int, float]:
    """The wanted frames, how many frames went by, and frames per second."""
    stream = _film(container, name)
    fps = _rate(stream)
    frames: list[NDArray[np.uint8]] = []
    size: tuple[int, int] | None = None
    scaler = _scaler()
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
        frames.append(_shown(frame, scaler))
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
