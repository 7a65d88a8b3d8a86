"""Maps of one row."""

from __future__ import annotations

import torch
from torch import Tensor

from ..attention.map_autograd import dots
from ..attention.pooled_maps import Pool, pooled_columns, pooled_rows
from ..sites import AttentionCall
from .config import Direction, Scores

__all__ = ["grounding_map", "propagation_map"]


# -- maps -------------------------------------------------------------------------------------------------------------
def grounding_map(
    call: AttentionCall,
    row: int,
    words: Pool,
    scores: Scores = "probabilities",
    direction: Direction = "v2t",
    budget: int | None = None,
) -> Tensor:
    """(E, F, h, w): how much each video token looks at each entity's words, mean over words and heads.

    Args:
        row: the row of the batch.
        words: rows of the conditioning, as `Pool.mean_of({entity: rows})`.
        direction: "t2v": how much the words look at each video token (joint attention alone).

    Raises:
        ValueError: a call without text keys, or "t2v" where text does not query.
    """
    if call.text_k is None or call.video_q is None:
        raise ValueError(f"{call.site.name} has no text keys: grounding wants a joint or a cross-attention")
    at = _moved(words, call.text_k)
    q, k = call.q[row : row + 1], call.k[row : row + 1]
    mask = _row_mask(call.mask, row)
    if direction == "t2v":
        if call.video_k is None:
            raise ValueError(f"{call.site.name} is a cross-attention, whose words do not query: use direction 'v2t'")
        maps = _rows(q, k, at, call.scale, scores, mask, call.video_k, budget)
    else:
        start, length = call.video_q
        q = q[:, :, start : start + length]
        if mask is not None and mask.ndim > 1 and mask.shape[-2] > 1:
            mask = mask[..., start : start + length, :]
        maps = _columns(q, k, at, call.scale, scores, mask, budget)
    return maps[0].unflatten(-1, call.grid.shape)


def propagation_map(
    call: AttentionCall, row: int, queries: Pool, scores: Scores = "probabilities", budget: int | None = None
) -> Tensor:
    """(E, F, h, w): where each entity's query tokens look in the video, mean over query tokens and heads.

    Args:
        queries: flat video tokens Q_e, as `Pool.mean_of({entity: tokens})`.

    Raises:
        ValueError: a call without video keys.
    """
    if call.video_q is None or call.video_k is None:
        raise ValueError(f"{call.site.name} has no video keys: propagation wants a joint or a self-attention")
    q, k = call.q[row : row + 1], call.k[row : row + 1]
    at = _moved(queries, call.video_q)
    maps = _rows(q, k, at, call.scale, scores, _row_mask(call.mask, row), call.video_k, budget)
    return maps[0].unflatten(-1, call.grid.shape)


def _columns(
    q: Tensor, k: Tensor, pool: Pool, scale: float, scores: Scores, mask: Tensor | None, budget: int | None
) -> Tensor:
    if scores == "probabilities":
        return pooled_columns(q, k, pool, scale, mask=mask, budget=budget)
    # a mean of dot products is the dot product of the mean
    return scale * dots(q, _mixed(k, pool), (0, q.shape[2]), budget)


def _rows(
    q: Tensor,
    k: Tensor,
    pool: Pool,
    scale: float,
    scores: Scores,
    mask: Tensor | None,
    keys: tuple[int, int],
    budget: int | None,
) -> Tensor:
    if scores == "probabilities":
        return pooled_rows(q, k, pool, scale, mask=mask, keys=keys, budget=budget)
    return scale * dots(k, _mixed(q, pool), keys, budget)


def _mixed(tokens: Tensor, pool: Pool) -> Tensor:
    """(B, H, E, D): each entity's mean token, float32 or float64."""
    pool = pool.to(tokens.device)
    kind = torch.float64 if tokens.dtype == torch.float64 else torch.float32
    return torch.einsum("bhcd,ce->bhed", tokens[:, :, pool.indices].to(kind), pool.weights.to(kind))


def _moved(pool: Pool, span: tuple[int, int]) -> Pool:
    """A pool of tokens counted within `span`, counted from the start of the sequence. Raises ValueError outside."""
    start, length = span
    if pool.span[0] < 0 or pool.span[1] >= length:
        raise ValueError(f"tokens {pool.span[0]}..{pool.span[1]} were asked for, but there are 0..{length - 1}")
    if not start or not len(pool):
        return pool
    low, high = pool.span
    return Pool(pool.indices + start, pool.weights, pool.names, pool.members, (low + start, high + start))


def _row_mask(mask: Tensor | None, row: int) -> Tensor | None:
    return mask[row : row + 1] if mask is not None and mask.ndim > 2 and mask.shape[0] > 1 else mask
