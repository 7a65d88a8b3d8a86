"""Local Gram Flow: where a token's nearest relatives are one token frame later, within a window around its place.

The loss of SAM2VideoX (arXiv 2512.11792) aligns that flow in a video transformer with the flow in SAM 2's features,
through a projector on hidden states. Here the transformer's own similarities are taken, so that nothing is added to the
model: scale * q.k of an attention to the video, or the cosine of its values, which are its features. The teacher is a
mask track, or any features on the token grid. [?] marks what is decided here: window, temperature and means.

B batch, H heads, D head size, N entities, F, h, w token frames, rows, columns, W side of the window.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import avg_pool3d, grid_sample, normalize, pad

from ..grid import Grid
from ..sites import AttentionCall

__all__ = ["feature_flow", "features_on", "flow_loss", "flow_maps", "latents_on", "mask_flow", "neighbours"]

FlowOf = Literal["attention", "values"]


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


def _near(here: Tensor, there: Tensor, window: int) -> Tensor:
    """(..., F - 1, W * W, h, w) dot products over D of (..., D, F, h, w): each token with those around its place in the
    next frame, -inf beyond the edge."""
    h, w = here.shape[-2:]
    inside = neighbours(torch.ones(2, h, w, device=here.device), window)[0] > 0
    first, around = here[..., :-1, :, :], pad(there[..., 1:, :, :], (window // 2,) * 4)
    # shifted views of one padded tensor: neither they nor their products are held for the backward pass
    near = [(first * around[..., y : y + h, x : x + w]).sum(-4) for y in range(window) for x in range(window)]
    return torch.stack(near, -3).masked_fill(~inside, -torch.inf)


def flow_maps(call: AttentionCall, window: int = 5, of: FlowOf = "attention", temperature: float = 0.1) -> Tensor:
    """(B, F - 1, W * W, h, w) log-probabilities, float32 or wider: how similar each token is to those around its place
    in the next frame, softmax over the window. Places beyond the edge are -inf.

    Args:
        of: "attention" is scale * q.k, mean over heads; "values" the cosine of the values of all heads as one vector,
            divided by `temperature`: what tokens tell each other, and not whom they ask.

    Raises ValueError for a call without video keys, and for a clip of a single token frame.
    """
    if call.video_q is None or call.video_k is None:
        raise ValueError(f"{call.site.name} has no video keys: flow wants a joint or a self-attention")
    if call.grid.frames < 2:
        raise ValueError("a clip of one token frame has no flow")
    kind = torch.float64 if call.q.dtype == torch.float64 else torch.float32

    def tokens(values: Tensor, span: tuple[int, int]) -> Tensor:
        """(B, H * D, F, h, w): a sum over it is one over heads."""
        return values[:, :, slice(span[0], sum(span))].to(kind).mT.flatten(1, 2).unflatten(-1, call.grid.shape)

    if of == "values":
        values = normalize(tokens(call.v, call.video_k), dim=1)
        return (_near(values, values, window) / temperature).log_softmax(2)
    q, k = tokens(call.q, call.video_q), tokens(call.k, call.video_k)
    return (call.scale / call.q.shape[1] * _near(q, k, window)).log_softmax(2)


def mask_flow(masks: Tensor, window: int = 5) -> Tensor:
    """(N, F - 1, W * W, h, w) float32: of each token inside a mask (N, F, h, w) bool, evenly the places of the window
    that the mask has in the next frame; all 0 where the token is outside, or the mask has left the window."""
    there = neighbours(masks.float(), window) * masks[:, :-1, None]
    return there / there.sum(-3, keepdim=True).clamp_min(1.0)


def feature_flow(features: Tensor, window: int = 5, temperature: float = 0.1) -> Tensor:
    """(N, F - 1, W * W, h, w) float32: softmax over the window of the cosine of features (N, C, F, h, w), divided by
    the temperature; for a teacher such as SAM 2's features (`features_on`) or clean latents (`latents_on`)."""
    unit = normalize(features.float(), dim=1)
    return (_near(unit, unit, window) / temperature).softmax(2)


def features_on(features: Tensor, grid: Grid) -> Tensor:
    """(C, F, h, w) of features (C, T, rows, columns) of T pixel frames, whole frames each: the mean over the frames
    that a token stands for [?], at its middle.

    Raises ValueError where the grid's clip has another number of frames.
    """
    if features.shape[1] != grid.pixel_frames:
        raise ValueError(f"there are features of {features.shape[1]} frames; the clip has {grid.pixel_frames}")
    means = torch.stack([features[:, slice(*span)].float().mean(1) for span in grid.pixel_spans()])
    y, x = (
        (torch.arange(count, device=means.device) + 0.5) * side / whole * 2 - 1
        for count, side, whole in zip(grid.shape[1:], grid.token_pixels, grid.frame_pixels, strict=True)
    )
    at = torch.stack([x.expand(len(y), -1), y[:, None].expand(-1, len(x))], -1)
    seen = grid_sample(means, at.expand(len(means), -1, -1, -1), padding_mode="border", align_corners=False)
    return seen.transpose(0, 1)


def latents_on(latents: Tensor, grid: Grid) -> Tensor:
    """(N, C, F, h, w) of clean latents (N, C, T, rows, columns): the mean of each token's patch [?]."""
    return avg_pool3d(latents.float(), grid.patch, ceil_mode=True)


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
