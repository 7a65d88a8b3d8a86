"""The frames that a judge sees: at the video's size, with a coloured box around each instance.

Frames are counted by decoding all of them, never by seeking or by what a header says.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ...core.tracks.tracks import MaskTracks
from ...io.files import whole_file
from ...io.video import check_video, read_video
from ..judges.judge import Picture
from .presence import sampled
from .suite import COLOURS, Sample

__all__ = ["at_most", "draw_boxes", "write_frames"]


def write_frames(
    video: Path, tracks: MaskTracks, sample: Sample, stride: int, folder: Path, longest: int = 768, boxes: bool = True
) -> tuple[Picture, ...]:
    """Writes the sampled frames as PNG and returns them in order.

    Args:
        tracks: of the video, at any size; an instance of the sample without a track has no box.
        longest: pixels of the longer side; larger frames are made smaller.
        boxes: False leaves the frames as they are.

    Raises ValueError for a file that is no video, of one frame, and for tracks of another length.
    """
    facts = check_video(video)
    if tracks.frames != facts.frames:
        raise ValueError(
            f"{video.name} has {facts.frames} frames and its tracks {tracks.frames}: track this very video"
        )
    shown = sampled(facts.frames, stride)
    found = []
    frames = read_video(video).frames
    for index in shown:
        path = folder / f"{index:05d}{'' if boxes else '-clean'}.png"
        picture = at_most(Image.fromarray(frames[index].numpy()), longest)
        if boxes:
            picture = draw_boxes(picture, tracks, sample, index)
        with whole_file(path) as temporary:
            picture.save(temporary, "PNG")
        found.append(Picture(index, path))
    return tuple(found)


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
