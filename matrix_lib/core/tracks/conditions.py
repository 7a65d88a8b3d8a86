"""What a widened LoRA reads beside the latents: the target mask, or the ID map, of a clip's first frame.

T latent frames, H, W latent height and width; F pixel frames. Pictures are (rows, columns, 3) uint8.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..grid import Framing
from .palette import Colour
from .tracks import MaskTracks

__all__ = ["coloured", "find_targets", "grey_clip", "known_frames", "target_mask", "zeros_behind"]


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
    tracks: MaskTracks,
    names: Sequence[str],
    latent: tuple[int, int, int],
    framing: Framing,
    grey: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """TAViD: (1, T, H, W) float32, the first frame's mask taken down to latents by nearest (each `stride`-th pixel),
    zeros for later latent frames; and the mask in pixels as the model sees it, (rows, columns).

    Args:
        names: instances whose masks are united.
        latent: (T, H, W).
        framing: how the host brings frames to the clip's pixels.
        grey: (rows, columns) in [0, 1] of the tracks' size, in place of their mask: its values stay, as in the code
            that TAViD's authors released.

    Raises ValueError where the target is not in the first frame, and for a grey mask of another size or range.
    """
    frames, height, width = latent
    mask = torch.zeros(tracks.height, tracks.width, dtype=torch.bool)
    for name in names:
        mask |= tracks.mask(name, 0)
    if grey is not None and (grey.shape != mask.shape or not bool(((grey >= 0) & (grey <= 1)).all())):
        low, high = (float(grey.min()), float(grey.max())) if grey.numel() else (0.0, 0.0)
        raise ValueError(
            f"a grey mask is of the tracks' size {tuple(mask.shape)}, from 0 to 1; got {tuple(grey.shape)}, from "
            f"{low:g} to {high:g}"
        )
    seen = framing.apply(mask.float() if grey is None else grey.float(), "nearest")
    channels = torch.zeros(1, frames, height, width)
    channels[0, 0] = torch.nn.functional.interpolate(seen[None, None], (height, width), mode="nearest")[0, 0]
    if not bool(channels.any()):
        raise ValueError(
            f"{', '.join(map(repr, names))} shows nowhere in the first frame as the model sees it: the target mask is "
            "of the first frame, so draw the target there"
        )
    return channels, seen


def coloured(tracks: MaskTracks, palette: Sequence[Colour]) -> MaskTracks:
    """Tracks in the colours that a LoRA was trained on, given to the instances in their order; an empty palette keeps
    their own. Raises ValueError for more instances than there are colours."""
    if not palette:
        return tracks
    if len(tracks.names) > len(palette):
        raise ValueError(
            f"the LoRA knows {len(palette)} colours, and the tracks have {len(tracks.names)} instances: leave some out"
        )
    return tracks.with_palette(palette[: len(tracks.names)])


def zeros_behind(first: Tensor, frames: int) -> Tensor:
    """(C, T, H, W): the latents (C, 1, H, W) of one picture, then zeros. Frames that fill a temporal patch in front of
    a clip (CogVideoX 1.5) do not move it: it stays in the first latent frame, as its pipelines have the first frame."""
    return torch.cat([first, first.new_zeros(first.shape[0], frames - 1, *first.shape[2:])], dim=1)


def grey_clip(picture: Tensor, frames: int) -> Tensor:
    """(F, rows, columns, 3) in [0, 1]: one picture (rows, columns, 3) in [0, 1], then the middle of the range."""
    return torch.cat([picture[None], torch.full((frames - 1, *picture.shape), 0.5).to(picture)])


def known_frames(latents: Tensor, stride: int) -> Tensor:
    """(stride + C, T, H, W): latents (C, T, H, W) behind a mask of as many channels as a latent frame has pixel frames,
    1 in the first latent frame."""
    known = latents.new_zeros(stride, *latents.shape[1:])
    known[:, 0] = 1.0
    return torch.cat([known, latents])
