"""Mask tracks drawn on frames, in the geometry that the model sees: outlines, the tokens that each instance keeps,
boxes, names, and a timeline that shows where an instance is absent or lost by the token grid.

F, h, w token frames, rows, columns; everything else is pixels. Frames are (H, W, 3) uint8 RGB. Nothing here reads
files.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from ..core.grid import Framing
from ..core.tracks.token_masks import GridTracks
from ..core.tracks.tracks import MaskTracks
from .heatmaps import outline
from .style import INK, Colour, fit_text, page, readable, text_size, write

__all__ = ["TrackLook", "draw_tracks", "track_report"]

Array = NDArray[Any]
_AMBER: Colour = INK["accent"]
_MOST_ROWS = 8  # instances with a timeline of their own below the picture


@dataclass(frozen=True)
class TrackLook:
    """How tracks are painted.

    Args:
        strength: how strongly the tokens of an instance are tinted, 0 to 1.
        tokens, boxes, names: what is drawn besides the outline of each mask.
        width: of the picture in pixels; None takes the frames' own, from 720 to 1280.
    """

    strength: float = 0.4
    tokens: bool = True
    boxes: bool = True
    names: bool = True
    width: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"the strength of the tint is between 0 and 1; got {self.strength}")
        if self.width is not None and not 64 <= self.width <= 4096:
            raise ValueError(f"previews are 64 to 4096 pixels wide; got {self.width}")


def draw_tracks(
    tracks: MaskTracks,
    on_grid: GridTracks,
    which: Sequence[int],
    frame_at: Callable[[int], Array] | None = None,
    look: TrackLook = TrackLook(),
    framing: Framing | None = None,
) -> Iterator[Image.Image]:
    """One picture for each pixel frame in `which`, all of one even size.

    Args:
        on_grid: the same tracks on the token grid, of the same framing.
        frame_at: the frame to draw on as the model sees it, (H, W, 3) uint8; None draws on a dark page.
        framing: how the model sees the tracks; None where they are of its size already.

    Raises ValueError for frames that the clip or the grid does not have, and for frames of another size.
    """
    spans = on_grid.grid.pixel_spans()
    tokens = [next((t for t, (a, b) in enumerate(spans) if a <= i < b), -1) for i in which]
    outside = [i for i, t in zip(which, tokens) if t < 0 or i >= tracks.frames]
    if outside:
        raise ValueError(f"frame {outside[0]} is not in the clip's {tracks.frames} frames on {len(spans)} token frames")
    framing = framing or Framing((tracks.height, tracks.width), (tracks.height, tracks.width))
    height, across = framing.target
    width = look.width or int(np.clip(across, 720, 1280))
    size = (width, max(1, round(height * width / across)))
    colours = {name: readable(colour) for name, colour in zip(tracks.names, tracks.palette)}
    for i, token in zip(which, tokens):
        picture = _ground(None if frame_at is None else frame_at(i), framing.target, size)
        if look.tokens:
            picture = _tiles(picture, on_grid, token, framing.target, colours, look.strength)
        masks = {name: framing.apply(tracks.mask(name, i), "nearest").numpy() for name in tracks.names}
        _instances(picture, masks, on_grid, token, colours, look)
        yield _with_timeline(picture, tracks, on_grid, i, token, colours, framing.target)


def track_report(tracks: MaskTracks, on_grid: GridTracks | None = None) -> str:
    """What the tracks hold, line by line, with everything that needs a look first."""
    size = f"{tracks.frames} frame{'s' * (tracks.frames > 1)} of {tracks.width}x{tracks.height} at {tracks.fps:g} fps"
    fit = "" if tracks.fit == "center" else f", frames fitted by {tracks.fit}"
    lines = [
        f"{len(tracks.names)} instance{'s' * (len(tracks.names) > 1)}, {size}{fit}, {tracks.nbytes / 1024:,.0f} KiB"
    ]
    notes = [*tracks.notes, *(on_grid.notes if on_grid is not None else ())]
    lines += [f"! {note}" for note in dict.fromkeys(notes)]
    for name, role in tracks.roles.items():
        areas = tracks.areas(name)
        seen = int((areas > 0).sum())
        share = 100 * float(areas.max()) / (tracks.height * tracks.width)
        line = f"- {name} ({role}): in {seen} of {tracks.frames} frames, at most {share:.1f} % of the frame"
        if on_grid is not None:
            line += f"; {_status(on_grid, name)}"
            if on_grid.query_frame[name] is not None:
                line += f", {len(on_grid.query(name))} query tokens"
        lines.append(line)
    return "\n".join(lines)


def _status(on_grid: GridTracks, name: str) -> str:
    shown = int(on_grid.maps[on_grid.index(name)].flatten(1).any(1).sum())
    text = f"in {shown} of {sum(on_grid.known)} token frames"
    return text + (f", missing in {len(on_grid.missing[name])}" if on_grid.missing[name] else "")


def _ground(frame: Array | None, seen: tuple[int, int], size: tuple[int, int]) -> Image.Image:
    """The frame at the picture's size, a little darker and greyer than it is."""
    if frame is None:
        return page(*size, "panel")[0]
    if frame.shape != (*seen, 3):
        raise ValueError(f"frames are {(*seen, 3)} like the tracks; got {frame.shape}")
    picture = Image.fromarray(np.ascontiguousarray(frame))
    if picture.size != size:
        picture = picture.resize(size, Image.Resampling.LANCZOS)
    return Image.blend(Image.blend(picture, picture.convert("L").convert("RGB"), 0.35), Image.new("RGB", size), 0.12)


def _tiles(
    picture: Image.Image,
    on_grid: GridTracks,
    token: int,
    seen: tuple[int, int],
    colours: dict[str, Colour],
    strength: float,
) -> Image.Image:
    """The token grid as faint lines, and each token that an instance keeps as a tile of its colour."""
    width, height = picture.size
    cell_h, cell_w = on_grid.grid.token_pixels
    xs = [round(min(j * cell_w / seen[1], 1) * width) for j in range(on_grid.grid.width + 1)]
    ys = [round(min(i * cell_h / seen[0], 1) * height) for i in range(on_grid.grid.height + 1)]
    layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
    pen = ImageDraw.Draw(layer)
    if min(xs[1] - xs[0], ys[1] - ys[0]) >= 6:
        for x in xs[1:-1]:
            pen.line((x, 0, x, height), fill=(255, 255, 255, 26))
        for y in ys[1:-1]:
            pen.line((0, y, width, y), fill=(255, 255, 255, 26))
    picture = Image.alpha_composite(picture.convert("RGBA"), layer)
    gap = 1 if xs[1] - xs[0] >= 6 else 0
    for name, colour in colours.items():
        plane = on_grid.maps[on_grid.index(name), token]
        layer = Image.new("RGBA", picture.size, (0, 0, 0, 0))
        pen = ImageDraw.Draw(layer)
        for i, j in plane.nonzero().tolist():
            alpha = round(255 * strength * float(plane[i, j]))
            box = (xs[j] + gap, ys[i] + gap, max(xs[j + 1] - 1, xs[j] + gap), max(ys[i + 1] - 1, ys[i] + gap))
            pen.rectangle(box, fill=(*colour, alpha))
        picture = Image.alpha_composite(picture, layer)
    return picture.convert("RGB")


def _instances(
    picture: Image.Image,
    masks: dict[str, Array],
    on_grid: GridTracks,
    token: int,
    colours: dict[str, Colour],
    look: TrackLook,
) -> None:
    """Outlines first, then boxes, then names, so that no name is crossed by a line."""
    boxes = {}
    for name, colour in colours.items():
        mask = masks[name]
        if mask.any():
            rim, line = outline(mask, picture.size)
            picture.paste(INK["page"], mask=rim)
            picture.paste(colour, mask=line)
            ys, xs = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            scale = picture.width / mask.shape[1]
            boxes[name] = tuple(float(v) * scale for v in (xs[0], ys[0], xs[-1] + 1, ys[-1] + 1))
    pen, taken = ImageDraw.Draw(picture), list[tuple[float, ...]]()
    for name, box in boxes.items():
        if look.boxes:
            _brackets(pen, box, colours[name], max(2, round(picture.width / 500)))
    for name, box in boxes.items():
        lost = token in on_grid.missing[name]
        if look.names or lost:
            _chip(picture, pen, name + "  missing on the grid" * lost, box, _AMBER if lost else colours[name], taken)


def _brackets(pen: ImageDraw.ImageDraw, box: tuple[float, ...], colour: Colour, thick: int) -> None:
    """The corners of a box; whole sides would hide what they frame."""
    x0, y0, x1, y1 = box
    arm = max(6.0, 0.18 * min(x1 - x0, y1 - y0))
    for line in (INK["page"], colour):
        wide = thick + 2 if line == INK["page"] else thick
        for x, dx in ((x0, 1), (x1, -1)):
            for y, dy in ((y0, 1), (y1, -1)):
                reach = (min(arm, (x1 - x0) / 2) * dx, min(arm, (y1 - y0) / 2) * dy)
                pen.line((x + reach[0], y, x, y, x, y + reach[1]), fill=line, width=wide, joint="curve")


def _chip(
    picture: Image.Image,
    pen: ImageDraw.ImageDraw,
    text: str,
    box: tuple[float, ...],
    colour: Colour,
    taken: list[tuple[float, ...]],
) -> None:
    """The name on a patch of its colour, above the box where there is room, and never on another name."""
    size = int(np.clip(picture.width / 48, 12, 22))
    text = fit_text(text, size, picture.width - 2 * size)
    wide, tall = text_size(text, size)[0] + size, round(size * 1.5)
    x = min(max(box[0], 0), picture.width - wide)
    y = box[1] - tall - 4 if box[1] - tall - 4 >= 0 else box[1] + 4
    for _ in range(len(taken) + 1):
        hit = next((t for t in taken if x < t[2] and t[0] < x + wide and y < t[3] and t[1] < y + tall), None)
        if hit is None:
            break
        y = hit[3] + 2
    y = min(max(y, 0), picture.height - tall)
    taken.append((x, y, x + wide, y + tall))
    pen.rounded_rectangle((x, y, x + wide, y + tall), tall / 4, fill=INK["page"], outline=colour, width=2)
    write(pen, (x + size / 2, y + tall / 2), text, size, colour)


def _with_timeline(
    picture: Image.Image,
    tracks: MaskTracks,
    on_grid: GridTracks,
    frame: int,
    token: int,
    colours: dict[str, Colour],
    seen: tuple[int, int],
) -> Image.Image:
    """The picture with a strip below it: where in the clip we are, and each instance over the token frames."""
    width, grid = picture.width, on_grid.grid
    size = int(np.clip(width / 52, 12, 20))
    line, names = round(size * 1.75), list(colours)[:_MOST_ROWS]
    more = len(colours) - len(names)
    height = picture.height + line * (len(names) + 1 + bool(more)) + size
    sheet, pen = page(width, height + height % 2, "panel")
    sheet.paste(picture, (0, 0))
    first, last = grid.pixel_span(token)
    span = f"frame {first}" if last - first == 1 else f"frames {first}-{last - 1}"
    when = f"frame {frame} of 0-{tracks.frames - 1}   |   token frame {token} of 0-{grid.frames - 1}: {span}"
    what = f"{seen[1]} x {seen[0]} px   |   {grid.width} x {grid.height} tokens"
    y = picture.height + size * 1.2
    room = width - 3 * size - text_size(what, size)[0]
    write(pen, (size, y), fit_text(when, size, room), size, INK["soft"])
    write(pen, (width - size, y), what, size, INK["faint"], "rm")
    summary = max([round(width * 0.2), *(text_size(_status(on_grid, name), size)[0] for name in names)])
    for name in names:
        y += line
        ends = (round(width * 0.3), width - 2 * size - summary)
        _timeline(pen, on_grid, name, tracks.roles[name], colours[name], token, (y, size, width), ends)
    if more:
        write(pen, (size, y + line), f"and {more} more", size, INK["faint"])
    return sheet


def _timeline(
    pen: ImageDraw.ImageDraw,
    on_grid: GridTracks,
    name: str,
    role: str,
    colour: Colour,
    token: int,
    place: tuple[float, int, int],
    ends: tuple[int, int],
) -> None:
    """One row: name, role, a cell per token frame (full: there; amber: missing; line: absent or unknown), a summary."""
    y, size, width = place
    status = _status(on_grid, name)
    left, right = ends
    pen.ellipse((size, y - size / 3, size * 5 / 3, y + size / 3), fill=colour)
    label = fit_text(name, size, left - 3.4 * size)
    write(pen, (size * 2.2, y), label, size, INK["text"])
    after = size * 2.9 + text_size(label, size)[0]
    if role != "instance" and after + text_size(role, size)[0] < left - size:
        write(pen, (after, y), role, size, INK["faint"])
    lost = bool(on_grid.missing[name])
    write(pen, (width - size, y), status, size, _AMBER if lost else INK["faint"], "rm")
    shown = on_grid.maps[on_grid.index(name)].flatten(1).any(1).tolist()
    step, half = (right - left) / len(shown), size * 0.42
    for t, there in enumerate(shown):
        x0, x1 = left + t * step, left + (t + 1) * step - (2 if step >= 6 else 0)
        if there:
            pen.rectangle((x0, y - half, x1, y + half), fill=colour)
        elif t in on_grid.missing[name]:
            pen.rectangle((x0, y - half, x1, y + half), outline=_AMBER, width=2)
        else:
            pen.line((x0, y, x1, y), fill=INK["line"] if on_grid.known[t] else INK["panel"], width=2)
        if t == token:
            pen.rectangle((x0 - 2, y - half - 3, x1 + 2, y + half + 3), outline=INK["text"], width=2)
        if t == on_grid.query_frame[name]:
            middle, dot = (x0 + x1) / 2, max(1.5, size * 0.14)
            pen.ellipse((middle - dot, y - dot, middle + dot, y + dot), fill=INK["page"])
