"""A first frame as the image condition that each family's image-to-video models expect.

F pixel frames, T latent frames, H, W latent height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import torch
from torch import Tensor

from ...core.grid import Framing
from .attach import backbone_of, patch_of

__all__ = ["LIMIT", "ImageCondition", "image_condition"]

LIMIT = "matrix_clip_limit"
"""Attachment of a MODEL that makes one size only: called with (frames, height, width), raises ValueError for others."""


@dataclass(frozen=True)
class ImageCondition:
    """Keys for both CFG branches of the conditioning, and the latent to sample from."""

    values: dict[str, Any]
    latent: dict[str, Tensor]
    framing: Framing


def image_condition(
    model: Any,
    vae: Any,
    image: Tensor,
    width: int,
    height: int,
    length: int,
    batch: int = 1,
    clip_vision_output: Any = None,
) -> ImageCondition:
    """Crops, encodes and lays out the first frame for `model`.

    Args:
        image: (n, rows, columns, 3 or more) in [0, 1]; the first picture counts. It is cropped around its centre to the
            aspect ratio of `width` x `height` and resized, as the host's own image nodes do.
        width, height, length: of the clip, in pixels and pixel frames.
        clip_vision_output: Wan 2.1 I2V's picture embedding.

    Raises:
        ValueError: a size that the model's grid does not divide (with the nearest that it does), a picture that is
            none, a text-to-video model, or a VAE of another latent space.
    """
    spec, inner = backbone_of(model), model.model.diffusion_model
    channels = model.get_model_object("latent_format").latent_channels
    if limit := model.get_attachment(LIMIT):
        limit(length, height, width)
    stride, (_, rows, columns) = int(vae.spacial_compression_encode()), patch_of(model)
    _check_size(spec.title, width, height, length, stride * rows, stride * columns, spec.temporal_stride)
    if vae.latent_channels != channels:
        raise ValueError(
            f"this VAE makes {vae.latent_channels} latent channels and this {spec.title} takes {channels}: load the "
            "VAE that belongs to the model"
        )
    if image.ndim != 4 or image.shape[0] < 1 or image.shape[-1] < 3:
        raise ValueError(f"the first frame is an IMAGE (n, height, width, 3); got {tuple(image.shape)}")
    if not torch.isfinite(image[:1]).all():
        raise ValueError("the first frame holds values that are no numbers (NaN): look at the node that made it")
    framing = Framing((image.shape[1], image.shape[2]), (height, width))
    first = framing.apply(image[:1, ..., :3].movedim(-1, 1).float()).movedim(1, -1).clamp(0, 1)
    shape = (batch, channels, (length - 1) // spec.temporal_stride + 1, height // stride, width // stride)
    empty = torch.zeros(shape, device=comfy.model_management.intermediate_device())
    layout = {"cogvideox": _cogvideox, "wan": _wan, "hunyuan_video": _hunyuan}[spec.name]
    values, latent = layout(model, inner, vae, first, empty, length)
    if clip_vision_output is not None:
        values["clip_vision_output"] = clip_vision_output
    return ImageCondition(values, latent, framing)


def _check_size(title: str, width: int, height: int, length: int, rows: int, columns: int, frames: int) -> None:
    wrong = []
    for name, value, step in (("width", width, columns), ("height", height, rows)):
        if value < step or value % step:
            below = max(value // step * step, step)
            wrong.append(f"{name} {value} is no multiple of {step} (nearest: {below} or {below + step})")
    if length < 1 or (length - 1) % frames:
        below = max((length - 1) // frames, 0) * frames + 1
        wrong.append(f"length {length} is not {frames}n + 1 (nearest: {below} or {below + frames})")
    if wrong:
        raise ValueError(f"{title} has no grid for this clip: {'; '.join(wrong)}")


def _no_image(title: str) -> ValueError:
    return ValueError(
        f"this {title} is a text-to-video model: it has no input channels for a first frame. Load its image-to-video "
        "(I2V) checkpoint, or give the sampler an empty latent."
    )


def _mask(empty: Tensor) -> Tensor:
    """(1, 1, T, H, W): 0 where the clip is given, that is in the first frame, and 1 where it is made."""
    mask = torch.ones(1, 1, *empty.shape[2:], device=empty.device)
    mask[:, :, :1] = 0.0
    return mask


def _cogvideox(
    model: Any, inner: Any, vae: Any, first: Tensor, empty: Tensor, length: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """The first frame's latent, then frames that are zero in the model's own scale."""
    if inner.in_channels < 2 * empty.shape[1]:
        raise _no_image("CogVideoX")
    if inner.in_channels >= 3 * empty.shape[1]:
        raise ValueError("this CogVideoX is an inpainting model (48 input channels): use the host's own nodes for it")
    latents = model.get_model_object("latent_format")
    frames = latents.process_out(torch.zeros(1, *empty.shape[1:], device=empty.device))
    frames[:, :, :1] = vae.encode(first).to(frames)
    return {"concat_latent_image": frames}, {"samples": empty}


def _wan(
    model: Any, inner: Any, vae: Any, first: Tensor, empty: Tensor, length: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """I2V: the encoded clip of the first frame and grey, with its mask. The 5B model (48 channels) instead starts from
    a latent whose first frame is given."""
    extra = inner.patch_embedding.weight.shape[1] - empty.shape[1]
    if extra == 0 and empty.shape[1] == 48:
        mask = _mask(empty).expand(empty.shape[0], -1, -1, -1, -1)
        frames = model.get_model_object("latent_format").process_out(empty)
        frames[:, :, :1] = vae.encode(first).to(frames)
        return {}, {"samples": frames, "noise_mask": mask}
    if extra < empty.shape[1] + 4:
        raise _no_image("Wan")
    clip = torch.full((length, *first.shape[1:]), 0.5, dtype=first.dtype, device=first.device)
    clip[:1] = first
    return {"concat_latent_image": vae.encode(clip), "concat_mask": _mask(empty)}, {"samples": empty}


def _hunyuan(
    model: Any, inner: Any, vae: Any, first: Tensor, empty: Tensor, length: int
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """33 channels: image latent and mask beside the noise. 32 (SkyReels): image latent alone. 16: the first latent
    frame is given and marked as such ("replace")."""
    encoded = vae.encode(first)
    if inner.in_channels > empty.shape[1]:
        mask = {"concat_mask": _mask(empty)} if inner.in_channels == 2 * empty.shape[1] + 1 else {}
        return {"concat_latent_image": encoded, **mask}, {"samples": empty}
    frames = empty.clone()
    frames[:, :, :1] = encoded.to(frames)
    return {"guiding_frame_index": 0}, {"samples": frames, "noise_mask": _mask(empty)}
