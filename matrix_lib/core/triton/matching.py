"""Exact matching of half precision channels by counting: no value is ever sorted.

16 bits have few values, so the rank of a value is how many smaller ones its channel holds, and how many equal ones
stand before it. Both are counters, one for each value between the extremes of a channel. A program walks through the
tokens of 32 channels, a lane each: what its atomic addition finds in the counter is the number of equal values that it
has met, in the order of the tokens. One walks from the first token to the middle, another from the last one, where what
is met is counted from the end of the equal ones; each has 16 bits of the counter to itself. The reference only has to
be counted; its sorted values follow from the counts.

H heads, N tokens, D head size; a channel is one (head, place in the head).
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from ..no_compile import uncompiled

__all__ = ["match", "takes"]

_LANES = 32  # channels of one program
_AHEAD = 32  # tokens that a walk asks memory for at a time
_TILE = 512  # tokens of the reference that one program counts
_COUNTERS = 1 << 25  # held at a time, 4 bytes each
_SORTED = 1 << 25  # values of the sorted reference held at a time, 2 bytes each
_MOST = 2 * 0xFFFF  # tokens: each walk counts in 16 bits


def takes(features: Tensor, reference: Tensor) -> bool:
    """Whether the kernels know this dtype, head size and number of tokens."""
    half = features.dtype in (torch.float16, torch.bfloat16) and reference.dtype == features.dtype
    return half and features.shape[-1] % _LANES == 0 and 0 < features.shape[2] <= _MOST


@uncompiled
def match(features: Tensor, reference: Tensor, out: Tensor) -> None:
    """Writes `features` with the order statistics of `reference`, channel by channel, to `out`; all (B, H, N, D), and
    `out` shares no memory with them. Equal values keep their order; every zero comes out as +0 and every NaN as one.
    """
    bits = [(t if t.stride(-1) == 1 else t.contiguous()).view(torch.int16) for t in (features, reference)]
    to = out if out.stride(-1) == 1 else torch.empty_like(out, memory_format=torch.contiguous_format)
    infinity = 0x7F80 if features.dtype == torch.bfloat16 else 0x7C00
    for some, other, made in zip(*bits, to.view(torch.int16)):
        _match_row(some, other, made, infinity)
    if to is not out:
        out.copy_(to)


def _match_row(features: Tensor, reference: Tensor, out: Tensor, infinity: int) -> None:
    """One batch row, (H, N, D) int16 bits each."""
    h, n, d = features.shape
    found = torch.full((2, h * d, 4), 1 << 20, device=out.device, dtype=torch.int32)
    for which, bits in enumerate((features, reference)):
        loops = min(16, triton.cdiv(n, 64))
        bounds_kernel[(triton.cdiv(n, 64 * loops), h * d // _LANES)](
            bits, found[which], n, bits.stride(0), bits.stride(1),
            INFINITY=infinity, D=d, LANES=_LANES, BLOCK=64, LOOPS=loops, num_warps=4,
        )  # fmt: skip
    spans = _spans(found)
    for heads in _groups(spans[..., 3].sum(0).view(h, d).sum(1).tolist()):
        channels = slice(heads.start * d, heads.stop * d)
        _match_heads(features[heads], reference[heads], out[heads], spans[:, channels], infinity)


def _spans(found: Tensor) -> Tensor:
    """(2, H*D, 4): where the counters of a channel lie. From the least and the negated largest key below zero and above
    zero to: the least key below zero, how many keys there are below, what turns a key above zero into the place of its
    counter, and the number of counters (zero has one, and one behind the last holds the number of tokens)."""
    low, high, least, most = found.unbind(-1)
    below, above = (1 - high - low).clamp_min(0), (1 - most - least).clamp_min(0)
    return torch.stack([low, below, below + 1 - least, below + above + 2], -1)


def _groups(counters: list[int]) -> list[slice]:
    """Heads side by side whose counters are held at the same time."""
    groups, first, held = [], 0, 0
    for head, count in enumerate(counters):
        if head > first and held + count > _COUNTERS:
            groups.append(slice(first, head))
            first, held = head, 0
        held += count
    return [*groups, slice(first, len(counters))]


def _match_heads(features: Tensor, reference: Tensor, out: Tensor, spans: Tensor, infinity: int) -> None:
    """Heads whose counters fit into memory together."""
    h, n, d = features.shape
    starts = spans[..., 3].flatten().cumsum(0).view(2, h * d) - spans[..., 3]
    total = int(spans[..., 3].sum())
    counters = torch.zeros(total, device=out.device, dtype=torch.int32)
    spans, starts = spans.contiguous(), starts.int().contiguous()
    groups = h * d // _LANES
    count_kernel[(groups * (2 + triton.cdiv(n, _TILE)),)](
        features, reference, out, counters, spans, starts, n, groups,
        *features.stride()[:2], *reference.stride()[:2], *out.stride()[:2],
        INFINITY=infinity, D=d, LANES=_LANES, AHEAD=_AHEAD, TILE=_TILE, num_warps=1,
    )  # fmt: skip
    scan_kernel[(h * d,)](counters, spans, starts, BLOCK=1024, num_warps=4)
    step = max(1, _SORTED // (n * d))
    for first in range(0, h, step):
        heads, channels = slice(first, min(first + step, h)), slice(first * d, min(first + step, h) * d)
        ordered = torch.zeros((heads.stop - first) * d, n, device=out.device, dtype=torch.int16)
        of, at = spans[1, channels], starts[1, channels]
        mark_kernel[(len(of),)](counters, of, at, ordered, n, BLOCK=1024, num_warps=4)
        fill_kernel[(len(of),)](ordered, n, BLOCK=min(2048, triton.next_power_of_2(n)), num_warps=4)
        some, made = features[heads], out[heads]
        finish_kernel[(triton.cdiv(n, 64), len(of) // _LANES)](
            some, made, counters, spans[0, channels], starts[0, channels], ordered, n,
            *some.stride()[:2], *made.stride()[:2],
            INFINITY=infinity, D=d, LANES=_LANES, BLOCK=64, num_warps=4,
        )  # fmt: skip


@triton.jit
def key_of(bits, INFINITY: tl.constexpr):
    """16 bits of a number as 0..65535 in the order of the numbers: zero is 32768, NaN is the largest."""
    bits = bits.to(tl.int32) & 0xFFFF
    key = tl.where(bits > 0x8000, 0xFFFF - bits, (bits & 0x7FFF) + 0x8000)
    return tl.where((bits & 0x7FFF) > INFINITY, 0xFFFF, key)


@triton.jit
def bits_of(key):
    """The way back."""
    return tl.where(key >= 0x8000, key - 0x8000, 0xFFFF - key).to(tl.int16)


@triton.jit
def place_of(key, low, below, shift):
    """Where the counter of a key lies among those of its channel."""
    return tl.where(key < 0x8000, key - low, tl.where(key == 0x8000, below, key + shift))


@triton.jit
def bounds_kernel(
    x, found, n, x_h, x_n,
    INFINITY: tl.constexpr, D: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr, LOOPS: tl.constexpr,
):  # fmt: skip
    channel = tl.program_id(1) * LANES
    lane = tl.arange(0, LANES)
    x += (channel // D).to(tl.int64) * x_h + tl.multiple_of(channel % D, LANES)
    low = tl.full((BLOCK, LANES), 1 << 20, dtype=tl.int32)
    high, least, most = low, low, low
    for loop in range(LOOPS):
        token = (tl.program_id(0) * LOOPS + loop) * BLOCK + tl.arange(0, BLOCK)
        at = token[:, None].to(tl.int64) * x_n + lane[None, :]
        key = key_of(tl.load(x + at, mask=token[:, None] < n, other=0), INFINITY)
        under, over = key < 0x8000, key > 0x8000
        low = tl.minimum(low, tl.where(under, key, 1 << 20))
        high = tl.minimum(high, tl.where(under, -key, 1 << 20))
        least = tl.minimum(least, tl.where(over, key, 1 << 20))
        most = tl.minimum(most, tl.where(over, -key, 1 << 20))
    to = found + (channel + lane) * 4
    tl.atomic_min(to, tl.min(low, 0), sem="relaxed")
    tl.atomic_min(to + 1, tl.min(high, 0), sem="relaxed")
    tl.atomic_min(to + 2, tl.min(least, 0), sem="relaxed")
    tl.atomic_min(to + 3, tl.min(most, 0), sem="relaxed")


@triton.jit
def walk(
    x, to, mine, count, x_n, o_n, low, below, shift, by,
    INFINITY: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """From token to token; to `to` goes how many equal values were met before each. by: 0 or 16, this walk's bits."""
    one = tl.full(low.shape, 1, dtype=tl.int32) << by
    for _ in range(count // AHEAD):
        # All loads, then all additions, then all stores: each waits for memory, but they wait together. Additions of
        # one lane reach a counter in the order in which they stand here.
        bits = ()
        for i in tl.static_range(AHEAD):
            bits = bits + (tl.load(x + i * x_n),)  # type: ignore[assignment]
        before = ()
        for i in tl.static_range(AHEAD):
            place = place_of(key_of(bits[i], INFINITY), low, below, shift)
            before = before + (tl.atomic_add(mine + place, one, sem="relaxed"),)  # type: ignore[assignment]
        for i in tl.static_range(AHEAD):
            tl.store(to + i * o_n, (before[i] >> by).to(tl.int16))
        x += AHEAD * x_n
        to += AHEAD * o_n
    for _ in range(count % AHEAD):
        found = tl.atomic_add(mine + place_of(key_of(tl.load(x), INFINITY), low, below, shift), one, sem="relaxed")
        tl.store(to, (found >> by).to(tl.int16))
        x += x_n
        to += o_n


@triton.jit
def tally(
    x, mine, count, x_n, low, below, shift,
    INFINITY: tl.constexpr, AHEAD: tl.constexpr,
):  # fmt: skip
    """Counts the values of some tokens, in whatever order."""
    one = tl.full(low.shape, 1, dtype=tl.int32)
    for _ in range(count // AHEAD):
        bits = ()
        for i in tl.static_range(AHEAD):
            bits = bits + (tl.load(x + i * x_n),)  # type: ignore[assignment]
        for i in tl.static_range(AHEAD):
            tl.atomic_add(mine + place_of(key_of(bits[i], INFINITY), low, below, shift), one, sem="relaxed")
        x += AHEAD * x_n
    for _ in range(count % AHEAD):
        tl.atomic_add(mine + place_of(key_of(tl.load(x), INFINITY), low, below, shift), one, sem="relaxed")
        x += x_n


@triton.jit
def count_kernel(
    features, reference, order, counters, spans, starts, n, groups,
    f_h, f_n, r_h, r_n, o_h, o_n,
    INFINITY: tl.constexpr, D: tl.constexpr, LANES: tl.constexpr, AHEAD: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """The first programs walk through the features of some channels, the others count tiles of the reference."""
    program = tl.program_id(0)
    group, turn = program % groups, program // groups
    lane = tl.arange(0, LANES)
    row = group * LANES + lane + tl.where(turn < 2, 0, groups * LANES)
    low, below = tl.load(spans + row * 4), tl.load(spans + row * 4 + 1)
    shift = tl.load(spans + row * 4 + 2)
    mine = counters + tl.load(starts + row)
    head, channel = (group * LANES // D).to(tl.int64), group * LANES % D + lane
    first, ahead = tl.where(turn == 1, n - 1, 0).to(tl.int64), tl.where(turn == 1, -1, 1).to(tl.int64)
    if turn < 2:
        x, to = features + head * f_h + channel + first * f_n, order + head * o_h + channel + first * o_n
        count = (n + 1 - turn) // 2
        walk(x, to, mine, count, ahead * f_n, ahead * o_n, low, below, shift, turn * 16, INFINITY, AHEAD)
    else:
        at = (turn - 2) * TILE
        other = reference + head * r_h + channel + at.to(tl.int64) * r_n
        step = ahead * r_n
        tally(other, mine, tl.minimum(TILE, n - at), step, low, below, shift, INFINITY, AHEAD // 2)


@triton.jit
def scan_kernel(counters, spans, starts, BLOCK: tl.constexpr):
    """Counts of both walks through a channel to the rank of the first of each value."""
    row = tl.program_id(0)
    size = tl.load(spans + row * 4 + 3)
    mine = counters + tl.load(starts + row)
    held = 0
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK)
        count = tl.load(mine + at, mask=at < size, other=0)
        count = (count & 0xFFFF) + ((count >> 16) & 0xFFFF)
        tl.store(mine + at, held + tl.cumsum(count, 0) - count, mask=at < size)
        held += tl.sum(count, 0)


@triton.jit
def mark_kernel(counters, spans, starts, ordered, n, BLOCK: tl.constexpr):
    """The key of each value that occurs, where the sorted values of its channel begin to be it."""
    row = tl.program_id(0)
    low, below, size = tl.load(spans + row * 4), tl.load(spans + row * 4 + 1), tl.load(spans + row * 4 + 3)
    shift = tl.load(spans + row * 4 + 2)
    mine = counters + tl.load(starts + row)
    held = 0
    for first in range(0, size, BLOCK):
        at = first + tl.arange(0, BLOCK)
        count = tl.load(mine + at, mask=at < size, other=0)
        key = tl.where(at < below, at + low, tl.where(at == below, 0x8000, at - shift))
        rank = held + tl.cumsum(count, 0) - count
        tl.store(ordered + row.to(tl.int64) * n + rank, key.to(tl.int16), mask=count > 0)
        held += tl.sum(count, 0)


@triton.jit
def larger(a, b):
    return tl.maximum(a, b)


@triton.jit
def fill_kernel(ordered, n, BLOCK: tl.constexpr):
    """Marks of a channel to its sorted values, as bits."""
    ordered += tl.program_id(0).to(tl.int64) * n
    held = 0
    for first in range(0, n, BLOCK):
        at = first + tl.arange(0, BLOCK)
        key = tl.load(ordered + at, mask=at < n, other=0).to(tl.int32) & 0xFFFF
        key = tl.maximum(tl.associative_scan(key, 0, larger), held)
        tl.store(ordered + at, bits_of(key), mask=at < n)
        held = tl.max(key, 0)


@triton.jit
def finish_kernel(
    features, out, counters, spans, starts, ordered, n, f_h, f_n, o_h, o_n,
    INFINITY: tl.constexpr, D: tl.constexpr, LANES: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """What was met before each token, in `out`, becomes the value of the reference that has the token's rank."""
    first = tl.program_id(1) * LANES
    head, channel = (first // D).to(tl.int64), tl.multiple_of(first % D, LANES)
    lane = tl.arange(0, LANES)
    row = first + lane
    low, below = tl.load(spans + row * 4)[None, :], tl.load(spans + row * 4 + 1)[None, :]
    shift, start = tl.load(spans + row * 4 + 2)[None, :], tl.load(starts + row)[None, :]
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)[:, None]
    here = token < n
    x = features + head * f_h + channel
    to = out + head * o_h + channel + (token.to(tl.int64) * o_n + lane[None, :])
    key = key_of(tl.load(x + (token.to(tl.int64) * f_n + lane[None, :]), mask=here, other=0), INFINITY)
    met = tl.load(to, mask=here, other=0).to(tl.int32) & 0xFFFF
    back = token >= (n + 1) // 2  # met from the end of the equal ones, which is where the next value begins
    edge = tl.load(counters + start + place_of(key, low, below, shift) + back.to(tl.int32), mask=here, other=0)
    rank = tl.where(back, edge - 1 - met, edge + met)
    tl.store(to, tl.load(ordered + row.to(tl.int64)[None, :] * n + rank, mask=here, other=0), mask=here)
