"""Whose sound it is, as a chart over time. Drawn with Pillow alone.

E entities, A audio tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from .style import INK, Colour, fit_text, heading, page, readable, write

__all__ = ["sound_over_time"]

_MARGIN, _NAMES, _LANE, _HEAD = 32, 170, 84, 96


def sound_over_time(
    values: NDArray[np.floating],
    names: Sequence[str],
    rate: float,
    title: str,
    subtitle: str = "",
    colours: Mapping[str, Colour] | None = None,
    chance: Sequence[float] | None = None,
    width: int = 1200,
) -> Image.Image:
    """A lane for each entity: how much the sound attends to it, from left to right over time.

    Args:
        values: (E, A) in [0, 1]; NaN, where nothing was seen, is left empty. All lanes share one scale, from 0.
        rate: audio tokens a second. chance: of each entity, a dashed line.

    Raises ValueError where sizes do not agree.
    """
    if values.ndim != 2 or len(values) != len(names) or 0 in values.shape or rate <= 0:
        raise ValueError(f"values are [entity, moment] for {len(names)} names, at a rate above 0; got {values.shape}")
    if chance is not None and len(chance) != len(names):
        raise ValueError(f"chance has one value for each of {len(names)} names; got {len(chance)}")
    sheet, ink = page(width, _HEAD + _LANE * len(names) + 58)
    heading(ink, _MARGIN, 24, title, subtitle, width - 2 * _MARGIN)
    left, right = _MARGIN + _NAMES, width - _MARGIN
    top = max(float(np.nanmax(values, initial=0.0)), *(chance or (0.0,)), 1e-6)
    for place, name in enumerate(names):
        floor = _HEAD + _LANE * (place + 1) - 12
        colour = readable((colours or {}).get(name, INK["accent"]))
        ink.rounded_rectangle((left, floor - _LANE + 22, right, floor), 4, fill=INK["panel"])
        _bars(ink, values[place] / top, (left, right), floor, _LANE - 30, colour)
        if chance is not None:
            height = round(chance[place] / top * (_LANE - 30))
            for x in range(left, right, 12):
                ink.line((x, floor - height, min(x + 6, right), floor - height), fill=INK["text"])
        write(ink, (_MARGIN, floor - _LANE / 2 + 12), fit_text(name, 19, _NAMES - 16), 19, INK["text"])
        write(ink, (right - 8, floor - _LANE + 34), f"up to {top:.3f}" if not place else "", 14, INK["text"], "rm")
    _seconds(ink, (left, right), sheet.height - 44, values.shape[1] / rate)
    return sheet


def _bars(
    ink: ImageDraw.ImageDraw, shares: NDArray[np.floating], span: tuple[int, int], floor: int, room: int, colour: Colour
) -> None:
    """One bar a moment, side by side."""
    edges = np.linspace(*span, len(shares) + 1).round().astype(int)
    for share, start, stop in zip(shares, edges[:-1], edges[1:], strict=True):
        if np.isfinite(share) and share > 0:
            ink.rectangle((start, floor - max(1, round(float(share) * room)), max(start, stop - 1), floor), fill=colour)


def _seconds(ink: ImageDraw.ImageDraw, span: tuple[int, int], at: int, duration: float) -> None:
    """Marks of time under the lanes, at most twelve."""
    step = next(each for each in (0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60, 600) if duration / each <= 12 or each == 600)
    for count in range(int(duration / step + 1e-6) + 1):
        second = count * step
        x = span[0] + (span[1] - span[0]) * second / duration
        ink.line((x, at - 12, x, at - 6), fill=INK["text"])
        write(ink, (x, at + 4), f"{second:g} s", 14, INK["text"], "mm")
