"""Attention with a bias that is constant per (query region, key region), exact and without a dense mask.

Softmax over a union of key sets is the mix of the softmaxes over each set, weighted by exp(log-sum-exp). So each query
region attends to the keys of each bias value apart, the bias is added to that part's log-sum-exp, and the parts are
merged. A bias of -inf leaves the keys out (a hard partition costs less than plain attention); equal rows share a pass.
Soft edges take the other exact way: a bias of low rank R is R more columns of q and k, at the same scale.

B batch, H heads, Nq / Nk query / key tokens, D head size, Rq / Rk regions of each, R label columns, E instances.
Biases are logits: added to scale * q.k before the softmax.
"""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..checkpointed import checkpointed
from ..triton import kernels_for
from .masks import additive, four, mask_part
from .regions import LabelColumns, RegionLayout
from .sdpa_lse import row_lse, sdpa_with_lse

if TYPE_CHECKING:
    from ..triton.region_attention import Plan, Span

__all__ = [
    "RowBias",
    "RowLabels",
    "attend",
    "attend_both",
    "attend_rows",
    "joinable",
    "kernel_plan",
    "labelled",
    "row_labels",
]

# Hosts write "never" as -inf or as the lowest number of some dtype; float16's is the highest of them.
_NEVER = -3e4
_SHORT = 1 << 24  # queries x keys up to which one pass with label columns is faster than one for each part
_SPAN = 1024  # keys that lie together in region order and are read there, without a copy


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    layout: RegionLayout | None = None,
    *,
    columns: LabelColumns | None = None,
    mask: Tensor | None = None,
    budget: int | None = None,
) -> tuple[Tensor, Tensor]:
    """Biased attention: output (B, H, Nq, Dv) and the log-sum-exp of the biased rows (B, H, Nq), float32.

    Args:
        q, k, v: (B, H, Nq, D), (B, H, Nk, D), (B, H, Nk, Dv). One layout for the whole batch.
        mask: the model's own, additive (float) or keep (bool), broadcastable to (B, H, Nq, Nk).
        budget: logits held at a time where gradients are wanted (elements).

    A row that may look at nothing gives zeros and -inf. Gradients flow through q, k and v. Raises ValueError when the
    layout or the columns are for another number of tokens.
    """
    _fits(q, k, layout, columns)
    width = v.shape[-1]
    if layout is None:
        layout = _one_region(q.shape[2], k.shape[2])
    mask = four(mask)
    drop = _dropped(mask)
    if drop is not None:
        layout, mask = layout.without_keys(drop), None
    kernels = None if _recorded(q, k, v) else kernels_for("region_attention", q, v)
    if mask is None and kernels is not None and not layout.zeroed_table.any():
        labels = None if columns is None else columns.on(q.device)
        if labels is None or labels[0].shape[1] <= kernels.MOST_COLUMNS:
            return kernels.attend(q, k, v, scale, kernel_plan(layout, q.device), labels)
    if columns is not None:
        q, k = _with_labels(q, k, *columns.on(q.device), scale)
    if _recorded(q, k, v):
        return _explicit(q, k, v, scale, layout, mask, budget)
    order, blocks = layout.remembered(("blocks", q.device), lambda: _blocks(layout, q.device))
    if mask is None and _better_labelled(q, k, layout, blocks):
        q, k = labelled(q, k, scale, layout)
        order, blocks = None, [_Block(blocks[0].rows, (_Part(None, 0.0, False),))]
    if v.shape[-1] < q.shape[-1]:  # the fused kernels want equal head sizes
        v = torch.nn.functional.pad(v, (0, q.shape[-1] - v.shape[-1]))
    keys = _Keys(k, v, mask, order)
    if len(blocks) == 1:
        out, lse = _attend_block(q, keys, scale, blocks[0])
        return out[..., :width], lse
    b, h, n, _ = q.shape
    out = q.new_empty(b, n, h, width).transpose(1, 2)  # heads inside of tokens: what hosts make of it is a view
    lse = q.new_empty(b, h, n, dtype=torch.float64 if q.dtype == torch.float64 else torch.float32)
    for block in blocks:
        part, norm = _attend_block(q.index_select(2, block.rows), keys, scale, block)
        out.index_copy_(2, block.rows, part[..., :width].to(out.dtype))
        lse.index_copy_(2, block.rows, norm.to(lse.dtype))
    return out, lse


def attend_both(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float,
    layout: RegionLayout | None,
    base: RegionLayout | None,
    *,
    columns: LabelColumns | None = None,
    mask: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """`attend` under `layout` (output and log-sum-exp), and the output under `base` alone.

    Where the layout only forbids, plain attention is what is allowed and then the rest: one pass gives both."""
    kernels = None if _recorded(q, k, v) else kernels_for("region_attention", q, v)
    if kernels is not None and layout is not None and base is columns is mask is None and layout.only_forbids:
        _fits(q, k, layout, None)
        return kernels.attend_both(q, k, v, scale, kernel_plan(layout, q.device, both=True))
    out, lse = attend(q, k, v, scale, layout, columns=columns, mask=mask)
    return out, lse, attend(q, k, v, scale, base, columns=columns, mask=mask)[0]


def labelled(
    q: Tensor, k: Tensor, scale: float, layout: RegionLayout | None, columns: LabelColumns | None = None
) -> tuple[Tensor, Tensor]:
    """q and k with label columns appended, so that scale * q.k is the biased logit: whoever reads columns or rows of a
    plain call reads those of the edited one. -inf becomes a bias that leaves nothing of a probability."""
    query, key = [], []
    for labels in (columns, None if layout is None else layout.labels(q, scale)):
        if labels is not None:
            on_query, on_key = labels.on(q.device)
            query.append(on_query)
            key.append(on_key)
    if not query:
        return q, k
    return _with_labels(q, k, torch.cat(query, 1), torch.cat(key, 1), scale)


# -- one query region after another -----------------------------------------------------------------------------------
@dataclass(frozen=True)
class _Part:
    """Keys of one bias value for a block of queries: all of them (None), some places, or a span of the keys in region
    order, which needs no copy of its own."""

    keys: Tensor | tuple[int, int] | None
    bias: float
    zeroed: bool


@dataclass(frozen=True)
class _Block:
    """Query tokens that share a row of the bias table, and what they attend to."""

    rows: Tensor
    parts: tuple[_Part, ...]


class _Keys:
    """Keys and values of a call, in their own order and in the order of their regions."""

    def __init__(self, k: Tensor, v: Tensor, mask: Tensor | None, order: Tensor | None) -> None:
        self.k, self.v, self.mask = k, v, mask
        if order is not None:
            wide = mask is not None and mask.shape[3] > 1
            self.sorted = (k.index_select(2, order), v.index_select(2, order))
            self.sorted_mask = mask.index_select(3, order) if mask is not None and wide else mask

    def take(self, part: _Part, rows: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
        """k, v and mask of a part, for a block's rows."""
        if isinstance(part.keys, tuple):
            start, length = part.keys
            k, v = (t.narrow(2, start, length) for t in self.sorted)
            mask = mask_part(self.sorted_mask, rows)
            return k, v, mask if mask is None or mask.shape[3] == 1 else mask.narrow(3, start, length)
        mask = mask_part(self.mask, rows)
        if part.keys is None:
            return self.k, self.v, mask
        if mask is not None and mask.shape[3] > 1:
            mask = mask.index_select(3, part.keys)
        return self.k.index_select(2, part.keys), self.v.index_select(2, part.keys), mask


def _better_labelled(q: Tensor, k: Tensor, layout: RegionLayout, blocks: list[_Block]) -> bool:
    """Whether one pass with label columns beats many small ones: for short sequences, where starting a kernel costs
    more than running it. Label columns know no zeroed probabilities, and no rows that look at nothing."""
    width = q.shape[-1] + layout.bias.shape[0] * (1 if q.element_size() > 2 else 2)
    return (
        q.element_size() <= 4
        and q.shape[2] * k.shape[2] <= _SHORT
        and width <= 248
        and sum(len(block.parts) for block in blocks) > 1
        and all(block.parts and not any(part.zeroed for part in block.parts) for block in blocks)
    )


def _blocks(layout: RegionLayout, device: torch.device) -> tuple[Tensor | None, list[_Block]]:
    """The order that brings the keys of each region together (None where nothing needs it), and the blocks."""
    used_keys = torch.bincount(layout.key, minlength=layout.bias.shape[1]) > 0
    table = torch.stack([layout.bias, layout.zeroed_table.float()], -1)[:, used_keys]  # empty key regions bias nothing
    place = used_keys.long().cumsum(0) - 1
    kinds, of_region = torch.unique(table.flatten(1), dim=0, return_inverse=True)
    block_of, key = of_region[layout.query], place[layout.key]
    order = key.argsort(stable=True)
    blocks, sorted_used = [], False
    for kind, row in enumerate(kinds.unflatten(1, table.shape[1:])):
        rows = torch.nonzero(block_of == kind)[:, 0]
        if not len(rows):
            continue
        values, group_of = torch.unique(row, dim=0, return_inverse=True)
        parts: list[_Part] = []
        for at, (bias, zeroed) in enumerate(values.tolist()):
            if bias != float("-inf"):
                for keys in _pieces(group_of[key[order]] == at, order):
                    sorted_used |= isinstance(keys, tuple)
                    parts.append(_Part(keys.to(device) if isinstance(keys, Tensor) else keys, bias, bool(zeroed)))
        blocks.append(_Block(rows.to(device), tuple(parts)))
    return order.to(device) if sorted_used else None, blocks


def kernel_plan(layout: RegionLayout, device: torch.device, both: bool = False) -> Plan:
    """The layout as the Triton kernel reads it (made once): for each kind of query the spans of keys in region order,
    with neighbours of one bias together and regions of -inf left out. both: those come behind the others."""

    def make() -> Plan:
        from ..triton.region_attention import make_plan

        counts = torch.bincount(layout.key, minlength=layout.bias.shape[1]).tolist()
        kinds, of_region = torch.unique(layout.bias[:, torch.tensor(counts) > 0], dim=0, return_inverse=True)
        block_of = of_region[layout.query]
        lengths = [count for count in counts if count]
        blocks = []
        for kind, row in enumerate(kinds.tolist()):
            open_ = [bias if bias != float("-inf") else None for bias in row]
            shut = [0.0 if bias is None else None for bias in open_] if both else []
            blocks.append((torch.nonzero(block_of == kind)[:, 0], _spans(open_, lengths), _spans(shut, lengths)))
        return make_plan(blocks, layout.key.argsort(stable=True), device)

    return layout.remembered(("plan", device, both), make)


def _spans(biases: Sequence[float | None], lengths: Sequence[int]) -> list[Span]:
    """Regions of keys that lie one behind the other; neighbours of one bias are one span, and None is left out."""
    spans: list[Span] = []
    start = 0
    for bias, length in zip(biases, lengths):
        if bias is not None:
            if spans and spans[-1][2] == bias and sum(spans[-1][:2]) == start:
                spans[-1] = (spans[-1][0], spans[-1][1] + length, bias)
            else:
                spans.append((start, length, bias))
        start += length
    return spans


def _pieces(chosen: Tensor, order: Tensor) -> list[Tensor | tuple[int, int] | None]:
    """Chosen keys (a mask over the keys in region order): long spans as they lie, the rest as places."""
    if chosen.all():
        return [None]
    edges = torch.diff(chosen.int(), prepend=torch.zeros(1).int(), append=torch.zeros(1).int()).nonzero()[:, 0]
    spans = [(int(first), int(last - first)) for first, last in edges.view(-1, 2)]
    long = [span for span in spans if span[1] >= _SPAN]
    short = [order[first : first + length] for first, length in spans if length < _SPAN]
    return [*long, *([torch.cat(short).sort().values] if short else [])]


def _attend_block(q: Tensor, keys: _Keys, scale: float, block: _Block) -> tuple[Tensor, Tensor]:
    """Output and log-sum-exp of the queries of one block (already picked out of the call)."""
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    if not block.parts:
        return q.new_zeros(*q.shape[:3], keys.v.shape[-1]), q.new_full(q.shape[:3], float("-inf"), dtype=kind)
    outs, norms = [], []
    for part in block.parts:
        k, v, mask = keys.take(part, block.rows)
        mask = None if mask is None else additive(mask, q)
        with _ready_made(q, k):
            out, lse = sdpa_with_lse(q, k, v, attn_mask=mask, scale=scale)
        if lse is None:
            lse = row_lse(q, k, scale, mask=mask)
        if mask is not None:  # kernels differ in what they report for a row whose keys are all masked
            lse = lse.masked_fill((mask == float("-inf")).all(-1), float("-inf"))
        outs.append(out)
        norms.append(lse.to(kind) + part.bias if part.bias else lse.to(kind))
    if len(outs) == 1 and not block.parts[0].zeroed and keys.mask is None:
        return outs[0], norms[0]
    stacked = torch.stack(norms)
    total = stacked.logsumexp(0)
    shares = (stacked - total.masked_fill(total == float("-inf"), 0.0)).exp().unsqueeze(-1)
    mixed: Tensor | None = None
    for part, out, share in zip(block.parts, outs, shares):
        if part.zeroed:
            continue
        if keys.mask is not None:  # and some give NaN for it
            out = torch.where(share > 0, out, 0)
        mixed = out * share if mixed is None else mixed.add_(out * share)
    return (torch.zeros_like(outs[0]) if mixed is None else mixed.to(q.dtype)), total


def _explicit(
    q: Tensor, k: Tensor, v: Tensor, scale: float, layout: RegionLayout, mask: Tensor | None, budget: int | None
) -> tuple[Tensor, Tensor]:
    """The same in row chunks with the logits at hand: the kernels' log-sum-exp has no gradient."""
    device = q.device
    bias, zeroed, key = layout.bias.to(device), layout.zeroed_table.to(device), layout.key.to(device)
    step = max(1, (budget or 1 << 23) // max(1, q.shape[0] * q.shape[1] * k.shape[2]))
    outs, norms = [], []
    for first in range(0, q.shape[2], step):
        rows = slice(first, min(first + step, q.shape[2]))
        label = layout.query[rows].to(device)
        place = torch.arange(rows.start, rows.stop, device=device)
        here = mask_part(mask, place)

        def run(qc: Tensor, kk: Tensor, vv: Tensor, label: Tensor = label, here: Tensor | None = here):
            kind = torch.float64 if qc.dtype == torch.float64 else torch.float32
            logits = (qc.to(kind) @ kk.to(kind).transpose(-1, -2)) * scale + bias[label][:, key].to(kind)
            if here is not None:
                logits = logits + additive(here, logits)
            lse = logits.logsumexp(-1)
            safe = lse.masked_fill(lse == float("-inf"), 0.0)
            p = (logits - safe.unsqueeze(-1)).exp().masked_fill(zeroed[label][:, key], 0.0)
            return (p @ vv.to(kind)).to(qc.dtype), lse

        out, norm = checkpointed(run, q[:, :, rows], k, v)
        outs.append(out)
        norms.append(norm)
    return torch.cat(outs, 2), torch.cat(norms, 2)


def _ready_made(q: Tensor, k: Tensor) -> contextlib.AbstractContextManager[Any]:
    """Small parts go without cuDNN, which prepares itself for every new shape: on them its speed saves nothing."""
    if q.device.type != "cuda" or min(q.shape[2], k.shape[2]) >= _SPAN:
        return contextlib.nullcontext()
    return sdpa_kernel([SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION, SDPBackend.MATH])


def _with_labels(q: Tensor, k: Tensor, query: Tensor, key: Tensor, scale: float) -> tuple[Tensor, Tensor]:
    """q and k with (N, R) columns behind their own, padded to a multiple of 8 as kernels like it."""
    pad = -(q.shape[-1] + query.shape[1]) % 8

    def extend(tensor: Tensor, label: Tensor) -> Tensor:
        label = torch.nn.functional.pad(label.to(tensor), (0, pad))
        return torch.cat([tensor, label.expand(*tensor.shape[:2], *label.shape)], -1)

    return extend(q, query), extend(k, key.to(k.device) / scale)


@functools.lru_cache(16)
def _one_region(queries: int, keys: int) -> RegionLayout:
    with torch.inference_mode(False):  # a constant that gradients may save
        return RegionLayout(torch.zeros(queries).long(), torch.zeros(keys).long(), torch.zeros(1, 1))


def _recorded(*tensors: Tensor) -> bool:
    return torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors)


def _dropped(mask: Tensor | None) -> Tensor | None:
    """(Nk,) bool of the keys that a key mask leaves out; None where the mask is anything but "all or nothing" for the
    keys of a whole batch, or leaves no key."""
    if mask is None or any(size > 1 for size in mask.shape[:3]):
        return None
    values = mask.reshape(-1).cpu()
    drop = ~values if values.dtype == torch.bool else values < _NEVER
    plain = values.dtype == torch.bool or not values[~drop].any()
    return drop if plain and not drop.all() else None


def _fits(q: Tensor, k: Tensor, layout: RegionLayout | None, columns: LabelColumns | None) -> None:
    size = (q.shape[2], k.shape[2])
    for part in (layout, columns):
        if part is not None and (len(part.query), len(part.key)) != size:
            raise ValueError(
                f"this call has {size[0]} queries and {size[1]} keys, but the regions were made for "
                f"{len(part.query)} and {len(part.key)}"
            )


# -- batches whose rows have regions of their own ----------------------------------------------------------------------
#
# Where rows differ and sequences are short, starting kernels for one row after another costs more than the attention
# itself: there every row brings its own label columns, padded to one width.

RowBias = tuple[RegionLayout | None, LabelColumns | None]
RowLabels = tuple[Tensor, Tensor]
_WIDEST = 248  # head size with its labels, up to which the fused kernels go


def joinable(layout: RegionLayout | None, columns: LabelColumns | None, q: Tensor, k: Tensor) -> bool:
    """Whether one row's bias can be label columns of a short call: they know no zeroed probabilities and no query that
    looks at nothing."""
    if q.shape[2] * k.shape[2] > _SHORT or q.element_size() > 4:
        return False
    if torch.is_grad_enabled() and (q.requires_grad or k.requires_grad):
        return False
    width = q.shape[-1] + (columns.query.shape[1] if columns is not None else 0)
    if layout is not None:
        if layout.zeroed is not None and bool(layout.zeroed.any()):
            return False
        used = torch.bincount(layout.key, minlength=layout.bias.shape[1]) > 0
        blind = (layout.bias[:, used] == float("-inf")).all(1)
        if bool(blind[layout.query].any()):
            return False
        width += layout.bias.shape[0] * (1 if q.element_size() > 2 else 2)
    return width <= _WIDEST


def row_labels(rows: Sequence[RowBias], q: Tensor, scale: float) -> RowLabels:
    """Label columns of every batch row, (B, 1, Nq, R) and (B, 1, Nk, R) in q's dtype, padded with zeros so that
    head size and R together are a multiple of 8, as kernels like it."""
    query, key = [], []
    for layout, columns in rows:
        parts = [part for part in (columns, layout.labels(q, scale) if layout is not None else None) if part]
        query.append(torch.cat([part.query.to(q.device) for part in parts], 1))
        key.append(torch.cat([part.key.to(q.device) for part in parts], 1) / scale)
    widest = max(labels.shape[1] for labels in query)
    widest += -(q.shape[-1] + widest) % 8

    def stack(labels: list[Tensor]) -> Tensor:
        padded = [torch.nn.functional.pad(one, (0, widest - one.shape[1])).to(q.dtype) for one in labels]
        return torch.stack(padded).unsqueeze(1)

    return stack(query), stack(key)


def attend_rows(q: Tensor, k: Tensor, v: Tensor, scale: float, labels: RowLabels) -> tuple[Tensor, Tensor]:
    """Biased attention with the `row_labels` of each batch row: output (B, H, Nq, D) and the log-sum-exp of the biased
    rows (B, H, Nq), float32. Inference only."""
    wide = labels[0].shape[-1]
    q, k = (torch.cat([t, label.expand(-1, t.shape[1], -1, -1)], -1) for t, label in zip((q, k), labels))
    out, lse = sdpa_with_lse(q, k, torch.nn.functional.pad(v, (0, wide)), scale=scale)
    if lse is None:
        lse = row_lse(q, k, scale)
    return out[..., : v.shape[-1]], lse.float()
