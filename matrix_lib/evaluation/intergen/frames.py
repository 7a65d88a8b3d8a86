"""The frames that a judge sees: at the video's size, with a coloured box around each instance.

Frames are counted by decoding all of them, never by seeking or by what a header says. What was written once for the
same video, tracks and settings is not written again: `frames.json` beside the pictures says what they are made of.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ...core.tracks.tracks import MaskTracks
from ...io.files import whole_file
from ...io.video import frames_at
from ..judges.judge import Picture, digest_of
from .presence import sampled
from .suite import COLOURS, Sample

__all__ = ["at_most", "draw_boxes", "write_frames", "write_pictures"]

_FORM = 1  # of what is drawn: pictures of another form are drawn anew
_LONGEST = 1 << 20


def write_frames(
    video: Path, tracks: MaskTracks, sample: Sample, stride: int, folder: Path, longest: int = 768, boxes: bool = True
) -> tuple[Picture, ...]:
    """Writes the sampled frames of a video as PNG and returns them in order.

    Args:
        tracks: of the video, at any size; an instance of the sample without a track has no box.
        longest: pixels of the longer side; larger frames are made smaller.
        boxes: False leaves the frames as they are.

    Raises ValueError for a file that is no video, of one frame, and for tracks of another length.
    """
    made = _digest(video, tracks, sample, stride, longest, boxes)
    note = folder / ("frames.json" if boxes else "frames-clean.json")
    if known := _known(note, made):
        return known
    shown = () if tracks.frames < 2 else sampled(tracks.frames, stride)
    facts, frames = frames_at(video, frozenset(shown))
    if tracks.frames != facts.frames:
        raise ValueError(
            f"{video.name} has {facts.frames} frames and its tracks {tracks.frames}: track this very video"
        )
    sampled(facts.frames, stride)  # a single frame raises
    found = write_pictures(frames, tracks, sample, folder, longest, boxes)
    with whole_file(note) as temporary:
        temporary.write_text(json.dumps({"made": made, "pictures": [_line(each) for each in found]}), encoding="utf-8")
    return found


def write_pictures(
    frames: Mapping[int, NDArray[np.uint8]],
    tracks: MaskTracks,
    sample: Sample,
    folder: Path,
    longest: int = 768,
    boxes: bool = True,
) -> tuple[Picture, ...]:
    """Writes frames (H, W, 3) uint8, by number, as `write_frames` does."""
    found = []
    for index, frame in sorted(frames.items()):
        path = folder / f"{index:05d}{'' if boxes else '-clean'}.png"
        picture = at_most(Image.fromarray(frame), longest)
        if boxes:
            picture = draw_boxes(picture, tracks, sample, index)
        with whole_file(path) as temporary:
            picture.save(temporary, "PNG", compress_level=3)  # half of the time for a sixth more bytes
        found.append(Picture(index, path, digest_of(picture)))
    return tuple(found)


def _digest(video: Path, tracks: MaskTracks, sample: Sample, stride: int, longest: int, boxes: bool) -> str:
    """Of everything that the pictures depend on. A file that is no video has one, too."""
    state = hashlib.sha256(json.dumps([_FORM, tracks.digest, sample.names, stride, longest, boxes]).encode())
    if video.is_file():
        with open(video, "rb") as file:
            state.update(hashlib.file_digest(file, "sha256").digest())
    return state.hexdigest()


def _line(picture: Picture) -> list[Any]:
    about = picture.path.stat()
    return [picture.index, picture.path.name, picture.digest, about.st_size, about.st_mtime_ns]


def _known(note: Path, made: str) -> tuple[Picture, ...]:
    """The pictures that are there already; none where anything about them has changed."""
    try:
        if note.stat().st_size > _LONGEST:
            return ()
        content = json.loads(note.read_text(encoding="utf-8"))
        if content["made"] != made:
            return ()
        found = []
        for index, name, digest, size, changed in content["pictures"]:
            path = note.parent / Path(name).name
            about = path.stat()
            if (about.st_size, about.st_mtime_ns) != (size, changed):
                return ()
            found.append(Picture(int(index), path, str(digest)))
        return tuple(found)
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ()


def draw_boxes(
    picture: Image.Image, tracks: MaskTracks, sample: Sample, index: int, filled: bool = True
) -> Image.Image:
    """A frame with the box of each instance that is there; in frame 0 the masks are filled by half as well, unless
    `filled` is False."""
    picture = picture.convert("RGB")
    across, down = picture.width / tracks.width, picture.height / tracks.height
    thick = max(2, round(2 * picture.height / 480))
    names = [name for name in sample.names if name in tracks.names]
    if index == 0 and filled:
        for name in names:
            mask = Image.fromarray(tracks.mask(name, 0).numpy().astype(np.uint8) * 128, "L").resize(picture.size)
            picture.paste(Image.new("RGB", picture.size, COLOURS[sample.colour(name)]), mask=mask)
    pen = ImageDraw.Draw(picture)
    for name in names:
        x0, y0, x1, y1 = (float(v) for v in tracks.boxes(name)[index])
        if x1 > x0 and y1 > y0:
            box = x0 * across, y0 * down, max(x1 * across - 1, x0 * across), max(y1 * down - 1, y0 * down)
            pen.rectangle(box, outline=COLOURS[sample.colour(name)], width=thick)
    return picture


def at_most(picture: Image.Image, longest: int) -> Image.Image:
    """A picture whose longer side has at most so many pixels."""
    scale = longest / max(picture.size)
    if scale >= 1:
        return picture
    return picture.resize((max(1, round(picture.width * scale)), max(1, round(picture.height * scale))))
