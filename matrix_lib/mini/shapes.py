"""What the things in the mini world look like: shapes by signed distance, colours by name.

A shape of radius r covers about the area of a disc of radius r, so a mask's size says little about its shape.
Image axes: x to the right, y down; all lengths in pixels.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["COLOURS", "MAX_REACH", "PALETTE", "SHAPES", "reach", "signed_distance"]

SHAPES = ("circle", "square", "triangle", "diamond", "star", "cross")

# Saturated, and at least 27 degrees of hue apart: the judge and the codec both have to tell them apart when blurred.
PALETTE: dict[str, tuple[int, int, int]] = {
    "red": (228, 32, 38),
    "orange": (252, 138, 8),
    "yellow": (244, 232, 30),
    "green": (26, 176, 44),
    "cyan": (24, 214, 224),
    "blue": (36, 70, 236),
    "purple": (136, 36, 214),
    "pink": (250, 88, 190),
}
COLOURS = tuple(PALETTE)

MAX_REACH = 1.36  # the farthest any shape gets from its centre, in radii

_SQUARE, _DIAMOND, _TRIANGLE = 0.87, 1.22, 0.68
_STAR_OUT, _STAR_IN = 1.36, 0.80
_ARM, _ARM_HALF = 1.12, 0.47
_FIFTH = math.pi / 5
_TRIANGLE_NORMALS = ((0.0, 1.0), (math.cos(math.pi / 6), -0.5), (-math.cos(math.pi / 6), -0.5))


def _star_edge() -> tuple[float, float, float]:
    """Unit normal (x, y) and offset of a star's edge, for radius 1, in the folded sector that starts at a tip."""
    inner_x, inner_y = _STAR_IN * math.cos(_FIFTH), _STAR_IN * math.sin(_FIFTH)
    edge_x, edge_y = inner_x - _STAR_OUT, inner_y
    length = math.hypot(edge_x, edge_y)
    normal_x, normal_y = edge_y / length, -edge_x / length
    return normal_x, normal_y, normal_x * _STAR_OUT


def _fold(x: Tensor, y: Tensor) -> Tensor:
    """Angle to the nearest star tip (one tip points up), in [0, pi / 5]."""
    angle = torch.atan2(y, x) + math.pi / 2
    return (torch.remainder(angle + _FIFTH, 2 * _FIFTH) - _FIFTH).abs()


def signed_distance(shape: int, x: Tensor, y: Tensor, radius: Tensor) -> Tensor:
    """Distance in pixels from points (x, y), relative to the centre, to the outline; negative inside.

    ``shape`` is an index into ``SHAPES``; ``x``, ``y`` and ``radius`` broadcast. Outside of corners it is a lower bound
    of the distance, which is all that anti-aliasing needs.
    """
    name = SHAPES[shape]
    if name == "circle":
        return torch.hypot(x, y) - radius
    if name == "square":
        return torch.maximum(x.abs(), y.abs()) - _SQUARE * radius
    if name == "diamond":
        return (x.abs() + y.abs() - _DIAMOND * radius) * math.sqrt(0.5)
    if name == "triangle":
        sides = [nx * x + ny * y for nx, ny in _TRIANGLE_NORMALS]
        return torch.maximum(torch.maximum(sides[0], sides[1]), sides[2]) - _TRIANGLE * radius
    if name == "star":
        angle, distance = _fold(x, y), torch.hypot(x, y)
        nx, ny, offset = _star_edge()
        return distance * (nx * torch.cos(angle) + ny * torch.sin(angle)) - offset * radius
    x, y, arm, half = x.abs(), y.abs(), _ARM * radius, _ARM_HALF * radius
    return torch.minimum(torch.maximum(x - arm, y - half), torch.maximum(x - half, y - arm))


def reach(shape: Tensor, radius: Tensor, direction: Tensor) -> Tensor:
    """How far each shape's outline lies from its centre along a unit ``direction`` (..., 2), in pixels.

    Two shapes whose centres are ``reach(a, u) + reach(b, -u)`` apart along ``u`` just touch on the line between them.
    """
    x, y = direction[..., 0], direction[..., 1]
    small = 1e-9
    ax, ay = x.abs().clamp_min(small), y.abs().clamp_min(small)
    sides = torch.stack([nx * x + ny * y for nx, ny in _TRIANGLE_NORMALS]).amax(0)
    nx, ny, offset = _star_edge()
    angle = _fold(x, y)
    per_shape = {
        "circle": torch.ones_like(x),
        "square": _SQUARE / torch.maximum(ax, ay),
        "diamond": _DIAMOND / (ax + ay),
        "triangle": _TRIANGLE / sides.clamp_min(small),
        "star": offset / (nx * torch.cos(angle) + ny * torch.sin(angle)),
        "cross": torch.maximum(torch.minimum(_ARM / ax, _ARM_HALF / ay), torch.minimum(_ARM_HALF / ax, _ARM / ay)),
    }
    table = torch.stack([per_shape[name] for name in SHAPES], dim=-1)
    shape, _ = torch.broadcast_tensors(shape, x)
    return radius * table.gather(-1, shape.unsqueeze(-1)).squeeze(-1)
