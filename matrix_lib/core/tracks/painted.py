"""Painted masks as text: "mask 720x480 CODE", one line that holds every pixel.

The pixels of a picture, row by row, are runs outside and inside in turn, outside first. CODE holds their lengths: each
as its difference from the run two before it (from the fourth run on, as COCO's run-length texts do), in groups of five
bits, the lowest first, 32 more where another group follows; a group is one letter of the URL-safe base64 alphabet.
`web/js/editor/painted.js` reads and writes the same.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["fitted_mask", "is_mask", "mask_code", "parse_mask"]

_ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_TEXT = re.compile(r"^mask\s+([0-9]{1,5})x([0-9]{1,5})\s+([A-Za-z0-9_-]+)$")
_LONGEST_SIDE, _MOST_PIXELS, _MOST_GROUPS = 16384, 2**26, 6
_SHAPE = 0.02  # by so much the shape of the frame may differ from that of the picture that was painted on


def is_mask(text: str) -> bool:
    """Whether a value is meant to be a painted mask."""
    return text.startswith("mask")


def mask_code(mask: NDArray[Any]) -> str:
    """The text of a mask (H, W) bool. Raises ValueError for an empty one, which says nothing."""
    height, width = mask.shape
    if not mask.any():
        raise ValueError("an empty mask has no text")
    flat = mask.reshape(-1).astype(bool)
    edges = np.flatnonzero(np.diff(flat)) + 1
    stops = [0, *([0] if flat[0] else []), *edges.tolist(), flat.size]
    lengths = [stop - start for start, stop in pairwise(stops)]
    letters = []
    for place, length in enumerate(lengths):
        letters.append(_letters(length - (lengths[place - 2] if place > 2 else 0)))
    return f"mask {width}x{height} {''.join(letters)}"


def _letters(value: int) -> str:
    found = ""
    while True:
        group, value = value & 31, value >> 5
        more = value != (-1 if group & 16 else 0)
        found += _ALPHABET[group | 32 * more]
        if not more:
            return found


def parse_mask(text: str) -> NDArray[np.bool_]:
    """The mask (H, W) bool of a text, in the size that it was painted in. Raises ValueError for what is none."""
    match = _TEXT.match(text)
    if match is None:
        raise ValueError("a painted mask is  mask WIDTHxHEIGHT CODE  as the editor writes it")
    width, height = int(match[1]), int(match[2])
    if not (0 < width <= _LONGEST_SIDE and 0 < height <= _LONGEST_SIDE and width * height <= _MOST_PIXELS):
        raise ValueError(f"a painted mask has at most {_MOST_PIXELS} pixels; got {width}x{height}")
    lengths = _lengths(match[3])
    fits = len(lengths) > 1 and lengths[0] >= 0 and min(lengths[1:]) > 0 and sum(lengths) == width * height
    if not fits:
        raise ValueError(f"the code of this painted mask is not of {width}x{height} pixels: it was changed or cut off")
    inside = np.arange(len(lengths)) % 2 == 1
    return np.repeat(inside, lengths).reshape(height, width)


def _lengths(code: str) -> list[int]:
    found: list[int] = []
    value = groups = 0
    for letter in code:
        group = _VALUES[letter]
        value |= (group & 31) << 5 * groups
        groups += 1
        if group & 32:
            if groups == _MOST_GROUPS:
                raise ValueError("the code of this painted mask holds a number that is too large")
            continue
        if group & 16:
            value -= 1 << 5 * groups
        found.append(value + (found[-2] if len(found) > 2 else 0))
        value = groups = 0
    if groups:
        raise ValueError("the code of this painted mask breaks off")
    return found


def fitted_mask(mask: NDArray[Any], height: int, width: int) -> NDArray[np.bool_]:
    """A mask (H, W) in another size of the same shape, by the nearest pixel. Raises ValueError where the shapes differ
    by more than 2 %, or nothing of it is left."""
    rows, columns = mask.shape
    if (rows, columns) == (height, width):
        return mask
    if abs(columns * height - rows * width) > _SHAPE * columns * height:
        raise ValueError(
            f"the mask is painted on {columns}x{rows} pixels (width x height), but the frames are {width}x{height}, of "
            "another shape: paint it on the frames that come in here"
        )
    down = (2 * np.arange(height) + 1) * rows // (2 * height)
    across = (2 * np.arange(width) + 1) * columns // (2 * width)
    made: NDArray[np.bool_] = mask[down][:, across]
    if not made.any():
        raise ValueError(f"nothing is left of a mask of {int(mask.sum())} pixels in frames of {width}x{height}")
    return made
