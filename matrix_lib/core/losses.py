"""Losses that teach attention what mask tracks say: MATRIX's grounding and propagation, TAViD's target-aware loss.

Maps come out of single attention calls, with gradients through the softmax (its log-sum-exp is computed again, never
taken as a constant), and meet masks either on the token grid or, through a decoder, in pixels.

L layers, E entities, F, h, w token frames, rows, columns, S = F*h*w video tokens, T, H, W frames and size of whatever
the masks are on (tokens or pixels). [?] marks what the papers leave open and a setting decides here.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from . import mask_kernel
from .at_once import at_once
from .attention import Pool, pooled_columns, pooled_rows
from .map_gradients import dots
from .sites import AttentionCall

__all__ = [
    "AlignmentConfig",
    "Decode",
    "Direction",
    "LayerDraw",
    "MaskTerms",
    "MaskWeights",
    "Scores",
    "TargetAwareConfig",
    "alignment_loss",
    "entity_losses",
    "grounding_map",
    "mask_loss",
    "propagation_map",
    "target_aware_loss",
    "timestep_weight",
]

Scores = Literal["probabilities", "logits"]
Direction = Literal["v2t", "t2v"]
Normalise = Literal["none", "max", "sum"]
Decode = Callable[[Tensor], Tensor]
"""(E, L, F, h, w) maps -> (E, T, H, W) logits of the masks in pixels."""

_EPS = 1e-12


# -- configuration ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class LayerDraw:
    """Which layers carry a loss at a step.

    Args:
        layers: the candidates.
        count: how many of them a step takes at random; None takes all at every step.
    """

    layers: tuple[int, ...]
    count: int | None = None

    def __post_init__(self) -> None:
        if any(layer < 0 for layer in self.layers) or len(set(self.layers)) != len(self.layers):
            raise ValueError(f"layers are different numbers from 0; got {self.layers}")
        if self.count is not None and not 1 <= self.count <= len(self.layers):
            raise ValueError(f"a step draws 1 to {len(self.layers)} of {len(self.layers)} layers; got {self.count}")

    @classmethod
    def stride(cls, first: int, stop: int, step: int) -> LayerDraw:
        """Every `step`-th layer of range(first, stop), the same ones at every step."""
        return cls(tuple(range(first, stop, step)))

    @classmethod
    def random(cls, first: int, stop: int, count: int) -> LayerDraw:
        """`count` layers of range(first, stop), new ones at every step."""
        return cls(tuple(range(first, stop)), count)

    def at(self, step: int, seed: int = 0) -> tuple[int, ...]:
        """The layers of a step, ascending: a function of step and seed alone, so that resumed runs agree."""
        if self.count is None:
            return tuple(sorted(self.layers))
        return tuple(sorted(random.Random(f"{seed}/{step}").sample(self.layers, self.count)))


@dataclass(frozen=True)
class MaskWeights:
    """l(X, Y) = bce * BCE(X, Y) + dice * (1 - Dice(X, Y)) + l2 * ||X - Y||^2 (MATRIX; its weights are unpublished [?]).

    `max_pos_weight`: BCE weighs inside pixels by min(outside / inside, max_pos_weight), as the released code does.
    """

    bce: float = 1.0
    dice: float = 1.0
    l2: float = 1.0
    max_pos_weight: float = 10.0

    def __post_init__(self) -> None:
        if min(self.bce, self.dice, self.l2) < 0 or self.max_pos_weight <= 0:
            raise ValueError(f"loss weights are 0 or more, max_pos_weight above 0; got {self}")


@dataclass(frozen=True)
class AlignmentConfig:
    """MATRIX's losses: L = L_DM + w(t) (sga * L_SGA + spa * L_SPA). Defaults are those of the released code and the
    layers of CogVideoX-5B-I2V.

    Args:
        sga, spa: weights of the grounding and the propagation loss; 0 switches one off.
        v2t, v2v: layers of the grounding and of the propagation loss.
        scores: "logits" are scale * q.k averaged over heads, what the decoder was fed in MATRIX; "probabilities" come
            out of the softmax over the whole row.
        direction: "v2t" or, as in the paper's ablation, "t2v": text queries over video keys.
        timestep: see `timestep_weight`.
    """

    sga: float = 0.01
    spa: float = 0.005
    mask: MaskWeights = field(default_factory=MaskWeights)
    v2t: LayerDraw = field(default_factory=lambda: LayerDraw((7, 11)))
    v2v: LayerDraw = field(default_factory=lambda: LayerDraw((12,)))
    scores: Scores = "logits"
    direction: Direction = "v2t"
    timestep: Literal["uniform", "bell"] = "uniform"


@dataclass(frozen=True)
class TargetAwareConfig:
    """TAViD: weight * E ||A - M||^2, A the V2T map of the target word, M its mask, over `layers`.

    Args:
        frames: "first" latent frame alone, as published, or "all" that the track knows.
        normalise: the paper does not say what A is divided by [?]: "max" brings its peak over the frames that count
            to 1, the mask's own value; "sum" brings both to a mass of 1; "none" leaves probabilities.
    """

    weight: float = 0.1
    layers: LayerDraw = field(default_factory=lambda: LayerDraw.stride(5, 24, 3))
    frames: Literal["first", "all"] = "first"
    normalise: Normalise = "max"


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


# -- losses -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class MaskTerms:
    """Each (E,), not weighted; `total` (E,) is their weighted sum."""

    bce: Tensor
    dice: Tensor
    l2: Tensor
    total: Tensor


def mask_loss(
    values: Tensor,
    masks: Tensor,
    weights: MaskWeights = MaskWeights(),
    scores: Scores = "logits",
    known: Tensor | None = None,
) -> MaskTerms:
    """The composite loss of each entity's map against its mask; means over frames and positions, so that neither the
    resolution nor the length changes the scale.

    Args:
        values: (E, T, H, W); logits (a sigmoid follows) or probabilities.
        masks: (E, T, H, W) bool, or float in [0, 1].
        known: (T,) bool, frames that the tracks say something about; the others do not count.

    Raises:
        ValueError: sizes that differ, or no known frame.
    """
    if values.ndim != 4 or values.shape != masks.shape:
        raise ValueError(f"maps {tuple(values.shape)} and masks {tuple(masks.shape)} are one size (E, T, H, W)")
    if known is not None:
        if not bool(known.any()):
            raise ValueError("the tracks know no frame of this clip: there is nothing to align with")
        if not bool(known.all()):
            values, masks = values[:, known], masks[:, known]
    if scores == "logits" and mask_kernel.usable(values, masks):
        bce, dice, l2 = mask_kernel.terms(values.flatten(1), masks.flatten(1), weights.max_pos_weight)
        return MaskTerms(bce, dice, l2, weights.bce * bce + weights.dice * dice + weights.l2 * l2)
    x = values.flatten(1) if values.dtype == torch.float64 else values.flatten(1).float()
    y = masks.flatten(1).to(x)
    inside = y.sum(1)
    ratio = (y.shape[1] - inside) / inside.clamp_min(1.0)
    most = torch.where(inside > 0, ratio.clamp_max(weights.max_pos_weight), 1.0)[:, None]
    if scores == "logits":
        p = x.sigmoid()
        bce = binary_cross_entropy_with_logits(x, y, pos_weight=most, reduction="none").mean(1)
    else:
        p = x
        # eps is added, not clamped at: a probability that underflows still has a gradient
        bce = -(most * y * (p + _EPS).log() + (1 - y) * (1 - p + _EPS).log()).mean(1)
    dice = 1 - (2 * (p * y).sum(1) + 1) / (p.sum(1) + inside + 1)
    l2 = (p - y).square().mean(1)
    return MaskTerms(bce, dice, l2, weights.bce * bce + weights.dice * dice + weights.l2 * l2)


def alignment_loss(
    maps: Mapping[int, Tensor],
    masks: Tensor,
    weights: MaskWeights = MaskWeights(),
    scores: Scores = "logits",
    known: Tensor | None = None,
    decode: Decode | None = None,
    trained: Sequence[Tensor] = (),
) -> Tensor:
    """L_SGA or L_SPA of one sample: the composite loss, summed over its entities (MATRIX). A scalar.

    With `decode` an entity at a time becomes a mask in pixels, so that no more than one decoded clip is held.

    Args:
        maps: {layer: (E, F, h, w)}.
        masks: (E, T, H, W), pixels with `decode` and else tokens.
        decode, trained: see `entity_losses`.

    Raises:
        ValueError: no maps, or sizes that differ.
    """
    if not maps:
        raise ValueError("no layer gave a map: do the layers of the loss exist in this model?")
    stacks = torch.stack([maps[layer] for layer in sorted(maps)], dim=1)
    if decode is None:
        return entity_losses(stacks, masks, weights, scores, known)
    pairs = zip(stacks.split(1), masks.split(1), strict=True)
    losses = [entity_losses(stack, mask, weights, scores, known, decode, trained=trained) for stack, mask in pairs]
    return torch.stack(losses).sum() if losses else stacks.sum() * 0


def entity_losses(
    stacks: Tensor,
    masks: Tensor,
    weights: MaskWeights = MaskWeights(),
    scores: Scores = "logits",
    known: Tensor | None = None,
    decode: Decode | None = None,
    strength: Tensor | None = None,
    trained: Sequence[Tensor] = (),
) -> Tensor:
    """The composite loss summed over entities, of one clip or of many. A scalar.

    With `decode` the maps of all layers, in ascending order, become one mask in pixels, whose gradients are computed
    right away: nothing in pixels is held. Without it, the maps meet the masks on the token grid and the layers are
    averaged.

    Args:
        stacks: (E, L, F, h, w).
        masks: (E, T, H, W), pixels with `decode` and else tokens.
        strength: (E,) what each entity's loss is multiplied by.
        trained: weights that `decode` reads and that are trained; others get no gradient.
    """

    def total(values: Tensor) -> Tensor:
        each = mask_loss(values, masks, weights, scores if decode is None else "logits", known).total
        return each.sum() if strength is None else (each * strength).sum()

    if decode is None:
        return torch.stack([total(values) for values in stacks.unbind(1)]).mean()
    decoder = decode
    return at_once(lambda stack: total(decoder(stack)), stacks, trained)


def target_aware_loss(
    maps: Mapping[int, Tensor] | Sequence[Tensor],
    mask: Tensor,
    config: TargetAwareConfig = TargetAwareConfig(),
    known: Tensor | None = None,
) -> Tensor:
    """TAViD's L_attn of one sample, without `config.weight`: mean over layers and positions of (A - M)^2. A scalar.

    Args:
        maps: (F, h, w) probabilities of the target word, one a layer; or (N, F, h, w) of N clips, for their mean.
        mask: token mask of the target in [0, 1], of the same size.
        known: (F,) bool; the first frame has to be known, later unknown ones do not count.

    Raises:
        ValueError: no maps, sizes that differ, or a first frame that the track does not know.
    """
    layers = list(maps.values()) if isinstance(maps, Mapping) else list(maps)
    if not layers or any(values.shape != mask.shape for values in layers):
        shapes = [tuple(values.shape) for values in layers]
        raise ValueError(f"the target's maps {shapes} are one or more, of the size of its mask {tuple(mask.shape)}")
    frames = torch.ones(mask.shape[-3], dtype=torch.bool) if known is None else known.clone()
    if not bool(frames[0]):
        raise ValueError("the target's mask does not know the first frame, which this loss is about")
    if config.frames == "first":
        frames[1:] = False
    losses = []
    for values in layers:
        a = values[..., frames, :, :]
        m, whole = mask[..., frames, :, :].to(a), (-3, -2, -1)
        if config.normalise == "max":
            a = a / a.amax(whole, keepdim=True).clamp_min(_EPS)
        elif config.normalise == "sum":
            a = a / a.sum(whole, keepdim=True).clamp_min(_EPS)
            m = m / m.sum(whole, keepdim=True).clamp_min(1.0)
        losses.append((a - m).square().mean())
    return torch.stack(losses).mean()


def timestep_weight(t: Tensor, kind: Literal["uniform", "bell"]) -> Tensor:
    """(B,) weight of the alignment losses at times t (B,) in [0, 1], 1 being pure noise.

    "uniform" is 1. "bell" follows exp(-2 (t - 1/2)^2), down to 0 at both ends and 1 on average: the weight that
    flow-matching trainers give to the middle of the schedule. MATRIX' released code multiplies both of its losses by
    its trainer's timestep weight.
    """
    if kind == "uniform":
        return torch.ones_like(t)
    if kind != "bell":
        raise ValueError(f"a timestep weight is 'uniform' or 'bell'; got {kind!r}")
    ends = math.exp(-0.5)
    mean = math.sqrt(math.pi / 2) * math.erf(math.sqrt(0.5)) - ends
    return (torch.exp(-2 * (t - 0.5) ** 2) - ends).clamp_min(0.0) / mean
