"""Small films for people to look at: a generated video with the boxes of its instances, frame by frame the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from ...core.tracks.tracks import MaskTracks
from ...io.video import check_video, each_frame, write_video
from .frames import at_most, draw_boxes
from .suite import Sample

__all__ = ["write_film"]

_QUALITY = 26  # of H.264: half of what a person sees no difference at, for boxes are thin


def write_film(video: Path, tracks: MaskTracks, sample: Sample, folder: Path, name: str, longest: int = 512) -> Path:
    """A film of a video with boxes, in `folder`; one that is there and newer than the video is taken as it is.

    Args:
        tracks: of the video. name: of the video; longest: pixels of the longer side.

    Frame n of the film is frame n of the video, at its mean rate. Raises ValueError for a file that is no video, and
    for tracks of another length.
    """
    facts = check_video(video)
    if facts.frames != tracks.frames:
        raise ValueError(
            f"{video.name} has {facts.frames} frames and its tracks {tracks.frames}: track this very video"
        )
    boxes = b"".join(tracks.boxes(each).numpy().tobytes() for each in sample.names if each in tracks.names)
    seen = hashlib.sha256(repr((sample.names, longest, _QUALITY)).encode() + boxes).hexdigest()[:10]
    path = folder / f"{name}-{seen}.mp4"
    if not path.is_file() or path.stat().st_mtime < video.stat().st_mtime:
        write_video(path, _drawn(video, tracks, sample, longest), facts.fps, _QUALITY)
    return path


def _drawn(video: Path, tracks: MaskTracks, sample: Sample, longest: int) -> Iterator[NDArray[np.uint8]]:
    for index, frame in enumerate(each_frame(video)):
        picture = at_most(Image.fromarray(frame), longest)
        yield np.asarray(draw_boxes(picture, tracks, sample, index, filled=False))
