"""Overlap of masks, of their edges and of their boxes, one frame at a time.

H, W pixels; masks are bool; boxes (x0, y0, x1, y1) in pixels, x1 and y1 exclusive, nan where there is none.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .hota import need_scipy

__all__ = ["BOUND", "box_overlap", "edge_score", "edges", "overlaps"]

BOUND = 0.008  # how far an edge may lie off, in shares of the diagonal (DAVIS 2017)
Array = NDArray[Any]


def overlaps(first: Array, second: Array) -> Array:
    """IoU of each of (G, H, W) with each of (S, H, W): (G, S) float64, 0 where both are empty."""
    one = first.reshape(len(first), -1).astype(np.float32)
    other = second.reshape(len(second), -1).astype(np.float32)
    both = (one @ other.T).astype(np.float64)  # whole numbers, exact in float32 up to 2^24 pixels
    either = one.sum(1, dtype=np.float64)[:, None] + other.sum(1, dtype=np.float64)[None] - both
    return np.divide(both, either, out=np.zeros_like(both), where=either > 0)


def edges(mask: Array) -> Array:
    """Edge pixels of (H, W): those that differ from the right, the lower or the lower right neighbour (DAVIS)."""
    right, lower, corner = (np.zeros_like(mask) for _ in range(3))
    right[:, :-1], lower[:-1], corner[:-1, :-1] = mask[:, 1:], mask[1:], mask[1:, 1:]
    found = (mask ^ right) | (mask ^ lower) | (mask ^ corner)
    found[-1] = mask[-1] ^ right[-1]
    found[:, -1] = mask[:, -1] ^ lower[:, -1]
    found[-1, -1] = False
    return found


def edge_score(given: Array, seen: Array) -> float:
    """DAVIS F of two masks (H, W): the harmonic mean of the shares of edge pixels within `BOUND` of the other's edge.

    1 where neither has an edge, 0 where one has none.
    """
    reach = math.ceil(BOUND * math.hypot(*given.shape))
    truth, found = np.argwhere(edges(given)), np.argwhere(edges(seen))
    if not len(truth) or not len(found):
        return float(len(truth) == len(found))
    _, tree = need_scipy()
    near = reach + 1e-6
    precision = np.isfinite(tree(truth).query(found, distance_upper_bound=near)[0]).mean()
    recall = np.isfinite(tree(found).query(truth, distance_upper_bound=near)[0]).mean()
    return float(2 * precision * recall / (precision + recall)) if precision + recall else 0.0


def box_overlap(first: Array, second: Array) -> tuple[float, float]:
    """(intersection, union) of two boxes (4,) in square pixels; a box that is nan has no area."""

    def area(box: Array) -> float:
        return float(max(box[2] - box[0], 0) * max(box[3] - box[1], 0)) if not np.isnan(box).any() else 0.0

    if np.isnan(first).any() or np.isnan(second).any():
        return 0.0, area(first) + area(second)
    both = area(np.array([*np.maximum(first[:2], second[:2]), *np.minimum(first[2:], second[2:])]))
    return both, area(first) + area(second) - both
