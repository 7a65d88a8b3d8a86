"""Masks as the edges of their runs. numpy only; nothing here knows about names, clips or tokens.

A frame of H x W pixels is laid out row by row with one guard column behind each row, so pixel (row, col) sits at
position `row * (W + 1) + col`. A run is `[start, stop)` and, thanks to the guard, never leaves its row; the edges
`start0 < stop0 < start1 < ...` of a frame strictly increase. Packing is then one comparison of neighbours, a union one
sweep, and a malformed array shows in one `diff`.

F frames, H rows, W columns, R runs. Edges are uint32, offsets int64 and count edges (two per run).
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["LIMIT", "areas", "bounds", "pack", "pack_box", "problem", "runs", "union", "unpack"]

Array = NDArray[Any]
# Positions are uint32: rows x (columns + 1) has to stay below this.
LIMIT = 2**32


def pack(mask: Array) -> Array:
    """Edges (2R,) uint32 of a bool mask (H, W)."""
    height, width = mask.shape
    change = np.empty((height, width + 1), dtype=bool)
    change[:, 0], change[:, -1] = mask[:, 0], mask[:, -1]
    np.not_equal(mask[:, 1:], mask[:, :-1], out=change[:, 1:-1])
    return np.flatnonzero(change).astype(np.uint32)


def unpack(edges: Array, height: int, width: int) -> Array:
    """Bool mask (H, W) of the edges of one frame."""
    lengths: Array = np.diff(edges.astype(np.int64), prepend=0, append=height * (width + 1))
    values = np.zeros(len(lengths), dtype=bool)
    values[1::2] = True
    return np.ascontiguousarray(np.repeat(values, lengths).reshape(height, width + 1)[:, :width])


def pack_box(x0: int, y0: int, x1: int, y1: int, width: int) -> Array:
    """Edges of a filled rectangle: columns x0..x1-1 of rows y0..y1-1."""
    row = np.arange(y0, y1, dtype=np.int64)[:, None] * (width + 1)
    return (row + np.array([x0, x1])).astype(np.uint32).reshape(-1)


def runs(edges: Array, width: int) -> tuple[Array, Array, Array]:
    """(row, first column, column behind the last) of every run, each (R,) int64."""
    row, first = np.divmod(edges[0::2].astype(np.int64), width + 1)
    return row, first, edges[1::2].astype(np.int64) - row * (width + 1)


def union(starts: Array, stops: Array) -> tuple[Array, Array]:
    """Merges runs that overlap or touch. Any order in; sorted, disjoint runs out."""
    if not len(starts):
        return starts, stops
    order = np.argsort(starts, kind="stable")
    starts, reach = starts[order], np.maximum.accumulate(stops[order])
    head = np.flatnonzero(np.concatenate(([True], starts[1:] > reach[:-1])))
    return starts[head], reach[np.append(head[1:], len(starts)) - 1]


def areas(edges: Array, offsets: Array) -> Array:
    """Pixels inside the mask of each frame, (F,) int64."""
    total = np.zeros(len(edges) // 2 + 1, dtype=np.int64)
    np.cumsum(edges[1::2].astype(np.int64) - edges[0::2], out=total[1:])
    at = total[offsets // 2]
    return at[1:] - at[:-1]


def bounds(edges: Array, offsets: Array, width: int) -> Array:
    """Box (x0, y0, x1, y1) around the mask of each frame, (F, 4) float32 pixels, x1, y1 exclusive; nan where empty."""
    boxes = np.full((len(offsets) - 1, 4), np.nan, dtype=np.float32)
    shown = np.flatnonzero(np.diff(offsets))
    if len(shown):
        row, first, last = runs(edges, width)
        at = offsets[shown] // 2
        boxes[shown, 0] = np.minimum.reduceat(first, at)
        boxes[shown, 1] = np.minimum.reduceat(row, at)
        boxes[shown, 2] = np.maximum.reduceat(last, at)
        boxes[shown, 3] = np.maximum.reduceat(row, at) + 1
    return boxes


def problem(edges: Array, offsets: Array, frames: int, height: int, width: int) -> str | None:
    """What is wrong with the packed masks of one instance, or None. Nothing is allocated beyond a few copies."""
    if offsets.shape != (frames + 1,) or offsets[0] != 0 or offsets[-1] != len(edges):
        return f"offsets have to run from 0 to the {len(edges)} stored edges in {frames + 1} steps"
    counts = np.diff(offsets)
    if (counts < 0).any() or (counts % 2).any():
        return "offsets have to grow, by an even number of edges per frame"
    if not len(edges):
        return None
    if int(edges.max()) >= height * (width + 1):
        return f"a run ends outside the {height}x{width} frame"
    inside = np.diff(edges.astype(np.int64))
    borders = offsets[1:-1]
    inside[borders[(borders > 0) & (borders < len(edges))] - 1] = 1  # a new frame may start anywhere
    if (inside <= 0).any():
        return "the edges of a frame have to strictly increase"
    row, _, last = runs(edges, width)
    if (last > width).any() or (row >= height).any():
        return "a run leaves its row"
    return None
