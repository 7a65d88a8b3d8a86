"""Region-biased attention in one Triton kernel: no parts to merge, no copies of queries, only the keys are sorted.

With the keys in region order, all keys of one region lie together, and for one query the bias is a constant along each
such span: it costs one addition per query and span, inside the pass that attention makes anyway. A span that a query
may not look at is not read at all. Inference on NVIDIA GPUs in half precision; everything else goes the plain PyTorch
way in `regions.py`, with the same results.

B batch, H heads, N query tokens, D head size.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["Plan", "Span", "attend", "make_plan", "usable"]

_LOG2E = 1.4426950408889634
_ROWS = 128  # queries that one program takes
Span = tuple[int, int, float]
"""First key in region order, number of keys, bias in logits."""


@dataclass(frozen=True)
class Plan:
    """What each program does. All on the device of the call, int32 but for `bias`.

    Args:
        rows: (Nq,) query tokens, those of one row of the bias table together.
        tiles: (T, 4) first place in `rows`, count (1.._ROWS), first and last-plus-one span.
        spans: (S, 2) first key in region order, and how many. bias: (S,) float32, logits / ln 2.
        order: (Nk,) int64, keys in region order.
    """

    rows: Tensor
    tiles: Tensor
    spans: Tensor
    bias: Tensor
    order: Tensor


def usable(q: Tensor, v: Tensor) -> bool:
    """Whether the kernel takes this call. `MATRIX_TRITON=0` turns it off."""
    return (
        q.device.type == "cuda"
        and torch.version.cuda is not None
        and q.dtype in (torch.float16, torch.bfloat16)
        and q.shape[-1] in (64, 128)
        and v.shape[-1] == q.shape[-1]
        and os.environ.get("MATRIX_TRITON", "1") != "0"
        and _build() is not None
    )


def make_plan(
    blocks: Sequence[tuple[Tensor, Sequence[Span]]], order: Tensor, device: torch.device, step: int = _ROWS
) -> Plan:
    """From blocks of query tokens (rows, and the spans that they look at) to what the kernel reads."""
    tiles: list[tuple[int, int, int, int]] = []
    spans: list[Span] = []
    first = 0
    for rows, looked_at in blocks:
        ends = (len(spans), len(spans) + len(looked_at))
        spans += looked_at
        tiles += [(first + at, min(step, len(rows) - at), *ends) for at in range(0, len(rows), step)]
        first += len(rows)
    # Long ones first: what is left at the end fills the GPU evenly.
    tiles.sort(key=lambda tile: -sum(length for _, length, _ in spans[tile[2] : tile[3]]))
    places = [(start, length) for start, length, _ in spans]
    return Plan(
        rows=torch.cat([rows for rows, _ in blocks]).to(device, torch.int32),
        tiles=torch.tensor(tiles, dtype=torch.int32).view(-1, 4).to(device),
        spans=torch.tensor(places, dtype=torch.int32).view(-1, 2).to(device),
        bias=torch.tensor([bias * _LOG2E for _, _, bias in spans], dtype=torch.float32).to(device),
        order=order.to(device),
    )


def attend(q: Tensor, k: Tensor, v: Tensor, scale: float, plan: Plan) -> tuple[Tensor, Tensor]:
    """Output (B, H, Nq, D) with heads inside of tokens, and the log-sum-exp of the biased rows (B, H, Nq), float32.

    q (B, H, Nq, D), k and v (B, H, Nk, D), in any strides whose last is 1.
    """
    built = _build()
    assert built is not None
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    k, v = k.index_select(2, plan.order), v.index_select(2, plan.order)
    b, h, n, d = q.shape
    out = q.new_empty(b, n, h, d).transpose(1, 2)
    lse = q.new_empty(b, h, n, dtype=torch.float32)
    built[(len(plan.tiles), b * h)](
        q, k, v, out, lse, plan.rows, plan.tiles, plan.spans, plan.bias, scale * _LOG2E, 1 / _LOG2E, h,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], *lse.stride()[:2],
        D=d, BM=_ROWS,
    )  # fmt: skip
    return out, lse


@functools.cache
def _build() -> Any:
    """The kernel where Triton is installed; it is compiled at its first call."""
    try:
        from .region_triton import region_kernel
    except ImportError:
        return None
    return region_kernel
