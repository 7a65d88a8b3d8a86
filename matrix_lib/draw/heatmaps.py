"""Attention over frames: overlays with their legend, contact sheets, the live panel. Charts are in `charts`.

F, h, w token frames, rows, columns; everything else is pixels. Frames are (H, W, 3) uint8 RGB. Nothing reads files.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFilter
from torch import Tensor

from ..core.grid import Fit, Framing, Grid
from .style import INK, Colour, colourbar, fit_text, heading, heat, page, percents, readable, text_size, write

__all__ = [
    "Look",
    "Panel",
    "contact_sheet",
    "live_preview",
    "outline",
    "overlay",
    "overlay_frames",
    "scale_of",
    "seen_box",
    "token_frames",
]

Array = NDArray[np.floating]
_TALLEST = 16384  # pixels of one panel
_WIDEST = 1920  # of several panels together, unless a width is asked for


@dataclass(frozen=True)
class Look:
    """How heat is painted on frames.

    Args:
        colormap: "ember" or "lagoon".
        strength: 0 leaves the frame alone, 1 covers it where attention is greatest.
        smooth: soft heat; False shows every token as the cell it is.
        scale: one colour scale for the whole "clip" (frames can be compared) or one for each "frame".
        width: of one panel in pixels; None takes the frames' own, at least 480.
    """

    colormap: str = "ember"
    strength: float = 0.85
    smooth: bool = True
    scale: Literal["clip", "frame"] = "clip"
    width: int | None = None

    def __post_init__(self) -> None:
        if not 0.0 <= self.strength <= 1.0:
            raise ValueError(f"the strength of the heat is between 0 and 1; got {self.strength}")
        if self.scale not in ("clip", "frame"):
            raise ValueError(f"the colour scale is for the whole 'clip' or each 'frame'; got {self.scale!r}")
        if self.width is not None and not 64 <= self.width <= 4096:
            raise ValueError(f"panels are 64 to 4096 pixels wide; got {self.width}")


@dataclass(frozen=True)
class Panel:
    """One entity's heat: `maps` (F, h, w) of any range, NaN in frames that were not recorded, its name, its colour, and
    a line that says what is shown. point: the token (frame, row, column) that looks, where it is one: it has a ring."""

    maps: Array
    name: str
    colour: Colour
    detail: str = ""
    point: tuple[int, int, int] | None = None


_LIVE = Look(strength=0.9)
_LEAST_COLUMN = 130  # pixels of a column of the live panel


def scale_of(maps: Array, scale: str = "clip") -> list[tuple[float, float]]:
    """(low, high) of the colour scale for each token frame: all but the extreme percents, so that one hot token (an
    attention sink) does not turn the rest black."""

    def ends(part: Array) -> tuple[float, float]:
        seen = part[~np.isnan(part)]
        return (float(np.percentile(seen, 2)), float(np.percentile(seen, 99.7))) if seen.size else (0.0, 0.0)

    return [ends(maps)] * len(maps) if scale == "clip" else [ends(part) for part in maps]


def seen_box(grid: Grid, height: int, width: int, fit: Fit = "center") -> tuple[float, float, float, float]:
    """The region (left, top, right, bottom) of a height x width frame that the token grid covers.

    A frame of the model's own size, or of its shape, is covered from its top left corner, and the last tokens may reach
    over its edge; any other was brought to it as `fit` says: cropped about its centre, as the host does with start
    images, stretched, or between bars, which the grid covers as well.
    """
    framing = Framing((height, width), grid.frame_pixels, fit)
    (top, left, h, w), (above, before, high, wide) = framing.box(), framing.window()
    tall, broad = grid.height * grid.token_pixels[0], grid.width * grid.token_pixels[1]
    y, x = h / high, w / wide
    return left - before * x, top - above * y, left + (broad - before) * x, top + (tall - above) * y


def token_frames(grid: Grid, frames: int) -> list[tuple[int, int]]:
    """(frame to show, token frame over it) of each picture, for a clip of `frames` frames (0: none are given).

    Pixel frame i lies under the token frame whose span holds it; frames after the last span are left out. A single
    frame stands still under every token frame.
    """
    if frames <= 1:
        return [(0, i) for i in range(grid.frames)]
    spans = enumerate(grid.pixel_spans())
    return [(at, i) for i, (start, stop) in spans for at in range(start, min(stop, frames))]


def overlay(
    frame: NDArray[np.uint8],
    values: Array,
    look: Look = Look(),
    box: tuple[float, float, float, float] | None = None,
) -> NDArray[np.uint8]:
    """Heat over one frame: `values` (h, w) in [0, 1] over the region `box` (the whole frame when None).

    The frame loses colour and light where nothing looks, so that heat is the brightest thing; outside of the box, which
    the model never saw, it is darker still.
    """
    height, width = frame.shape[:2]
    shown = _spread(values, height, width, box or (0.0, 0.0, float(width), float(height)), look.smooth)
    seen, value = ~np.isnan(shown), np.clip(np.nan_to_num(shown), 0.0, 1.0)
    base = frame.astype(np.float32)
    grey = base @ np.array([0.299, 0.587, 0.114], dtype=np.float32)
    calm = (0.5 * base + 0.5 * grey[..., None]) * np.where(seen, 0.8, 0.35)[..., None]
    calm = base + (calm - base) * min(1.0, look.strength * 1.2)
    ease = value * value * (3 - 2 * value)
    alpha = look.strength * (0.12 * np.sqrt(value) + 0.88 * (0.5 * value + 0.5 * ease)) * seen
    colour = heat(0.18 + 0.82 * value, look.colormap).astype(np.float32)
    return np.clip(calm * (1 - alpha[..., None]) + colour * alpha[..., None], 0, 255).astype(np.uint8)


def _spread(
    values: Array, height: int, width: int, box: tuple[float, float, float, float], smooth: bool
) -> NDArray[np.float32]:
    """(height, width) values of every pixel, NaN outside of `box`."""
    left, top, right, bottom = box
    x0, x1 = max(0, round(left)), max(round(left) + 1, min(width, round(right)))
    y0, y1 = max(0, round(top)), max(round(top) + 1, min(height, round(bottom)))
    h, w = values.shape
    x = np.clip((np.array([x0, x1]) - left) / (right - left), 0, 1) * w
    y = np.clip((np.array([y0, y1]) - top) / (bottom - top), 0, 1) * h
    source = (float(x[0]), float(y[0]), float(x[1]), float(y[1]))
    picture = Image.fromarray(np.ascontiguousarray(values, dtype=np.float32))
    how = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    out = np.full((height, width), np.nan, dtype=np.float32)
    out[y0:y1, x0:x1] = np.asarray(picture.resize((x1 - x0, y1 - y0), how, box=source))
    return out


def outline(mask: NDArray[np.bool_], size: tuple[int, int]) -> tuple[Image.Image, Image.Image]:
    """(rim, line) of a mask's edge at `size` (width, height), as soft masks to paste a dark and a bright colour with.

    A blurred mask passes one half at the edge, and how fast it does so is the blur's width: a band of its values around
    one half is a line of even thickness with smooth borders.
    """
    thick = max(1.2, size[0] / 420)
    shape = Image.fromarray(mask.astype(np.uint8) * 255).resize(size, Image.Resampling.BILINEAR)
    blurred = shape.filter(ImageFilter.GaussianBlur(thick))
    line = [round(255 * min(1.0, max(0.0, (62 - abs(v - 128)) / 24))) for v in range(256)]
    rim = [round(150 * min(1.0, max(0.0, (108 - abs(v - 128)) / 30))) for v in range(256)]
    return blurred.point(rim), blurred.point(line)


def overlay_frames(
    panels: Sequence[Panel],
    grid: Grid,
    frames: NDArray[np.uint8] | None = None,
    look: Look = Look(),
    outlines: Mapping[str, tuple[Colour, Sequence[NDArray[np.bool_]]]] | None = None,
    fit: Fit = "center",
) -> Iterator[Image.Image]:
    """The pictures of an attention video, one by one: each panel's heat over the frame, with its legend below.

    Args:
        panels: side by side; at least one.
        grid: the token grid of the maps.
        frames: (n, H, W, 3), of any size and count (`seen_box` and `token_frames` say how they are matched); None
            draws on black, one picture for each token frame.
        outlines: name: (colour, masks of the same frames), drawn on the frame.
        fit: how frames of another shape were brought to the model's.

    All pictures have the same, even size. Raises ValueError where the maps are not on the grid.
    """
    if not panels:
        raise ValueError("there is nothing to show: choose at least one word or instance")
    for panel in panels:
        if panel.maps.shape != grid.shape:
            raise ValueError(f"the map of {panel.name!r} is {panel.maps.shape}, the token grid (F, h, w) {grid.shape}")
    height, width = grid.frame_pixels
    if frames is not None:
        height, width = frames.shape[1:3]
    size = _panel_size(width, height, look, _columns(len(panels)))
    box = _scaled(seen_box(grid, height, width, fit), size[0] / width, size[1] / height)
    scales = [scale_of(panel.maps, look.scale) for panel in panels]
    still = frames is None or len(frames) <= 1
    for at, token in token_frames(grid, 0 if frames is None else len(frames)):
        ground = np.asarray(_ground(frames, at, size))
        drawn = [(c, masks[at]) for c, masks in (outlines or {}).values() if at < len(masks)]
        edges = [(readable(colour), outline(mask, size)) for colour, mask in drawn if mask.any()]
        when = f"token frame {token + 1} of {grid.frames}" if still else f"frame {at}"
        cells = []
        for panel, scale in zip(panels, scales, strict=True):
            heat_of = _unit(panel.maps[token], scale[token])
            absent = bool(np.isnan(panel.maps[token]).all())
            picture = Image.fromarray(overlay(ground, heat_of, look, box))
            for colour, (rim, line) in edges:
                picture.paste(INK["page"], mask=rim)
                picture.paste(colour, mask=line)
            if panel.point is not None and panel.point[0] == token:
                _ring(picture, box, grid, panel.point, readable(panel.colour))
            told = f"{when}: not recorded" if absent else when
            cells.append(_with_legend(picture, panel, scale[token], told, look.colormap))
        yield _row(cells)


def _ring(
    picture: Image.Image,
    box: tuple[float, float, float, float],
    grid: Grid,
    point: tuple[int, int, int],
    colour: Colour,
) -> None:
    """A ring around the middle of a token; `box`: the region of the picture that the token grid covers."""
    left, top, right, bottom = box
    x = left + (point[2] + 0.5) * (right - left) / grid.width
    y = top + (point[1] + 0.5) * (bottom - top) / grid.height
    thick = max(2, round(picture.width / 240))
    pen = ImageDraw.Draw(picture)
    for radius, ink, wide in ((4 * thick, INK["page"], 2 * thick), (3.5 * thick, colour, thick)):
        pen.ellipse((x - radius, y - radius, x + radius, y + radius), outline=ink, width=wide)


def _panel_size(width: int, height: int, look: Look, columns: int) -> tuple[int, int]:
    """(width, height) of one panel's picture; small clips are enlarged, so that legends can be read."""
    chosen = look.width or int(np.clip(width, 480, max(480, _WIDEST // columns)))
    tall = round(height * chosen / width)
    if tall > _TALLEST:
        raise ValueError(
            f"a panel of {chosen} pixels width would be {tall} pixels tall, and {_TALLEST} is the most: the clip is "
            f"{width}x{height} pixels (width x height)"
        )
    return chosen, max(1, tall)


def _scaled(box: tuple[float, float, float, float], x: float, y: float) -> tuple[float, float, float, float]:
    return box[0] * x, box[1] * y, box[2] * x, box[3] * y


def _ground(frames: NDArray[np.uint8] | None, at: int, size: tuple[int, int]) -> Image.Image:
    """Frame `at` at `size` (width, height); black where there are no frames."""
    if frames is None:
        return Image.new("RGB", size)
    return Image.fromarray(frames[at]).resize(size, Image.Resampling.LANCZOS)


def _unit(values: Array, scale: tuple[float, float]) -> Array:
    """Values to [0, 1] by a colour scale; a flat map is 0, and NaN stays."""
    low, high = scale
    return (values - low) / (high - low) if high > low else values * 0.0


def _with_legend(
    picture: Image.Image, panel: Panel, scale: tuple[float, float], when: str, colormap: str
) -> Image.Image:
    """The picture with a strip below it: name and detail on the left, colour scale and time on the right."""
    width = picture.width
    size = int(np.clip(width / 38, 13, 22))
    small, pad = max(11, round(size * 0.8)), size
    strip = round(size * 3.3)
    sheet, ink = page(width, picture.height + strip, "panel")
    sheet.paste(picture, (0, 0))
    first, second = picture.height + round(strip * 0.34), picture.height + round(strip * 0.72)
    right, free = width - pad, width - pad
    low, high = percents(*scale)
    bar = (width - pad - width // 4, right - text_size(high, small)[0] - 8)
    if bar[1] - bar[0] >= 24:
        free = bar[0] - text_size(low, small)[0] - 16
        write(ink, (bar[0] - 8, first), low, small, INK["faint"], "rm")
        colourbar(sheet, (bar[0], first - size // 3, bar[1], first + size // 3 + 1), colormap)
        write(ink, (right, first), high, small, INK["faint"], "rm")
    write(ink, (right, second), when, small, INK["soft"], "rm")
    _name(ink, (pad, first), panel.name, panel.colour, size, free - pad - size)
    room = right - text_size(when, small)[0] - size - pad
    write(ink, (pad, second), fit_text(panel.detail, small, room), small, INK["faint"])
    return sheet


def _columns(cells: int) -> int:
    return 2 if cells == 4 else min(cells, 3)


def _row(cells: Sequence[Image.Image], gap: int = 6) -> Image.Image:
    """Cells of one size side by side, in rows of at most three, on an even canvas (video encoders want even sizes)."""
    columns = _columns(len(cells))
    rows = -(-len(cells) // columns)
    w, h = cells[0].size
    width, height = columns * w + (columns - 1) * gap, rows * h + (rows - 1) * gap
    sheet, _ = page(width + width % 2, height + height % 2)
    for i, cell in enumerate(cells):
        sheet.paste(cell, ((i % columns) * (w + gap), (i // columns) * (h + gap)))
    return sheet


def contact_sheet(
    pictures: Sequence[Image.Image], columns: int = 4, width: int = 1600, title: str = "", subtitle: str = ""
) -> Image.Image:
    """Pictures side by side at most `width` pixels wide, under an optional heading. ValueError without pictures."""
    if not pictures:
        raise ValueError("a contact sheet needs at least one picture")
    columns = min(columns, len(pictures))
    margin, gap = 24, 8
    cell = (width - 2 * margin - (columns - 1) * gap) // columns
    tall = max(round(p.height * cell / p.width) for p in pictures)
    head = (44 if title else 0) + (26 if subtitle else 0) + (margin if not title else 0)
    rows = -(-len(pictures) // columns)
    sheet, ink = page(width, head + margin + rows * tall + (rows - 1) * gap + (margin // 2 if title else 0))
    heading(ink, margin, margin, title, subtitle, width - 2 * margin)
    top = head + (margin // 2 if title else 0)
    for i, picture in enumerate(pictures):
        size = (cell, round(picture.height * cell / picture.width))
        place = (margin + (i % columns) * (cell + gap), top + (i // columns) * (tall + gap))
        sheet.paste(picture.resize(size, Image.Resampling.LANCZOS), place)
    return sheet


def live_preview(
    maps: Array | Tensor,
    names: Sequence[str],
    rows: Sequence[str],
    grid: Grid,
    frames: NDArray[np.uint8] | None = None,
    title: str = "",
    colours: Mapping[str, Colour] | None = None,
    width: int = 960,
    shown: int = 3,
) -> Image.Image:
    """The panel that a sampler shows while it works: words in columns, layers in rows, a few token frames in each cell.

    Args:
        maps: (R, E, F, h, w) of the current step, on any scale; every cell gets its own colour scale.
        names: E words or instances.
        rows: R labels, for example "mean" and "layer 7".
        frames: (n, H, W, 3) uint8 to lie under the heat, matched as in `overlay_frames`; None draws heat alone.
        title: for example "step 12 of 50, sigma 0.71".
        shown: token frames in a cell, spread over the clip.

    Raises ValueError where names and labels do not count as the maps do.
    """
    values = np.asarray(maps, dtype=np.float32) if not isinstance(maps, Tensor) else maps.detach().cpu().float().numpy()
    if values.ndim != 5 or values.shape != (len(rows), len(names), *grid.shape) or 0 in values.shape:
        raise ValueError(
            f"live maps are [row, entity, F, h, w] = [{len(rows)}, {len(names)}, {grid.shape}]; got {values.shape}"
        )
    height, wide = grid.frame_pixels
    if frames is not None:
        height, wide = frames.shape[1:3]
    names, more = names[: max(1, width // _LEAST_COLUMN)], len(names) - max(1, width // _LEAST_COLUMN)
    title = f"{title}   ({more} more not shown)" if more > 0 else title
    size = int(np.clip(width / 52, 11, 20))
    label = max(text_size(row, size)[0] for row in rows) + size
    cell = (width - 2 * size - label - (len(names) - 1) * size) // len(names)
    shown = max(1, min(shown, grid.frames, cell // 64))
    thumb = (cell - (shown - 1) * 3) // shown
    tall = max(4, round(thumb * height / wide))
    top = size + (round(size * 1.9) if title else 0) + round(size * 1.7)
    sheet, ink = page(width, top + len(rows) * (tall + size // 2) + size // 2)
    write(ink, (size, size * 1.6), fit_text(title, size, width - 2 * size), size, INK["text"])
    for r, row in enumerate(rows):
        write(ink, (size, top + r * (tall + size // 2) + tall / 2), row, size, INK["soft"])
    for e, name in enumerate(names):
        x = size + label + e * (cell + size)
        _name(ink, (x, top - size), name, (colours or {}).get(name, INK["accent"]), size, cell)
        for r in range(len(rows)):
            strip = _strip(values[r, e], grid, frames, shown, (thumb, tall))
            sheet.paste(strip, (x, top + r * (tall + size // 2)))
    return sheet


def _name(ink: ImageDraw.ImageDraw, at: tuple[float, float], name: str, colour: Colour, size: int, room: float) -> None:
    """A chip of colour and a name, vertically centred on `at`."""
    x, y = at
    chip = round(size * 0.7)
    ink.rounded_rectangle((x, y - chip // 2, x + chip, y + chip // 2), chip // 4, fill=readable(colour))
    write(ink, (x + chip + size // 2, y), fit_text(name, size, room - chip - size // 2), size, INK["text"])


def _strip(maps: Array, grid: Grid, frames: NDArray[np.uint8] | None, shown: int, size: tuple[int, int]) -> Image.Image:
    """`shown` token frames of one map (F, h, w), spread over the clip, each `size` (width, height)."""
    box = (0.0, 0.0, float(size[0]), float(size[1]))
    if frames is not None:
        height, width = frames.shape[1:3]
        box = _scaled(seen_box(grid, height, width), size[0] / width, size[1] / height)
    under = {token: at for at, token in reversed(token_frames(grid, 0 if frames is None else len(frames)))}
    scale = scale_of(maps)[0]
    strip, _ = page(shown * size[0] + (shown - 1) * 3, size[1])
    for i in range(shown):
        token = round(i * (grid.frames - 1) / max(shown - 1, 1))
        ground = _ground(frames if token in under else None, under.get(token, 0), size)
        strip.paste(
            Image.fromarray(overlay(np.asarray(ground), _unit(maps[token], scale), _LIVE, box)), (i * (size[0] + 3), 0)
        )
    return strip
