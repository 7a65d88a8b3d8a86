"""What of mask tracks is likely to be a mistake: masks that are inverted, objects that were taken for frames. Sentences
for people to judge; nothing is changed. Whoever meant it so may go on.

F frames, H rows, W columns. A few frames of each instance are looked at.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from .tracks import MaskTracks

__all__ = ["doubts_of", "look_inverted", "look_like_frames", "look_like_objects"]

Masks = Iterable[NDArray[np.bool_]]
_EDGE, _AREA = 0.9, 0.5  # shares of a frame's rim and area from which on a mask looks like the rest of something
_PAIRS = 12  # neighbours that are compared
_APART, _ALIKE = 0.02, 0.8  # overlap (IoU) of different objects, and of one object in neighbouring frames
_MOST = 0.8  # of the pairs


def doubts_of(tracks: MaskTracks, objects: bool = False) -> list[str]:
    """Sentences for people. objects: the instances came as objects of one batch of masks."""
    notes = []
    for name, frames in tracks.visible.items():
        if frames and (what := look_inverted(tracks.mask(name, frames[0]).numpy())):
            notes.append(
                f"{name!r} covers {what} in frame {frames[0]}. If that is not the instance, it is inverted: Load "
                "Image's mask is 1 where the picture is transparent. Switch 'invert' on"
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


def look_inverted(mask: NDArray[np.bool_]) -> str:
    """What a mask (H, W) covers, where it looks like everything but the instance; else ""."""
    if mask.all():
        return "the whole frame"
    rim = np.concatenate([mask[0], mask[-1], mask[:, 0], mask[:, -1]])
    if rim.mean() >= _EDGE and mask.mean() >= _AREA:
        return f"{100 * mask.mean():.0f} % of the frame and nearly all of its edge"
    return ""


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
