"""Contact sheets of clips: a row each, with frames, masks in their colours, the prompt, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .heatmaps import outline
from .style import INK, Colour, fit_text, heading, page, readable, text_size, write

__all__ = ["ClipRow", "Still", "clip_sheets", "tinted"]

_WIDTH, _MARGIN, _TEXT, _CELL, _TALL, _GAP = 1400, 24, 380, (236, 172), 172, 10
_TINT = 0.35


@dataclass(frozen=True)
class Still:
    """One frame: its number, its picture (H, W, 3) uint8, and masks (H, W) bool by name."""

    number: int
    picture: NDArray[np.uint8]
    masks: Mapping[str, NDArray[np.bool_]] = field(default_factory=dict)


@dataclass(frozen=True)
class ClipRow:
    """A row of a sheet: a clip's name, what it is, stills, colours by name, lines of text, and what is wrong or ""."""

    name: str
    about: str
    stills: Sequence[Still] = ()
    colours: Mapping[str, Colour] = field(default_factory=dict)
    text: str = ""
    wrong: str = ""


def clip_sheets(rows: Sequence[ClipRow], title: str, subtitle: str = "", each: int = 20) -> Iterator[Image.Image]:
    """Pages of `each` rows. Nothing is read; rows are drawn when their page is asked for."""
    count = -(-len(rows) // each)
    for at in range(count):
        some = rows[at * each : (at + 1) * each]
        sheet, ink = page(_WIDTH, 96 + len(some) * (_TALL + _GAP) + _MARGIN)
        place = f"{subtitle}{' · ' * bool(subtitle)}page {at + 1} of {count}" if count > 1 else subtitle
        heading(ink, _MARGIN, _MARGIN, title, place, _WIDTH - 2 * _MARGIN)
        for n, row in enumerate(some):
            _draw_row(sheet, ink, row, 96 + n * (_TALL + _GAP))
        yield sheet


def _draw_row(sheet: Image.Image, ink: ImageDraw.ImageDraw, row: ClipRow, top: int) -> None:
    ink.rectangle((_MARGIN - 8, top, _WIDTH - _MARGIN + 8, top + _TALL), fill=INK["panel"])
    if row.wrong:
        ink.rectangle((_MARGIN - 8, top, _MARGIN - 4, top + _TALL), fill=INK["accent"])
    left, room = _MARGIN + 4, _TEXT - 20
    write(ink, (left, top + 16), fit_text(row.name, 18, room), 18, INK["text"])
    write(ink, (left, top + 38), fit_text(row.about, 14, room), 14, INK["faint"])
    legend = top + _TALL - 16
    lines = [(line, INK["accent"]) for line in _wrapped(row.wrong, 14, room, 5)]
    lines += [(line, INK["soft"]) for line in _wrapped(row.text, 14, room, max(0, 5 - len(lines)))]
    for n, (line, colour) in enumerate(lines):
        write(ink, (left, top + 60 + 18 * n), line, 14, colour)
    at = float(left)
    for name, colour in row.colours.items():
        shown = fit_text(name, 14, room / max(len(row.colours), 1) - 22)
        ink.rectangle((at, legend - 5, at + 10, legend + 5), fill=readable(colour))
        write(ink, (at + 15, legend), shown, 14, INK["soft"])
        at += 22 + text_size(shown, 14)[0]
    for n, still in enumerate(row.stills):
        _draw_still(sheet, ink, still, row.colours, (_MARGIN + _TEXT + n * (_CELL[0] + _GAP), top))


def _draw_still(
    sheet: Image.Image, ink: ImageDraw.ImageDraw, still: Still, colours: Mapping[str, Colour], at: tuple[int, int]
) -> None:
    height, width = still.picture.shape[:2]
    scale = min(_CELL[0] / width, (_CELL[1] - 22) / height)
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    picture = tinted(still.picture, still.masks, colours, size)
    left = at[0] + (_CELL[0] - size[0]) // 2
    sheet.paste(picture, (left, at[1] + 2))
    shares = ", ".join(f"{100 * float(mask.mean()):.2g} %" for mask in still.masks.values())
    write(
        ink,
        (left, at[1] + _TALL - 11),
        fit_text(f"{still.number}   {shares}", 13, at[0] + _CELL[0] - left),
        13,
        INK["faint"],
    )


def tinted(
    picture: NDArray[np.uint8],
    masks: Mapping[str, NDArray[np.bool_]],
    colours: Mapping[str, Colour],
    size: tuple[int, int],
) -> Image.Image:
    """A frame (H, W, 3) uint8 at `size` (width, height), its masks (H, W) bool tinted and outlined in their colours."""
    made = Image.fromarray(picture).resize(size, Image.Resampling.LANCZOS)
    for name, mask in masks.items():
        colour = readable(colours.get(name, INK["accent"]))
        tint = Image.fromarray((mask * np.uint8(255 * _TINT)).astype(np.uint8)).resize(size, Image.Resampling.BILINEAR)
        made.paste(colour, (0, 0), tint)
        rim, line = outline(mask, size)
        made.paste((0, 0, 0), (0, 0), rim)
        made.paste(colour, (0, 0), line)
    return made


def _wrapped(text: str, size: int, room: float, most: int) -> list[str]:
    """Lines of a text, at most `most`; the last one ends with an ellipsis where more would follow."""
    lines: list[str] = []
    for word in text.split():
        joined = f"{lines[-1]} {word}" if lines else word
        if lines and text_size(joined, size)[0] <= room:
            lines[-1] = joined
        else:
            lines.append(fit_text(word, size, room))
    if len(lines) > most:
        lines = [*lines[: most - 1], fit_text(" ".join(lines[most - 1 :]), size, room)] if most else []
    return lines
