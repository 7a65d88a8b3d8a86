"""A first frame as the image condition that each family's image-to-video models expect.

F pixel frames, T latent frames, H, W latent height and width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import comfy.model_management
import comfy.utils
import torch
from torch import Tensor

from ...core.grid import Fit, Framing, Grid, clip_lengths
from .families import family
from .model import backbone_of, patch_of

__all__ = ["LIMIT", "ImageCondition", "image_condition"]

LIMIT = "matrix_clip_limit"
"""Attachment of a MODEL that makes one size only: called with (frames, height, width), raises ValueError for others."""


@dataclass(frozen=True)
class ImageCondition:
    """Keys for both CFG branches of the conditioning, and the latent to sample from."""

    values: dict[str, Any]
    latent: dict[str, Any]
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
    fit: Fit = "center",
) -> ImageCondition:
    """Crops, encodes and lays out the first frame for `model`.

    Args:
        image: (n, rows, columns, 3 or more) in [0, 1]; the first picture counts. It is brought to `width` x `height`,
            resized as the host's own image nodes do.
        width, height, length: of the clip, in pixels and pixel frames.
        fit: how a picture of another shape is brought to the clip's: cropped around its centre (the host's own way),
            stretched, or whole between black bars. Tracks know theirs (`MaskTracks.fit`).
        clip_vision_output: Wan 2.1 I2V's picture embedding.

    Raises:
        ValueError: a size that the model's grid does not divide (with the nearest that it does), a picture that is
            none, a text-to-video model, or a VAE of another latent space.
    """
    spec = backbone_of(model)
    channels = family(spec.name).clip_channels(model)
    if limit := model.get_attachment(LIMIT):
        limit(length, height, width)
    stride, (_, rows, columns) = int(vae.spacial_compression_encode()), patch_of(model)
    lengths = clip_lengths(spec.temporal_stride, spec.cycle)
    _check_size(spec.title, width, height, length, stride * rows, stride * columns, lengths)
    if vae.latent_channels != channels:
        raise ValueError(
            f"this VAE makes {vae.latent_channels} latent channels and this {spec.title} takes {channels}: load the "
            "VAE that belongs to the model"
        )
    if image.ndim != 4 or image.shape[0] < 1 or image.shape[-1] < 3:
        raise ValueError(f"the first frame is an IMAGE (n, height, width, 3); got {tuple(image.shape)}")
    if not torch.isfinite(image[:1]).all():
        raise ValueError("the first frame holds values that are no numbers (NaN): look at the node that made it")
    framing = Framing((image.shape[1], image.shape[2]), (height, width), fit)
    first = _seen(image[:1, ..., :3].movedim(-1, 1).float(), framing).movedim(1, -1)
    grid = Grid.from_pixels(length, height, width, (1, 1, 1), spec.temporal_stride, stride, 0, spec.cycle)
    empty = torch.zeros((batch, channels, *grid.shape), device=comfy.model_management.intermediate_device())
    values, latent = family(spec.name).first_frame(model, vae, first, empty, length)
    if clip_vision_output is not None:
        values["clip_vision_output"] = clip_vision_output
    return ImageCondition(values, latent, framing)


def _seen(picture: Tensor, framing: Framing) -> Tensor:
    """The picture (1, 3, rows, columns) as the model sees it, resized as the host's own nodes do."""
    top, left, height, width = framing.window()
    crop = "center" if framing.crop == "center" else "disabled"
    shown = comfy.utils.common_upscale(picture, width, height, "bilinear", crop)
    if (height, width) == framing.target:
        return shown
    whole = shown.new_zeros(*shown.shape[:2], *framing.target)
    whole[..., top : top + height, left : left + width] = shown
    return whole


def _check_size(
    title: str, width: int, height: int, length: int, rows: int, columns: int, lengths: tuple[int, int]
) -> None:
    wrong = []
    for name, value, step in (("width", width, columns), ("height", height, rows)):
        if value < step or value % step:
            below = max(value // step * step, step)
            wrong.append(f"{name} {value} is no multiple of {step} (nearest: {below} or {below + step})")
    step, first = lengths
    if length < first or (length - first) % step:
        below = max((length - first) // step, 0) * step + first
        wrong.append(f"length {length} is not {step}n + {first} (nearest: {below} or {below + step})")
    if wrong:
        raise ValueError(f"{title} has no grid for this clip: {'; '.join(wrong)}")
