"""HOTA (Luiten et al., arXiv 2009.07736) of one clip, frame by frame, in the form of the `trackeval` package.

Nothing but the overlaps of each frame is kept. G given tracks, S seen ones.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["ALPHAS", "Hota", "need_scipy"]

ALPHAS = np.arange(0.05, 0.99, 0.05)
_EPS = np.finfo(float).eps
Array = NDArray[Any]


def need_scipy() -> tuple[Callable[..., Any], Any]:
    """(`linear_sum_assignment`, the class `cKDTree`). Raises ValueError with the install line where scipy is absent."""
    try:
        from scipy.optimize import linear_sum_assignment
        from scipy.spatial import cKDTree
    except ImportError as error:
        raise ValueError(
            f"track scores need scipy, which is not installed ({error}): run `pip install scipy`, or "
            "`pip install matrix-video[eval]`"
        ) from error
    return linear_sum_assignment, cKDTree


class Hota:
    """Collects the overlaps of each frame; `result` matches and scores them."""

    def __init__(self, given: int, seen: int) -> None:
        self._assign, _ = need_scipy()
        self._potential = np.zeros((given, seen))
        self._given, self._seen = np.zeros((given, 1)), np.zeros((1, seen))
        self._frames: list[tuple[Array, Array, Array]] = []

    def add(self, overlaps: Array, given: Array, seen: Array) -> None:
        """overlaps (G, S) in [0, 1]; given (G,) and seen (S,) bool: who is there in this frame; the rest is not read"""
        rows, columns = np.flatnonzero(given), np.flatnonzero(seen)
        similar = overlaps[np.ix_(rows, columns)].astype(float)
        either = similar.sum(0)[None] + similar.sum(1)[:, None] - similar
        share = np.divide(similar, either, out=np.zeros_like(similar), where=either > _EPS)
        self._potential[np.ix_(rows, columns)] += share
        self._given[rows] += 1
        self._seen[0, columns] += 1
        self._frames.append((similar, rows, columns))

    def result(self) -> dict[str, float]:
        """hota, det_a, ass_a, loc_a: means over `ALPHAS`. nan where nothing is given."""
        if not self._given.sum():
            return dict.fromkeys(("hota", "det_a", "ass_a", "loc_a"), float("nan"))
        alike = self._potential / np.maximum(self._given + self._seen - self._potential, _EPS)
        counts = np.zeros((len(ALPHAS), *self._potential.shape))
        near = np.zeros(len(ALPHAS))
        for similar, rows, columns in self._frames:
            first, second = self._assign(-alike[np.ix_(rows, columns)] * similar)
            found = similar[first, second]
            good = found >= ALPHAS[:, None] - _EPS  # (thresholds, matches)
            counts[:, rows[first], columns[second]] += good
            near += (found * good).sum(1)
        hits = counts.sum((1, 2))
        detection = hits / np.maximum(self._given.sum() + self._seen.sum() - hits, 1)
        shares = counts / np.maximum(self._given + self._seen - counts, 1)
        association = (counts * shares).sum((1, 2)) / np.maximum(hits, 1)
        place = np.maximum(near, 1e-10) / np.maximum(hits, 1e-10)
        return {
            "hota": float(np.sqrt(detection * association).mean()),
            "det_a": float(detection.mean()),
            "ass_a": float(association.mean()),
            "loc_a": float(place.mean()),
        }
