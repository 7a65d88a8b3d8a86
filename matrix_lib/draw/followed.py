"""Given tracks and those of the generated video on its frames: where everybody should be, and where they are.

Frames are (H, W, 3) uint8 RGB.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..core.tracks.tracks import MaskTracks
from ..instrument.readings.point_tracks import PointTracks
from .heatmaps import outline
from .style import INK, fit_text, page, readable, write

__all__ = ["draw_followed"]

Array = NDArray[Any]


def draw_followed(
    given: MaskTracks | None,
    seen: MaskTracks,
    frame_at: Callable[[int], Array] | None = None,
    said: Mapping[int, Sequence[str]] | None = None,
    width: int | None = None,
    points: PointTracks | None = None,
) -> Iterator[Image.Image]:
    """One picture a frame of `seen`: its masks outlined in their colours, the given boxes as dashed lines, followed
    points with the way that they came, and below it what is said of the frame.

    Args:
        given: of one frame (drawn in the first alone) or of as many as `seen`; other sizes are scaled. None for none.
        frame_at: the picture of a frame; None draws on a dark page.
        said: per frame a few words.
        width: of the pictures; None takes the frames' own, from 480 to 1280.
        points: in pixels of `seen`; a ring where one was not found. Each has the colour of what it is on.
    """
    across = width or int(np.clip(seen.width, 480, 1280))
    size = (across, max(1, round(seen.height * across / seen.width)))
    letters = int(np.clip(across / 40, 12, 22))
    line = round(letters * 1.75)
    boxes = {}
    if given is not None:
        scale = (size[0] / given.width, size[1] / given.height) * 2
        boxes = {name: given.boxes(name).numpy() * scale for name in given.names}
    colours = {name: readable(colour) for name, colour in zip(seen.names, seen.palette)}
    for index in range(seen.frames):
        picture = _ground(None if frame_at is None else frame_at(index), size)
        for name in seen.names:
            mask = seen.mask(name, index).numpy()
            if mask.any():
                rim, edge = outline(mask, size)
                picture.paste(INK["page"], mask=rim)
                picture.paste(colours[name], mask=edge)
        pen = ImageDraw.Draw(picture)
        for name, found in boxes.items():
            if index < len(found) and not np.isnan(found[index]).any():
                _dashed(pen, tuple(float(v) for v in found[index]), colours.get(name, INK["accent"]), across)
        if points is not None:
            _points(pen, points, index, (size[0] / seen.width, size[1] / seen.height), colours, across)
        sheet, ink = page(size[0], size[1] + size[1] % 2 + line + line % 2, "panel")
        sheet.paste(picture, (0, 0))
        words = "; ".join((said or {}).get(index, ())) or "-"
        text = fit_text(f"frame {index}: {words}", letters, across - letters)
        write(
            ink, (letters / 2, sheet.height - line / 2), text, letters, INK["accent"] if words != "-" else INK["text"]
        )
        yield sheet


def _ground(frame: Array | None, size: tuple[int, int]) -> Image.Image:
    if frame is None:
        return page(*size, "panel")[0]
    picture = Image.fromarray(np.ascontiguousarray(frame))
    picture = picture.resize(size, Image.Resampling.LANCZOS) if picture.size != size else picture
    return Image.blend(picture, picture.convert("L").convert("RGB"), 0.35)


def _points(
    pen: ImageDraw.ImageDraw, points: PointTracks, index: int, scale: tuple[float, float], colours: Any, across: int
) -> None:
    """Each point in a frame, and its way from the first frame on."""
    thick, large = max(2, round(across / 240)), max(4.0, across / 96)
    for path, found, on in zip(points.xy, points.seen, points.on):
        colour = colours.get(on, INK["accent"])
        way = [(float(x) * scale[0], float(y) * scale[1]) for x, y in path[: index + 1]]
        if len(way) > 1:
            pen.line(way, fill=INK["page"], width=thick + 2)
            pen.line(way, fill=colour, width=thick)
        x, y = way[-1]
        there = bool(found[index])
        pen.ellipse((x - large - 2, y - large - 2, x + large + 2, y + large + 2), fill=INK["page"] if there else None)
        box = (x - large, y - large, x + large, y + large)
        pen.ellipse(box, fill=colour if there else None, outline=colour, width=thick)


def _dashed(pen: ImageDraw.ImageDraw, box: tuple[float, ...], colour: Any, across: int) -> None:
    """The sides of a box in dashes of about a hundredth of the width."""
    x0, y0, x1, y1 = box
    step, thick = max(4.0, across / 100), max(2, round(across / 400))
    for start, end in (((x0, y0), (x1, y0)), ((x1, y0), (x1, y1)), ((x1, y1), (x0, y1)), ((x0, y1), (x0, y0))):
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1]))
        for at in np.arange(0, length, 2 * step):
            a, b = at / length, min((at + step) / length, 1)
            ends = [(start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t) for t in (a, b)]
            pen.line(ends, fill=INK["page"], width=thick + 2)
            pen.line(ends, fill=colour, width=thick)
