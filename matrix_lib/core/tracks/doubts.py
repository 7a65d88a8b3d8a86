"""What of mask tracks is likely to be a mistake: masks that are inverted, objects that were taken for frames. Sentences
for people to judge; nothing is changed. Whoever meant it so may go on.

F frames, H rows, W columns. A few frames of each instance are looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from . import runs
from .tracks import MaskTracks

__all__ = ["doubts_of", "look_inverted", "look_like_frames", "look_like_objects"]

_EDGE, _AREA, _ALL = 0.9, 0.5, 0.95  # of a frame's rim and area, from which on a mask looks like the rest of something
_PAIRS = 12  # neighbours that are compared
_APART, _ALIKE = 0.02, 0.8  # overlap (IoU) of different objects, and of one object in neighbouring frames
_MOST = 0.8  # of the pairs


def doubts_of(tracks: MaskTracks, objects: bool = False) -> list[str]:
    """Sentences for people. objects: the instances came as objects of one batch of masks."""
    notes, visible = [], tracks.visible
    for track in tracks.tracks:
        name, frames = track.name, visible[track.name]
        if what := look_inverted([track.frame(n) for n in frames], tracks.height, tracks.width):
            notes.append(
                f"{name!r} covers {what}. If that is not the instance, it is inverted: Load Image's mask is 1 where "
                "the picture is transparent. Switch 'invert' on"
            )
        if tracks.frames > 1 and look_like_objects([mask.numpy() for mask in _some(tracks, name, frames)]):
            notes.append(
                f"the masks of {name!r} lie apart from frame to frame. If they are objects of one picture (SAM3 "
                "Detect's individual masks), set 'batch_is' to objects"
            )
    if objects and look_like_frames([tracks.mask(name, 0).numpy() for name in tracks.names[: _PAIRS + 1]]):
        notes.append(
            "the objects nearly cover each other. If they are frames of one instance, set 'batch_is' to frames"
        )
    return notes


def look_inverted(frames: Sequence[NDArray[Any]], height: int, width: int) -> str:
    """What the masks of one thing cover in the middle of its frames, where they look like everything but the thing:
    nearly the whole frame, or most of it with its edge; else "".

    Args:
        frames: `runs.pack` of its mask (H, W) in each frame. Frames that do not show it do not count.
    """
    shares = [int((e[1::2].astype(np.int64) - e[::2]).sum()) / (height * width) for e in frames if len(e)]
    middle = float(np.median(shares)) if shares else 0.0
    if middle < _AREA:
        return ""
    if middle > _ALL:
        return f"{_percent(middle)} % of the frame"
    large = [e for e, share in zip((e for e in frames if len(e)), shares) if share >= _AREA]
    if float(np.median([_rim(runs.unpack(e, height, width)) for e in large])) < _EDGE:
        return ""
    return f"{_percent(middle)} % of the frame and nearly all of its edge"


def _percent(share: float) -> int:
    return int(100 * share + 0.5)


def _rim(mask: NDArray[np.bool_]) -> float:
    """Share of the frame's edge that a mask (H, W) covers."""
    return float(np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]]).mean())


def look_like_objects(masks: Sequence[NDArray[np.bool_]]) -> bool:
    """Whether masks (H, W) that follow each other hardly overlap, as different objects of one picture do."""
    overlaps = _overlaps(masks)
    return bool(overlaps) and sum(each < _APART for each in overlaps) >= _MOST * len(overlaps)


def look_like_frames(masks: Sequence[NDArray[np.bool_]]) -> bool:
    """Whether three masks (H, W) and more nearly cover each other, as one object in neighbouring frames does."""
    overlaps = _overlaps(masks)
    return len(overlaps) > 1 and all(each > _ALIKE for each in overlaps)


def _overlaps(masks: Sequence[NDArray[np.bool_]]) -> list[float]:
    """Intersection over union of each mask with the one behind it."""
    pairs = [(a, b) for a, b in itertools.pairwise(masks) if a.any() and b.any()]
    return [float((a & b).sum() / (a | b).sum()) for a, b in pairs]


def _some(tracks: MaskTracks, name: str, frames: Sequence[int]) -> Tensor:
    """As many frames as are compared, from the first that shows the instance on."""
    first = frames[0] if frames else 0
    return tracks.masks(name, first, min(first + _PAIRS + 1, tracks.frames))
