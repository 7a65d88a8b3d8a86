"""What an instance looks like: its colours, and where else in a picture they are.

H, W pixels; frames (H, W, 3) uint8, masks (H, W) bool.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Doubles", "colours", "distance", "grown"]

Array = NDArray[Any]
_BINS = 6  # per channel, with soft edges, so that a little more light moves little
_CORNERS = np.arange(2)[:, None, None] * _BINS**2 + np.arange(2)[:, None] * _BINS + np.arange(2)  # (2, 2, 2)
_COARSE = 8  # per channel, for finding a colour again
_OWN = 0.6  # a colour belongs to the instances where they have this share of it in frame 0
_KNOWN = 0.5  # an instance can be found again where so much of it has colours of its own
_DOUBLE = 0.25  # this share of its size, solid and outside of every track, is a double
_RIM = 2 / 64  # of the shorter side: how far around a track pixels still belong to it


def colours(frame: Array, mask: Array) -> Array:
    """(216,) float64, sum 1: the histogram of the pixels inside, each spread over the bins around it; nan for none."""
    pixels = frame[mask].astype(np.float64) * ((_BINS - 1) / 255)
    if not len(pixels):
        return np.full(_BINS**3, np.nan)
    low = np.minimum(pixels.astype(np.int64), _BINS - 2)
    part = pixels - low
    shares = np.stack([1 - part, part])  # of the lower and the upper bin: (2, pixels, 3)
    weights = shares[:, None, None, :, 0] * shares[None, :, None, :, 1] * shares[None, None, :, :, 2]
    places = low @ (_BINS**2, _BINS, 1) + _CORNERS[..., None]
    found = np.bincount(places.ravel(), weights.ravel(), minlength=_BINS**3)
    return found / found.sum()


def distance(first: Array, second: Array) -> float:
    """Hellinger's distance of two histograms, 0 to 1; (1 - cosine) / 2 for features that have negative entries."""
    if np.isnan(first).any() or np.isnan(second).any():
        return float("nan")
    if (first < 0).any() or (second < 0).any():
        size = np.linalg.norm(first) * np.linalg.norm(second)
        return float((1 - first @ second / size) / 2) if size else float("nan")
    one, other = first / max(first.sum(), 1e-30), second / max(second.sum(), 1e-30)
    return float(np.sqrt(max(0.0, 1 - np.sqrt(one * other).sum())))


class Doubles:
    """Finds instances a second time, by the colours that are theirs alone in frame 0.

    frame, masks (E, H, W): of frame 0. hard: instances whose colours the rest of the picture has too, so that a double
    of theirs cannot be found.
    """

    def __init__(self, names: tuple[str, ...], frame: Array, masks: Array) -> None:
        self._names = names
        self._reach = max(1, round(_RIM * min(frame.shape[:2])))
        bins = _coarse(frame)
        everything = np.bincount(bins.ravel(), minlength=_COARSE**3)
        own = np.stack([np.bincount(bins[mask], minlength=_COARSE**3) for mask in masks])
        theirs = own.sum(0) >= _OWN * np.maximum(everything, 1)
        self._owner = np.where(theirs & (own.sum(0) > 0), own.argmax(0), -1)
        sizes = own.sum(1)
        known = np.array([count[theirs].sum() for count in own])
        self.hard = tuple(n for n, size, some in zip(names, sizes, known) if size and some < _KNOWN * size)
        self._sizes = np.array([_solid(theirs[bins] & mask).sum() for mask in masks])

    def find(self, frame: Array, tracked: Array) -> list[str]:
        """Whose looks are seen outside of `tracked` (H, W), the union of all masks of this frame."""
        label = self._owner[_coarse(frame)]
        free = (label >= 0) & ~grown(tracked, self._reach)
        if not free.any():
            return []
        found = []
        for at, name in enumerate(self._names):
            if name in self.hard or not self._sizes[at]:
                continue
            if _solid(free & (label == at)).sum() > _DOUBLE * self._sizes[at]:
                found.append(name)
        return found


def _coarse(frame: Array) -> Array:
    """(H, W) int64: the coarse colour bin of each pixel."""
    at = frame.astype(np.int64) >> 5
    return (at[..., 0] * _COARSE + at[..., 1]) * _COARSE + at[..., 2]


def _solid(mask: Array) -> Array:
    """Pixels whose whole 3x3 neighbourhood is set: thin blends of two colours go."""
    padded = np.pad(mask, 1)
    rows = padded[:-2] & padded[1:-1] & padded[2:]
    return rows[:, :-2] & rows[:, 1:-1] & rows[:, 2:]


def grown(mask: Array, reach: int) -> Array:
    """With all pixels within `reach` rows and columns of it."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    out = np.zeros_like(mask)
    if not len(rows):
        return out
    top, bottom = max(rows[0] - reach, 0), min(rows[-1] + reach + 1, mask.shape[0])
    left, right = max(columns[0] - reach, 0), min(columns[-1] + reach + 1, mask.shape[1])
    part = mask[top:bottom, left:right]
    for axis in (0, 1):
        part = _spread(part, reach, axis)
    out[top:bottom, left:right] = part
    return out


def _spread(mask: Array, reach: int, axis: int) -> Array:
    """Each pixel of a line with any set one within `reach`, by running sums."""
    size = mask.shape[axis]
    total = np.concatenate([np.zeros_like(mask.take([0], axis), dtype=np.int64), mask.cumsum(axis)], axis=axis)
    at = np.arange(size)
    inside = total.take(np.minimum(at + reach + 1, size), axis) - total.take(np.maximum(at - reach, 0), axis)
    return inside > 0
