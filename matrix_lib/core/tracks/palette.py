"""Colours of instances: the same instance has the same colour in the ID map, in every preview and in the file."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence

__all__ = ["FIXED", "FIXED_NAMES", "Colour", "distinct_colours"]

Colour = tuple[int, int, int]
# <id1>..<id5>. MATRIX's authors say that their five colours are fixed but publish no values; these are the first five
# that their evaluation code draws instances with. A model that was trained on other values wants a palette of its own.
FIXED: tuple[Colour, ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))
FIXED_NAMES = ("red", "green", "blue", "yellow", "magenta")
_GOLDEN = 0.618033988749895


def distinct_colours(count: int, taken: Sequence[Colour] = ()) -> tuple[Colour, ...]:
    """`count` colours that are not in `taken`: the five fixed ones first, then generated ones, always the same."""
    chosen: list[Colour] = [colour for colour in FIXED if colour not in taken][:count]
    least, refused = 140.0, 0  # distance in RGB that a new colour keeps; it shrinks where there is no room for that
    for colour in _candidates():
        if len(chosen) == count:
            break
        others = [(0, 0, 0), *taken, *chosen]
        if min(sum((a - b) ** 2 for a, b in zip(colour, other)) for other in others) >= least**2:
            chosen.append(colour)
        elif (refused := refused + 1) % 24 == 0:
            least *= 0.8
    return tuple(chosen)


def _candidates() -> Iterable[Colour]:
    """Without end: hues by the golden ratio, in three tones."""
    hue, step = 0.5, 0
    while True:
        saturation, value = ((0.95, 1.0), (0.5, 1.0), (0.85, 0.6))[step % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        yield round(red * 255), round(green * 255), round(blue * 255)
        hue, step = (hue + _GOLDEN) % 1.0, step + 1
