"""Colours of instances: the same instance has the same colour in the ID map, in every preview and in the file."""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Sequence

__all__ = ["FIXED", "Colour", "distinct_colours"]

Colour = tuple[int, int, int]

# <id1>..<id5>. MATRIX's authors say that their five colours are fixed but publish no values; these are the first five
# that their evaluation code draws instances with. A model that was trained on other values wants a palette of its own.
FIXED: tuple[Colour, ...] = ((255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (255, 0, 255))

_GOLDEN = 0.618033988749895


def distinct_colours(count: int, taken: Sequence[Colour] = ()) -> tuple[Colour, ...]:
    """`count` colours that are not in `taken`: the five fixed ones first, then generated ones, always the same."""
    chosen: list[Colour] = []
    for colour in _candidates():
        if len(chosen) == count:
            break
        if _apart(colour, [*taken, *chosen, (0, 0, 0)], _spacing(len(taken) + len(chosen))):
            chosen.append(colour)
    return tuple(chosen)


def _candidates() -> Iterable[Colour]:
    yield from FIXED
    hue, step = 0.5, 0
    while True:
        saturation, value = ((0.95, 1.0), (0.55, 1.0), (0.9, 0.65))[step % 3]
        red, green, blue = colorsys.hsv_to_rgb(hue, saturation, value)
        yield round(red * 255), round(green * 255), round(blue * 255)
        hue, step = (hue + _GOLDEN) % 1.0, step + 1


def _spacing(others: int) -> float:
    """How far apart colours have to be (squared RGB distance): less, the more there are."""
    return 3.0 * (200.0 / (2 + others)) ** 2 if others >= len(FIXED) else 1.0


def _apart(colour: Colour, others: Iterable[Colour], least: float) -> bool:
    return all(sum((a - b) ** 2 for a, b in zip(colour, other)) >= least for other in others)
