"""The composite mask loss in two Triton kernels: one reads logits and masks for the value, one for the gradient.

As plain operations the same is some forty passes over every pixel of every clip.

E entities, N pixels of a clip.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..no_compile import uncompiled

__all__ = ["takes", "terms"]

_BLOCK, _LOOPS = 1024, 16  # elements a program takes at a time, and how many times


def takes(logits: Tensor, masks: Tensor) -> bool:
    """Whether the kernels know these dtypes."""
    return logits.dtype in (torch.float32, torch.bfloat16, torch.float16) and masks.dtype == torch.bool


@uncompiled
def terms(logits: Tensor, masks: Tensor, most: float) -> tuple[Tensor, Tensor, Tensor]:
    """(bce, dice, l2), each (E,) float32, of logits (E, N) and masks (E, N) bool; see `core.losses.mask_loss`.

    most: the largest weight of the pixels inside.
    """
    return _Terms.apply(logits.contiguous(), masks.contiguous(), most)  # type: ignore[no-any-return]


class _Terms(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: Tensor, masks: Tensor, most: float) -> tuple[Tensor, Tensor, Tensor]:
        inside, in_bce, out_bce, both, shares, square = _sums(logits, masks).unbind(1)
        n = logits.shape[1]
        ratio = (n - inside) / inside.clamp_min(1.0)
        weight = torch.where(inside > 0, ratio.clamp_max(most), 1.0)
        size = shares + inside + 1
        ctx.save_for_backward(logits, masks, torch.stack([weight, both, size], dim=1))
        return (weight * in_bce + out_bce) / n, 1 - (2 * both + 1) / size, square / n

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, bce: Tensor, dice: Tensor, l2: Tensor) -> tuple[Tensor | None, ...]:
        logits, masks, known = ctx.saved_tensors
        weight, both, size = known.unbind(1)
        n = logits.shape[1]
        factors = [bce * weight / n, bce / n, -2 * dice / size, dice * (2 * both + 1) / size.square(), 2 * l2 / n]
        return _gradient(logits, masks, torch.stack(factors, dim=1)), None, None


def _sums(logits: Tensor, masks: Tensor) -> Tensor:
    """(E, 6) sums over pixels: y, y softplus(-x), (1 - y) softplus(x), p y, p, (p - y)^2; p the sigmoid of x."""
    entities, n = logits.shape
    blocks = -(-n // (_BLOCK * _LOOPS))
    found = torch.empty(entities, blocks, 6, device=logits.device, dtype=torch.float32)
    sums_kernel[(blocks, entities)](logits, masks.view(torch.uint8), found, n, blocks, BLOCK=_BLOCK, LOOPS=_LOOPS)
    return found.double().sum(1).float()


def _gradient(logits: Tensor, masks: Tensor, factors: Tensor) -> Tensor:
    entities, n = logits.shape
    out = torch.empty_like(logits)
    blocks = -(-n // (_BLOCK * _LOOPS))
    gradient_kernel[(blocks, entities)](
        logits, masks.view(torch.uint8), factors.float().contiguous(), out, n, BLOCK=_BLOCK, LOOPS=_LOOPS
    )
    return out


@triton.jit
def sums_kernel(logits, masks, found, n, blocks, BLOCK: tl.constexpr, LOOPS: tl.constexpr):
    block, entity = tl.program_id(0), tl.program_id(1).to(tl.int64)
    inside = tl.zeros((BLOCK,), dtype=tl.float32)
    in_bce, out_bce, both = inside, inside, inside
    shares, square = inside, inside
    for loop in range(LOOPS):
        at = (block * LOOPS + loop) * BLOCK + tl.arange(0, BLOCK)
        here = at < n
        # beyond the end everything is 0: nothing inside, no share
        x = tl.load(logits + entity * n + at, mask=here, other=-1e4).to(tl.float32)
        y = tl.load(masks + entity * n + at, mask=here, other=0).to(tl.float32)
        small = tl.exp(-tl.abs(x))
        p = tl.where(x >= 0, 1.0, small) / (1.0 + small)
        soft = tl.log(1.0 + small)
        inside += y
        in_bce += y * (soft + tl.maximum(-x, 0.0))
        out_bce += (1.0 - y) * (soft + tl.maximum(x, 0.0))
        both += p * y
        shares += p
        square += (p - y) * (p - y)
    to = found + (entity * blocks + block) * 6
    tl.store(to, tl.sum(inside, axis=0))
    tl.store(to + 1, tl.sum(in_bce, axis=0))
    tl.store(to + 2, tl.sum(out_bce, axis=0))
    tl.store(to + 3, tl.sum(both, axis=0))
    tl.store(to + 4, tl.sum(shares, axis=0))
    tl.store(to + 5, tl.sum(square, axis=0))


@triton.jit
def gradient_kernel(logits, masks, factors, out, n, BLOCK: tl.constexpr, LOOPS: tl.constexpr):
    block, entity = tl.program_id(0), tl.program_id(1).to(tl.int64)
    inner = tl.load(factors + entity * 5)
    outer = tl.load(factors + entity * 5 + 1)
    overlap = tl.load(factors + entity * 5 + 2)
    area = tl.load(factors + entity * 5 + 3)
    near = tl.load(factors + entity * 5 + 4)
    for loop in range(LOOPS):
        at = (block * LOOPS + loop) * BLOCK + tl.arange(0, BLOCK)
        here = at < n
        x = tl.load(logits + entity * n + at, mask=here, other=0.0).to(tl.float32)
        y = tl.load(masks + entity * n + at, mask=here, other=0).to(tl.float32)
        small = tl.exp(-tl.abs(x))
        p = tl.where(x >= 0, 1.0, small) / (1.0 + small)
        rest = tl.where(x >= 0, small, 1.0) / (1.0 + small)  # 1 - p, without its rounding
        slope = (overlap * y + area + near * (p - y)) * p * rest
        made = outer * (1.0 - y) * p - inner * y * rest + slope
        tl.store(out + entity * n + at, made.to(out.dtype.element_ty), mask=here)
