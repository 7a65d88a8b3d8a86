"""Where the clip's latent lies in what a sampler holds.

Models that make sound beside the clip are sampled on one flat tensor of both latents, the clip's in front; and frames
that guide a model may trail the clip.

B batch, C channels, T latent frames, H, W latent rows and columns, N everything of one sample side by side.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

__all__ = ["ClipLatent", "clip_shape", "first_latent", "packed_shapes", "side_by_side"]


@dataclass(frozen=True)
class ClipLatent:
    """How to get at the clip in a sampler's latent.

    shape: (C, T, H, W) of the latent that holds the clip. packed: it is the first part of a flat (B, 1, N).
    behind: how many of its frames, at the end, are guides and no part of the clip.
    """

    shape: tuple[int, ...]
    packed: bool = False
    behind: int = 0

    def of(self, x: Tensor) -> Tensor:
        """The clip (B, C, T - behind, H, W) in a sampler's latent, or in a mask of its shape; x itself where that is
        all of it."""
        whole = self._unpacked(x) if self.packed else x
        return whole[:, :, : whole.shape[2] - self.behind] if self.behind else whole

    def into(self, x: Tensor, clip: Tensor) -> Tensor:
        """x with another clip in it; the clip itself where it is all of x."""
        if not self.packed and not self.behind:
            return clip
        whole = self._unpacked(x) if self.packed else x
        if self.behind:
            clip = torch.cat([clip, whole[:, :, whole.shape[2] - self.behind :].to(clip)], 2)
        if not self.packed:
            return clip
        rest = x[:, :, math.prod(self.shape) :].to(clip)
        return torch.cat([clip.reshape(len(clip), 1, -1), rest], 2)

    def _unpacked(self, x: Tensor) -> Tensor:
        return x[:, :, : math.prod(self.shape)].reshape(len(x), *self.shape)


def clip_shape(x: Tensor, latent_shapes: Sequence[Any] | None) -> tuple[int, ...]:
    """(C, T, H, W) of the latent that holds the clip, of what the model is called with.

    latent_shapes: of all latents that x packs, as the host tells them; None or one: x is the latent. Raises ValueError
    where that is no video.
    """
    shape = tuple(latent_shapes[0]) if latent_shapes is not None and len(latent_shapes) > 1 else tuple(x.shape)
    if len(shape) != 5:
        raise ValueError(f"a video latent is [batch, channels, frames, height, width]; got {list(shape)}")
    return shape[1:]


def packed_shapes(args: Sequence[Any], kwargs: Mapping[str, Any]) -> Sequence[Any] | None:
    """Shapes of the latents that a sampling packs: `latent_shapes` of the host's OUTER_SAMPLE, whose arguments behind
    the sigmas are these."""
    return kwargs.get("latent_shapes") or (args[4] if len(args) > 4 else None)


def first_latent(samples: Any) -> Any:
    """The clip's latent of a LATENT's samples, where the host keeps several of different sizes in one."""
    return samples.unbind()[0] if getattr(samples, "is_nested", False) is True else samples


def side_by_side(many: Sequence[Any]) -> Any:
    """Samples of several LATENTs as those of one batch; where each keeps several latents in one, part by part."""
    if getattr(many[0], "is_nested", False) is not True:
        return torch.cat(list(many))
    return type(many[0])([torch.cat(parts) for parts in zip(*(each.unbind() for each in many), strict=True)])
