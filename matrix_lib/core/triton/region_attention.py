"""Region-biased attention in one Triton kernel: no parts to merge, no copies of queries, only the keys are sorted.

With the keys in region order, all keys of one region lie together, and for one query the bias is a constant along each
such span: it costs one addition per query and span, inside the pass that attention makes anyway. A span that a query
may not look at is not read at all, or, where unmasked attention is wanted beside the masked one, is read last: what
was summed before it is the masked result. A bias of low rank is a few more columns of q and k, the same for every
batch row and head. Inference in half precision only.

B batch, H heads, N query tokens, D head size.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["MOST_COLUMNS", "Plan", "Span", "attend", "attend_both", "make_plan", "takes"]

_LOG2E = 1.4426950408889634
_ROWS = 128  # queries that one program takes
MOST_COLUMNS = 32  # columns of a bias of low rank
# keys at a time, warps, stages of the pipeline; the fastest is found at the first call of a head size
_CONFIGS = ((64, 4, 3), (128, 8, 2), (128, 8, 3), (64, 8, 3), (64, 4, 4))
Span = tuple[int, int, float]
"""First key in region order, number of keys, bias in logits."""


@dataclass(frozen=True)
class Plan:
    """What each program does. All on the device of the call, int32 but for `bias`.

    Args:
        rows: (Nq,) query tokens, those of one row of the bias table together.
        tiles: (T, 5) first place in `rows`, count (1.._ROWS), first and last-plus-one span, and last-plus-one of those
            that unmasked attention reads as well.
        spans: (S, 2) first key in region order, and how many. bias: (S,) float32, logits / ln 2.
        order: (Nk,) int64, keys in region order.
    """

    rows: Tensor
    tiles: Tensor
    spans: Tensor
    bias: Tensor
    order: Tensor


def takes(q: Tensor, v: Tensor) -> bool:
    """Whether the kernel knows this dtype and these head sizes."""
    half = q.dtype in (torch.float16, torch.bfloat16)
    return half and q.shape[-1] in (64, 128) and v.shape[-1] == q.shape[-1]


def make_plan(
    blocks: Sequence[tuple[Tensor, Sequence[Span], Sequence[Span]]],
    order: Tensor,
    device: torch.device,
    step: int = _ROWS,
) -> Plan:
    """From blocks of query tokens (rows, the spans that they look at, and those that unmasked attention looks at
    besides) to what the kernel reads."""
    tiles: list[tuple[int, int, int, int, int]] = []
    spans: list[Span] = []
    first = 0
    for rows, looked_at, besides in blocks:
        middle = len(spans) + len(looked_at)
        ends = (len(spans), middle, middle + len(besides))
        spans += [*looked_at, *besides]
        tiles += [(first + at, min(step, len(rows) - at), *ends) for at in range(0, len(rows), step)]
        first += len(rows)
    # Long ones first: what is left at the end fills the GPU evenly.
    tiles.sort(key=lambda tile: -sum(length for _, length, _ in spans[tile[2] : tile[4]]))
    places = [(start, length) for start, length, _ in spans]
    return Plan(
        rows=torch.cat([rows for rows, _, _ in blocks]).to(device, torch.int32),
        tiles=torch.tensor(tiles, dtype=torch.int32).view(-1, 5).to(device),
        spans=torch.tensor(places, dtype=torch.int32).view(-1, 2).to(device),
        bias=torch.tensor([bias * _LOG2E for _, _, bias in spans], dtype=torch.float32).to(device),
        order=order.to(device),
    )


def attend(
    q: Tensor, k: Tensor, v: Tensor, scale: float, plan: Plan, labels: tuple[Tensor, Tensor] | None = None
) -> tuple[Tensor, Tensor]:
    """Output (B, H, Nq, D) with heads inside of tokens, and the log-sum-exp of the biased rows (B, H, Nq), float32.

    q (B, H, Nq, D), k and v (B, H, Nk, D), in any strides whose last is 1. labels (Nq, R) and (Nk, R): their products
    are added to the logits.
    """
    out = _empty(q)
    return out, _run(q, k, v, scale, plan, out, None, labels)


def attend_both(q: Tensor, k: Tensor, v: Tensor, scale: float, plan: Plan) -> tuple[Tensor, Tensor, Tensor]:
    """As `attend`, and the output with the spans that unmasked attention reads besides, in the same pass."""
    out, whole = _empty(q), _empty(q)
    lse = _run(q, k, v, scale, plan, out, whole)
    return out, lse, whole


def _empty(q: Tensor) -> Tensor:
    """(B, H, N, D) with heads inside of tokens: what hosts make of it is a view."""
    b, h, n, d = q.shape
    return q.new_empty(b, n, h, d).transpose(1, 2)


def _run(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    plan: Plan,
    out: Tensor,
    whole: Tensor | None,
    labels: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    q, k, v = (t if t.stride(-1) == 1 else t.contiguous() for t in (q, k, v))
    k, v = _in_order(k, plan.order), _in_order(v, plan.order)
    b, h, n, d = q.shape
    lse = q.new_empty(b, h, n, dtype=torch.float32)
    on_q, on_k, width = (q, k, 0) if labels is None else _columns(labels, plan.order, scale, q.dtype)
    region_kernel[(len(plan.tiles), b * h)](
        q, k, v, out, out if whole is None else whole, lse, plan.rows, plan.tiles, plan.spans, plan.bias,
        on_q, on_k,
        scale * _LOG2E, 1 / _LOG2E, h,
        *q.stride()[:3], *k.stride()[:3], *v.stride()[:3], *out.stride()[:3], *lse.stride()[:2],
        D=d, TAIL=width, BM=_ROWS, BOTH=whole is not None,
    )  # fmt: skip
    return lse


def _in_order(t: Tensor, order: Tensor) -> Tensor:
    """(B, H, N, D) with its tokens in region order. Where hosts keep the heads of a token together, one long row a
    token is copied, and not a short one a head."""
    b, h, n, d = t.shape
    tokens = t.transpose(1, 2)
    if not tokens.is_contiguous():
        return t.index_select(2, order)
    rows = tokens.reshape(b, n, h * d)
    made = rows[0].index_select(0, order)[None] if b == 1 else rows.index_select(1, order)
    return made.view(b, len(order), h, d).transpose(1, 2)


def _columns(
    labels: tuple[Tensor, Tensor], order: Tensor, scale: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor, int]:
    """Labels as more columns of q and of the keys in region order, filled up to what the kernel multiplies at once."""
    width = max(16, triton.next_power_of_2(labels[0].shape[1]))
    query, key = (torch.nn.functional.pad(each, (0, width - each.shape[1])) for each in labels)
    return query.to(dtype).contiguous(), (key / scale).to(dtype)[order], width


def configs():
    """What to choose from; the interpreter, which tests use, takes the first."""
    chosen = _CONFIGS[:1] if os.environ.get("TRITON_INTERPRET") == "1" else _CONFIGS
    return [triton.Config({"BN": keys}, num_warps=warps, num_stages=stages) for keys, warps, stages in chosen]


@triton.jit
def look(
    q, on_q, k_at, v_at, on_k, k_n, v_n, start, end, bias, scale, best, total, acc,
    D: tl.constexpr, TAIL: tl.constexpr, BN: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One tile of keys. `best` is the largest biased logit so far, in powers of two; `total` and `acc` are sums
    relative to it."""
    at_d = tl.arange(0, D)
    place = start + tl.arange(0, BN)
    if WHOLE:
        keys = tl.load(k_at + place[None, :] * k_n + at_d[:, None])
    else:
        keys = tl.load(k_at + place[None, :] * k_n + at_d[:, None], mask=(place < end)[None, :], other=0.0)
    logits = tl.dot(q, keys)
    if TAIL > 0:
        at_t = tl.arange(0, TAIL)
        more = tl.load(on_k + place[None, :] * TAIL + at_t[:, None], mask=(place < end)[None, :], other=0.0)
        logits = tl.dot(on_q, more, logits)
    if not WHOLE:
        logits = tl.where((place < end)[None, :], logits, float("-inf"))
    higher = tl.maximum(best, tl.max(logits, 1) * scale + bias)
    p = tl.exp2(logits * scale - (higher - bias)[:, None])
    shrink = tl.exp2(best - higher)
    total = total * shrink + tl.sum(p, 1)
    acc = acc * shrink[:, None]
    if WHOLE:
        values = tl.load(v_at + place[:, None] * v_n + at_d[None, :])
    else:
        values = tl.load(v_at + place[:, None] * v_n + at_d[None, :], mask=(place < end)[:, None], other=0.0)
    acc = tl.dot(p.to(values.dtype), values, acc)
    return higher, total, acc


@triton.jit
def look_at(
    q, on_q, k_at, v_at, on_k, k_n, v_n, spans, biases, from_span, to_span, scale, best, total, acc,
    D: tl.constexpr, TAIL: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    """All tiles of some spans."""
    for span in range(from_span, to_span):
        start, length = tl.load(spans + span * 2), tl.load(spans + span * 2 + 1)
        bias = tl.load(biases + span)
        full = start + length // BN * BN
        for at in range(start, full, BN):
            best, total, acc = look(
                q, on_q, k_at, v_at, on_k, k_n, v_n, at, full, bias, scale, best, total, acc, D, TAIL, BN, True
            )
        if full < start + length:
            best, total, acc = look(
                q, on_q, k_at, v_at, on_k, k_n, v_n, full, start + length, bias, scale, best, total, acc,
                D, TAIL, BN, False,
            )  # fmt: skip
    return best, total, acc


@triton.autotune(configs(), key=["D", "TAIL", "BOTH"])
@triton.jit
def region_kernel(
    q, k, v, out, whole, lse, rows, tiles, spans, biases, labels_q, labels_k, scale, ln2, heads,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, l_b, l_h,
    D: tl.constexpr, TAIL: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr, BOTH: tl.constexpr,
):  # fmt: skip
    tile = tiles + tl.program_id(0) * 5
    first, count = tl.load(tile), tl.load(tile + 1)
    from_span, to_span = tl.load(tile + 2), tl.load(tile + 3)
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    at_m, at_d = tl.arange(0, BM), tl.arange(0, D)
    in_m = at_m < count
    row = tl.load(rows + first + at_m, mask=in_m, other=0).to(tl.int64)
    queries = tl.load(q + batch * q_b + head * q_h + row[:, None] * q_n + at_d[None, :], mask=in_m[:, None], other=0.0)
    on_q = queries
    if TAIL > 0:
        on_q = tl.load(labels_q + row[:, None] * TAIL + tl.arange(0, TAIL)[None, :], mask=in_m[:, None], other=0.0)
    k_at, v_at = k + batch * k_b + head * k_h, v + batch * v_b + head * v_h
    best = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    acc = tl.zeros((BM, D), dtype=tl.float32)
    best, total, acc = look_at(
        queries, on_q, k_at, v_at, labels_k, k_n, v_n, spans, biases, from_span, to_span, scale, best, total, acc,
        D, TAIL, BN,
    )  # fmt: skip
    seen = total > 0
    to = batch * o_b + head * o_h + row[:, None] * o_n + at_d[None, :]
    masked = acc / tl.where(seen, total, 1.0)[:, None]
    tl.store(out + to, masked.to(out.dtype.element_ty), mask=in_m[:, None])
    norm = tl.where(seen, (best + tl.log2(tl.where(seen, total, 1.0))) * ln2, float("-inf"))
    tl.store(lse + batch * l_b + head * l_h + row, norm, mask=in_m)
    if BOTH:
        best, total, acc = look_at(
            queries, on_q, k_at, v_at, labels_k, k_n, v_n, spans, biases, to_span, tl.load(tile + 4), scale,
            best, total, acc, D, TAIL, BN,
        )  # fmt: skip
        acc = acc / tl.where(total > 0, total, 1.0)[:, None]
        tl.store(whole + to, acc.to(whole.dtype.element_ty), mask=in_m[:, None])
