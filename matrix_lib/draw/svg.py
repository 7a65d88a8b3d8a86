"""Charts as SVG text, in the colours of `style`, for pages and files that stand alone: no scripts, nothing beside them.

L layers. Every mark carries a title that a browser shows under the pointer.
"""

from __future__ import annotations

import base64
import html
import io
import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .style import INK, Colour, heat

__all__ = [
    "Axis",
    "Mark",
    "bars",
    "colour_scale",
    "curves",
    "data_url",
    "document",
    "draw_dot",
    "draw_frame",
    "draw_line",
    "draw_text",
    "forest",
    "heat_map",
    "hexed",
    "intervals",
    "intervals_by_group",
    "stand_alone",
]

Array = NDArray[np.floating]
WIDTH, LEFT, RIGHT, TOP = 1120, 66, 14, 12
Dots = Sequence[tuple[str, Colour, Array]]
# Told apart by people who see colours differently, too; the first is for what others are compared with.
SERIES: tuple[Colour, ...] = (
    (150, 150, 160), (86, 180, 233), (230, 159, 0), (0, 158, 115), (204, 121, 167), (240, 228, 66), (213, 94, 0),
)  # fmt: skip


def hexed(colour: Colour) -> str:
    """#rrggbb."""
    return "#{:02x}{:02x}{:02x}".format(*colour)


def data_url(picture: Image.Image, quality: int = 0) -> str:
    """A picture as text for a page: PNG, or JPEG where a quality is given."""
    out = io.BytesIO()
    if quality:
        picture.convert("RGB").save(out, "JPEG", quality=quality)
    else:
        picture.save(out, "PNG", optimize=True)
    return f"data:image/{'jpeg' if quality else 'png'};base64,{base64.b64encode(out.getvalue()).decode()}"


@dataclass(frozen=True)
class Axis:
    """Values to places along one side of a plot: `low` lies at `start`, `high` at `end`, in pixels. `step` is from one
    tick to the next."""

    low: float
    high: float
    start: float
    end: float
    step: float

    @classmethod
    def between_ticks(cls, low: float, high: float, start: float, end: float) -> Axis:
        """Ends on the ticks around [low, high]."""
        step = _round_step(max(high - low, 1e-12), 5)
        low, high = math.floor(low / step + 1e-9) * step, math.ceil(high / step - 1e-9) * step
        return cls(low, high if high > low else low + step, start, end, step)

    @classmethod
    def around(cls, values: Sequence[float], start: float, end: float) -> Axis:
        """Ends a little beyond all finite values."""
        kept = [value for value in values if math.isfinite(value)] or [0.0, 1.0]
        room = max(max(kept) - min(kept), 0.02) * 0.06
        low, high = min(kept) - room, max(kept) + room
        return cls(low, high, start, end, _round_step(high - low, 6))

    def at(self, value: float) -> float:
        return self.start + (self.end - self.start) * (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[tuple[float, str]]:
        """Round values from low to high, and how they are written."""
        digits = max(0, -math.floor(math.log10(self.step)))
        first, last = math.ceil(self.low / self.step - 1e-9), math.floor(self.high / self.step + 1e-9)
        return [(i * self.step, f"{i * self.step:.{digits}f}") for i in range(first, last + 1)]


def _round_step(room: float, most: int) -> float:
    """1, 2 or 5 times a power of ten, at the most `most` of which fit into `room`."""
    unit = 10 ** math.floor(math.log10(room / 3))
    return next(unit * n for n in (1, 2, 5, 10) if room / (unit * n) <= most)


@dataclass(frozen=True)
class Mark:
    """One interval of a picture."""

    name: str
    mean: float
    low: float
    high: float


def bars(
    layers: Sequence[int],
    values: Array,
    low: Array,
    high: Array,
    chosen: Collection[int] = (),
    colour: Colour = INK["accent"],
    dots: Dots = (),
    quiet: Collection[int] = (),
    tall: int = 210,
) -> str:
    """A bar a layer with its interval; chosen layers are bright, quiet ones hollow. `dots`: (name, colour, (L,))."""
    every = np.concatenate([np.asarray(v, dtype=np.float64) for v in (values, low, high, *(d[2] for d in dots))])
    axis = Axis.between_ticks(min(0.0, float(every.min())), max(0.0, float(every.max())), TOP + tall, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(layers)
    parts = _levels(axis)
    for i, layer in enumerate(layers):
        x, wide = LEFT + (i + 0.17) * step, step * 0.66
        top, base = sorted((axis.at(values[i]), axis.at(0.0)))
        fill = hexed(colour if layer in chosen else _dim(colour))
        style = f'fill="{fill}"' if layer not in quiet else f'fill="none" stroke="{fill}" stroke-dasharray="3 2"'
        label = f"layer {layer}: {values[i]:.4f} [{low[i]:.4f}, {high[i]:.4f}]"
        label += "".join(f", {name} {v[i]:.4f}" for name, _, v in dots)
        parts.append(
            f'<rect x="{x:.1f}" y="{top:.1f}" width="{wide:.1f}" height="{max(base - top, 0.8):.1f}" rx="1.5" {style}>'
            f"<title>{html.escape(label)}</title></rect>"
        )
        middle = x + wide / 2
        parts.append(draw_line(middle, axis.at(low[i]), middle, axis.at(high[i]), INK["soft"], 1.3))
        for name, shade, v in dots:
            parts.append(
                draw_dot(middle, axis.at(v[i]), shade, min(3.2, wide / 3), f"layer {layer}, {name}: {v[i]:.4f}")
            )
    return _svg([*parts, *_layer_names(layers, step, TOP + tall, chosen)], TOP + tall + 40)


def intervals(
    layers: Sequence[int],
    centre: Array,
    low: Array,
    high: Array,
    strong: Collection[int] = (),
    reference: float = 0.0,
    notes: Sequence[str] = (),
    colour: Colour = INK["accent"],
    tall: int = 190,
) -> str:
    """A dot a layer with its interval, beside a line at `reference`. `notes` go into the titles."""
    bottom, top = min(float(np.min(low)), reference), max(float(np.max(high)), reference)
    axis = Axis.between_ticks(bottom, top, TOP + tall, TOP)
    step = (WIDTH - LEFT - RIGHT) / len(layers)
    y = axis.at(reference)
    parts = [*_levels(axis), draw_line(LEFT, y, WIDTH - RIGHT, y, INK["text"], 1, "5 4")]
    for i, layer in enumerate(layers):
        x = LEFT + (i + 0.5) * step
        shade = colour if layer in strong else INK["faint"]
        parts.append(draw_line(x, axis.at(low[i]), x, axis.at(high[i]), shade, 3 if layer in strong else 2))
        note = f"; {notes[i]}" if notes else ""
        label = f"layer {layer}: {centre[i]:.4f} [{low[i]:.4f}, {high[i]:.4f}]{note}"
        parts.append(draw_dot(x, axis.at(centre[i]), shade, 4.6 if layer in strong else 3.4, label))
    return _svg([*parts, *_layer_names(layers, step, TOP + tall, strong)], TOP + tall + 40)


def intervals_by_group(groups: Mapping[str, Sequence[Mark]], reference: float | None = None, tall: int = 220) -> str:
    """Dots with intervals, a group of them beside the next; one name has one colour in all groups."""
    marks = [mark for group in groups.values() for mark in group]
    if not marks:
        return _svg([], 20)
    names = list(dict.fromkeys(mark.name for mark in marks))
    ends = [end for mark in marks for end in (mark.low, mark.high)] + ([] if reference is None else [reference])
    axis = Axis.between_ticks(min(ends), max(ends) + 1e-9, TOP + tall, TOP)
    wide = (WIDTH - LEFT - RIGHT) / len(groups)
    parts = _levels(axis)
    if reference is not None:
        parts.append(draw_line(LEFT, axis.at(reference), WIDTH - RIGHT, axis.at(reference), INK["text"], 1, "5 4"))
    for g, (title, group) in enumerate(groups.items()):
        left, step = LEFT + g * wide, wide / (len(group) + 1)
        parts.append(draw_text(left + wide / 2, TOP + tall + 22, title, "middle", INK["text"], 13))
        for i, mark in enumerate(group):
            x, shade = left + (i + 1) * step, SERIES[names.index(mark.name) % len(SERIES)]
            label = f"{mark.name}: {mark.mean:.3f} [{mark.low:.3f}, {mark.high:.3f}]"
            parts.append(draw_line(x, axis.at(mark.low), x, axis.at(mark.high), shade, 3))
            parts.append(draw_dot(x, axis.at(mark.mean), shade, 5, label))
            parts.append(draw_text(x, axis.at(mark.high) - 6, mark.name, "middle", shade, 11))
    return _svg(parts, TOP + tall + 36)


def forest(marks: Sequence[Mark], wider: Sequence[Mark] = (), left: int = 440) -> str:
    """A line a mark, its name at the left: for names that are long. `wider`: second, thin intervals of the same marks,
    cut off where they leave twice the room of the first."""
    every = [end for mark in marks for end in (mark.low, mark.high)]
    room = max(max(every, default=0.0), 0.0) - min(min(every, default=0.0), 0.0)
    low, high = min([0.0, *every]) - room / 2, max([0.0, *every]) + room / 2
    axis, step = Axis.around([low, high], left, WIDTH - RIGHT), 24
    bottom = TOP + step * len(marks)
    parts = []
    for value, written in axis.ticks():
        strong = abs(value) < 1e-12
        parts.append(draw_line(axis.at(value), TOP, axis.at(value), bottom, INK["text" if strong else "line"], 0.7))
        parts.append(draw_text(axis.at(value), bottom + 18, written, "middle", INK["faint"], 12))
    for i, mark in enumerate(marks):
        y, shade = TOP + (i + 0.5) * step, SERIES[1]
        parts.append(draw_text(left - 14, y + 4, mark.name, "end", INK["text"], 13))
        for thin in wider[i : i + 1]:
            ends = [axis.at(min(max(end, axis.low), axis.high)) for end in (thin.low, thin.high)]
            parts.append(draw_line(ends[0], y, ends[1], y, shade, 1))
        parts.append(draw_line(axis.at(mark.low), y, axis.at(mark.high), y, shade, 4))
        label = f"{mark.name}: {mark.mean:.3f} [{mark.low:.3f}, {mark.high:.3f}]"
        parts.append(draw_dot(axis.at(mark.mean), y, shade, 5.5, label))
    return _svg(parts, bottom + 26)


def curves(series: Mapping[str, Sequence[Sequence[tuple[float, float]]]], tall: int = 220) -> str:
    """Lines over steps: per name the runs, each a list of (step, value). Names have one colour each."""
    points = [point for runs in series.values() for run in runs for point in run]
    if not points:
        return _svg([], 20)
    axis = Axis.between_ticks(min(y for _, y in points), max(y for _, y in points) + 1e-9, TOP + tall, TOP)
    last = max(max(x for x, _ in points), 1.0)
    parts = _levels(axis)

    def x_of(step: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * step / last

    for i, (name, runs) in enumerate(series.items()):
        shade = SERIES[i % len(SERIES)]
        for run in runs:
            line = " ".join(f"{_short(x_of(x))},{_short(axis.at(y))}" for x, y in run)
            parts.append(f'<polyline points="{line}" fill="none" stroke="{hexed(shade)}" stroke-width="1.6"/>')
        place = i * min(150, (WIDTH - LEFT - RIGHT) / len(series))
        parts.append(draw_text(LEFT + 12 + place, TOP + tall + 36, name, "start", shade, 13))
    for share in (0.0, 0.5, 1.0):
        anchor = ("start", "middle", "end")[round(share * 2)]
        parts.append(draw_text(x_of(last * share), TOP + tall + 18, f"{last * share:.0f}", anchor, INK["faint"], 12))
    return _svg(parts, TOP + tall + 48)


def heat_map(
    values: Array,
    rows: Sequence[str],
    columns: Sequence[str],
    what: tuple[str, str],
    top: float,
    bright_rows: Collection[int] = (),
    rings: Collection[tuple[int, int]] = (),
    width: int = 540,
    cell: int = 0,
) -> str:
    """values (R, C) in [0, top] as cells; nan is empty. `what` names rows and columns. `bright_rows` are places of rows
    whose names stand out, `rings` cells (row, column) with a frame."""
    count, across = values.shape
    left, right, head = 54, 10, 8
    high = cell or int(np.clip(560 // count, 7, 20))
    wide = (width - left - right) / across
    picture = heat(np.nan_to_num(values) / max(top, 1e-12))
    picture[~np.isfinite(values)] = INK["panel"]
    tall = high * count
    parts = [
        f'<image x="{left}" y="{head}" width="{wide * across:.1f}" height="{tall}" preserveAspectRatio="none" '
        f'style="image-rendering:pixelated" href="{data_url(Image.fromarray(picture))}"/>'
    ]
    every = max(1, -(-13 // high))
    near = {r + d for r in bright_rows for d in (-1, 0, 1)} if every > 1 else set(bright_rows)
    for r, name in enumerate(rows):
        if r in bright_rows or (r % (every * (1 if count < 16 else 2)) == 0 and r not in near):
            shade = INK["text"] if r in bright_rows else INK["faint"]
            parts.append(draw_text(left - 7, head + (r + 0.5) * high + 4, name, "end", shade, 11))
    shown = sorted({round(i * (across - 1) / max(min(6, across) - 1, 1)) for i in range(min(6, across))})
    for c in shown:
        parts.append(draw_text(left + (c + 0.5) * wide, head + tall + 16, columns[c], "middle", INK["soft"], 11))
    for r, c in rings:
        box = f'x="{left + c * wide:.1f}" y="{head + r * high}" width="{wide:.1f}" height="{high}"'
        title = f"<title>{what[0]} {rows[r]}, {what[1]} {columns[c]}: {values[r, c]:.4f}</title>"
        parts.append(f'<rect {box} fill="none" stroke="{hexed(INK["text"])}" stroke-width="1.4">{title}</rect>')
    parts.append(draw_text(left - 7, head + tall + 16, what[0], "end", INK["faint"], 11))
    parts.append(draw_text(left + (width - left - right) / 2, head + tall + 33, what[1], "middle", INK["faint"], 11))
    return _svg(parts, head + tall + 40, width)


def colour_scale(top: float, unit: str, width: int = WIDTH) -> str:
    """The colour scale of heat maps up to `top`."""
    strip = Image.fromarray(heat(np.linspace(0, 1, 128)[None]))
    return _svg(
        [
            f'<image x="54" y="4" width="200" height="12" preserveAspectRatio="none" href="{data_url(strip)}"/>',
            draw_text(47, 14, "0", "end", INK["faint"], 12),
            draw_text(261, 14, f"{top:.3g}", "start", INK["text"], 12),
            draw_text(261 + 9 * len(f"{top:.3g}"), 14, unit, "start", INK["soft"], 12),
        ],
        22,
        width,
    )


def _levels(axis: Axis) -> list[str]:
    """A line across the plot and a number for each tick; the one at 0 is stronger."""
    parts = []
    for value, written in axis.ticks():
        y, strong = axis.at(value), value == 0
        colour, width = (INK["faint"], 1) if strong else (INK["line"], 0.5)
        parts.append(draw_line(LEFT, y, WIDTH - RIGHT, y, colour, width))
        parts.append(draw_text(LEFT - 9, y + 4, written, "end", INK["faint"], 12))
    return parts


def _layer_names(layers: Sequence[int], step: float, bottom: int, chosen: Collection[int]) -> list[str]:
    """Layer numbers below a plot: all where they fit, else every few and the chosen ones."""
    every = next(n for n in (1, 2, 5, 10, 20) if n * step >= 18)
    near = {layer + d for layer in chosen for d in (-1, 1)} if step < 18 else set()
    parts = [draw_text(LEFT - 9, bottom + 23, "layer", "end", INK["faint"], 12)]
    for i, layer in enumerate(layers):
        if layer in chosen or (i % every == 0 and layer not in near):
            shade = INK["text"] if layer in chosen else INK["faint"]
            parts.append(draw_text(LEFT + (i + 0.5) * step, bottom + 21, str(layer), "middle", shade, 12))
    return parts


def _dim(colour: Colour) -> Colour:
    red, green, blue = (round(part * 0.42 + 24) for part in colour)
    return red, green, blue


def _short(value: float) -> str:
    """A place to a tenth of a pixel."""
    return f"{value:.1f}".removesuffix(".0")


def draw_line(x0: float, y0: float, x1: float, y1: float, colour: Colour, width: float, dashes: str = "") -> str:
    """A line; `dashes` as SVG has them."""
    style = f' stroke-dasharray="{dashes}"' if dashes else ""
    here, (x, y) = f"M{_short(x0)} {_short(y0)}", (_short(x1), _short(y1))
    there = f"H{x}" if y == _short(y0) else f"V{y}" if x == _short(x0) else f"L{x} {y}"
    return f'<path d="{here}{there}" stroke="{hexed(colour)}" stroke-width="{width}"{style}/>'


def draw_dot(x: float, y: float, colour: Colour, radius: float, title: str, edge: bool = True) -> str:
    """A dot, with an edge that sets it apart from what is behind it, and a title that shows under the pointer."""
    where = f'cx="{_short(x)}" cy="{_short(y)}" r="{_short(radius)}"'
    style = f' stroke="{hexed(INK["page"])}" stroke-width="1"' if edge else ""
    return f'<circle {where} fill="{hexed(colour)}"{style}><title>{html.escape(title)}</title></circle>'


def draw_text(x: float, y: float, text: str, anchor: str, colour: Colour, size: int) -> str:
    """One line of text; `anchor` is "start", "middle" or "end"."""
    style = f'fill="{hexed(colour)}" font-size="{size}"'
    if anchor != "start":
        style += f' text-anchor="{anchor}"'
    return f'<text x="{_short(x)}" y="{_short(y)}" {style}>{html.escape(text)}</text>'


def draw_frame(
    across: Axis, up: Axis, below: str, beside: str, left: float, marks: Sequence[float] | None = None
) -> list[str]:
    """Ticks of two axes with their names. `marks`: the only values that are written below, without lines."""
    parts = []
    for value, written in up.ticks():
        parts.append(draw_line(left, up.at(value), across.end, up.at(value), INK["line"], 0.6))
        parts.append(draw_text(left - 7, up.at(value) + 4, written, "end", INK["faint"], 11))
    for value in sorted(set(marks)) if marks is not None else [value for value, _ in across.ticks()]:
        parts.append(draw_text(across.at(value), up.start + 18, f"{value:g}", "middle", INK["faint"], 11))
        if marks is None:
            parts.append(draw_line(across.at(value), up.start, across.at(value), up.end, INK["line"], 0.6))
    parts.append(draw_text((across.start + across.end) / 2, up.start + 36, below, "middle", INK["soft"], 13))
    parts.append(draw_text(left, up.end - 10, beside, "start", INK["soft"], 13))
    return parts


def _svg(parts: Sequence[str], height: int, width: int = WIDTH) -> str:
    """A chart inside of a page."""
    return f'<svg viewBox="0 0 {width} {height}" role="img">{"".join(parts)}</svg>'


def document(parts: Sequence[str], width: int, height: int, style: str = 'font-family="sans-serif"') -> str:
    """A file that stands alone, on the colour of our pages. `style`: attributes of the whole."""
    page = f'<rect width="{width}" height="{height}" fill="{hexed(INK["page"])}"/>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" {style}>'
    return f"{head}{page}{''.join(parts)}</svg>\n"


def stand_alone(plots: Mapping[str, str], width: int = WIDTH) -> str:
    """Plots (SVG texts of this module) under each other with their titles, as one SVG file."""
    top, parts = 12, []
    for title, plot in plots.items():
        parts.append(draw_text(LEFT, top + 18, title, "start", INK["text"], 16))
        height = int(plot.split('viewBox="0 0 ', 1)[1].split('"')[0].split()[1])
        parts.append(f'<svg x="0" y="{top + 28}" width="{width}" height="{height}" {plot.removeprefix("<svg ")}')
        top += height + 44
    return document(parts, width, top)
