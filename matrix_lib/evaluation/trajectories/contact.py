"""Contact between two tracks, frame by frame, with whatever detector says where one of them touches.

TAViD (arXiv 2503.18950) calls a video a success where the output of a contact detector overlaps the target's mask in at
least one frame. Its detector is a model of hands and bodies; without one, whatever comes within a pixel or so touches.
"""

from __future__ import annotations

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from .looks import grown

__all__ = ["ContactDetector", "longest_run", "near", "reach_of"]

Array = NDArray[Any]


class ContactDetector(Protocol):
    """Where the actor touches something in one frame, (H, W) bool.

    Args: the frame's number, its picture (H, W, 3) uint8 or None, and the masks of actor and target (H, W) bool.
    """

    def __call__(self, index: int, frame: Array | None, actor: Array, target: Array) -> Array: ...


def reach_of(height: int, width: int) -> int:
    """Pixels between two masks that still touch: 2 on a frame whose short side is 64."""
    return 2 * max(1, round(min(height, width) / 64))


def near(index: int, frame: Array | None, actor: Array, target: Array) -> Array:
    """The detector without a model: everything within `reach_of` rows and columns of the actor."""
    return grown(actor, reach_of(*actor.shape))


def longest_run(flags: Array) -> int:
    """Length of the longest run of True in (F,)."""
    padded = np.concatenate([[False], np.asarray(flags, dtype=bool), [False]]).astype(np.int8)
    turns = np.flatnonzero(np.diff(padded))
    return int((turns[1::2] - turns[::2]).max()) if len(turns) else 0
