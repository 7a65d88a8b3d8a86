"""Local Gram Flow: where a token's nearest relatives are one token frame later, within a window around its place.

The loss of SAM2VideoX (arXiv 2512.11792) aligns that flow in a video transformer with the flow in SAM 2's features,
through a projector on hidden states. Here the transformer's own similarities are taken, scale * q.k of an attention to
the video, so that nothing is added to the model; the teacher is a mask track, or any features on the token grid. [?]
marks what is decided here: window and temperature.

B batch, H heads, D head size, N entities, F, h, w token frames, rows, columns, W side of the window.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor
from torch.nn.functional import pad

from ..sites import AttentionCall

__all__ = ["feature_flow", "flow_loss", "flow_maps", "mask_flow", "neighbours"]


def neighbours(values: Tensor, window: int) -> Tensor:
    """(..., F - 1, W * W, h, w): for each token of frames 0 to F - 2 the values (..., F, h, w) at the places around it
    in the next frame, row by row; 0 beyond the edge.

    Raises ValueError for a window that has no middle.
    """
    if window < 1 or window % 2 == 0:
        raise ValueError(f"a window has an odd side, so that a token is in its middle; got {window}")
    h, w = values.shape[-2:]
    around = pad(values[..., 1:, :, :], (window // 2,) * 4)
    shifted = [around[..., y : y + h, x : x + w] for y in range(window) for x in range(window)]
    return torch.stack(shifted, -3)


def flow_maps(call: AttentionCall, window: int = 5) -> Tensor:
    """(B, F - 1, W * W, h, w) log-probabilities, float32 or wider: how similar each token is to those around its place
    in the next frame, softmax of scale * q.k (mean over heads) over the window. Places beyond the edge are -inf.

    Raises ValueError for a call without video keys, and for a clip of a single token frame.
    """
    if call.video_q is None or call.video_k is None:
        raise ValueError(f"{call.site.name} has no video keys: flow wants a joint or a self-attention")
    if call.grid.frames < 2:
        raise ValueError("a clip of one token frame has no flow")
    shape = call.grid.shape
    kind = torch.float64 if call.q.dtype == torch.float64 else torch.float32
    q = call.q[:, :, slice(call.video_q[0], sum(call.video_q))].to(kind).mT.unflatten(-1, shape)[..., :-1, :, :]
    k = call.k[:, :, slice(call.video_k[0], sum(call.video_k))].to(kind).mT.unflatten(-1, shape)[..., 1:, :, :]
    around, (h, w) = pad(k, (window // 2,) * 4), shape[1:]
    # shifted views of one padded tensor: neither they nor their products are held for the backward pass
    near = [(q * around[..., y : y + h, x : x + w]).sum(2).mean(1) for y in range(window) for x in range(window)]
    inside = neighbours(torch.ones(2, *shape[1:], device=q.device), window)[0] > 0
    return (call.scale * torch.stack(near, 2)).masked_fill(~inside, -torch.inf).log_softmax(2)


def mask_flow(masks: Tensor, window: int = 5) -> Tensor:
    """(N, F - 1, W * W, h, w) float32: of each token inside a mask (N, F, h, w) bool, evenly the places of the window
    that the mask has in the next frame; all 0 where the token is outside, or the mask has left the window."""
    there = neighbours(masks.float(), window) * masks[:, :-1, None]
    return there / there.sum(-3, keepdim=True).clamp_min(1.0)


def feature_flow(features: Tensor, window: int = 5, temperature: float = 0.1) -> Tensor:
    """(N, F - 1, W * W, h, w) float32: softmax over the window of the cosine of features (N, C, F, h, w), divided by
    the temperature; for a teacher such as SAM 2's features, resampled to the token grid."""
    unit = torch.nn.functional.normalize(features.float(), dim=1)
    near = neighbours(unit, window)  # (N, C, F - 1, W * W, h, w)
    cosine = (unit[:, :, :-1, None] * near).sum(1) / temperature
    inside = neighbours(torch.ones(2, *features.shape[-2:], device=features.device), window)[0] > 0
    return cosine.masked_fill(~inside, -torch.inf).softmax(2)


def flow_loss(maps: Mapping[int, Tensor], teacher: Tensor, known: Tensor | None = None) -> Tensor:
    """KL(teacher || model) of each token's flow: mean over the tokens that the teacher knows, and over layers, summed
    over entities. A scalar, 0 where no token is known.

    Args:
        maps: by layer, (N, F - 1, W * W, h, w) log-probabilities, as `flow_maps` gives them for each entity's clip.
        teacher: probabilities of the same size; a token of which all are 0 does not count.
        known: (F,) bool, frames that the tracks say something about.

    Raises ValueError where there are no maps, or sizes differ.
    """
    if not maps or any(values.shape != teacher.shape for values in maps.values()):
        shapes = [tuple(values.shape) for values in maps.values()]
        raise ValueError(f"flow is compared with a teacher of one size, {tuple(teacher.shape)}; got {shapes}")
    counted = teacher.sum(2) > 0
    if known is not None:
        pairs = (known[:-1] & known[1:]).to(counted.device)
        counted = counted & pairs[:, None, None]
    tokens = counted.flatten(1).sum(1).clamp_min(1)
    own = torch.xlogy(teacher, teacher).sum(2)
    losses = []
    for values in maps.values():
        # -inf times 0, beyond the edge, is 0
        cross = (teacher * values.masked_fill(teacher == 0, 0.0)).sum(2)
        losses.append(((own - cross) * counted).flatten(1).sum(1) / tokens)
    return torch.stack(losses).mean(0).sum()
