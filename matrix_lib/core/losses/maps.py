"""The maps of the alignment losses, for every row of a batch at once, with gradients through the softmax.

B batch, H heads, N tokens, D head size, R tokens that are looked at, E entities, F, h, w token frames, rows, columns.
"""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.map_autograd import dots, picked, softmax_columns, softmax_rows
from ..attention.masks import four, mask_at
from ..attention.sdpa_lse import row_lse
from ..sites import AttentionCall
from .batch import PoolBatch
from .config import Direction, Scores

__all__ = ["grounding_maps", "propagation_maps"]


def grounding_maps(
    call: AttentionCall,
    words: PoolBatch,
    scores: Scores = "probabilities",
    direction: Direction = "v2t",
    budget: int | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """(B, E, F, h, w) float32: how much each video token looks at each entity's words, mean over words and heads; 0 for
    padding.

    Args:
        words: for each row of the batch, rows of the conditioning of each entity.
        scores: "probabilities" of the softmax over the whole row, or "logits", scale * q.k.
        direction: "t2v": how much the words look at each video token (joint attention alone).
        budget: elements that may be held at a time.
        lse: (B, H, Nq) log-sum-exp of the call's rows from the kernel that ran it; None computes it. One that carries
            its gradient (`sdpa_with_lse`) makes the backward pass cheapest; without one the gradients are the same.

    Raises:
        ValueError: a call without text keys, "t2v" where text does not query, another number of rows than the call's.
    """
    call = call.widened()
    if call.text_k is None or call.video_q is None:
        raise ValueError(f"{call.site.name} has no text keys: grounding wants a joint or a cross-attention")
    at = _fitting(call, words).moved(call.text_k, call.text_starts)
    if direction == "t2v":
        if call.video_k is None:
            raise ValueError(f"{call.site.name} is a cross-attention, whose words do not query: use direction 'v2t'")
        return _rows(call, at, scores, budget, lse).unflatten(-1, call.grid.shape)
    if scores == "logits":  # a mean of dot products is the dot product of the mean
        maps = call.scale * dots(call.q, _mixed(call.k, at), call.video_q, budget)
    else:
        if lse is None:
            lse = _lse(call.q, call.k, call, call.mask, budget)
        maps = softmax_columns(
            call.q, call.k, lse, call.mask, at.indices, at.weights, call.scale, call.video_q, budget=budget
        )
    return maps.unflatten(-1, call.grid.shape)


def propagation_maps(
    call: AttentionCall,
    queries: PoolBatch,
    scores: Scores = "probabilities",
    budget: int | None = None,
    lse: Tensor | None = None,
) -> Tensor:
    """(B, E, F, h, w) float32: where each entity's query tokens look in the video, mean over query tokens and heads; 0
    for padding.

    Args:
        queries: for each row of the batch, flat video tokens of each entity.
        scores, budget, lse: see `grounding_maps`.

    Raises:
        ValueError: a call without video keys, another number of rows than the call's.
    """
    call = call.widened()
    if call.video_q is None or call.video_k is None:
        raise ValueError(f"{call.site.name} has no video keys: propagation wants a joint or a self-attention")
    at = _fitting(call, queries).moved(call.video_q)
    return _rows(call, at, scores, budget, lse).unflatten(-1, call.grid.shape)


def _fitting(call: AttentionCall, pools: PoolBatch) -> PoolBatch:
    if len(pools) != call.q.shape[0]:
        raise ValueError(f"the batch has {call.q.shape[0]} rows, but there are {len(pools)} targets")
    return pools.to(call.q.device)


def _rows(call: AttentionCall, at: PoolBatch, scores: Scores, budget: int | None, lse: Tensor | None) -> Tensor:
    """(B, E, S): where the tokens of each entity look in the video."""
    assert call.video_k is not None
    if scores == "logits":
        return call.scale * dots(call.k, _mixed(call.q, at), call.video_k, budget)
    if lse is None:
        near, mask = picked(call.q, at.indices), mask_at(four(call.mask), 2, at.indices)
        lse = _lse(near, call.k, call, mask, budget)
    else:
        lse = picked(lse, at.indices)
    return softmax_rows(call.q, call.k, lse, call.mask, at.indices, at.weights, call.scale, call.video_k, budget=budget)


def _lse(q: Tensor, k: Tensor, call: AttentionCall, mask: Tensor | None, budget: int | None) -> Tensor:
    with torch.no_grad():
        return row_lse(q, k, call.scale, mask=mask, budget=budget)


def _mixed(tokens: Tensor, at: PoolBatch) -> Tensor:
    """(B, H, E, D): each entity's mean token, float32 or float64."""
    kind = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    return torch.einsum("bhrd,bre->bhed", picked(tokens, at.indices).to(kind), at.weights.to(kind))
