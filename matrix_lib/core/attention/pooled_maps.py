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

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..triton import kernels_for
from .map_autograd import softmax_columns, softmax_rows
from .masks import mask_part
from .sdpa_lse import logits_of, row_chunks, row_lse

__all__ = ["Pool", "pooled_columns", "pooled_rows"]


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


def pooled_columns(
    q: Tensor,
    k: Tensor,
    columns: Pool,
    scale: float,
    *,
    lse: Tensor | None = None,
    mask: Tensor | None = None,
    per_head: bool = False,
    budget: int | None = None,
) -> Tensor:
    """How much each query looks at each entity's key tokens: (B, E, Nq), or (B, H, E, Nq) with `per_head`.

    Args:
        q, k: (B, H, Nq, D), (B, H, Nk, D); pass only the queries that are wanted (video rows), but every key.
        columns: key tokens of the entities (indices into Nk).
        lse: (B, H, Nq) natural log-sum-exp of the scaled, masked logits; None computes it. Where gradients are
            recorded, one that carries none itself is ignored.
        budget: logits held at a time (elements); None picks one for the device.
    Raises:
        ValueError: a column outside 0..Nk-1.
    """
    _check(columns, k.shape[2], "key")
    columns = columns.to(q.device)
    if _wants_grad(q, k):
        if lse is None or not lse.requires_grad:
            lse = _constant_lse(q, k, scale, mask, budget)
        indices, weights = _each_row(columns, q)
        span = (0, q.shape[2])
        return softmax_columns(q, k, lse, mask, indices, weights, scale, span, per_head, budget)
    if lse is None:
        lse = row_lse(q, k, scale, mask=mask, budget=budget)
    kernels = kernels_for("pooled_maps", q)
    if mask is None and kernels is not None:
        return kernels.columns(q, k[:, :, columns.indices], lse, columns.weights, scale, per_head)
    out = []
    for rows in row_chunks(q, len(columns.indices), budget):
        block = mask_part(mask, rows, None)
        probabilities = _probabilities(q[:, :, rows], k, scale, lse[:, :, rows], block, columns.indices)
        pooled = torch.einsum("bhnc,ce->bhen", probabilities, columns.weights.to(probabilities))
        out.append(pooled if per_head else pooled.mean(1))
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
    per_head: bool = False,
    budget: int | None = None,
) -> Tensor:
    """Where each entity's query tokens look: (B, E, S), or (B, H, E, S) with `per_head`.

    Args:
        q, k: (B, H, Nq, D), (B, H, Nk, D): every query and every key.
        rows: query tokens of the entities (indices into Nq).
        keys: (start, length) of the keys that are reported (video keys), S of them; None reports all Nk. The softmax
            always runs over all keys.
        lse: (B, H, Nq) as in `pooled_columns`.
    Raises:
        ValueError: a row outside 0..Nq-1.
    """
    _check(rows, q.shape[2], "query")
    rows = rows.to(q.device)
    start, length = keys if keys is not None else (0, k.shape[2])
    picked = q[:, :, rows.indices]
    if _wants_grad(q, k) and len(rows.indices):
        norm = _constant_lse(picked, k, scale, mask_part(mask, rows.indices, None), budget)
        indices, weights = _each_row(rows, q)
        return softmax_rows(q, k, norm, mask, indices, weights, scale, (start, length), per_head, budget)
    if lse is not None:
        lse = lse[:, :, rows.indices]
    else:
        lse = row_lse(picked, k, scale, mask=mask_part(mask, rows.indices, None), budget=budget)
    kernels = kernels_for("pooled_maps", q)
    if mask is None and kernels is not None:
        seen = k[:, :, start : start + length]
        return kernels.rows(picked, seen, lse, rows.weights, rows.members, scale, per_head)
    span = slice(start, start + length)
    heads = (q.shape[1],) if per_head else ()
    total = q.new_zeros(q.shape[0], *heads, len(rows), length, dtype=torch.float32)
    for chunk in row_chunks(picked, k.shape[2], budget):
        block = mask_part(mask, rows.indices[chunk], None)
        probabilities = _probabilities(picked[:, :, chunk], k, scale, lse[:, :, chunk], block, span)
        pooled = torch.einsum("bhrn,re->bhen", probabilities, rows.weights[chunk].to(probabilities))
        total = total + (pooled if per_head else pooled.mean(1))
    return total


def _probabilities(
    q: Tensor, k: Tensor, scale: float, lse: Tensor, mask: Tensor | None, keys: Tensor | slice
) -> Tensor:
    """softmax(scale q k^T + mask)[..., keys], (B, H, rows, keys); only the wanted logits are computed."""
    logits = logits_of(q, k[:, :, keys], scale, mask_part(mask, None, keys))
    # A row whose keys are all masked has no finite lse; it looks at nothing, which is 0 and not NaN.
    lse = lse.to(logits).masked_fill(~lse.isfinite(), float("inf")).unsqueeze(-1)
    return (logits - lse).exp()


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
