"""Attention probabilities without the attention matrix.

A softmax entry is exp(scale * q.k - lse), lse being the row's log-sum-exp. Whoever knows lse can have any column
(video-to-text) or any row (video-to-video) alone; nothing N x N is ever held. lse comes from the kernel that computes
the attention anyway, and where that cannot give it, it is computed again in chunks. With gradients it is no constant
(wrong by tens of percent): it carries its own (`sdpa_lse`), or the maps account for it (`map_autograd`).

B batch, H heads, Nq / Nk query / key tokens, D head size, C columns or R rows that are looked at, E entities.
Probabilities are means over heads, float32, in [0, 1]; `scale` multiplies q.k; masks are additive (float) or keep
(bool), broadcastable to (B, H, Nq, Nk).

Without Triton rows are read by the fused kernels of PyTorch, of which the log-sum-exp is wanted and not the output:
where keys look at an entity's queries, each less its own log-sum-exp, theirs is the logarithm of the entity's map.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from ..triton import kernels_for
from .map_autograd import softmax_columns, softmax_rows
from .masks import mask_part
from .regions import Labels, beside
from .sdpa_lse import attend, has_lse, masked, row_chunks, row_lse

__all__ = [
    "HEAD_ROWS_BY",
    "ROWS_BY",
    "ROW_KERNELS",
    "Pool",
    "PoolRows",
    "RowsBy",
    "columns_of_rows",
    "pooled_columns",
    "pooled_rows",
]

RowsBy = Literal["triton", "kernel", "products"]
ROWS_BY: tuple[RowsBy, ...] = ("triton", "kernel", "products")
"""How rows are read: the first that can do it. "triton": where that is. "kernel": by a fused kernel's log-sum-exp, on a
GPU in half precision, without a mask, for entities of many rows. "products": by logits in memory; always. What is
fastest tells `MATRIX_CAPTURE=ways python -m benchmarks capture`: in this order on an H200."""
HEAD_ROWS_BY: tuple[RowsBy, ...] = ROWS_BY
"""The same where heads are apart."""
ROW_KERNELS = [SDPBackend.FLASH_ATTENTION, SDPBackend.EFFICIENT_ATTENTION]
"""What "kernel" takes, the first that can do it. cuDNN prepares itself for every new shape."""

_MANY = 24  # rows an entity, above which a kernel's pass over all keys for each takes less than logits in memory
_NOTHING = -1e4  # logits that leave nothing of a probability
_COLUMNS = 3  # in which half precision holds what a number of float32 does


@dataclass(frozen=True)
class Pool:
    """Which tokens are looked at and how they mix into entities.

    indices: (R,) int64, distinct. weights: (R, E) float32; an entity's map is the weighted sum over its tokens, so
    columns that sum to 1 make it a mean.
    """

    indices: Tensor
    weights: Tensor
    names: tuple[str, ...]
    members: Tensor  # (E, M) int32: each entity's places in `indices`, -1 behind the last one
    span: tuple[int, int]  # smallest and largest index, (0, -1) when there is none

    @classmethod
    def mean_of(cls, tokens: Mapping[str, Sequence[int] | Tensor]) -> Pool:
        """One entity per name, the mean over its tokens. Tokens may be shared. Raises ValueError on an empty set."""
        sets = {name: torch.as_tensor(rows, dtype=torch.int64).flatten().cpu() for name, rows in tokens.items()}
        if empty := [name for name, rows in sets.items() if rows.numel() == 0]:
            raise ValueError(f"no tokens for {', '.join(map(repr, empty))}: each entity needs at least one")
        if not sets:
            nothing = torch.zeros(0, 0)
            return cls(torch.zeros(0, dtype=torch.int64), nothing, (), nothing.int(), (0, -1))
        indices = torch.unique(torch.cat(list(sets.values())))
        weights = torch.zeros(len(indices), len(sets))
        members = torch.full((len(sets), max(len(torch.unique(rows)) for rows in sets.values())), -1, dtype=torch.int32)
        for column, rows in enumerate(sets.values()):
            places = torch.searchsorted(indices, torch.unique(rows))
            weights[places, column] = 1.0 / len(places)
            members[column, : len(places)] = places.int()
        return cls(indices, weights, tuple(sets), members, (int(indices[0]), int(indices[-1])))

    def to(self, device: torch.device) -> Pool:
        if self.indices.device == device:
            return self
        return Pool(self.indices.to(device), self.weights.to(device), self.names, self.members.to(device), self.span)

    def __len__(self) -> int:
        return len(self.names)


@dataclass(frozen=True)
class PoolRows:
    """A pool for every row of a batch, padded to one size: tokens and entities that a row does not have weigh nothing.

    indices: (B, R) int64. weights: (B, R, E) float32.
    """

    pools: tuple[Pool, ...]
    indices: Tensor
    weights: Tensor

    @classmethod
    def of(cls, pools: Sequence[Pool], device: torch.device) -> PoolRows:
        most, entities = max(len(pool.indices) for pool in pools), max(map(len, pools))
        indices = torch.zeros(len(pools), most, dtype=torch.int64)
        weights = torch.zeros(len(pools), most, entities)
        for row, pool in enumerate(pools):
            indices[row, : len(pool.indices)] = pool.indices.cpu()
            weights[row, : len(pool.indices), : len(pool)] = pool.weights.cpu()
        return cls(tuple(pools), indices.to(device), weights.to(device))

    def fits(self, q: Tensor) -> bool:
        """Whether all logits of q (B, H, Nq, D) against these tokens are held at once; its shape and device count."""
        return len(row_chunks(q, self.indices.shape[1], None)) <= 1


def columns_of_rows(
    q: Tensor,
    k: Tensor,
    columns: PoolRows,
    scale: float,
    *,
    lse: Tensor | None = None,
    per_head: bool = False,
) -> Tensor | None:
    """`pooled_columns` of a batch whose rows look at entities of their own: (B, E, Nq), or (B, H, E, Nq) with
    `per_head`; 0 for entities that a row does not have.

    None where gradients are recorded, or where the batch is too large to be held at once: then many rows gain nothing
    by running together. Raises ValueError for a column outside 0..Nk-1.
    """
    for pool in columns.pools:
        _check(pool, k.shape[2], "key")
    if _wants_grad(q, k) or not columns.fits(q):
        return None
    if lse is None:
        lse = row_lse(q, k, scale)
    near = k.gather(2, columns.indices[:, None, :, None].expand(-1, k.shape[1], -1, k.shape[3]))
    probabilities = _probabilities(_factor(near), q, scale, _less(lse).unsqueeze(-2), None)
    return _pooled(probabilities, columns.weights, per_head)


def pooled_columns(
    q: Tensor,
    k: Tensor,
    columns: Pool,
    scale: float,
    *,
    lse: Tensor | None = None,
    mask: Tensor | None = None,
    labels: Labels | None = None,
    per_head: bool = False,
    budget: int | None = None,
) -> Tensor:
    """How much each query looks at each entity's key tokens: (B, E, Nq), or (B, H, E, Nq) with `per_head`.

    Args:
        q, k: (B, H, Nq, D), (B, H, Nk, D); pass only the queries that are wanted (video rows), but every key.
        columns: key tokens of the entities (indices into Nk).
        lse: (B, H, Nq) natural log-sum-exp of the scaled, masked logits; None computes it. Where gradients are
            recorded, one that carries none itself is ignored.
        labels: (Nq, R), (Nk, R), columns that q and k have besides (`AttentionCall.labels`); of the same queries as q.
        budget: logits held at a time (elements); None picks one for the device.
    Raises:
        ValueError: a column outside 0..Nk-1.
    """
    _check(columns, k.shape[2], "key")
    columns = columns.to(q.device)
    if _wants_grad(q, k):
        q, k = beside(q, k, labels)
        if lse is None or not lse.requires_grad:
            lse = _constant_lse(q, k, scale, mask, budget)
        indices, weights = _each_row(columns, q)
        span = (0, q.shape[2])
        return softmax_columns(q, k, lse, mask, indices, weights, scale, span, per_head, budget)
    if lse is None:
        lse = row_lse(*beside(q, k, labels), scale, mask=mask, budget=budget)
    picked = k[:, :, columns.indices]
    near = None if labels is None else (labels[0], labels[1][columns.indices])
    kernels = _kernels(q, mask, labels)
    if kernels is not None:
        found: Tensor = kernels.columns(q, picked, lse, columns.weights, scale, per_head, near)
        return found
    q, picked = beside(q, picked, near)
    picked, less, out = _factor(picked), _less(lse).unsqueeze(-2), []
    for rows in row_chunks(q, len(columns.indices), budget):
        block = mask_part(mask, rows, columns.indices)
        block = None if block is None else block.mT
        probabilities = _probabilities(picked, q[:, :, rows], scale, less[..., rows], block)
        out.append(_pooled(probabilities, columns.weights, per_head))
    return torch.cat(out, dim=-1)


def pooled_rows(
    q: Tensor,
    k: Tensor,
    rows: Pool,
    scale: float,
    *,
    lse: Tensor | None = None,
    mask: Tensor | None = None,
    keys: tuple[int, int] | None = None,
    labels: Labels | None = None,
    per_head: bool = False,
    budget: int | None = None,
) -> Tensor:
    """Where each entity's query tokens look: (B, E, S), or (B, H, E, S) with `per_head`.

    Args:
        q, k: (B, H, Nq, D), (B, H, Nk, D): every query and every key.
        rows: query tokens of the entities (indices into Nq).
        keys: (start, length) of the keys that are reported (video keys), S of them; None reports all Nk. The softmax
            always runs over all keys.
        lse: (B, H, Nq), and labels, as in `pooled_columns`.
    Raises:
        ValueError: a row outside 0..Nq-1.
    """
    _check(rows, q.shape[2], "query")
    rows = rows.to(q.device)
    start, length = keys if keys is not None else (0, k.shape[2])
    if _wants_grad(q, k) and len(rows.indices):
        q, k = beside(q, k, labels)
        picked = q[:, :, rows.indices]
        norm = _constant_lse(picked, k, scale, mask_part(mask, rows.indices, None), budget)
        indices, weights = _each_row(rows, q)
        return softmax_rows(q, k, norm, mask, indices, weights, scale, (start, length), per_head, budget)
    picked = q[:, :, rows.indices]
    span = slice(start, start + length)
    if lse is not None:
        lse = lse[:, :, rows.indices]
    else:
        whole = None if labels is None else (labels[0][rows.indices], labels[1])
        lse = row_lse(*beside(picked, k, whole), scale, mask=mask_part(mask, rows.indices, None), budget=budget)
    near = None if labels is None else (labels[0][rows.indices], labels[1][span])
    kernels = _kernels(q, mask, labels)
    for way in HEAD_ROWS_BY if per_head else ROWS_BY:
        if way == "triton" and kernels is not None:
            found: Tensor = kernels.rows(picked, k[:, :, span], lse, rows.weights, rows.members, scale, per_head, near)
            return found
        many = len(rows.indices) >= max(1, _MANY * len(rows))
        if way == "kernel" and mask is None and many and has_lse(q):
            by_kernel = _rows_by_kernel(*beside(picked, k[:, :, span], near), lse, rows, scale, per_head, budget)
            if by_kernel is not None:
                return by_kernel
        if way == "products":
            break
    picked, k = beside(picked, k[:, :, span], near)
    heads = (q.shape[1],) if per_head else ()
    total = q.new_zeros(q.shape[0], *heads, len(rows), length, dtype=torch.float32)
    less = _less(lse).unsqueeze(-1)
    for some, chunk in _blocks(picked, length, budget):
        block = mask_part(mask, rows.indices[chunk], span)
        block = block if block is None or block.shape[1] == 1 else block[:, some]
        probabilities = _probabilities(picked[:, some, chunk], _factor(k[:, some]), scale, less[:, some, chunk], block)
        pooled = _pooled(probabilities, rows.weights[chunk], per_head)
        if per_head:
            total[:, some] += pooled
        else:
            total += pooled * (probabilities.shape[1] / q.shape[1])
    return total


def _rows_by_kernel(
    q: Tensor, k: Tensor, lse: Tensor, rows: Pool, scale: float, per_head: bool, budget: int | None
) -> Tensor | None:
    """`pooled_rows` of queries (B, H, R, D) and keys (B, H, S, D) that were picked; None where no kernel takes them.

    Keys look at the queries of an entity. What is added to a query's logits, the logarithm of its weight less its
    log-sum-exp, is columns of its own; then the log-sum-exp of a key is the logarithm of the entity's map. No logits
    reach memory, and sums are the kernel's own, in float32.
    """
    b, h, s, d = k.shape
    at = rows.members.clamp_min(0).long()  # (E, M); what is not there weighs nothing
    weights = rows.weights.T.gather(1, at).masked_fill(rows.members < 0, 0.0).log().clamp_min(_NOTHING)
    added = (-lse).nan_to_num_(*[_NOTHING] * 3)[:, :, at] + weights
    queries = _with_columns(q[:, :, at], _split(added / scale, q.dtype))  # (B, H, E, M, ...)
    found = q.new_empty(b, h, len(rows), s, dtype=torch.float32)
    step = max(1, (budget or 1 << 25) // (b * s * (d + 8)))
    for some in (slice(first, first + step) for first in range(0, h, step)):
        keys = _with_columns(k[:, some], [k.new_ones(1)] * _COLUMNS)
        kernel = _row_kernel(keys, queries[:, some, 0], scale)
        for entity in range(len(rows)):
            own = queries[:, some, entity]
            told = None if kernel is None else attend(keys, own, own[..., : kernel[1]], None, scale, kernel[0])
            if told is None:
                return None
            found[:, some, entity] = told[1]
    found.masked_fill_(found == float("inf"), float("nan")).exp_()  # kernels say inf of what is not a number
    return found if per_head else found.mean(1)


def _row_kernel(q: Tensor, k: Tensor, scale: float) -> tuple[int, int] | None:
    """Which kernel can do it, and how wide the values are whose output nobody reads: flash attention wants them as wide
    as its keys."""
    for kernel in ROW_KERNELS:
        width = k.shape[-1] if kernel == SDPBackend.FLASH_ATTENTION or torch.version.hip else 8
        with sdpa_kernel(kernel):
            if torch._fused_sdp_choice(q, k, k[..., :width], scale=scale) == kernel.value:
                return kernel.value, width
    return None


def _split(values: Tensor, dtype: torch.dtype) -> list[Tensor]:
    """Numbers of a half precision that add up to `values`: each is what rounding took off those before it."""
    most, parts = torch.finfo(dtype).max / 2, []
    for _ in range(_COLUMNS):
        parts.append(values.clamp(-most, most).to(dtype))
        values = values - parts[-1]
    return parts


def _with_columns(tensor: Tensor, columns: list[Tensor]) -> Tensor:
    """(..., N, D) with columns (..., N), or one number, behind its own, padded to a multiple of 8."""
    rows = tensor.shape[:-1]
    pad = tensor.new_zeros(1).expand(*rows, -(tensor.shape[-1] + len(columns)) % 8)
    return torch.cat([tensor, *(column.expand(rows).unsqueeze(-1) for column in columns), pad], -1)


def _blocks(q: Tensor, width: int, budget: int | None) -> list[tuple[slice, slice]]:
    """Heads and rows of q whose logits against `width` keys stay within `budget`: all rows of some heads where these
    fit, since products of many rows are faster, and keys are read once."""
    heads, rows = row_chunks(q.transpose(1, 2), width, budget), row_chunks(q[:, :1], width, budget)
    return [(some, chunk) for some in heads for chunk in rows]


def _probabilities(left: Tensor, right: Tensor, scale: float, less: Tensor, mask: Tensor | None) -> Tensor:
    """exp(scale * left right^T + mask + less), (B, H, rows, columns), of queries and keys, or keys and queries, that
    were picked; one of them as `_factor` gives it."""
    if left.dtype == right.dtype and left.element_size() == 2:
        logits = torch.bmm(left.flatten(0, 1), right.flatten(0, 1).mT, out_dtype=torch.float32)  # type: ignore[call-overload]
        logits = logits.unflatten(0, left.shape[:2])
    else:
        wide = torch.promote_types(left.dtype, right.dtype)
        logits = left.to(wide) @ right.to(wide).mT
    less = less.to(logits)
    if mask is not None:
        return masked(logits.mul_(scale), mask).add_(less).exp_()
    return torch.add(less, logits, alpha=scale, out=logits).exp_()


def _less(lse: Tensor) -> Tensor:
    """What is added to a row's logits. A row whose keys are all masked has no finite log-sum-exp; it looks at nothing,
    which is 0 and not NaN."""
    return (-lse).nan_to_num_(*[float("-inf")] * 3)


def _pooled(probabilities: Tensor, weights: Tensor, per_head: bool) -> Tensor:
    """(B, H, R, S) and weights (R, E), or (B, R, E) -> (B, E, S), mean over heads, or (B, H, E, S) with `per_head`: one
    product, which reads the probabilities once."""
    heads = probabilities.shape[1]
    weights = weights.to(probabilities).expand(len(probabilities), -1, -1).mT
    if per_head:
        return weights[:, None] @ probabilities
    return (weights / heads).repeat(1, 1, heads) @ probabilities.flatten(1, 2)


def _factor(k: Tensor) -> Tensor:
    """Keys as products take them: in half precision where the device adds up products in float32 and hands them out so,
    else in float32 or wider, brought there once."""
    if k.element_size() == 2 and _sums_wide(k.device, k.dtype):
        return k
    return k.to(torch.float64 if k.dtype == torch.float64 else torch.float32)


@functools.cache
def _sums_wide(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether products of half precision matrices can be had in float32 here."""
    try:
        one = torch.ones(1, 8, 8, device=device, dtype=dtype)
        return torch.bmm(one, one, out_dtype=torch.float32).dtype == torch.float32  # type: ignore[call-overload]
    except (TypeError, RuntimeError):  # NotImplementedError is one
        return False


def _kernels(q: Tensor, mask: Tensor | None, labels: Labels | None) -> Any | None:
    """The Triton kernels, where they know all of it."""
    kernels = None if mask is not None else kernels_for("pooled_maps", q)
    return kernels if kernels is None or labels is None or labels[0].shape[1] <= kernels.MOST_LABELS else None


def _constant_lse(q: Tensor, k: Tensor, scale: float, mask: Tensor | None, budget: int | None) -> Tensor:
    """For maps whose backward pass knows what the log-sum-exp depends on."""
    with torch.no_grad():
        return row_lse(q, k, scale, mask=mask, budget=budget)


def _each_row(pool: Pool, like: Tensor) -> tuple[Tensor, Tensor]:
    """The pool's indices (B, R) and weights (B, R, E) for every row of a batch."""
    b = like.shape[0]
    return pool.indices.expand(b, -1), pool.weights.expand(b, -1, -1)


def _wants_grad(q: Tensor, k: Tensor) -> bool:
    return torch.is_grad_enabled() and (q.requires_grad or k.requires_grad)


def _check(pool: Pool, size: int, what: str) -> None:
    low, high = pool.span
    if low < 0 or high >= size:
        raise ValueError(f"{what} tokens {low}..{high} were asked for, but this call has {what} tokens 0..{size - 1}")
