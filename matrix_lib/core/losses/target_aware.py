"""TAViD's target-aware loss (arXiv 2503.18950)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from .config import TargetAwareConfig

__all__ = ["target_aware_loss"]

_EPS = 1e-12


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
