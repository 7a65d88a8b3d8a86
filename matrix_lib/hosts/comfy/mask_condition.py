"""Tracks as the extra input channels of a widened model: TAViD's target mask, MATRIX's ID map.

T, H, W latent frames, height, width; channels are as the network sees them (latents scaled), so nothing is done to them
on their way into it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from ...core.grid import Framing
from ...core.tracks import conditions
from ...core.tracks.palette import Colour
from ...core.tracks.tracks import MaskTracks
from .clip_latent import first_latent
from .families import family
from .lora import Widened
from .model import backbone_of

__all__ = ["MaskCondition", "behind_references", "check_width", "id_map", "target_mask"]


@dataclass(frozen=True)
class MaskCondition:
    """`channels` (1, C, T, H, W) float32; `picture` (1, rows, columns, 3) in [0, 1], what they were made of."""

    channels: Tensor
    picture: Tensor


def target_mask(
    tracks: MaskTracks,
    names: Sequence[str],
    latent: Tensor,
    stride: int = 8,
    framing: Framing | None = None,
    grey: Tensor | None = None,
) -> MaskCondition:
    """TAViD: one channel, the first frame's mask taken down to latents by nearest (each `stride`-th pixel), zeros for
    later latent frames.

    Args:
        names: instances whose masks are united.
        latent: (B, C, T, H, W), for its size.
        stride: pixels per latent element.
        framing: how the host crops and resizes frames; by default the tracks' `fit` to the latent's pixels.
        grey: see `core.tracks.conditions.target_mask`.

    Raises ValueError where the target is not in the first frame, and for a grey mask that does not fit.
    """
    size = _size(latent)
    framing = framing or _framing(tracks, size[1] * stride, size[2] * stride)
    channels, seen = conditions.target_mask(tracks, names, size, framing, grey)
    return MaskCondition(channels[None], seen[None, ..., None].expand(-1, -1, -1, 3).clone())


def id_map(
    model: Any,
    vae: Any,
    tracks: MaskTracks,
    latent: Tensor,
    palette: Sequence[Colour] = (),
    framing: Framing | None = None,
) -> MaskCondition:
    """MATRIX: the palette picture of the first frame, VAE-encoded as the model's own first frame is. CogVideoX and
    HunyuanVideo: 16 channels, zeros for later frames. Wan: 4 mask channels and 16 of a clip that goes on in grey.

    Args:
        palette: colours that the LoRA was trained on, given to the instances in their order; empty keeps the tracks'.

    Raises ValueError for a VAE of another latent space and for more instances than the palette has colours.
    """
    spec = backbone_of(model)
    latents, channels = model.get_model_object("latent_format"), family(spec.name).clip_channels(model)
    if vae.latent_channels != channels:
        raise ValueError(
            f"this VAE makes {vae.latent_channels} latent channels and this {spec.title} takes {channels}: load the "
            "VAE that belongs to the model"
        )
    tracks = conditions.coloured(tracks, palette)
    frames, height, width = _size(latent)
    stride = int(vae.spacial_compression_encode())
    framing = framing or _framing(tracks, height * stride, width * stride)
    picture = tracks.id_map(0, framing).float()[None] / 255.0

    def encoded(pixels: Tensor) -> Tensor:
        return latents.process_in(vae.encode(pixels)).cpu().float()[0]  # type: ignore[no-any-return]

    if spec.id_map == "masked":
        clip = conditions.grey_clip(picture[0], (frames - 1) * spec.temporal_stride + 1)
        return MaskCondition(conditions.known_frames(encoded(clip), spec.temporal_stride)[None], picture)
    first = encoded(picture * family(spec.name).image_scale(model))
    return MaskCondition(conditions.zeros_behind(first, frames)[None], picture)


def behind_references(
    make: Callable[[Tensor], MaskCondition], model: Any, conditionings: Iterable[Any], latent: Tensor
) -> MaskCondition:
    """What `make` makes of the clip's own latent frames, with zeros for references in front and guides behind.

    Args:
        conditionings: of the run, which say how many references and guides the latent holds.
        latent: (B, C, T, H, W) that is sampled, or the host's own of clip and sound.

    Raises ValueError where they do not agree.
    """
    latent = first_latent(latent)
    conds = [more for conditioning in conditionings for _, more in conditioning]
    found = family(backbone_of(model).name)
    front, behind = found.frames_in_front(model.model, conds, _size(latent)), found.frames_behind(conds, _size(latent))
    made = make(latent[:, :, front : latent.shape[2] - behind])
    around = (0, 0, 0, 0, front, behind)
    return replace(made, channels=torch.nn.functional.pad(made.channels, around))


def check_width(made: MaskCondition, wide: Widened | None) -> None:
    """Raises ValueError where a widened model takes another number of channels."""
    channels = made.channels.shape[1]
    if wide is not None and channels != wide.extra:
        raise ValueError(
            f"this mask condition has {channels} channels, and the LoRA on the model takes {wide.extra}: choose the "
            "other kind of mask, or automatic"
        )


def _size(latent: Tensor) -> tuple[int, int, int]:
    if latent.ndim != 5:
        raise ValueError(f"a video latent is (batch, channels, frames, height, width); got {list(latent.shape)}")
    return int(latent.shape[2]), int(latent.shape[3]), int(latent.shape[4])


def _framing(tracks: MaskTracks, height: int, width: int) -> Framing:
    return Framing((tracks.height, tracks.width), (height, width), tracks.fit)
