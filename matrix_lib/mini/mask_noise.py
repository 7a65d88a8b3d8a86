"""Masks of the mini world as a segmenter or a person gives them: off by some pixels, lost in some frames, or boxes."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from .world import Clips

__all__ = ["with_mask_noise"]


def with_mask_noise(clips: Clips, seed: int, shift: int = 0, lost: float = 0.0, boxes: bool = False) -> Clips:
    """The same clips, on the CPU, with worse masks; the pictures stay.

    Args:
        shift: pixels that a mask is off by at most, in x and in y, drawn for each instance and frame.
        lost: share of the frames after the first in which an instance has no mask.
        boxes: boxes around the masks in place of them.

    Raises ValueError for a shift below 0 and a share outside of [0, 1].
    """
    if shift < 0 or not 0 <= lost <= 1:
        raise ValueError(f"masks are off by 0 pixels or more and lost in a share from 0 to 1; got {shift} and {lost:g}")
    cpu = clips.to("cpu")
    draw, masks = torch.Generator().manual_seed(seed), cpu.masks
    moves = torch.randint(-shift, shift + 1, (*masks.shape[:3], 2), generator=draw)
    gone = torch.rand(masks.shape[:3], generator=draw) < lost
    gone[:, :, 0] = False
    if boxes:
        masks = _between(masks.any(-1))[..., None] & _between(masks.any(-2))[..., None, :]
    moved = torch.zeros_like(masks)
    for down, across in {(int(y), int(x)) for y, x in moves.flatten(0, 2).tolist()}:
        chosen = (moves[..., 0] == down) & (moves[..., 1] == across)
        moved[chosen] = _shifted(masks[chosen], down, across)
    return replace(cpu, masks=moved & ~gone[..., None, None])


def _between(line: Tensor) -> Tensor:
    """(..., n) bool, everything from the first to the last that is set."""
    flags = line.int()
    return (flags.cummax(-1).values * flags.flip(-1).cummax(-1).values.flip(-1)).bool()


def _shifted(masks: Tensor, down: int, across: int) -> Tensor:
    """(M, H, W) moved, with nothing where they come from."""
    height, width = masks.shape[-2:]
    wide = torch.nn.functional.pad(masks, (max(across, 0), max(-across, 0), max(down, 0), max(-down, 0)))
    top, left = max(-down, 0), max(-across, 0)
    return wide[..., top : top + height, left : left + width]
