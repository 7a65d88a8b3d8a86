"""What can happen in the mini world: each verb is a function from a first frame to everybody's path.

Paths hold no hidden chance: where the parts stand in frame 0 and which verb is said decide every later position. So a
model that sees the first frame and the prompt can know the one right video.

P parts (agent, recipient, third), F frames, ... any batch shape. Lengths in pixels, y down, time in [0, 1].
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from .shapes import MAX_REACH, SHAPES, reach

__all__ = ["VERBS", "VERB_NAMES", "Verb", "act", "lay_out", "reserved_shape", "verb_named"]

_MIDDLE = 0.5  # approach ends and the second half starts here
_SETTLED = 0.75  # a journey that ends in rest ends here


@dataclass(frozen=True)
class _Parts:
    """Starts of the parts (..., 1, 2) and what the verbs need to know about them; ``time`` is (F, 1)."""

    agent: Tensor
    recipient: Tensor
    third: Tensor
    closing: Tensor  # the step that brings the agent just into touch with the recipient
    closing_third: Tensor  # the step that brings the recipient just into touch with the third
    ahead: Tensor  # unit vector from the agent to the recipient
    time: Tensor
    unit: float  # pixels per 1/64 of the short side

    def rise(self, start: float, end: float) -> Tensor:
        """0 before ``start``, 1 after ``end``, a straight line between."""
        return ((self.time - start) / (end - start)).clamp(0, 1)

    def still(self, start: Tensor) -> Tensor:
        return start + torch.zeros_like(self.time)

    def offset(self, x: float, y: float) -> Tensor:
        return torch.tensor((x, y), dtype=self.agent.dtype, device=self.agent.device) * self.unit


_Paths = tuple[Tensor, Tensor, Tensor]


def _push(p: _Parts) -> _Paths:
    on = p.closing * p.rise(_MIDDLE, 1)
    return p.agent + p.closing * p.rise(0, _MIDDLE) + on, p.recipient + on, p.still(p.third)


def _pull(p: _Parts) -> _Paths:
    back = p.closing * p.rise(_MIDDLE, 1)
    return p.agent + p.closing * p.rise(0, _MIDDLE) - back, p.recipient - back, p.still(p.third)


def _chase(p: _Parts) -> _Paths:
    run = p.ahead * 20 * p.unit * p.rise(0, 1)
    return p.agent + run, p.recipient + run, p.still(p.third)


def _lift(p: _Parts) -> _Paths:
    up = p.offset(0, -18) * p.rise(_MIDDLE, 1)
    return p.agent + p.closing * p.rise(0, _MIDDLE) + up, p.recipient + up, p.still(p.third)


def _hit(p: _Parts) -> _Paths:
    return (
        p.agent + p.closing * p.rise(0, _MIDDLE),
        p.recipient + p.closing * p.rise(_MIDDLE, 1),
        p.still(p.third),
    )


def _bounce(p: _Parts) -> _Paths:
    there_and_back = p.rise(0, _MIDDLE) - p.rise(_MIDDLE, 1)
    return p.agent + p.closing * there_and_back, p.still(p.recipient), p.still(p.third)


def _join(p: _Parts) -> _Paths:
    return p.agent + p.closing * p.rise(0, _SETTLED), p.still(p.recipient), p.still(p.third)


def _orbit(p: _Parts) -> _Paths:
    turn = math.pi * p.rise(0, 1)
    away = p.agent - p.recipient
    across = torch.stack([-away[..., 1], away[..., 0]], dim=-1)  # a quarter turn clockwise on the screen
    return p.recipient + away * torch.cos(turn) + across * torch.sin(turn), p.still(p.recipient), p.still(p.third)


def _carry(p: _Parts) -> _Paths:
    way = p.closing_third * p.rise(0, _SETTLED)
    return p.agent + way, p.recipient + way, p.still(p.third)


def _give(p: _Parts) -> _Paths:
    there = p.rise(0, _MIDDLE)
    agent = p.agent + p.closing_third * (there - p.rise(_MIDDLE, 1))
    return agent, p.recipient + p.closing_third * there, p.still(p.third)


def _move(x: float, y: float) -> Callable[[_Parts], _Paths]:
    def motion(p: _Parts) -> _Paths:
        return p.agent + p.offset(x, y) * p.rise(0, 1), p.still(p.recipient), p.still(p.third)

    return motion


@dataclass(frozen=True)
class Verb:
    """One thing that can happen.

    ``words`` is how a caption says it, ``parts`` how many instances it names, ``gap`` the range in pixels (on a frame
    whose short side is 64) of the free space that the action first has to cross, ``held`` whether agent and recipient
    touch from the start. ``passive`` is how a caption says it that begins with the recipient.
    """

    name: str
    words: str
    parts: int
    motion: Callable[[_Parts], _Paths]
    gap: tuple[float, float] = (10, 16)
    held: bool = False
    preposition: str = ""
    passive: str = ""

    @property
    def interaction(self) -> bool:
        return self.parts > 1


VERBS: tuple[Verb, ...] = (
    Verb("push", "pushes", 2, _push, (10, 15), passive="is pushed by"),
    Verb("pull", "pulls", 2, _pull, (10, 18), passive="is pulled by"),
    Verb("chase", "chases", 2, _chase, (4, 12), passive="is chased by"),
    Verb("lift", "lifts", 2, _lift, (10, 18), passive="is lifted by"),
    Verb("hit", "hits", 2, _hit, (10, 15), passive="is hit by"),
    Verb("bounce", "bounces off", 2, _bounce, (12, 22), passive="is bounced off by"),
    Verb("join", "joins", 2, _join, (12, 26), passive="is joined by"),
    Verb("orbit", "orbits", 2, _orbit, (4, 8), passive="is orbited by"),
    Verb("carry", "carries", 3, _carry, (12, 20), held=True, preposition="to", passive="is carried by"),
    Verb("give", "gives", 3, _give, (12, 18), held=True, preposition="to", passive="is given by"),
    Verb("move_left", "moves left", 1, _move(-20, 0)),
    Verb("move_right", "moves right", 1, _move(20, 0)),
    Verb("move_up", "moves up", 1, _move(0, -20)),
    Verb("move_down", "moves down", 1, _move(0, 20)),
)
VERB_NAMES = tuple(verb.name for verb in VERBS)


def verb_named(name: str) -> Verb:
    """The verb called ``name``; a ValueError lists the known ones."""
    for verb in VERBS:
        if verb.name == name:
            return verb
    raise ValueError(f"unknown verb {name!r}; the mini world knows {', '.join(VERB_NAMES)}")


def reserved_shape(verb: Verb) -> int:
    """Index of the shape that is never this verb's object in the training split (for moves: never the mover)."""
    return VERB_NAMES.index(verb.name) % len(SHAPES)


def _direction(vector: Tensor) -> tuple[Tensor, Tensor]:
    length = vector.norm(dim=-1, keepdim=True).clamp_min(1e-9)
    return vector / length, length


def act(verb: Verb, starts: Tensor, shapes: Tensor, radii: Tensor, frames: int, unit: float = 1.0) -> Tensor:
    """Paths (..., 3, F, 2) of agent, recipient and third from their ``starts`` (..., 3, 2).

    ``shapes`` (..., 3) are indices into ``SHAPES`` and ``radii`` (..., 3) pixels. Parts that a verb does not have stay
    where they are.
    """
    agent, recipient, third = starts.unbind(-2)
    ahead, distance = _direction(recipient - agent)
    onward, distance_third = _direction(third - recipient)

    def room(first: int, second: int, line: Tensor) -> Tensor:
        one = reach(shapes[..., first], radii[..., first], line)
        return (one + reach(shapes[..., second], radii[..., second], -line)).unsqueeze(-1)

    parts = _Parts(
        agent=agent.unsqueeze(-2),
        recipient=recipient.unsqueeze(-2),
        third=third.unsqueeze(-2),
        closing=(ahead * (distance - room(0, 1, ahead))).unsqueeze(-2),
        closing_third=(onward * (distance_third - room(1, 2, onward))).unsqueeze(-2),
        ahead=ahead.unsqueeze(-2),
        time=torch.linspace(0, 1, frames, dtype=starts.dtype, device=starts.device).unsqueeze(-1),
        unit=unit,
    )
    return torch.stack(verb.motion(parts), dim=-3)


def lay_out(verb: Verb, chance: Tensor, shapes: Tensor, radii: Tensor, unit: float = 1.0) -> Tensor:
    """Where the parts may stand before the verb starts: (..., 3, 2), the agent (or who is held) at the origin.

    ``chance`` (..., 3) is uniform in [0, 1): direction, gap, side. Parts that the verb does not have get the origin.
    """
    angle = 2 * math.pi * chance[..., 0]
    line = torch.stack([torch.cos(angle), torch.sin(angle)], dim=-1)
    low, high = verb.gap
    gap = ((low + (high - low) * chance[..., 1]) * unit).unsqueeze(-1)
    origin = torch.zeros_like(line)

    def touching(first: int, second: int, way: Tensor) -> Tensor:
        one = reach(shapes[..., first], radii[..., first], way)
        return (one + reach(shapes[..., second], radii[..., second], -way)).unsqueeze(-1)

    if verb.parts == 1:
        return torch.stack([origin, origin, origin], dim=-2)
    if verb.parts == 2:
        # An orbit has to clear the corners of both on its whole way round.
        clear = (radii[..., 0] + radii[..., 1]).unsqueeze(-1) * MAX_REACH
        room = clear if verb.name == "orbit" else touching(0, 1, line)
        return torch.stack([origin, line * (room + gap), origin], dim=-2)
    # The agent stands behind what it holds, seen from the third, within 50 degrees.
    turn = angle + (2 * chance[..., 2] - 1) * math.radians(50)
    behind = -torch.stack([torch.cos(turn), torch.sin(turn)], dim=-1)
    return torch.stack([behind * touching(1, 0, behind), origin, line * (touching(1, 2, line) + gap)], dim=-2)
