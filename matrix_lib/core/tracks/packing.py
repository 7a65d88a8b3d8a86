"""Dense masks to run edges, frame by frame, with everything checked that a person may get wrong.

H, W: rows and columns in pixels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from . import runs
from .checks import check_size

__all__ = ["Masks", "Progress", "join_frames", "pack_masks"]

Masks: TypeAlias = Tensor | Iterable[Tensor]
Progress = Callable[[], None]


def pack_masks(
    name: str, masks: Masks, threshold: float, size: tuple[int, int] | None, progress: Progress | None
) -> tuple[tuple[NDArray[Any], NDArray[Any]], tuple[int, int]]:
    """(edges, offsets) of one instance, and the frame size; `size` is the one that the masks before it had."""
    if isinstance(masks, Tensor):
        masks = masks[None] if masks.ndim == 2 else masks
        if masks.ndim != 3:
            raise ValueError(f"the mask of {name!r} is a tensor (frames, height, width); got {tuple(masks.shape)}")
    packed = []
    for frame in masks:
        if frame.ndim != 2:
            raise ValueError(f"each frame of the mask of {name!r} is (height, width); got {tuple(frame.shape)}")
        height, width = frame.shape
        size = size or (height, width)
        if (height, width) != size:
            raise ValueError(
                f"the mask of {name!r} is {height}x{width} pixels (height x width), but {size[0]}x{size[1]} came "
                "before it; all masks of a clip have one size"
            )
        check_size(1, height, width, 1.0)
        packed.append(runs.pack(_inside(name, frame, threshold)))
        if progress is not None:
            progress()
    if not packed or size is None:
        raise ValueError(f"the mask of {name!r} has no frames")
    return join_frames(packed), size


def _inside(name: str, frame: Tensor, threshold: float) -> NDArray[Any]:
    frame = frame.detach().cpu()
    if frame.dtype == torch.bool:
        return frame.numpy()
    if frame.dtype == torch.uint8:
        return (frame > threshold * 255).numpy()
    if not frame.is_floating_point():
        raise ValueError(f"masks are bool, uint8 of 0 to 255, or float of 0 to 1; {name!r} is {frame.dtype}")
    low, high = (float(v) for v in torch.aminmax(frame))
    if not (low >= -1e-3 and high <= 1 + 1e-3):
        raise ValueError(f"float masks have values of 0 to 1; {name!r} has {low:g} to {high:g}")
    return (frame > threshold).numpy()


def join_frames(frames: Iterable[NDArray[Any]]) -> tuple[NDArray[Any], NDArray[Any]]:
    """Edges and offsets of an instance from the edges of its frames."""
    frames = list(frames)
    offsets = np.zeros(len(frames) + 1, dtype=np.int64)
    np.cumsum([len(edges) for edges in frames], out=offsets[1:])
    return np.concatenate(frames), offsets
