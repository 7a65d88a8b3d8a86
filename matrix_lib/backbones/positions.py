"""Positions of CogVideoX video tokens, as its authors trained them and the diffusers pipelines compute them.

T, h, w: token frames, rows, columns of the clip. Base grid: the one the checkpoint was trained on (30 x 45 for the
released 1.0 models).
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["add_sincos", "axis_positions", "rotary_table"]

_THETA = 10000.0


def axis_positions(size: tuple[int, int], base: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Row and column positions, float32 (h,) and (w,), of a grid `size` laid over a `base` grid.

    The grid is scaled to fit into the base grid with its aspect ratio kept and centred there; positions then run evenly
    over that box. At the base grid they are 0, 1, 2, ...
    """
    (height, width), (base_h, base_w) = size, base
    if height / width > base_h / base_w:
        box_h, box_w = base_h, round(base_h / height * width)
    else:
        box_h, box_w = round(base_w / width * height), base_w
    top, left = round((base_h - box_h) / 2.0), round((base_w - box_w) / 2.0)
    rows = torch.linspace(top, (top + box_h) * (height - 1) / height, height)
    columns = torch.linspace(left, (left + box_w) * (width - 1) / width, width)
    return rows, columns


def rotary_table(
    frames: int, rows: Tensor, columns: Tensor, head_dim: int, device: torch.device | str | None = None
) -> tuple[Tensor, Tensor]:
    """(cos, sin), each float32 (T*h*w, head_dim): a quarter of a head turns with time, three eighths each with the row
    and the column; every angle stands twice in a row."""
    sizes = (head_dim // 4, head_dim // 8 * 3, head_dim // 8 * 3)
    shape = (frames, len(rows), len(columns))
    angles = []
    for axis, (positions, dim) in enumerate(zip((torch.arange(frames), rows, columns), sizes, strict=True)):
        steps = torch.arange(0, dim, 2, dtype=torch.float32, device=device)
        turn = torch.outer(positions.to(device, torch.float32), 1.0 / _THETA ** (steps / dim))
        view = [1, 1, 1, dim]
        view[axis] = shape[axis]
        angles.append(turn.repeat_interleave(2, dim=-1).view(view).expand(*shape, dim))
    table = torch.cat(angles, dim=-1).flatten(0, 2)
    return table.cos(), table.sin()


def add_sincos(video: Tensor, spatial_scale: float = 1.875, temporal_scale: float = 1.0) -> Tensor:
    """`video` (B, T, h, w, D) plus CogVideoX-2B's table: a quarter of the channels for time, then three eighths for the
    column, then three eighths for the row. Nothing of the table's full size is allocated."""
    _, frames, height, width, dim = video.shape
    quarter, rest = dim // 4, (3 * dim // 4) // 2
    out = video.clone()
    out[..., :quarter] += _waves(frames, quarter, temporal_scale, video)[:, None, None]
    out[..., quarter : quarter + rest] += _waves(width, rest, spatial_scale, video)
    out[..., quarter + rest :] += _waves(height, rest, spatial_scale, video)[:, None]
    return out


def _waves(size: int, dim: int, scale: float, like: Tensor) -> Tensor:
    """Sines, then cosines, of positions 0..size-1 divided by `scale`: (size, dim) in the dtype and device of `like`."""
    positions = torch.arange(size, dtype=torch.float32) / scale
    angle = torch.outer(positions.double(), 1.0 / _THETA ** (torch.arange(dim // 2, dtype=torch.float64) / (dim / 2.0)))
    return torch.cat([angle.sin(), angle.cos()], dim=1).to(like)
