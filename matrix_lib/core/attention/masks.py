"""Attention masks in any shape that kernels take, and the parts of them that a call needs.

Additive (float) or keep (bool), broadcastable to (B, H, Nq, Nk): B batch, H heads, Nq / Nk query / key tokens.
"""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = ["additive", "batch_part", "four", "mask_at", "mask_part"]


def four(mask: Tensor | None) -> Tensor | None:
    """A mask (Nk,), (Nq, Nk), (B, Nq, Nk) or (B, H, Nq, Nk) with four dimensions."""
    if mask is None or mask.ndim == 4:
        return mask
    return mask[:, None] if mask.ndim == 3 else mask.expand(1, 1, *(mask.shape if mask.ndim == 2 else (1, -1)))


def mask_part(
    mask: Tensor | None, rows: Tensor | slice | None = None, keys: Tensor | slice | None = None
) -> Tensor | None:
    """The part of a mask for some queries and keys (the same for the whole batch), with four dimensions."""
    mask = four(mask)
    if mask is None:
        return None
    if rows is not None and mask.shape[2] > 1:
        mask = mask[:, :, rows]
    if keys is not None and mask.shape[3] > 1:
        mask = mask[..., keys]
    return mask


def mask_at(mask: Tensor | None, dim: int, indices: Tensor) -> Tensor | None:
    """The part of a four-dimensional mask for the queries (dim 2) or keys (dim 3) at indices (B, R)."""
    if mask is None or mask.shape[dim] == 1:
        return mask
    at = indices[:, None, :, None] if dim == 2 else indices[:, None, None]
    mask = mask.expand(len(indices), -1, -1, -1)
    shape = list(mask.shape)
    shape[dim] = indices.shape[1]
    return mask.gather(dim, at.expand(shape))


def batch_part(mask: Tensor | None, part: slice) -> Tensor | None:
    """The part of a mask for a slice of the batch."""
    return mask[part] if mask is not None and mask.ndim >= 3 and mask.shape[0] > 1 else mask


def additive(mask: Tensor, like: Tensor) -> Tensor:
    """A mask as the addition of `like`'s dtype that kernels want."""
    if mask.dtype == torch.bool:
        return torch.zeros_like(mask, dtype=like.dtype).masked_fill_(~mask, float("-inf"))
    return mask.to(like.dtype)
