"""First frames that mini knows: coloured squares on grey, as the clips of the pack that stand still show them."""

from __future__ import annotations

import torch
from torch import Tensor

from ..draft import SHOWN, Draft, Node

__all__ = [
    "BLUE_AT",
    "FPS",
    "FRAMES",
    "HEIGHT",
    "LOOK_ALIKES",
    "RED_AT",
    "SIDE",
    "STEPS",
    "STILLS",
    "WIDTH",
    "drawn",
    "still",
]

Place = tuple[int, int]
WIDTH, HEIGHT, FRAMES, FPS, STEPS = 128, 128, 17, 8.0, 24  # what mini makes
SIDE = 24
GROUND, RED, BLUE = (0x38, 0x38, 0x38), (0xE4, 0x20, 0x26), (0x24, 0x46, 0xEC)  # the mini world's own colours
RED_AT, BLUE_AT = (18, 52), (84, 52)
# Two red squares and a blue one: left and top of each, the blue one last.
LOOK_ALIKES: dict[str, tuple[Place, Place, Place]] = {
    "look-alikes-above": ((18, 22), (86, 22), (52, 84)),
    "look-alikes-below": ((16, 90), (88, 90), (52, 46)),
}
STILLS: dict[str, tuple[tuple[tuple[int, int, int], Place], ...]] = {
    "two-squares": ((RED, RED_AT), (BLUE, BLUE_AT)),
    **{name: ((RED, one), (RED, two), (BLUE, blue)) for name, (one, two, blue) in LOOK_ALIKES.items()},
}


def drawn(name: str) -> Tensor:
    """The picture of STILLS, (H, W, 3) uint8."""
    picture = torch.tensor(GROUND, dtype=torch.uint8).expand(HEIGHT, WIDTH, 3).clone()
    for colour, (x, y) in STILLS[name]:
        picture[y : y + SIDE, x : x + SIDE] = torch.tensor(colour, dtype=torch.uint8)
    return picture


def still(d: Draft, name: str) -> tuple[int, int]:
    """The node with this picture; returns its output. A person puts Load Image there."""
    shown: Node = d.add("MatrixExampleClip", SHOWN, "First frame", clip=name)
    return shown[1]
