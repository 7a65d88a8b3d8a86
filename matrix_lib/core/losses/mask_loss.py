"""Losses that compare attention maps with masks: MATRIX's grounding and propagation.

L layers, E entities, F, h, w token frames, rows, columns, T, H, W frames and size of whatever the masks are on (tokens
or pixels). [?] marks what the papers leave open and a setting decides here.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from ..no_compile import uncompiled
from ..triton import kernels_for
from .config import MaskWeights, Scores

__all__ = ["Decode", "MaskTerms", "alignment_loss", "at_once", "balance", "entity_losses", "mask_loss"]

Decode = Callable[[Tensor], Tensor]
"""(E, L, F, h, w) maps -> (E, T, H, W) logits of the masks in pixels."""
_EPS = 1e-12


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
    pos_weight: Tensor | None = None,
) -> MaskTerms:
    """The composite loss of each entity's map against its mask; means over frames and positions, so that neither the
    resolution nor the length changes the scale.

    Args:
        values: (E, T, H, W); logits (a sigmoid follows) or probabilities.
        masks: (E, T, H, W) bool, or float in [0, 1].
        known: (T,) bool, frames that the tracks say something about; the others do not count.
        pos_weight: (E,) what BCE weighs inside pixels by; None: by each mask's own share, see `MaskWeights`.

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
    kernels = kernels_for("mask_loss", values, masks) if scores == "logits" and pos_weight is None else None
    if kernels is not None:
        bce, dice, l2 = kernels.terms(values.flatten(1), masks.flatten(1), weights.max_pos_weight)
        return MaskTerms(bce, dice, l2, weights.bce * bce + weights.dice * dice + weights.l2 * l2)
    x = values.flatten(1) if values.dtype == torch.float64 else values.flatten(1).float()
    y = masks.flatten(1).to(x)
    inside = y.sum(1)
    most = balance(inside, y.shape[1], weights) if pos_weight is None else pos_weight.to(x)
    most = most[:, None]
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


def balance(inside: Tensor, size: int | Tensor, weights: MaskWeights) -> Tensor:
    """min(outside / inside, max_pos_weight) of masks with so many pixels inside, of `size` pixels; 1 where none is."""
    ratio = (size - inside) / inside.clamp_min(1.0)
    return torch.where(inside > 0, ratio.clamp_max(weights.max_pos_weight), 1.0)


def alignment_loss(
    maps: Mapping[int, Tensor],
    masks: Tensor,
    weights: MaskWeights = MaskWeights(),
    scores: Scores = "logits",
    known: Tensor | None = None,
    decode: Decode | None = None,
    trained: Sequence[Tensor] = (),
) -> Tensor:
    """L_SGA or L_SPA of one sample: the composite loss, summed over its entities (MATRIX) or as `weights` say.
    A scalar.

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
    shared = _shared(masks, weights, known)
    share = 1.0 / max(1, len(masks)) if weights.entities == "mean" else 1.0
    if decode is None:
        return entity_losses(stacks, masks, weights, scores, known, pos_weight=shared) * share
    each = range(len(stacks))
    losses = [
        entity_losses(
            stacks[e : e + 1], masks[e : e + 1], weights, scores, known, decode, trained=trained,
            pos_weight=None if shared is None else shared[e : e + 1],
        )
        for e in each
    ]  # fmt: skip
    return torch.stack(losses).sum() * share if losses else stacks.sum() * 0


def _shared(masks: Tensor, weights: MaskWeights, known: Tensor | None) -> Tensor | None:
    """(E,) the one weight of all masks of a sample together; None where each has its own."""
    if weights.pos_weight == "own" or not len(masks):
        return None
    seen = masks if known is None else masks[:, known]
    inside = seen.sum(dtype=torch.float64)
    return balance(inside, seen.numel(), weights).expand(len(masks))


def entity_losses(
    stacks: Tensor,
    masks: Tensor,
    weights: MaskWeights = MaskWeights(),
    scores: Scores = "logits",
    known: Tensor | None = None,
    decode: Decode | None = None,
    strength: Tensor | None = None,
    trained: Sequence[Tensor] = (),
    pos_weight: Tensor | None = None,
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
        pos_weight: (E,), see `mask_loss`.
    """

    def total(values: Tensor) -> Tensor:
        each = mask_loss(values, masks, weights, scores if decode is None else "logits", known, pos_weight).total
        return each.sum() if strength is None else (each * strength).sum()

    if decode is None:
        return torch.stack([total(values) for values in stacks.unbind(1)]).mean()
    decoder = decode
    return at_once(lambda stack: total(decoder(stack)), stacks, trained)


def at_once(loss: Callable[[Tensor], Tensor], given: Tensor, weights: Sequence[Tensor]) -> Tensor:
    """loss(given), a scalar, with gradients for `given` and `weights`, which `loss` reads besides.

    They are gradients of the value itself, before anything multiplies it: float16 wants a loss that is large enough,
    bfloat16 and float32 take any. No second derivatives.
    """
    wanted = [weight for weight in weights if weight.requires_grad]
    if not torch.is_grad_enabled() or not (given.requires_grad or wanted):
        return loss(given)
    return _apply(loss, given, *wanted)


@uncompiled
def _apply(*args: Any) -> Tensor:
    return _AtOnce.apply(*args)  # type: ignore[no-any-return]


class _AtOnce(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, loss: Callable[[Tensor], Tensor], given: Tensor, *weights: Tensor) -> Tensor:
        with torch.enable_grad():
            mine = given.detach().requires_grad_()
            value = loss(mine)
            grads = torch.autograd.grad(value, (mine, *weights), allow_unused=True)
        ctx.save_for_backward(*grads)
        return value.detach()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        return None, *(each if each is None else (each * grad).to(each) for each in ctx.saved_tensors)
