"""Between the pixels of a clip and the latents that a diffusers transformer sees, by the pipeline's own VAE.

F pixel frames, H x W pixels; C channels, T latent frames, h x w latents. A VAE's distribution counts by its mode, so a
clip has one encoding.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from .attach import backbone_of
from .families import family
from .model_shape import ModelShape

__all__ = ["beside", "decode_clip", "encode_clip", "masked", "padded", "scaled", "unscaled"]


@torch.no_grad()
def encode_clip(pipe: Any, frames: Tensor, name: str | None = None) -> Tensor:
    """(C, T, h, w) of a clip (F, H, W, 3) uint8, as the pipeline's transformer sees latents, in the VAE's dtype and on
    its device. `name` is the family of a pipeline without its transformer. Raises ValueError for frames of another
    kind, for a pipeline without a VAE, and for an unknown model."""
    if frames.dtype != torch.uint8 or frames.ndim != 4 or frames.shape[-1] != 3:
        raise ValueError(f"a clip is [frames, height, width, 3] of uint8; got {list(frames.shape)} of {frames.dtype}")
    vae = getattr(pipe, "vae", None)
    if vae is None:
        raise ValueError(f"{type(pipe).__name__} has no VAE to encode a clip with: load the pipeline whole")
    if name is None:
        name = backbone_of(getattr(pipe, "transformer", None) or getattr(pipe, "unet", None)).name
    return scaled(vae, family(name).encode(vae, _pixels(pipe, frames)), name)[0]


def scaled(vae: Any, latents: Tensor, name: str) -> Tensor:
    """Latents (B, C, ...) of a VAE as transformers of the family `name` see them."""
    return family(name).scaled(vae, latents)


def decode_clip(vae: Any, latents: Tensor, name: str) -> Tensor:
    """(1, 3, F, H, W) in [-1, 1] of a clip's latents (1, C, T, h, w), as transformers of the family `name` see them."""
    return family(name).decode(vae, unscaled(vae, latents, name))


def unscaled(vae: Any, latents: Tensor, name: str) -> Tensor:
    """The way back, to what the VAE decodes."""
    return family(name).unscaled(vae, latents)


# -- a picture as the first frame -------------------------------------------------------------------------------------


@torch.no_grad()
def beside(pipe: Any, shape: ModelShape, picture: Tensor, frames: int) -> Tensor:
    """(T, I, h, w): a first frame (H, W, 3) uint8 as the family's image-to-video pipeline shows it to its transformer
    beside the noisy latents of a clip of so many frames."""
    if shape.image == "masked":
        return masked(pipe, shape, picture, frames)
    latents = padded(pipe, shape, picture, frames)
    if shape.image != "concat":
        return latents
    known = latents.new_zeros(len(latents), 1, *latents.shape[2:])
    known[0] = 1.0
    return torch.cat([latents, known], dim=1)


@torch.no_grad()
def padded(pipe: Any, shape: ModelShape, picture: Tensor, frames: int) -> Tensor:
    """(T, C, h, w): one picture's latents, then zeros. CogVideoX 1.5 has it in its first latent frame alone, which is
    one of those that fill its first temporal patch."""
    made = family(shape.family).encode(pipe.vae, _pixels(pipe, picture[None]))
    first = family(shape.family).scaled_image(pipe.vae, made)[0].transpose(0, 1)
    later = shape.grid(frames, *picture.shape[:2]).frames * shape.patch[0] - 1
    return torch.cat([first, first.new_zeros(later, *first.shape[1:])])


@torch.no_grad()
def masked(pipe: Any, shape: ModelShape, picture: Tensor, frames: int) -> Tensor:
    """Wan's (T, 4 + C, h, w): which latent frames are given, and latents of a clip that goes on in grey, the middle of
    the range of its pixels, which no byte is."""
    vae = pipe.vae
    first = picture.permute(2, 0, 1)[:, None].to(pipe._execution_device, vae.dtype).div(127.5).sub(1.0)
    clip = torch.cat([first, first.new_zeros(3, frames - 1, *first.shape[2:])], dim=1)
    latents = scaled(vae, family(shape.family).encode(vae, clip[None]), shape.family)[0].transpose(0, 1)
    known = latents.new_zeros(len(latents), shape.temporal_stride, *latents.shape[2:])
    known[0] = 1.0
    return torch.cat([known, latents], dim=1)


def _pixels(pipe: Any, frames: Tensor) -> Tensor:
    """(F, H, W, 3) uint8 -> (1, 3, F, H, W) in [-1, 1], for the pipeline's VAE."""
    return frames.permute(3, 0, 1, 2)[None].to(pipe._execution_device, pipe.vae.dtype).div(127.5).sub(1.0)
