"""How much the frames of a video keep to each other, by features of each frame, as VBench (arXiv 2311.17982) has it."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

__all__ = ["frame_consistency"]


def frame_consistency(features: ArrayLike) -> float:
    """Mean over frames 1 to F - 1 of half the cosine with the first frame and half that with the frame before, each not
    below 0. VBench's subject consistency on DINO's features, its background consistency on CLIP's.

    features (F, D). Raises ValueError for fewer than 2 frames, other shapes, and features of length 0.
    """
    array = np.asarray(features, dtype=np.float64)
    if array.ndim != 2 or len(array) < 2:
        raise ValueError(f"features of frames are (F, D) with 2 frames or more; got {array.shape}")
    length = np.linalg.norm(array, axis=1, keepdims=True)
    if not (np.isfinite(length).all() and length.all()):
        raise ValueError("some features are 0, nan or infinite: they have no direction")
    unit = array / length
    first, before = unit[1:] @ unit[0], (unit[1:] * unit[:-1]).sum(1)
    return float((first.clip(0) / 2 + before.clip(0) / 2).mean())
