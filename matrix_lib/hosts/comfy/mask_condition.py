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
from ...core.tracks.palette import Colour
from ...core.tracks.tracks import MaskTracks
from .families import family
from .lora import Widened
from .model import backbone_of

__all__ = ["MaskCondition", "behind_references", "check_width", "find_targets", "id_map", "target_mask"]


@dataclass(frozen=True)
class MaskCondition:
    """`channels` (1, C, T, H, W) float32; `picture` (1, rows, columns, 3) in [0, 1], what they were made of."""

    channels: Tensor
    picture: Tensor


def find_targets(tracks: MaskTracks, text: str = "") -> tuple[str, ...]:
    """The instances that are the target: the named ones, else those in the role of the object, else the only one.

    Raises ValueError for a name that is not there, and where nothing tells which one it is.
    """
    named = tuple(name.strip() for name in text.split(",") if name.strip())
    for name in named:
        tracks.track(name)
    objects = tuple(name for name, role in tracks.roles.items() if role == "object")
    found = named or objects or (tracks.names if len(tracks.names) == 1 else ())
    if not found:
        raise ValueError(f"which one is the target? Name one or more of {', '.join(map(repr, tracks.names))}")
    return found


def target_mask(
    tracks: MaskTracks, names: Sequence[str], latent: Tensor, stride: int = 8, framing: Framing | None = None
) -> MaskCondition:
    """TAViD: one channel, the first frame's mask taken down to latents by nearest (each `stride`-th pixel), zeros for
    later latent frames.

    Args:
        names: instances whose masks are united.
        latent: (B, C, T, H, W), for its size.
        stride: pixels per latent element.
        framing: how the host crops and resizes frames; by default the tracks' `fit` to the latent's pixels.

    Raises ValueError where the target is not in the first frame.
    """
    frames, height, width = _size(latent)
    framing = framing or _framing(tracks, height * stride, width * stride)
    mask = torch.zeros(tracks.height, tracks.width, dtype=torch.bool)
    for name in names:
        mask |= tracks.mask(name, 0)
    seen = framing.apply(mask.float(), "nearest")
    channels = torch.zeros(1, 1, frames, height, width)
    channels[0, 0, 0] = torch.nn.functional.interpolate(seen[None, None], (height, width), mode="nearest")[0, 0]
    if not bool(channels.any()):
        raise ValueError(
            f"{', '.join(map(repr, names))} shows nowhere in the first frame as the model sees it: the target mask is "
            "of the first frame, so draw the target there"
        )
    return MaskCondition(channels, seen[None, ..., None].expand(-1, -1, -1, 3).clone())


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
    latents = model.get_model_object("latent_format")
    if vae.latent_channels != latents.latent_channels:
        raise ValueError(
            f"this VAE makes {vae.latent_channels} latent channels and this {spec.title} takes "
            f"{latents.latent_channels}: load the VAE that belongs to the model"
        )
    if palette and len(tracks.names) > len(palette):
        raise ValueError(
            f"the LoRA knows {len(palette)} colours, and the tracks have {len(tracks.names)} instances: leave some out"
        )
    tracks = tracks.with_palette(palette[: len(tracks.names)]) if palette else tracks
    frames, height, width = _size(latent)
    stride = int(vae.spacial_compression_encode())
    framing = framing or _framing(tracks, height * stride, width * stride)
    picture = tracks.id_map(0, framing).float()[None] / 255.0
    shape = (1, latents.latent_channels, frames, height, width)
    if spec.id_map == "masked":
        clip = torch.full(((frames - 1) * spec.temporal_stride + 1, *picture.shape[1:]), 0.5)
        clip[:1] = picture
        known = torch.zeros(1, spec.temporal_stride, frames, height, width)
        known[:, :, :1] = 1.0
        encoded = latents.process_in(vae.encode(clip)).cpu().float()
        return MaskCondition(torch.cat([known, encoded], dim=1), picture)
    scale = family(spec.name).image_scale(model)
    channels = torch.zeros(shape)
    channels[:, :, :1] = latents.process_in(vae.encode(picture) * scale).cpu().float()
    return MaskCondition(channels, picture)


def behind_references(
    make: Callable[[Tensor], MaskCondition], model: Any, conditionings: Iterable[Any], latent: Tensor
) -> MaskCondition:
    """What `make` makes of the clip's own latent frames, with zeros for the reference frames in front of them.

    Args:
        conditionings: of the run, which say how many references the latent holds.
        latent: (B, C, T, H, W) that is sampled.

    Raises ValueError where they do not agree.
    """
    conds = [more for conditioning in conditionings for _, more in conditioning]
    front = family(backbone_of(model).name).frames_in_front(model.model, conds, _size(latent))
    made = make(latent[:, :, front:])
    empty = made.channels.new_zeros(*made.channels.shape[:2], front, *made.channels.shape[3:])
    return replace(made, channels=torch.cat([empty, made.channels], 2))


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
