"""Boxes of a detector over time: which box of a frame is whom, whatever order the detector lists them in.

A box is (x0, y0, x1, y1) in pixels. The measure is generalised IoU (Rezatofighi et al., arXiv 1902.09630): the overlap
of two boxes, less the share of the box around both that neither fills; -1 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .boxes import Box

__all__ = ["MatchedBoxes", "match_boxes"]

_CLOSE = 0.1
"""Two boxes that could change places for less than this are told."""
_FAR = -0.5
"""Boxes of a lower score are nowhere near each other."""
_MOST_LISTED = 6
Array = NDArray[np.float64]


class MatchedBoxes(NamedTuple):
    """Per instance its box in each frame, None where it is not there; and sentences for people."""

    boxes: list[list[Box | None]]
    notes: tuple[str, ...] = ()


def match_boxes(frames: Sequence[Sequence[Box]]) -> MatchedBoxes:
    """Who is who in boxes that a detector found frame by frame.

    There are as many instances as the fullest frame has boxes; they are numbered as they come: by frame, then by place
    in it. Every later frame's boxes go to the instances at whose expected places they are (their last box, moved on as
    it moved before), so that the sum of the generalised IoU is the largest.

    The notes name frames in which the detector's order was another one, and those where two instances are so close that
    they could as well have changed places.
    """
    count = max((len(boxes) for boxes in frames), default=0)
    found: list[list[Box | None]] = [[None] * len(frames) for _ in range(count)]
    last: list[list[tuple[int, Array]]] = []
    moved, unsure, jumped = [], [], []
    for at, boxes in enumerate(frames):
        if not boxes:
            continue
        now = np.array(boxes, dtype=np.float64).reshape(-1, 4)
        known = len(last)
        score = _giou(np.array([_expected(track, at) for track in last]).reshape(-1, 4), now)
        owners = _owners(score, count)
        for k, box in sorted(zip(owners, now), key=lambda pair: pair[0]):
            found[k][at] = (float(box[0]), float(box[1]), float(box[2]), float(box[3]))
            if k == len(last):
                last.append([])
            last[k] = [*last[k][-1:], (at, box)]
        if known and list(owners) != list(range(len(boxes))):
            moved.append(at)
        unsure += [at] if _unsure(score, owners) else []
        jumped += [at] if _jumped(found, owners, at, known) else []
    notes = [
        (moved, "the detector lists its boxes in another order, and they were matched by where they are"),
        (unsure, "two boxes are so close that they may have changed places: look at the preview"),
        (jumped, "a box is nowhere near where its instance was before: it may be another one"),
    ]
    return MatchedBoxes(found, tuple(f"in frame {_listed(at)} {said}" for at, said in notes if at))


def _listed(frames: Sequence[int]) -> str:
    more = f" and {len(frames) - _MOST_LISTED} more" if len(frames) > _MOST_LISTED else ""
    return ", ".join(map(str, frames[:_MOST_LISTED])) + more


def _owners(score: Array, count: int) -> list[int]:
    """Whose each box is, of scores (instances, boxes). Boxes that nobody is left for begin new instances, in order."""
    known, boxes = score.shape
    if boxes > known:
        chosen = _assign(score)
        fresh = [n for n in range(boxes) if n not in chosen]
        owners = {n: k for k, n in enumerate(chosen)} | {n: known + i for i, n in enumerate(fresh)}
        return [owners[n] for n in range(boxes)]
    free = iter(range(known, count))
    # a box far from everybody is somebody new, where the fullest frame has room for one
    return [next(free, k) if score[k, n] < _FAR else k for n, k in enumerate(_assign(score.T))]


def _expected(track: Sequence[tuple[int, Array]], at: int) -> Array:
    """Where an instance should be: its last box, moved on as it moved between its last two."""
    (last, box), (before, first) = track[-1], track[0]
    if last == before or at - last > 4:
        return box
    step = (box - first) / (last - before) * (at - last)
    centre = (step[:2] + step[2:]) / 2
    return box + np.concatenate([centre, centre])


def _unsure(score: Array, owners: Sequence[int]) -> bool:
    """Whether two instances that were there before could change their boxes for next to nothing."""
    pairs = [(n, k) for n, k in enumerate(owners) if k < len(score)]
    return any(
        score[k, n] + score[j, m] - score[k, m] - score[j, n] < _CLOSE
        for i, (n, k) in enumerate(pairs)
        for m, j in pairs[i + 1 :]
    )


def _jumped(found: Sequence[Sequence[Box | None]], owners: Sequence[int], at: int, known: int) -> bool:
    """Whether a box does not come near its instance's last one."""
    for k in owners:
        before = next((box for box in reversed(found[k][:at]) if box is not None), None)
        now = found[k][at]
        if k >= known or before is None or now is None:
            continue
        if float(_giou(np.array([before]), np.array([now]))[0, 0]) < _FAR:
            return True
    return False


def _giou(first: Array, second: Array) -> Array:
    """(A, B) generalised IoU of boxes (A, 4) and (B, 4)."""
    a, b = first[:, None], second[None]
    inner = np.clip(np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2]), 0, None).prod(-1)
    outer = (np.maximum(a[..., 2:], b[..., 2:]) - np.minimum(a[..., :2], b[..., :2])).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - inner
    tiny = np.finfo(np.float64).tiny
    return inner / np.maximum(union, tiny) - (outer - union) / np.maximum(outer, tiny)


def _assign(score: Array) -> list[int]:
    """The column of each row so that the sum of the scores is largest, no column twice; (R, C) with R <= C.

    The Hungarian method with potentials (Kuhn 1955; Jonker and Volgenant 1987): rows join one by one along a shortest
    path of changes.
    """
    rows, columns = score.shape
    cost = -score
    row_price, column_price = np.zeros(rows + 1), np.zeros(columns + 1)
    owner = np.full(columns + 1, rows)  # the last column is where the joining row waits
    for row in range(rows):
        owner[columns], at = row, columns
        least, before = np.full(columns, np.inf), np.full(columns, columns)
        done = np.zeros(columns + 1, dtype=bool)
        while owner[at] != rows:
            done[at] = True
            free = ~done[:columns]
            reduced = cost[owner[at]] - row_price[owner[at]] - column_price[:columns]
            better = free & (reduced < least)
            least[better], before[better] = reduced[better], at
            nearest = int(np.argmin(np.where(free, least, np.inf)))
            step = least[nearest]
            row_price[owner[done]] += step
            column_price[done] -= step
            least[free] -= step
            at = nearest
        while at != columns:
            owner[at], at = owner[before[at]], int(before[at])
        owner[columns] = rows
    found = {int(row): column for column, row in enumerate(owner[:columns]) if row != rows}
    return [found[row] for row in range(rows)]
