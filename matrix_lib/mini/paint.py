"""Draws clips of the mini world: soft background, anti-aliased shapes, and who is seen where.

N clips, K instances, F frames, H, W pixels. Instances are drawn from far to near in small square patches around their
centres, so the cost goes with what is covered and not with the whole picture.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .shapes import MAX_REACH, PALETTE, SHAPES, signed_distance

__all__ = ["BACKDROP", "paint"]

_PARALLAX = 0.5  # the background is far away: it moves half as much as the things in front
_GROUND = (0.20, 0.24)  # grey level of the darkest and the brightest background's mean
_WAVES = 3
BACKDROP = 10  # numbers that make waves; those behind them are clutter, four a thing
_CLUTTER_SIZE = (0.02, 0.07)  # radius of a thing of clutter, in shorter sides
_CLUTTER_LEVEL = 0.16  # how much darker or brighter than the ground it is at most
_SLAB_CPU, _SLAB_GPU = 32, 1024  # clips drawn at a time: what fits the caches, and what fits the memory


def _background(chance: Tensor, camera: Tensor, height: int, width: int) -> Tensor:
    """A dim grey made of a few long waves, (N, F, H, W) in [0, 1]; ``camera`` (N, F, 2) moves it.

    Where no camera moves, one frame (N, 1, H, W) stands for all.
    """
    device = chance.device
    if not bool(camera.any()):
        camera = camera[:, :1]
    unit = min(height, width)
    y = (torch.arange(height, device=device) + 0.5) / unit
    x = (torch.arange(width, device=device) + 0.5) / unit
    shift = camera * (_PARALLAX / unit)
    level = _GROUND[0] + (_GROUND[1] - _GROUND[0]) * chance[:, 0]
    picture = level[:, None, None, None].expand(-1, camera.shape[1], height, width).clone()
    for wave in range(_WAVES):
        angle, phase, pace = (chance[:, 1 + 3 * wave + i] for i in range(3))
        pulse = 2 * math.pi * (0.35 + 0.45 * wave + 0.4 * pace)
        kx, ky = pulse * torch.cos(2 * math.pi * angle), pulse * torch.sin(2 * math.pi * angle)
        along_x = kx[:, None, None] * (x - shift[..., 0:1]) + 2 * math.pi * phase[:, None, None]
        along_y = ky[:, None, None] * (y - shift[..., 1:2])
        # sin(a + b) from one-dimensional sines: no trigonometry per pixel.
        swing = torch.sin(along_x).unsqueeze(-2) * torch.cos(along_y).unsqueeze(-1) + torch.cos(along_x).unsqueeze(
            -2
        ) * torch.sin(along_y).unsqueeze(-1)
        picture.add_(swing, alpha=0.06 / (1 + 0.5 * wave))
    for thing in chance[:, BACKDROP:].unflatten(1, (-1, 4)).unbind(1):
        _litter(picture, thing, x - shift[..., 0:1], y - shift[..., 1:2], (width / unit, height / unit))
    return picture


def _litter(picture: Tensor, thing: Tensor, x: Tensor, y: Tensor, reach: tuple[float, float]) -> None:
    """Draws a grey disc of each clip on its background (N, F, H, W), in place: ``thing`` (N, 4) is where, how large and
    how bright, x (N, F, W) and y (N, F, H) places in shorter sides. It has no colour, so that nobody takes it for an
    instance."""
    across, down, size, level = (value[:, None, None] for value in thing.unbind(1))
    radius = _CLUTTER_SIZE[0] + (_CLUTTER_SIZE[1] - _CLUTTER_SIZE[0]) * size
    far = ((x - across * reach[0])[..., None, :].square() + (y - down * reach[1])[..., None].square()).sqrt()
    there = ((radius[..., None] - far) * min(picture.shape[-2:]) + 0.5).clamp_(0, 1)
    picture.add_(there * ((2 * level - 1) * _CLUTTER_LEVEL)[..., None])


def _coverage(shape: Tensor, radius: Tensor, present: Tensor, offsets: tuple[Tensor, Tensor]) -> Tensor:
    """How much of each patch pixel a shape covers, in [0, 1]: (N, K, F, P, P)."""
    y, x = offsets
    covered = torch.zeros(*y.shape[:3], y.shape[-1], x.shape[-1], device=x.device)
    for index in range(len(SHAPES)):
        chosen = (shape == index) & present
        if not bool(chosen.any()):
            continue
        distance = signed_distance(
            index, x[chosen].unsqueeze(-2), y[chosen].unsqueeze(-1), radius[chosen][:, None, None, None]
        )
        covered[chosen] = (0.5 - distance).clamp_(0, 1)
    return covered


def paint(
    centres: Tensor,
    shape: Tensor,
    colour: Tensor,
    radius: Tensor,
    depth: Tensor,
    present: Tensor,
    camera: Tensor,
    chance: Tensor,
    size: tuple[int, int],
) -> tuple[Tensor, Tensor]:
    """Video (N, F, 3, H, W) uint8 and the masks of what is visible (N, K, F, H, W) bool.

    Args:
        centres: (N, K, F, 2) pixels, x then y; a pixel's own centre lies at +0.5.
        shape, colour, depth: (N, K) indices into ``SHAPES``, ``PALETTE``, and the drawing order (0 is farthest).
        radius: (N, K) pixels. present: (N, K) bool. camera: (N, F, 2) shift of the picture in pixels.
        chance: (N, 10 + 4 n) uniform in [0, 1), makes the background and n things of clutter on it.
        size: height and width.
    """
    height, width = size
    count, slots, frames, _ = centres.shape
    video = torch.empty(count, frames, 3, height, width, dtype=torch.uint8, device=centres.device)
    masks = torch.empty(count, slots, frames, height, width, dtype=torch.bool, device=centres.device)
    side = min(height, width, 2 * math.ceil(float(radius.max()) * MAX_REACH + 1) + 2)
    slab = _SLAB_CPU if centres.device.type == "cpu" else _SLAB_GPU
    for start in range(0, count, slab):
        rows = slice(start, start + slab)
        scene = (centres[rows], shape[rows], colour[rows], radius[rows], depth[rows], present[rows])
        _paint_slab(scene, _background(chance[rows], camera[rows], height, width), side, video[rows], masks[rows])
    return video, masks


def _paint_slab(scene: tuple[Tensor, ...], grey: Tensor, side: int, video: Tensor, masks: Tensor) -> None:
    """Fills ``video`` and ``masks``; ``scene`` is the first six arguments of `paint`, ``grey`` (N, F or 1, H, W) the
    background, ``side`` a patch's P."""
    centres, shape, colour, radius, depth, present = scene
    count, slots, frames, _ = centres.shape
    height, width = grey.shape[-2:]
    device = centres.device
    steps = torch.arange(side, device=device)
    left = (centres[..., 0] - side / 2).round().long().clamp(0, width - side)
    top = (centres[..., 1] - side / 2).round().long().clamp(0, height - side)
    columns, rows = left.unsqueeze(-1) + steps, top.unsqueeze(-1) + steps  # (N, K, F, P)
    covered = _coverage(shape, radius, present, (rows + 0.5 - centres[..., 1:2], columns + 0.5 - centres[..., 0:1]))

    canvas = grey.clamp(0, 1).mul(255).round_().to(torch.uint8).unsqueeze(-1)
    canvas = canvas.expand(-1, frames, -1, -1, 3).clone(memory_format=torch.contiguous_format).view(-1, 3)
    owner = torch.full((len(canvas),), -1, dtype=torch.int8, device=device)
    paints = torch.tensor(list(PALETTE.values()), dtype=torch.float32, device=device)
    clip = torch.arange(count, device=device)
    page = (clip[:, None] * frames + torch.arange(frames, device=device)) * (height * width)  # (N, F)
    order = depth.argsort(dim=1)
    for layer in range(slots):
        slot = order[:, layer]
        alpha = covered[clip, slot].flatten()  # (N F P P)
        pixels = page[..., None, None] + rows[clip, slot].unsqueeze(-1) * width + columns[clip, slot].unsqueeze(-2)
        pixels = pixels.flatten()
        ink = paints[colour[clip, slot]].repeat_interleave(frames * side * side, dim=0)
        mixed = torch.lerp(canvas.index_select(0, pixels).float(), ink, alpha.unsqueeze(-1))
        canvas.index_copy_(0, pixels, mixed.round_().to(torch.uint8))
        mine = slot.to(torch.int8).repeat_interleave(frames * side * side)
        owner.index_copy_(0, pixels, torch.where(alpha > 0.5, mine, owner.index_select(0, pixels)))

    video.copy_(canvas.view(count, frames, height, width, 3).permute(0, 1, 4, 2, 3))
    names = torch.arange(slots, dtype=torch.int8, device=device)[None, :, None, None, None]
    torch.eq(owner.view(count, 1, frames, height, width), names, out=masks)
