"""The two pooled reads of attention. Both keep logits in registers: what reaches memory is one map per entity.

Labels are columns that q and k have besides, the same for every batch row and head: (Nq, W) and (Nk, W), or None.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["MOST_LABELS", "columns", "rows", "takes"]

MOST_LABELS = 64
Labels = tuple[Tensor, Tensor]
_LOG2E = 1.4426950408889634
LOG2E = tl.constexpr(_LOG2E)


def takes(q: Tensor) -> bool:
    """Whether the kernels know q's dtype and head size (label columns of steered calls make it any)."""
    return q.dtype in (torch.float16, torch.bfloat16, torch.float32) and 16 <= q.shape[-1] <= 256


def columns(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    weights: Tensor,
    scale: float,
    per_head: bool = False,
    labels: Labels | None = None,
) -> Tensor:
    """(B, H, N, D), (B, H, C, D), lse (B, H, N), weights (C, E) -> (B, E, N) float32, mean over heads; (B, H, E, N)
    with `per_head`. labels: (N, W), (C, W)."""
    b, h, n, d = q.shape
    c = k.shape[2]
    k = k.contiguous()
    lse = lse if lse.stride(-1) == 1 else lse.contiguous()
    on_q, on_k, width = _labels(q, k, labels)
    block_c = max(16, triton.next_power_of_2(min(c, 32 if width else 64)))
    blocks = triton.cdiv(n, 128) * triton.cdiv(c, block_c) * b
    split = h if per_head else _head_split(h, blocks)
    out = _room(split > 1 and not per_head, q, b, h if per_head else 1, c, n)
    column_kernel[(triton.cdiv(n, 128), triton.cdiv(c, block_c) * split, b)](
        q, k, lse, out, on_q, on_k, n, c, h, scale * _LOG2E, 1.0 if per_head else 1.0 / h,
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2),
        lse.stride(0), lse.stride(1), out.stride(0), out.stride(1) if per_head else 0, out.stride(2),
        **_widths(d), LABELS=width, BN=128, BC=block_c, SPLIT=split, ATOMIC=split > 1 and not per_head,
        PRECISION=_precision(q), num_warps=4, num_stages=3,
    )  # fmt: skip
    # by columns as they lie: maps come out dense, and no copy is made of what is looked at
    pooled = torch.bmm(weights.to(out).T.expand(b * out.shape[1], -1, -1), out.flatten(0, 1))
    return pooled.unflatten(0, (b, -1)) if per_head else pooled


def rows(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    weights: Tensor,
    members: Tensor,
    scale: float,
    per_head: bool = False,
    labels: Labels | None = None,
) -> Tensor:
    """Picked rows (B, H, R, D), keys (B, H, S, D), lse (B, H, R), weights (R, E) -> (B, E, S) float32, mean over heads;
    (B, H, E, S) with `per_head`.

    members (E, M) int32: the picked rows of each entity, -1 behind the last one. Entities are summed apart, so a row
    that two of them share is read twice; their sets are small. labels: (R, W), (S, W).
    """
    b, h, r, d = q.shape
    s, (e, most) = k.shape[2], members.shape
    q, lse, weights = q.contiguous(), lse.contiguous(), weights.to(torch.float32).t().contiguous()
    on_q, on_k, width = _labels(q, k, labels)
    split = h if per_head else _head_split(h, triton.cdiv(s, 128) * b * e)
    out = _room(split > 1 and not per_head, q, b, h if per_head else 1, e, s)
    row_kernel[(triton.cdiv(s, 128), e * split, b)](
        q, k, lse, weights, members, out, on_q, on_k, r, s, h, most, scale * _LOG2E, 1.0 if per_head else 1.0 / h,
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2),
        lse.stride(0), lse.stride(1), out.stride(0), out.stride(1) if per_head else 0, out.stride(2),
        **_widths(d), LABELS=width, BS=128, BR=32 if width else 64, SPLIT=split, ATOMIC=split > 1 and not per_head,
        PRECISION=_precision(q), num_warps=8, num_stages=3,
    )  # fmt: skip
    return out if per_head else out[:, 0]


def _room(summed: bool, like: Tensor, *shape: int) -> Tensor:
    """float32 for a kernel's result; zeros only where it adds to them."""
    return (torch.zeros if summed else torch.empty)(shape, device=like.device, dtype=torch.float32)


def _head_split(heads: int, blocks: int) -> int:
    """Over how many programs the heads are dealt, so that a few hundred of them fill the GPU; sums meet by atomics."""
    split = 1
    while blocks * split < 512 and heads % (split * 2) == 0:
        split *= 2
    return split


def _widths(d: int) -> dict[str, int]:
    """A head size as the kernels read it: a power of two, and what is left behind it (none: 0), filled up to one."""
    head = min(128, 1 << (d.bit_length() - 1))
    left = d - head
    return {"D": head, "LEFT": left, "TAIL": max(16, triton.next_power_of_2(left)) if left else 0}


def _labels(q: Tensor, k: Tensor, labels: Labels | None) -> tuple[Tensor, Tensor, int]:
    """Labels as the kernels read them, filled up to a width that they multiply at once (none: 0)."""
    if labels is None:
        return q, k, 0
    width = max(16, triton.next_power_of_2(labels[0].shape[1]))
    query, key = (torch.nn.functional.pad(each, (0, width - each.shape[1])).to(q.dtype) for each in labels)
    return query.contiguous(), key.contiguous(), width


def _precision(q: Tensor) -> str:
    """float32 input is multiplied in full precision; half types have no other."""
    return "ieee" if q.dtype == torch.float32 else "tf32"


@triton.jit
def column_kernel(
    q, k, lse, out, labels_q, labels_k, n, c, heads, scale, mean,
    q_b, q_h, q_n, k_b, k_h, k_n, l_b, l_h, o_b, o_h, o_c,
    D: tl.constexpr, LEFT: tl.constexpr, TAIL: tl.constexpr, LABELS: tl.constexpr, BN: tl.constexpr, BC: tl.constexpr,
    SPLIT: tl.constexpr, ATOMIC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    at_n = tl.program_id(0) * BN + tl.arange(0, BN)
    at_c = tl.program_id(1) // SPLIT * BC + tl.arange(0, BC)
    batch = tl.program_id(2).to(tl.int64)
    at_d = tl.arange(0, D)
    in_n, in_c = at_n < n, at_c < c
    total = tl.zeros((BN, BC), dtype=tl.float32)
    bias = total  # the same for every head
    if LABELS > 0:
        at_w = tl.arange(0, LABELS)
        on_q = tl.load(labels_q + at_n[:, None] * LABELS + at_w[None, :], mask=in_n[:, None], other=0.0)
        on_k = tl.load(labels_k + at_c[None, :] * LABELS + at_w[:, None], mask=in_c[None, :], other=0.0)
        bias = tl.dot(on_q, on_k, input_precision=PRECISION)
    for head in range(tl.program_id(1) % SPLIT, heads, SPLIT):
        q_at = q + batch * q_b + head * q_h + at_n[:, None].to(tl.int64) * q_n + at_d[None, :]
        k_at = k + batch * k_b + head * k_h + at_c[None, :] * k_n + at_d[:, None]
        queries = tl.load(q_at, mask=in_n[:, None], other=0.0)
        keys = tl.load(k_at, mask=in_c[None, :], other=0.0)
        norm = tl.load(lse + batch * l_b + head * l_h + at_n, mask=in_n, other=float("inf"))
        norm = tl.where(norm == float("-inf"), float("inf"), norm) * LOG2E
        if LABELS > 0:
            logits = tl.dot(queries, keys, bias, input_precision=PRECISION)
        else:
            logits = tl.dot(queries, keys, input_precision=PRECISION)
        if TAIL > 0:
            at_t = D + tl.arange(0, TAIL)
            in_t = at_t < D + LEFT
            q_at = q + batch * q_b + head * q_h + at_n[:, None].to(tl.int64) * q_n + at_t[None, :]
            k_at = k + batch * k_b + head * k_h + at_c[None, :] * k_n + at_t[:, None]
            queries = tl.load(q_at, mask=in_n[:, None] & in_t[None, :], other=0.0)
            keys = tl.load(k_at, mask=in_c[None, :] & in_t[:, None], other=0.0)
            logits = tl.dot(queries, keys, logits, input_precision=PRECISION)
        total += tl.exp2(logits * scale - norm[:, None])
    first = out + batch * o_b + (tl.program_id(1) % SPLIT).to(tl.int64) * o_h
    at = first + at_c[None, :].to(tl.int64) * o_c + at_n[:, None]
    keep = in_n[:, None] & in_c[None, :]
    if ATOMIC:
        tl.atomic_add(at, total * mean, mask=keep)
    else:
        tl.store(at, total * mean, mask=keep)


@triton.jit
def row_kernel(
    q, k, lse, weights, members, out, labels_q, labels_k, r, s, heads, most, scale, mean,
    q_b, q_h, q_n, k_b, k_h, k_n, l_b, l_h, o_b, o_h, o_e,
    D: tl.constexpr, LEFT: tl.constexpr, TAIL: tl.constexpr, LABELS: tl.constexpr, BS: tl.constexpr, BR: tl.constexpr,
    SPLIT: tl.constexpr, ATOMIC: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    at_s = tl.program_id(0) * BS + tl.arange(0, BS)
    entity = tl.program_id(1) // SPLIT
    batch = tl.program_id(2).to(tl.int64)
    at_d = tl.arange(0, D)
    in_s = at_s < s
    # summed element by element and over rows only once, at the end
    total = tl.zeros((BR, BS), dtype=tl.float32)
    if LABELS > 0:
        at_w = tl.arange(0, LABELS)
        on_k = tl.load(labels_k + at_s[None, :] * LABELS + at_w[:, None], mask=in_s[None, :], other=0.0)
    for head in range(tl.program_id(1) % SPLIT, heads, SPLIT):
        k_at = k + batch * k_b + head * k_h + at_s[None, :].to(tl.int64) * k_n + at_d[:, None]
        keys = tl.load(k_at, mask=in_s[None, :], other=0.0)
        if TAIL > 0:
            at_t = D + tl.arange(0, TAIL)
            in_t = at_t < D + LEFT
            k_at = k + batch * k_b + head * k_h + at_s[None, :].to(tl.int64) * k_n + at_t[:, None]
            more_keys = tl.load(k_at, mask=in_s[None, :] & in_t[:, None], other=0.0)
        for first in range(0, most, BR):
            place = first + tl.arange(0, BR)
            at_r = tl.load(members + entity * most + place, mask=place < most, other=-1)
            in_r = at_r >= 0
            q_at = q + batch * q_b + head * q_h + at_r[:, None] * q_n + at_d[None, :]
            queries = tl.load(q_at, mask=in_r[:, None], other=0.0)
            norm = tl.load(lse + batch * l_b + head * l_h + at_r, mask=in_r, other=float("inf"))
            norm = tl.where(norm == float("-inf"), float("inf"), norm) * LOG2E
            weight = tl.load(weights + entity * r + at_r, mask=in_r, other=0.0)
            logits = tl.dot(queries, keys, input_precision=PRECISION)
            if TAIL > 0:
                q_at = q + batch * q_b + head * q_h + at_r[:, None] * q_n + at_t[None, :]
                queries = tl.load(q_at, mask=in_r[:, None] & in_t[None, :], other=0.0)
                logits = tl.dot(queries, more_keys, logits, input_precision=PRECISION)
            if LABELS > 0:
                on_q = tl.load(labels_q + at_r[:, None] * LABELS + at_w[None, :], mask=in_r[:, None], other=0.0)
                logits = tl.dot(on_q, on_k, logits, input_precision=PRECISION)
            total += tl.exp2(logits * scale - norm[:, None]) * weight[:, None]
    summed = tl.sum(total, axis=0) * mean
    at = out + batch * o_b + (tl.program_id(1) % SPLIT).to(tl.int64) * o_h + entity.to(tl.int64) * o_e + at_s
    if ATOMIC:
        tl.atomic_add(at, summed, mask=in_s)
    else:
        tl.store(at, summed, mask=in_s)
