"""Painted masks put into tracks: each stands in its own frame, in place of what was there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..names import find_name
from . import runs
from .painted import fitted_mask
from .tracks import MaskTracks

__all__ = ["Painted", "with_painted"]

Painted = Mapping[str, Mapping[int, NDArray[Any] | None]]
_NOTHING = np.zeros(0, dtype=np.uint32)


def with_painted(
    tracks: MaskTracks | None,
    painted: Painted,
    roles: Mapping[str, str] | None = None,
    frames: int = 1,
    size: tuple[int, int] | None = None,
    fps: float = 8.0,
) -> MaskTracks:
    """Tracks with painted masks in them.

    Args:
        tracks: what there is beside the paint; None for nothing.
        painted: {name: {frame: mask (H, W) bool in the size that it was painted in, or None where it is not there}}.
        roles: of those who are painted.
        frames, size, fps: frames, (height, width) and rate of the clip where there are no tracks. Without a size the
            first painted mask has it. Where everything is painted in frame 0, the tracks are masks of the first frame
            alone.

    An instance of the tracks keeps its masks in all frames that nobody painted; a new one is absent there. Raises
    ValueError for frames outside the clip, masks of another shape, and an instance that is painted nowhere.
    """
    masks = [mask for keys in painted.values() for mask in keys.values() if mask is not None]
    for name, keys in painted.items():
        known = tracks is not None and find_name(name, list(tracks.names)) is not None
        if not known and all(mask is None for mask in keys.values()):
            raise ValueError(f"{name!r} is painted in no frame: paint it, or take its line away")
    if tracks is None:
        last = max(frame for keys in painted.values() for frame in keys)
        count, (height, width) = (1 if last == 0 else frames), size or masks[0].shape
    else:
        count, height, width, fps = tracks.frames, tracks.height, tracks.width, tracks.fps
    made = {} if tracks is None else {t.name: [t.frame(i) for i in range(count)] for t in tracks.tracks}
    for name, keys in painted.items():
        own = made.setdefault(find_name(name, list(made)) or name, [_NOTHING] * count)
        for frame, mask in keys.items():
            if frame >= count:
                raise ValueError(f"{name!r} is painted in frame {frame}, but there are frames 0 to {count - 1}")
            own[frame] = _NOTHING if mask is None else _packed(name, frame, mask, height, width)
    told = {find_name(name, list(made)) or name: role for name, role in (roles or {}).items()}
    before = {} if tracks is None else dict(tracks.roles)
    return MaskTracks.from_edges(made, count, height, width, {**before, **told}, fps)


def _packed(name: str, frame: int, mask: NDArray[Any], height: int, width: int) -> NDArray[Any]:
    try:
        return runs.pack(fitted_mask(mask, height, width))
    except ValueError as error:
        raise ValueError(f"{name!r} in frame {frame}: {error}") from None
