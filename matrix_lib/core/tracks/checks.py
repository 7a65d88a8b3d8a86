"""What mask tracks accept: names, sizes, colours. One clear ValueError for each thing that is wrong."""

from __future__ import annotations

import math
from collections.abc import Sequence

from .palette import Colour
from .runs import LIMIT

__all__ = ["MOST_NAMES", "check_name", "check_names", "check_palette", "check_size", "shorten"]

MOST_NAMES = 1024
_LONGEST_NAME, _MOST_FRAMES = 200, 1_000_000
_JOINERS = str.maketrans("", "", "\u200c\u200d")  # inside emoji and Persian words; Python calls them unprintable


def shorten(text: object, length: int) -> str:
    """A text that fits into a message. Halves of characters are written out: no message with one can be sent."""
    found = str(text).encode("utf-8", "backslashreplace").decode()
    return found if len(found) <= length else f"{found[:length]}... ({len(found)} characters)"


def check_name(name: object) -> None:
    if isinstance(name, str) and len(name) > _LONGEST_NAME:
        raise ValueError(f"names of instances have at most {_LONGEST_NAME} characters; got {shorten(name, 40)!r}")
    said = name.translate(_JOINERS) if isinstance(name, str) else ""
    if not said or said != said.strip() or not said.isprintable():
        raise ValueError(
            f"an instance needs a name of printable characters, without blanks around it; got {shorten(name, 80)!r}"
        )


def check_names(names: Sequence[str]) -> None:
    """Raises ValueError for no names, too many, two equal ones, or one that is no name."""
    if not 1 <= len(names) <= MOST_NAMES:
        raise ValueError(f"tracks hold 1 to {MOST_NAMES} instances; got {len(names)}")
    for name in names:
        check_name(name)
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(f"two instances are called {twice[0]!r}; give each a name of its own")


def check_size(frames: int, height: int, width: int, fps: float) -> None:
    """Raises ValueError for a clip size that cannot be."""
    whole = all(isinstance(n, int) for n in (frames, height, width))
    if not whole or min(frames, height, width) < 1 or frames > _MOST_FRAMES or height * (width + 1) >= LIMIT:
        raise ValueError(f"a clip cannot have {frames} frames of {height}x{width} pixels (height x width)")
    if not (math.isfinite(fps) and 0 < fps <= 1000):
        raise ValueError(f"frames per second are above 0 and at most 1000; got {fps}")


def check_palette(colours: Sequence[Sequence[int]], count: int) -> tuple[Colour, ...]:
    """The colours as tuples; ValueError unless there are `count` different (r, g, b) of 0 to 255, none black."""
    chosen = [tuple(colour) for colour in colours]
    if any(len(c) != 3 or not all(isinstance(v, int) and 0 <= v <= 255 for v in c) for c in chosen):
        raise ValueError(
            f"palette colours are (red, green, blue) of whole numbers 0 to 255; got {shorten(chosen, 200)}"
        )
    if len(chosen) < count or len(set(chosen[:count])) < count or (0, 0, 0) in chosen[:count]:
        raise ValueError(
            f"{count} instances need {count} different colours other than black; got {shorten(chosen, 200)}"
        )
    return tuple((c[0], c[1], c[2]) for c in chosen[:count])
