"""Tracks as other nodes draw them, out and in: the host's elements and TRACKS, points of KJNodes' spline editors.

F frames, N paths. Points are x and y in pixels.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.tracks.boxes import Box
from ...core.tracks.tracks import MaskTracks

__all__ = ["elements_of", "is_points", "path_boxes", "points_of", "points_text"]

_SIDE = 0.2  # of the frame's shorter side: the box around a bare point, as in the page's editor
_GRID = 1000  # parts of the frame that the host's elements count in


def elements_of(tracks: MaskTracks) -> list[dict[str, Any]]:
    """The host's elements, as its Create Bounding Boxes gives them: the box of each instance in the first frame that
    shows it, in thousandths, top and left first, with its name as `desc`. Those that are in no frame have none."""
    found = []
    for name in tracks.names:
        boxes = tracks.boxes(name)
        shown = boxes.isfinite().all(-1).nonzero()
        if not len(shown):
            continue
        x0, y0, x1, y1 = (float(value) for value in boxes[int(shown[0])])
        shares = (y0 / tracks.height, x0 / tracks.width, y1 / tracks.height, x1 / tracks.width)
        found.append({"type": "obj", "bbox": [round(share * _GRID) for share in shares], "desc": name})
    return found


def points_text(tracks: MaskTracks) -> str:
    """The middles of all instances as KJNodes' coordinates: JSON, one point a frame; a list for each instance where
    there are several. While one is absent it stays where it was last, or will be first: these have no word for it."""
    paths = []
    for name in tracks.names:
        middle = tracks.boxes(name).unflatten(-1, (2, 2)).mean(-2)
        shown = middle.isfinite().all(-1).nonzero().flatten()
        if not len(shown):
            continue
        nearest = [
            int(shown[shown <= i][-1]) if bool((shown <= i).any()) else int(shown[0]) for i in range(len(middle))
        ]
        paths.append([{"x": round(float(x), 2), "y": round(float(y), 2)} for x, y in middle[nearest]])
    return json.dumps(paths[0] if len(paths) == 1 else paths)


def is_points(value: Any) -> bool:
    """Whether JSON is one path of points, or a list of such."""
    path = isinstance(value, list) and bool(value)
    return path and (
        all(map(_is_point, value)) or all(isinstance(v, list) and v and all(map(_is_point, v)) for v in value)
    )


def _is_point(value: Any) -> bool:
    return isinstance(value, dict) and {"x", "y"} <= set(value) and not {"width", "w"} & set(value)


def points_of(value: Any) -> list[NDArray[np.float64]]:
    """Paths (n, 2) of KJNodes' points. Raises ValueError for coordinates that are no finite numbers."""
    paths = value if isinstance(value[0], list) else [value]
    try:
        found = [np.array([[float(point["x"]), float(point["y"])] for point in path]) for path in paths]
    except (TypeError, ValueError):
        raise ValueError(f"points have x and y in pixels; got {str(value)[:80]}") from None
    if not all(np.isfinite(path).all() for path in found):
        raise ValueError(f"points have x and y in pixels; got {str(value)[:80]}")
    return found


def path_boxes(value: Any, size: tuple[int, int], frames: int) -> list[dict[int, Box | None]]:
    """Boxes of a fifth of the shorter side that follow paths; None where one is not to be seen, or wholly outside.

    Args:
        value: the host's TRACKS (`track_path` (F, N, 2), `track_visibility` (F, N)), a point a frame; or KJNodes'
            points, spread in equal times over the clip.
        size: (height, width) of the frames.
        frames: of the clip.

    Raises ValueError for values of another form.
    """
    if not isinstance(value, Mapping):
        return [_around(_spread(path, frames), np.ones(frames, bool), size) for path in points_of(value)]
    path, seen = value.get("track_path"), value.get("track_visibility")
    if not isinstance(path, torch.Tensor) or path.ndim != 3 or path.shape[-1] != 2 or 0 in path.shape:
        raise ValueError("these TRACKS hold no track_path of (frames, paths, 2)")
    places = path.detach().cpu().double().numpy()
    there = np.isfinite(places).all(-1)
    if isinstance(seen, torch.Tensor) and seen.shape == path.shape[:2]:
        there &= seen.detach().cpu().numpy().astype(bool)
    return [_around(places[:, i], there[:, i], size) for i in range(places.shape[1])]


def _spread(path: NDArray[np.float64], frames: int) -> NDArray[np.float64]:
    at = np.linspace(0, len(path) - 1, frames)
    return np.stack([np.interp(at, np.arange(len(path)), path[:, axis]) for axis in (0, 1)], -1)


def _around(path: NDArray[np.float64], there: NDArray[Any], size: tuple[int, int]) -> dict[int, Box | None]:
    height, width = size
    half = min(size) * _SIDE / 2
    found: dict[int, Box | None] = {}
    for frame, ((x, y), seen) in enumerate(zip(path.tolist(), there.tolist())):
        inside = -half < x < width + half and -half < y < height + half
        found[frame] = (x - half, y - half, x + half, y + half) if seen and inside else None
    return found
