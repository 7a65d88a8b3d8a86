"""The kernel of `region_kernel`, apart because it can only be read where Triton is installed."""

import os

import triton
import triton.language as tl

# keys at a time, warps, stages of the pipeline; the fastest is found at the first call of a head size
_CONFIGS = ((64, 4, 3), (128, 8, 2), (128, 8, 3), (64, 8, 3), (64, 4, 4))


def configs():
    """What to choose from; the interpreter, which tests use, takes the first."""
    chosen = _CONFIGS[:1] if os.environ.get("TRITON_INTERPRET") == "1" else _CONFIGS
    return [triton.Config({"BN": keys}, num_warps=warps, num_stages=stages) for keys, warps, stages in chosen]


@triton.jit
def look(
    q, k_at, v_at, k_n, v_n, start, end, bias, scale, best, total, acc,
    D: tl.constexpr, BN: tl.constexpr, WHOLE: tl.constexpr,
):  # fmt: skip
    """One tile of keys. `best` is the largest biased logit so far, in powers of two; `total` and `acc` are sums
    relative to it."""
    at_d = tl.arange(0, D)
    place = start + tl.arange(0, BN)
    if WHOLE:
        keys = tl.load(k_at + place[None, :] * k_n + at_d[:, None])
        logits = tl.dot(q, keys)
    else:
        there = place < end
        keys = tl.load(k_at + place[None, :] * k_n + at_d[:, None], mask=there[None, :], other=0.0)
        logits = tl.where(there[None, :], tl.dot(q, keys), float("-inf"))
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


@triton.autotune(configs(), key=["D"])
@triton.jit
def region_kernel(
    q, k, v, out, lse, rows, tiles, spans, biases, scale, ln2, heads,
    q_b, q_h, q_n, k_b, k_h, k_n, v_b, v_h, v_n, o_b, o_h, o_n, l_b, l_h,
    D: tl.constexpr, BM: tl.constexpr, BN: tl.constexpr,
):  # fmt: skip
    tile = tiles + tl.program_id(0) * 4
    first, count = tl.load(tile), tl.load(tile + 1)
    from_span, to_span = tl.load(tile + 2), tl.load(tile + 3)
    batch, head = (tl.program_id(1) // heads).to(tl.int64), (tl.program_id(1) % heads).to(tl.int64)
    at_m, at_d = tl.arange(0, BM), tl.arange(0, D)
    in_m = at_m < count
    row = tl.load(rows + first + at_m, mask=in_m, other=0).to(tl.int64)
    queries = tl.load(q + batch * q_b + head * q_h + row[:, None] * q_n + at_d[None, :], mask=in_m[:, None], other=0.0)
    k_at, v_at = k + batch * k_b + head * k_h, v + batch * v_b + head * v_h
    best = tl.full((BM,), float("-inf"), dtype=tl.float32)
    total = tl.zeros((BM,), dtype=tl.float32)
    acc = tl.zeros((BM, D), dtype=tl.float32)
    for span in range(from_span, to_span):
        start, length = tl.load(spans + span * 2), tl.load(spans + span * 2 + 1)
        bias = tl.load(biases + span)
        whole = start + length // BN * BN
        for at in range(start, whole, BN):
            best, total, acc = look(
                queries, k_at, v_at, k_n, v_n, at, whole, bias, scale, best, total, acc, D, BN, True
            )
        if whole < start + length:
            best, total, acc = look(
                queries, k_at, v_at, k_n, v_n, whole, start + length, bias, scale, best, total, acc, D, BN, False
            )
    seen = total > 0
    acc = acc / tl.where(seen, total, 1.0)[:, None]
    norm = tl.where(seen, (best + tl.log2(tl.where(seen, total, 1.0))) * ln2, float("-inf"))
    o_at = out + batch * o_b + head * o_h + row[:, None] * o_n + at_d[None, :]
    tl.store(o_at, acc.to(out.dtype.element_ty), mask=in_m[:, None])
    tl.store(lse + batch * l_b + head * l_h + row, norm, mask=in_m)
