"""MASK batches as people connect them: frames of one instance, or objects of one picture.

N masks, H rows, W columns. A batch of the host does not say which of both it is, so the person does.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor

__all__ = ["BATCHES", "Batch", "mask_parts"]

Batch = Literal["frames", "objects"]
BATCHES: tuple[Batch, ...] = ("frames", "objects")
_NO_ALPHA = (64, 64)  # pixels of the empty mask that the host's Load Image makes of a picture without transparency


def mask_parts(batches: Sequence[Tensor], batch: Batch = "frames", invert: bool = False) -> tuple[list[Any], int]:
    """(masks of each instance, masks in all) of MASK batches (N, H, W) or (H, W).

    Args:
        batch: "frames": each batch is one instance. "objects": each mask is one, in the first frame.
        invert: everything outside is inside. Done frame by frame, so that no second clip is in memory.

    Raises ValueError for the empty 64x64 mask that Load Image gives for a picture without transparency.
    """
    for number, each in enumerate(batches, 1):
        if tuple(each.shape[-2:]) == _NO_ALPHA and not bool(each.any()):
            raise ValueError(
                f"mask {number} is empty and 64x64 pixels, which is what Load Image gives for a picture without "
                "transparency: there is no mask in that file. Use Load Image (as Mask) with a colour channel, Convert "
                "Image to Mask, or draw one in the mask editor"
            )
    parts: list[Any] = []
    for each in batches:
        masks = each[None] if each.ndim == 2 else each
        parts += list(masks) if batch == "objects" else [masks]
    total = sum(len(part) if part.ndim == 3 else 1 for part in parts)
    return [_inverted(part) for part in parts] if invert else parts, total


def _inverted(masks: Tensor) -> Iterator[Tensor]:
    for mask in masks if masks.ndim == 3 else [masks]:
        yield ~mask if mask.dtype == torch.bool else 1.0 - mask.float()
