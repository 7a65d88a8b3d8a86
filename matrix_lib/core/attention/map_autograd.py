"""Maps of entities out of attention scores, with gradients, and without ever holding rows x keys.

Every map here is an attention itself. Columns: A = P W, with W (Nk, E) the weights of the entities' keys as values.
Rows: A = W^T P, whose gradient G gives dP = W G: that of an attention with values G^T and output gradient W. So a fused
kernel does the backward pass where the softmax runs over many keys, and the model's q and k are read as they lie.

B batch, H heads, Nq / Nk query / key tokens, D head size, R tokens that are looked at, E entities. Tokens are indices
(B, R) with weights (B, R, E), 0 for padding. Maps are float32, float64 for float64 input.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..no_compile import uncompiled
from ..triton import kernels_for
from .masks import four, mask_at

__all__ = ["dots", "picked", "softmax_columns", "softmax_rows"]

Span = tuple[int, int]
# Elements of a product that are held at a time: a GPU is full long before.
_ON_GPU, _ELSEWHERE = 1 << 24, 1 << 23


def softmax_columns(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    indices: Tensor,
    weights: Tensor,
    scale: float,
    span: Span,
    per_head: bool = False,
    budget: int | None = None,
) -> Tensor:
    """(B, E, N) how much the queries of `span` (start, N) look at each entity's keys, mean over heads; (B, H, E, N)
    with `per_head`.

    lse: (B, H, Nq) log-sum-exp of the rows. With a gradient of its own it gets its share; else the backward pass runs
    the attention once more for what that share does to q and k. Either way the gradient is whole.
    """
    return _apply(_Columns, q, k, lse, four(mask), indices, weights, scale, span, per_head, budget)


def softmax_rows(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    indices: Tensor,
    weights: Tensor,
    scale: float,
    span: Span,
    per_head: bool = False,
    budget: int | None = None,
) -> Tensor:
    """(B, E, N): where the entities' queries look among the keys of `span` (start, N), mean over heads; (B, H, E, N)
    with `per_head`.

    lse: (B, H, R) log-sum-exp of the queries at `indices`. Its own gradient, if it has one, is not asked: the backward
    pass runs these few rows again.
    """
    return _apply(_Rows, q, k, lse.detach(), four(mask), indices, weights, scale, span, per_head, budget)


def dots(tokens: Tensor, mixed: Tensor, span: Span, budget: int | None = None) -> Tensor:
    """(B, E, N): mean over heads of tokens . mixed, for the tokens (B, H, Nk, D) of `span` (start, N) and `mixed`
    (B, H, E, D), in the precision of `mixed`, of which no copy of all tokens is held."""
    return _apply(_Dots, tokens, mixed, span, budget)


@uncompiled
def _apply(function: Any, *args: Any) -> Tensor:
    return function.apply(*args)  # type: ignore[no-any-return]


class _Columns(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, lse: Tensor, mask: Tensor | None, indices: Tensor, weights: Tensor,
        scale: float, span: Span, per_head: bool, budget: int | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(q, k, lse, mask, indices, weights)
        ctx.options = scale, span, per_head, budget
        start, length = span
        kernels = kernels_for("pooled_maps", q)
        if mask is None and kernels is not None:
            part = q[:, :, start : start + length]
            near, norm = picked(k, indices), lse[:, :, start : start + length]
            each = [
                kernels.columns(part[b : b + 1], near[b : b + 1], norm[b : b + 1], weights[b], scale, per_head)
                for b in range(len(q))
            ]
            return torch.cat(each)
        maps = []
        for _, p in _columns(q, k, lse, mask, indices, scale, span, budget):
            made = torch.einsum("bhnr,bre->bhen", p, weights.to(p))
            maps.append(made if per_head else made.mean(1))
        return torch.cat(maps, dim=-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, lse, mask, indices, weights = ctx.saved_tensors
        scale, span, per_head, budget = ctx.options
        grad = grad if per_head else (grad / q.shape[1])[:, None]  # (B, 1 or H, E, N)
        if not ctx.needs_input_grad[2]:
            values = _spread(weights, indices, k.shape[2])
            dq, dk = _attention_gradients(q, k, values, grad.mT, mask, scale, span, budget)
            return (dq, dk, *(None,) * 8)
        keys = picked(k, indices).to(grad.dtype)
        dq, dlse, near = torch.zeros_like(q), torch.zeros_like(lse), torch.zeros_like(keys)
        for rows, p in _columns(q, k, lse, mask, indices, scale, span, budget):
            here = slice(rows.start - span[0], rows.stop - span[0])
            p *= torch.einsum("bhen,bre->bhnr", grad[..., here], weights.to(p))
            dlse[:, :, rows] = -p.sum(-1)
            dq[:, :, rows] = p @ keys * scale
            near += p.mT @ q[:, :, rows].to(p) * scale
        dk = torch.zeros_like(k).scatter_add_(2, _places(indices, k), near.to(k))
        return (dq, dk, dlse, *(None,) * 7)


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, lse: Tensor, mask: Tensor | None, indices: Tensor, weights: Tensor,
        scale: float, span: Span, per_head: bool, budget: int | None,
    ) -> Tensor:  # fmt: skip
        ctx.save_for_backward(q, k, mask, indices, weights)
        ctx.options = scale, span, per_head, budget
        near, keys = picked(q, indices), k[:, :, span[0] : span[0] + span[1]]
        kernels = kernels_for("pooled_maps", q)
        if mask is None and kernels is not None:
            each = [
                kernels.rows(near[b : b + 1], keys[b : b + 1], lse[b : b + 1], weights[b], _members(weights[b]), scale,
                             per_head)
                for b in range(len(q))
            ]  # fmt: skip
            return torch.cat(each)
        keys, chosen = keys.to(_wide(q)), mask_at(mask, 2, indices)
        if chosen is not None and chosen.shape[3] > 1:
            chosen = chosen[..., span[0] : span[0] + span[1]]
        total = keys.new_zeros(*q.shape[:2][: 1 + per_head], weights.shape[2], span[1])
        for rows in _chunks(near, k.shape[2], budget):
            some = chosen if chosen is None or chosen.shape[2] == 1 else chosen[:, :, rows]
            p = _softmax(near[:, :, rows].to(keys), keys, lse[:, :, rows], some, scale)
            total += torch.einsum("bhrn,bre->bhen" if per_head else "bhrn,bre->ben", p, weights[:, rows].to(p))
        return total if per_head else total / q.shape[1]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        q, k, mask, indices, weights = ctx.saved_tensors
        scale, (start, length), per_head, budget = ctx.options
        grad = grad if per_head else (grad / q.shape[1])[:, None]
        values = grad.new_zeros(*grad.shape[:2], k.shape[2], grad.shape[2])
        values[:, :, start : start + length] = grad.mT
        near = picked(q, indices)
        some, dk = _attention_gradients(
            near, k, values, weights[:, None], mask_at(mask, 2, indices), scale, (0, near.shape[2]), budget
        )
        dq = torch.zeros_like(q).scatter_add_(2, _places(indices, q), some)
        return (dq, dk, *(None,) * 8)


class _Dots(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tokens: Tensor, mixed: Tensor, span: Span, budget: int | None) -> Tensor:
        ctx.save_for_backward(tokens, mixed)
        ctx.options = span, budget
        maps = []
        for rows in _chunks(tokens, tokens.shape[3], budget, span):
            maps.append(torch.einsum("bhnd,bhed->ben", tokens[:, :, rows].to(mixed), mixed) / tokens.shape[1])
        return torch.cat(maps, dim=-1)

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        tokens, mixed = ctx.saved_tensors
        span, budget = ctx.options
        grad = (grad / tokens.shape[1])[:, None]
        made = torch.zeros_like(tokens) if ctx.needs_input_grad[0] else None
        back = torch.zeros_like(mixed)
        for rows in _chunks(tokens, tokens.shape[3], budget, span):
            here = grad[..., rows.start - span[0] : rows.stop - span[0]]
            back += here @ tokens[:, :, rows].to(mixed)
            if made is not None:
                made[:, :, rows] = here.mT @ mixed
        return made, back, None, None


def _attention_gradients(
    q: Tensor,
    k: Tensor,
    values: Tensor,
    back: Tensor,
    mask: Tensor | None,
    scale: float,
    span: Span,
    budget: int | None,
) -> tuple[Tensor, Tensor]:
    """dq, dk of an attention over `values` (B, 1 or H, Nk, E) whose output over the queries of `span` has the gradient
    `back` (B, 1 or H, N, E), a few heads at a time. Both factors are brought to a largest entry of 1 first, entity by
    entity, so that half precision neither overflows nor underflows."""
    start, length = span
    size = q.shape[3]
    values, back = values.to(_wide(q)), back.to(_wide(q))
    tops = [t.abs().amax((1, 2), keepdim=True).clamp_min(torch.finfo(torch.float32).tiny) for t in (values, back)]
    share = (tops[0] * tops[1]).clamp_min(torch.finfo(torch.float32).tiny)
    top = share.amax(3, keepdim=True)
    dq, dk = torch.zeros_like(q), torch.zeros_like(k)
    some = mask if mask is None or mask.shape[2] == 1 else mask[:, :, start : start + length]
    if some is not None and some.dtype != torch.bool:
        some = some.to(q.dtype)
    step = max(1, _most(q, budget) // max(1, len(k) * k.shape[2] * size))
    entities = [slice(i, i + size) for i in range(0, values.shape[3], size)]
    for heads in (slice(i, min(i + step, q.shape[1])) for i in range(0, q.shape[1], step)):
        for part in entities:
            v = (values if values.shape[1] == 1 else values[:, heads])[..., part] / tops[0][..., part]
            v = v * (share / top)[..., part]
            do = (back if back.shape[1] == 1 else back[:, heads])[..., part] / tops[1][..., part]
            count = heads.stop - heads.start
            v, do = (_padded(t, size).to(q.dtype).expand(-1, count, -1, -1).contiguous() for t in (v, do))
            limit = some if some is None or some.shape[1] == 1 else some[:, heads]
            a, b = _backward(q[:, heads, start : start + length], k[:, heads], v, do, limit, scale)
            dq[:, heads, start : start + length] += a.mul_(top)
            dk[:, heads] += b.mul_(top)
    return dq, dk


def _backward(
    q: Tensor, k: Tensor, v: Tensor, back: Tensor, mask: Tensor | None, scale: float
) -> tuple[Tensor, Tensor]:
    with torch.enable_grad(), torch._C.DisableTorchFunction(), torch.autocast(q.device.type, enabled=False):
        q, k = q.detach().requires_grad_(), k.detach().requires_grad_()
        out = torch.nn.functional.scaled_dot_product_attention(q, k, v, mask, scale=scale)
        return torch.autograd.grad(out, (q, k), back)


def _columns(
    q: Tensor,
    k: Tensor,
    lse: Tensor,
    mask: Tensor | None,
    indices: Tensor,
    scale: float,
    span: Span,
    budget: int | None,
) -> Any:
    """(slice of queries, their probabilities (B, H, n, R)), a few queries at a time."""
    keys, chosen = picked(k, indices).to(_wide(q)), mask_at(mask, 3, indices)
    for rows in _chunks(q, 2 * q.shape[3] + indices.shape[1], budget, span):
        some = chosen if chosen is None or chosen.shape[2] == 1 else chosen[:, :, rows]
        yield rows, _softmax(q[:, :, rows].to(keys), keys, lse[:, :, rows], some, scale)


def _softmax(q: Tensor, k: Tensor, lse: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    logits = q @ k.mT * scale
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.to(logits)
    # a row whose keys are all masked has no finite lse; it looks at nothing, which is 0 and not NaN
    lse = lse.to(logits).masked_fill(~lse.isfinite(), float("inf")).unsqueeze(-1)
    return logits.sub_(lse).exp_()


def picked(tokens: Tensor, indices: Tensor) -> Tensor:
    """(B, H, R, D): the tokens (B, H, N, D) at indices (B, R); or (B, H, R) of (B, H, N)."""
    return tokens.gather(2, _places(indices, tokens))


def _places(indices: Tensor, like: Tensor) -> Tensor:
    if like.ndim == 3:
        return indices[:, None].expand(-1, like.shape[1], -1)
    return indices[:, None, :, None].expand(-1, like.shape[1], -1, like.shape[3])


def _spread(weights: Tensor, indices: Tensor, size: int) -> Tensor:
    """(B, 1, size, E): weights at their tokens."""
    out = weights.new_zeros(len(weights), size, weights.shape[2])
    return out.scatter_add_(1, indices[:, :, None].expand_as(weights), weights)[:, None]


def _members(weights: Tensor) -> Tensor:
    """(E, R) int32: the places of each entity's tokens, -1 behind the last one."""
    used = weights.T != 0
    places = used.logical_not().to(torch.uint8).argsort(dim=1, stable=True)
    return torch.where(used.gather(1, places), places, -1).int().contiguous()


def _padded(values: Tensor, size: int) -> Tensor:
    return torch.nn.functional.pad(values, (0, size - values.shape[-1]))


def _wide(tokens: Tensor) -> torch.dtype:
    return torch.float64 if tokens.dtype == torch.float64 else torch.float32


def _chunks(tokens: Tensor, width: int, budget: int | None, span: Span | None = None) -> list[slice]:
    """Slices of the tokens in `span` whose products with `width` others stay within the budget."""
    start, length = span or (0, tokens.shape[2])
    step = max(1, _most(tokens, budget) // max(1, tokens.shape[0] * tokens.shape[1] * width))
    return [slice(i, min(i + step, start + length)) for i in range(start, start + length, step)]


def _most(tokens: Tensor, budget: int | None) -> int:
    return budget or (_ON_GPU if tokens.is_cuda else _ELSEWHERE)
