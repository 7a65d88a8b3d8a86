"""The maps of the alignment losses for every row of a batch at once; `losses` has the same for one row.

B batch, H heads, N tokens, D head size, R tokens that are looked at, E entities, F, h, w token frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from .losses import Direction, Scores
from .sites import AttentionCall
from .target_batch import PoolBatch

__all__ = ["grounding_maps", "propagation_maps"]

# Elements that are held at a time: of logits on a GPU, of logits elsewhere, and of tokens in another precision.
_ON_GPU, _ELSEWHERE, _TOKENS = 1 << 25, 1 << 23, 1 << 24


def grounding_maps(
    call: AttentionCall,
    words: PoolBatch,
    scores: Scores = "probabilities",
    direction: Direction = "v2t",
    budget: int | None = None,
) -> Tensor:
    """(B, E, F, h, w): `losses.grounding_map` of each row, 0 for padding.

    Raises:
        ValueError: a call without text keys, "t2v" where text does not query, another number of rows than the call's.
    """
    if call.text_k is None or call.video_q is None:
        raise ValueError(f"{call.site.name} has no text keys: grounding wants a joint or a cross-attention")
    at = _fitting(call, words).moved(call.text_k)
    if direction == "t2v":
        if call.video_k is None:
            raise ValueError(f"{call.site.name} is a cross-attention, whose words do not query: use direction 'v2t'")
        return _rows(call, at, scores, budget).unflatten(-1, call.grid.shape)
    start, length = call.video_q
    q = call.q[:, :, start : start + length]
    if scores == "logits":  # a mean of dot products is the dot product of the mean
        maps = call.scale * _dots(q, _mixed(call.k, at), budget)
    else:
        mask = call.mask
        if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
            mask = mask[..., start : start + length, :]
        maps = _columns(q, call.k, at, call.scale, mask, budget)
    return maps.unflatten(-1, call.grid.shape)


def propagation_maps(
    call: AttentionCall, queries: PoolBatch, scores: Scores = "probabilities", budget: int | None = None
) -> Tensor:
    """(B, E, F, h, w): `losses.propagation_map` of each row, 0 for padding.

    Raises:
        ValueError: a call without video keys, another number of rows than the call's.
    """
    if call.video_q is None or call.video_k is None:
        raise ValueError(f"{call.site.name} has no video keys: propagation wants a joint or a self-attention")
    at = _fitting(call, queries).moved(call.video_q)
    return _rows(call, at, scores, budget).unflatten(-1, call.grid.shape)


def _fitting(call: AttentionCall, pools: PoolBatch) -> PoolBatch:
    if len(pools) != call.q.shape[0]:
        raise ValueError(f"the batch has {call.q.shape[0]} rows, but there are {len(pools)} targets")
    return pools.to(call.q.device)


def _rows(call: AttentionCall, at: PoolBatch, scores: Scores, budget: int | None) -> Tensor:
    """(B, E, S): where the tokens of each entity look in the video."""
    assert call.video_k is not None
    start, length = call.video_k
    if scores == "logits":
        return call.scale * _dots(call.k[:, :, start : start + length], _mixed(call.q, at), budget)
    picked = _gather(call.q, at.indices)
    mask = _four(call.mask)
    if mask is not None and mask.shape[2] > 1:
        h, n = mask.shape[1], mask.shape[3]
        whole = mask.expand(len(at), h, -1, n)
        mask = whole.gather(2, at.indices[:, None, :, None].expand(-1, h, -1, n))

    def run(q: Tensor, k: Tensor, weights: Tensor, part: Tensor | None) -> Tensor:
        logits, lse = _logits(q, k, call.scale, part)
        p = (logits[..., start : start + length] - lse).exp()
        return torch.einsum("bhrn,bre->ben", p, weights.to(p)) / p.shape[1]

    total = call.q.new_zeros(len(at), at.entities, length, dtype=torch.float32)
    for rows in _chunks(picked, call.k.shape[2], budget):
        part = mask if mask is None or mask.shape[2] == 1 else mask[:, :, rows]
        total = total + _again(run, picked[:, :, rows], call.k, at.weights[:, rows], part)
    return total


def _columns(q: Tensor, k: Tensor, at: PoolBatch, scale: float, mask: Tensor | None, budget: int | None) -> Tensor:
    """(B, E, N): how much each query looks at each entity's key tokens."""
    mask = _four(mask)

    def run(q: Tensor, k: Tensor, weights: Tensor, part: Tensor | None) -> Tensor:
        logits, lse = _logits(q, k, scale, part)
        places = at.indices[:, None, None].expand(-1, *logits.shape[1:3], -1)
        p = (logits.gather(-1, places) - lse).exp()
        return torch.einsum("bhnr,bre->ben", p, weights.to(p)) / p.shape[1]

    out = []
    for rows in _chunks(q, k.shape[2], budget):
        part = mask if mask is None or mask.shape[2] == 1 else mask[:, :, rows]
        out.append(_again(run, q[:, :, rows], k, at.weights, part))
    return torch.cat(out, dim=-1)


def _logits(q: Tensor, k: Tensor, scale: float, mask: Tensor | None) -> tuple[Tensor, Tensor]:
    """Scaled, masked logits and their log-sum-exp with a last dimension of 1; infinite where all keys are masked, so
    that such a row looks at nothing."""
    kind = torch.float64 if q.dtype == torch.float64 else torch.float32
    logits = (q.to(kind) @ k.to(kind).transpose(-1, -2)) * scale
    if mask is not None:
        logits = logits.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else logits + mask.to(kind)
    lse = logits.logsumexp(-1, keepdim=True)
    return logits, lse.masked_fill(~lse.isfinite(), float("inf"))


def _mixed(tokens: Tensor, at: PoolBatch) -> Tensor:
    """(B, H, E, D): each entity's mean token, float32 or float64."""
    kind = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    return torch.einsum("bhrd,bre->bhed", _gather(tokens, at.indices).to(kind), at.weights.to(kind))


def _dots(tokens: Tensor, mixed: Tensor, budget: int | None) -> Tensor:
    """(B, E, N): mean over heads of tokens . mixed, in chunks that are computed again in the backward pass."""

    def run(part: Tensor, mixed: Tensor) -> Tensor:
        return torch.einsum("bhnd,bhed->ben", part.to(mixed), mixed) / part.shape[1]

    parts = [tokens[:, :, rows] for rows in _chunks(tokens, tokens.shape[3], budget or _TOKENS)]
    return torch.cat([_again(run, part, mixed) for part in parts], dim=-1)


def _gather(tokens: Tensor, indices: Tensor) -> Tensor:
    """(B, H, R, D): the tokens of each row."""
    places = indices[:, None, :, None].expand(-1, tokens.shape[1], -1, tokens.shape[3])
    return tokens.gather(2, places)


def _again(run: Callable[..., Tensor], *args: Tensor | None) -> Tensor:
    """Runs; where gradients are wanted, what is in between is computed again in the backward pass."""
    if torch.is_grad_enabled() and any(isinstance(arg, Tensor) and arg.requires_grad for arg in args):
        return checkpoint(run, *args, use_reentrant=False, preserve_rng_state=False)
    return run(*args)


def _chunks(tokens: Tensor, width: int, budget: int | None) -> list[slice]:
    """Slices of tokens whose products with `width` others stay within the budget."""
    most = budget or (_ON_GPU if tokens.is_cuda else _ELSEWHERE)
    step = max(1, most // max(1, tokens.shape[0] * tokens.shape[1] * width))
    return [slice(i, min(i + step, tokens.shape[2])) for i in range(0, tokens.shape[2], step)]


def _four(mask: Tensor | None) -> Tensor | None:
    """A mask (Nq, Nk), (B, Nq, Nk) or (B, H, Nq, Nk) with four dimensions."""
    if mask is None or mask.ndim == 4:
        return mask
    return mask[None, None] if mask.ndim == 2 else mask[:, None]
