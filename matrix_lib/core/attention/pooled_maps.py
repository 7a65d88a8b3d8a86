"""Attention probabilities without the attention matrix.

A softmax entry is exp(scale * q.k - lse), lse being the row's log-sum-exp. Whoever knows lse can have any column
(video-to-text) or any row (video-to-video) alone; nothing N x N is ever held. lse comes from the kernel that computes
the attention anyway, and where that cannot give it, it is computed again in chunks. With gradients it is no constant
(wrong by tens of percent): it carries its own (`sdpa_lse`), or the maps account for it (`map_autograd`).

B batch, H heads, Nq / Nk query / key tokens, D head size, C columns or R rows that are looked at, E entities.
Probabilities are means over heads, float32, in [0, 1]; `scale` multiplies q.k; masks are additive (float) or keep
(bool), broadcastable to (B, H, Nq, Nk).
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..triton import kernels_for
from .map_autograd import softmax_columns, softmax_rows
from .masks import mask_part
from .regions import Labels, beside
from .sdpa_lse import masked, row_chunks, row_lse

__all__ = ["Pool", "PoolRows", "columns_of_rows", "pooled_columns", "pooled_rows"]


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
    probabilities = _probabilities(q, _factor(near), scale, lse, None)
    weights = columns.weights.to(probabilities)
    if per_head:
        return (probabilities @ weights[:, None]).mT
    return (probabilities.mean(1) @ weights).mT


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
    picked, out = _factor(picked), []
    for rows in row_chunks(q, len(columns.indices), budget):
        block = mask_part(mask, rows, columns.indices)
        probabilities = _probabilities(q[:, :, rows], picked, scale, lse[:, :, rows], block)
        pooled = probabilities if per_head else probabilities.mean(1)
        out.append((pooled @ columns.weights.to(pooled)).mT)
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
    if kernels is not None:
        found: Tensor = kernels.rows(picked, k[:, :, span], lse, rows.weights, rows.members, scale, per_head, near)
        return found
    picked, k = beside(picked, k[:, :, span], near)
    heads = (q.shape[1],) if per_head else ()
    total = q.new_zeros(q.shape[0], *heads, len(rows), length, dtype=torch.float32)
    k = _factor(k)
    for chunk in row_chunks(picked, length, budget):
        block = mask_part(mask, rows.indices[chunk], span)
        probabilities = _probabilities(picked[:, :, chunk], k, scale, lse[:, :, chunk], block)
        pooled = probabilities if per_head else probabilities.mean(1)
        total += rows.weights[chunk].to(pooled).mT @ pooled
    return total


def _probabilities(q: Tensor, k: Tensor, scale: float, lse: Tensor, mask: Tensor | None) -> Tensor:
    """softmax(scale q k^T + mask), (B, H, rows, keys), of rows and keys that were picked; k as `_factor` gives it."""
    if q.dtype == k.dtype and q.element_size() == 2:
        logits = torch.bmm(q.flatten(0, 1), k.flatten(0, 1).mT, out_dtype=torch.float32)  # type: ignore[call-overload]
        logits = logits.view(*q.shape[:3], -1)
    else:
        logits = q.to(k.dtype) @ k.mT
    # A row whose keys are all masked has no finite lse; it looks at nothing, which is 0 and not NaN.
    less = -lse.to(logits).masked_fill(~lse.isfinite(), float("inf")).unsqueeze(-1)
    if mask is not None:
        logits = masked(logits.mul_(scale), mask)
        return logits.add_(less).exp_()
    return torch.add(less, logits, alpha=scale, out=logits).exp_()


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
