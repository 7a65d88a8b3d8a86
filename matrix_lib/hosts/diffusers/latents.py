"""Between the pixels of a clip and the latents that a diffusers transformer sees, by the pipeline's own VAE.

F pixel frames, H x W pixels; C channels, T latent frames, h x w latents. A VAE's distribution counts by its mode, so a
clip has one encoding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attach import backbone_of

__all__ = ["encode_clip", "scaled", "unscaled"]


@torch.no_grad()
def encode_clip(pipe: Any, frames: Tensor) -> Tensor:
    """(C, T, h, w) of a clip (F, H, W, 3) uint8, as the pipeline's transformer sees latents, in the VAE's dtype and on
    its device. Raises ValueError for frames of another kind, for a pipeline without a VAE, and for an unknown model."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"a clip is [frames, height, width, 3] of uint8; got {list(frames.shape)} of {frames.dtype}")
    vae = getattr(pipe, "vae", None)
    if vae is None:
        raise ValueError(f"{type(pipe).__name__} has no VAE to encode a clip with: load the pipeline whole")
    family = backbone_of(getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)).name
    pixels = frames.permute(3, 0, 1, 2).to(pipe._execution_device, vae.dtype).div(127.5).sub(1.0)
    if family == "zeroscope":  # its VAE knows pictures alone
        return scaled(vae, vae.encode(pixels.transpose(0, 1)).latent_dist.mode(), family).transpose(0, 1)
    return scaled(vae, vae.encode(pixels[None]).latent_dist.mode(), family)[0]


def scaled(vae: Any, latents: Tensor, family: str) -> Tensor:
    """Latents (B, C, ...) of a VAE as transformers of this family see them."""
    if family != "wan":
        return latents * vae.config.scaling_factor
    mean, std = _channels(vae, latents)
    return (latents - mean) * (1.0 / std)


def unscaled(vae: Any, latents: Tensor, family: str) -> Tensor:
    """The way back, to what the VAE decodes."""
    if family != "wan":
        return latents / vae.config.scaling_factor
    mean, std = _channels(vae, latents)
    return latents * std + mean


def _channels(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, *(1,) * (like.ndim - 2))
    mean, std = (torch.tensor(v).view(shape).to(like) for v in (vae.config.latents_mean, vae.config.latents_std))
    return mean, std
