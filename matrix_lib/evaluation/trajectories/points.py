"""Point tracks: where points should be, and where they were found in the generated video.

F frames, P points; positions (x, y) in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

__all__ = ["Points", "end_point_error"]

Array = NDArray[Any]


@dataclass(frozen=True)
class Points:
    """positions (F, P, 2) float, visible (F, P) bool. Raises ValueError for other shapes, and for positions of visible
    points that are not finite."""

    positions: Array
    visible: Array

    def __post_init__(self) -> None:
        at, seen = self.positions, self.visible
        if at.ndim != 3 or at.shape[2] != 2 or not at.size:
            raise ValueError(f"positions of points are (frames, points, 2); got {at.shape}")
        if seen.shape != at.shape[:2] or seen.dtype != bool:
            raise ValueError(f"visibility is bool {at.shape[:2]} for these points; got {seen.dtype} {seen.shape}")
        if not np.isfinite(at[seen]).all():
            raise ValueError("positions of visible points are finite numbers; some are nan or infinite")


def end_point_error(given: Points, seen: Points) -> tuple[float, Array]:
    """(mean, (P,) of each point): distance in pixels over the frames after the first in which a point is visible in
    `given`. nan for points that never are.

    Whether a tracker calls a point visible in the generated video changes nothing: a point that it lost is wrong.
    Raises ValueError where shapes differ.
    """
    if given.positions.shape != seen.positions.shape:
        raise ValueError(
            f"given points are {given.positions.shape} (frames, points, 2) and found ones {seen.positions.shape}: "
            "track the same points over the same frames"
        )
    off = np.linalg.norm(given.positions[1:] - seen.positions[1:], axis=-1)
    counted = given.visible[1:]
    if not np.isfinite(off[counted]).all():
        raise ValueError("the found positions of some visible points are nan or infinite")
    total = np.where(counted, off, 0).sum(0)
    times = counted.sum(0)
    each = np.divide(total, times, out=np.full(len(times), np.nan), where=times > 0)
    return (float(off[counted].mean()) if counted.any() else float("nan")), each
