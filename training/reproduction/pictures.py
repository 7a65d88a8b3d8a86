"""A few generated clips as one small picture, for the report."""

from __future__ import annotations

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from matrix_lib.draw.svg import data_url

__all__ = ["strip"]

_FRAMES, _SIDE = 5, 64


def strip(video: Tensor, boxes: Tensor | None = None) -> str:
    """Clips (N, F, 3, H, W) uint8 as rows of five frames of 64 pixels, with the outlines of filled boxes (N, F, H, W);
    a data URL."""
    picks = torch.linspace(0, video.shape[1] - 1, _FRAMES).round().long()
    frames = video[:, picks].float()
    if boxes is not None:
        shown = boxes[:, picks].to(frames.device).float()
        inner = 1 - functional.max_pool2d(1 - shown, 5, 1, 2)
        edge = (shown - inner)[:, :, None]
        frames = frames * (1 - edge) + 255 * edge
    small = functional.interpolate(frames.flatten(0, 1), size=(_SIDE, _SIDE), mode="area")
    rows = small.unflatten(0, (len(video), _FRAMES)).permute(0, 3, 1, 4, 2).reshape(len(video) * _SIDE, -1, 3)
    return data_url(Image.fromarray(rows.round().clamp(0, 255).to(torch.uint8).cpu().numpy()), quality=70)
