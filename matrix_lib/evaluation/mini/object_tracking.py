"""Finds and follows the things of the mini world in the pixels of a video, sharp or blurred.

Only the first frame of the truth is used to know who is who: colour, size and start of each instance. Everything after
is seen in the pixels.

N clips, K instance slots, F frames, H, W pixels. Lengths in pixels, x to the right, y down.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from ...mini.shapes import MAX_REACH, PALETTE
from ...mini.world import Clips

__all__ = ["Sight", "colour_masks", "look"]

_CHUNK = 32  # clips looked at together
_LEASH = 0.02  # how much of an instance's area one pixel of distance from where it last was weighs
_LOST = 0.35  # seen with less than this share of its free area, an instance is lost
_HIDDEN = 0.6  # no more of an instance than this counts as hidden behind others; the world never hides more either
_NEW = 0.2  # a solid spot of this share of an instance's area, where nobody should be, is something new
_WINDOW = 2.0  # pixels around an instance's farthest reach that still belong to it


@dataclass(frozen=True)
class Sight:
    """What was seen. Absent slots have no pixels and are never ``lost``.

    Attributes:
        centres: (N, K, F, 2) centre of the visible pixels; where nothing is seen, where it was last.
        masks: (N, K, F, H, W) bool.
        lost: (N, K, F) bool, an instance that should be there is not.
        new: (N, F) bool, something is there that should not.
    """

    centres: Tensor
    masks: Tensor
    lost: Tensor
    new: Tensor


def _chroma(rgb: Tensor, dim: int) -> Tensor:
    """Colour without lightness: two orthonormal axes across the grey line, along ``dim``. Grey is (0, 0)."""
    red, green, blue = rgb.unbind(dim)
    return torch.stack([(red - (green + blue) / 2) * math.sqrt(2 / 3), (green - blue) / math.sqrt(2)], dim=dim)


def _as_unit(video: Tensor, clips: Clips) -> Tensor:
    """The video as float32 in [0, 1]; ValueError where it cannot belong to ``clips``."""
    expected = tuple(clips.video.shape)
    if tuple(video.shape) != expected:
        raise ValueError(
            f"the video has shape {tuple(video.shape)}, but the truth is of {expected} "
            "(clips, frames, 3, height, width)"
        )
    if video.dtype == torch.uint8:
        return video.float() / 255
    if not video.is_floating_point():
        raise ValueError(f"the video is {video.dtype}; give uint8, or floats in [0, 1]")
    low, high = float(video.amin()), float(video.amax())
    if not (low >= -0.25 and high <= 1.25):
        raise ValueError(f"the video reaches from {low:.2f} to {high:.2f}; give uint8, or finite floats in [0, 1]")
    return video.float().clamp(0, 1)


def look(video: Tensor, clips: Clips) -> Sight:
    """Follows every instance of ``clips`` through ``video`` (N, F, 3, H, W), uint8 or float in [0, 1].

    Raises ValueError on another shape, another type or another range.
    """
    video = _as_unit(video, clips) if len(clips) else video
    seen = []
    for start in range(0, len(clips), _CHUNK):
        rows = slice(start, start + _CHUNK)
        seen.append(_look_chunk(video[rows].to(clips.masks.device), clips.select(rows)))
    return Sight(*(torch.cat([getattr(s, name) for s in seen]) for name in ("centres", "masks", "lost", "new")))


def _colour_scores(video: Tensor) -> Tensor:
    """For each pixel and palette colour, how much nearer it is to the colour than to grey: (N, F, C, H, W).

    Squared distances in the chroma plane, so the sign flips where a colour covers half of a pixel.
    """
    paints = _chroma(torch.tensor(list(PALETTE.values()), dtype=torch.float32, device=video.device) / 255, 1)
    scores = torch.einsum("nfahw,ca->nfchw", _chroma(video, 2), paints)
    return scores - (paints.square().sum(1) / 2)[:, None, None]


def colour_masks(video: Tensor, colour: Tensor) -> Tensor:
    """Where a video (N, F, 3, H, W), uint8 or float in [0, 1], has each clip's ``colour`` (N,), an index into
    `shapes.COLOURS`: (N, F, H, W) bool. For videos whose first frame nobody gave, so that nobody can be followed; thin
    blends between other colours do not count."""
    frames = video.float() / 255 if video.dtype == torch.uint8 else video.float()
    found = []
    for start in range(0, len(frames), _CHUNK):
        best, label = _colour_scores(frames[start : start + _CHUNK]).max(dim=2)
        mine = (label == colour[start : start + _CHUNK, None, None, None]) & (best > 0)
        found.append(_grow(_erode(mine)) & mine)
    return torch.cat(found)


def _own_colour(scores: Tensor, colour: Tensor, present: Tensor) -> Tensor:
    """Pixels that have the colour of each slot, nearest among the colours of the clip: (N, K, F, H, W) bool."""
    there = (functional.one_hot(colour, scores.shape[2]).bool() & present.unsqueeze(-1)).any(dim=1)  # (N, C)
    allowed = scores.masked_fill(~there[:, None, :, None, None], -torch.inf)
    best, label = allowed.max(dim=2)
    label = torch.where(best > 0, label, -1)  # (N, F, H, W)
    mine = label.unsqueeze(1) == colour[:, :, None, None, None]
    return mine & present[:, :, None, None, None]


def _erode(mask: Tensor) -> Tensor:
    """Keeps pixels whose whole 3x3 neighbourhood is set, so thin blends between two colours go: (..., H, W) bool."""
    for dim in (-2, -1):
        inner = mask.size(dim) - 2
        shrunk = torch.zeros_like(mask)
        middle = mask.narrow(dim, 0, inner) & mask.narrow(dim, 1, inner) & mask.narrow(dim, 2, inner)
        shrunk.narrow(dim, 1, inner).copy_(middle)
        mask = shrunk
    return mask


def _grow(mask: Tensor) -> Tensor:
    """Undoes `_erode` on what it kept."""
    return functional.max_pool2d(mask.float(), 3, 1, 1) > 0


def _smooth(mask: Tensor, sigma: float) -> Tensor:
    """Gaussian filter by two matrix products; a spot of area A and about that size answers with 0.6 A."""

    def band(size: int) -> Tensor:
        at = torch.arange(size, device=mask.device, dtype=torch.float32)
        return torch.exp(-(at[:, None] - at).square() / (2 * sigma * sigma))

    return band(mask.shape[-2]) @ mask.float() @ band(mask.shape[-1])


def _look_chunk(video: Tensor, clips: Clips) -> Sight:
    scores = _colour_scores(video)
    strange = _strange(scores, clips)
    own = _own_colour(scores, clips.colour, clips.present) & ~_grow(strange).unsqueeze(1)
    area = clips.masks[:, :, 0].sum(dim=(-2, -1)).float()  # (N, K), everybody is whole in frame 0
    centres, masks, lost = _follow(own, clips, area)
    least = area.masked_fill(~clips.present, torch.inf).amin(dim=1)
    new = _leftovers(own, clips, area, centres) | (strange.sum(dim=(-2, -1)) > _NEW * least.unsqueeze(-1))
    return Sight(centres, masks, lost & clips.present.unsqueeze(-1), new)


def _distances(centres: Tensor, height: int, width: int) -> Tensor:
    """Distance of every pixel from each centre (..., 2): (..., H, W)."""
    y = torch.arange(height, device=centres.device) + 0.5
    x = torch.arange(width, device=centres.device) + 0.5
    dx, dy = x - centres[..., 0:1], y - centres[..., 1:2]
    return (dx.square().unsqueeze(-2) + dy.square().unsqueeze(-1)).sqrt()


def _follow(own: Tensor, clips: Clips, area: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Centres (N, K, F, 2), masks (N, K, F, H, W), lost (N, K, F), frame after frame."""
    height, width = own.shape[-2:]
    size = torch.tensor((width, height), dtype=torch.float32, device=own.device)
    window = clips.radius * MAX_REACH + _WINDOW
    answers = _smooth(own, 0.7 * float(clips.radius.mean()))
    twins = (clips.colour[:, :, None] == clips.colour[:, None]) & clips.present[:, :, None] & clips.present[:, None]
    twins &= ~torch.eye(area.shape[1], dtype=torch.bool, device=own.device)
    last = clips.trajectories[:, :, 0]
    centres, masks, lost = [], [], []
    for frame in range(own.shape[2]):
        far = _distances(last, height, width)
        mine = own[:, :, frame] & ~_nearer_twin(far, twins)
        answer = answers[:, :, frame] * mine / area.clamp_min(1)[..., None, None] - _LEASH * far
        top = answer.masked_fill(~mine, -torch.inf).flatten(2).argmax(dim=2)
        centre = torch.stack([top % width, top // width], dim=-1) + 0.5
        empty = ~mine.flatten(2).any(dim=2)
        centre = torch.where(empty.unsqueeze(-1), last, centre)
        for _ in range(2):
            spot = mine & (_distances(centre, height, width) <= window[..., None, None])
            centre = _centroid(spot, centre)
        spot = mine & (_distances(centre, height, width) <= window[..., None, None])
        mass = spot.sum(dim=(-2, -1))
        cover = own[:, :, frame].any(dim=1, keepdim=True) & ~own[:, :, frame]
        disc = _distances(torch.where((mass > 0.1 * area).unsqueeze(-1), centre, last), height, width)
        hidden = (cover & (disc <= clips.radius[..., None, None])).sum(dim=(-2, -1))
        gone = mass < _LOST * (area - hidden.minimum(_HIDDEN * area))
        last = torch.where((mass > 0.1 * area).unsqueeze(-1), centre, last).clamp(min=0).minimum(size)
        centres.append(last)
        masks.append(spot)
        lost.append(gone)
    return torch.stack(centres, 2), torch.stack(masks, 2), torch.stack(lost, 2)


def _nearer_twin(far: Tensor, twins: Tensor) -> Tensor:
    """Pixels that are nearer to a twin of an instance than to itself: (N, K, H, W) bool."""
    if not bool(twins.any()):
        return torch.zeros_like(far, dtype=torch.bool)
    rivals = torch.where(twins[..., None, None], far.unsqueeze(1), torch.inf).amin(dim=2)
    return rivals < far


def _centroid(mask: Tensor, otherwise: Tensor) -> Tensor:
    """Centre (..., 2) of the set pixels of masks (..., H, W), or ``otherwise`` where none is set."""
    height, width = mask.shape[-2:]
    x = torch.arange(width, device=mask.device) + 0.5
    y = torch.arange(height, device=mask.device) + 0.5
    weight = mask.float()
    mass = weight.sum(dim=(-2, -1))
    total = mass.clamp_min(1)
    found = torch.stack([(weight.sum(-2) * x).sum(-1) / total, (weight.sum(-1) * y).sum(-1) / total], dim=-1)
    return torch.where((mass > 0).unsqueeze(-1), found, otherwise)


def _leftovers(own: Tensor, clips: Clips, area: Tensor, centres: Tensor) -> Tensor:
    """(N, F): a solid spot of a known colour away from everybody of that colour."""
    height, width = own.shape[-2:]
    reach = clips.radius * MAX_REACH + _WINDOW + 1
    away = torch.ones_like(own)
    for slot in range(own.shape[1]):
        near = _distances(centres[:, slot], height, width) <= reach[:, slot, None, None, None]
        same = (clips.colour == clips.colour[:, slot : slot + 1]) & clips.present[:, slot : slot + 1]
        away &= ~(near.unsqueeze(1) & same[..., None, None, None])
    solid = _erode(own & away).sum(dim=(-2, -1))
    return (solid > _NEW * area.unsqueeze(-1)).logical_and(clips.present.unsqueeze(-1)).any(dim=1)


def _strange(scores: Tensor, clips: Clips) -> Tensor:
    """The insides of solid spots of colours that nobody in the clip has: (N, F, H, W) bool."""
    best, label = scores.max(dim=2)
    known = functional.one_hot(clips.colour, scores.shape[2]).bool() & clips.present.unsqueeze(-1)
    strange = ~known.any(dim=1)  # (N, C)
    return _erode(strange.gather(1, label.flatten(1)).view(label.shape) & (best > 0))
