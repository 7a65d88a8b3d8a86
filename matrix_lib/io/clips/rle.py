"""Masks as COCO writes them: run lengths down the columns, as a list of numbers or packed into a string.

The packing is that of the COCO API (https://github.com/cocodataset/cocoapi, `rleFrString`): base 32, six bits a
character from "0" on, every count from the third on as the difference to the count two before.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode_rle", "is_rle"]

_MOST_PIXELS = 1 << 28


def is_rle(value: Any) -> bool:
    """Whether a value of a JSON file is one mask."""
    return isinstance(value, Mapping) and "counts" in value and "size" in value


def decode_rle(value: Mapping[str, Any]) -> NDArray[np.bool_]:
    """(H, W) bool of `{"size": [H, W], "counts": ...}`. ValueError where it is no such mask."""
    size, counts = value["size"], value["counts"]
    if not (isinstance(size, Sequence) and len(size) == 2 and all(type(n) is int and n > 0 for n in size)):
        raise ValueError(f"the size of a run-length mask is [height, width]; got {str(size)[:40]}")
    height, width = size
    if height * width > _MOST_PIXELS:
        raise ValueError(f"a run-length mask of {height}x{width} pixels is far larger than any video")
    lengths = _unpacked(counts) if isinstance(counts, str) else counts
    if not isinstance(lengths, list) or not all(type(n) is int and 0 <= n <= height * width for n in lengths):
        raise ValueError("the counts of a run-length mask are whole numbers from 0, or COCO's string of them")
    if sum(lengths) != height * width:
        raise ValueError(f"its counts add up to {sum(lengths)} pixels, and {height}x{width} are {height * width}")
    set_or_not = np.arange(len(lengths)) % 2 == 1  # the first run is of what is not there
    return np.repeat(set_or_not, lengths).reshape(width, height).T


def _unpacked(text: str) -> list[int]:
    """Counts of COCO's string."""
    found: list[int] = []
    value = shift = 0
    for letter in text:
        bits = ord(letter) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise ValueError(f"the counts of a run-length mask hold {letter!r}, which COCO's strings do not")
        value |= (bits & 31) << shift
        shift += 5
        if bits & 32:
            continue
        if bits & 16:
            value -= 1 << shift
        found.append(value + found[-2] if len(found) > 2 else value)
        value = shift = 0
    if shift:
        raise ValueError("the counts of a run-length mask break off")
    return found
