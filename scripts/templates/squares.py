"""A first frame that needs no files and that mini knows: coloured squares on grey."""

from __future__ import annotations

from ..draft import Draft, Node

__all__ = ["FPS", "FRAMES", "HEIGHT", "SIDE", "STEPS", "WIDTH", "papers"]

WIDTH, HEIGHT, FRAMES, FPS, STEPS = 128, 128, 17, 8.0, 24  # what mini makes
SIDE = 24
GROUND, RED, BLUE = 0x383838, 0xE42026, 0x2446EC  # the mini world's own colours


def papers(d: Draft, x: int, y: int) -> tuple[Node, Node, Node]:
    """A grey frame, a red and a blue square, below each other."""
    ground = d.add("EmptyImage", (x, y), (320, 160), "Grey", width=WIDTH, height=HEIGHT, batch_size=1, color=GROUND)
    red = d.add("EmptyImage", (x, y + 210), (320, 160), "Red", width=SIDE, height=SIDE, batch_size=1, color=RED)
    blue = d.add("EmptyImage", (x, y + 420), (320, 160), "Blue", width=SIDE, height=SIDE, batch_size=1, color=BLUE)
    return ground, red, blue
