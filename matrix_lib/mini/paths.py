"""Other paths for the same first frame: what tracks may ask for against the prompt.

Every function takes clips whose verb names two instances and gives paths (N, K, F, 2) in pixels, all starting where the
first frame shows everybody and all staying inside of it. Bystanders keep to their places.

N clips, K instance slots, F frames. Lengths in `unit`s, 1/64 of the frame's shorter side.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from .shapes import MAX_REACH
from .verbs import act, verb_named
from .world import Clips

__all__ = ["PATHS", "given"]

_EDGE = 1.5  # pixels between a shape and the frame, as the world keeps them
_WAYS = 24  # directions tried for a free path
_AGAINST = math.cos(math.radians(60))  # a free path turns at least this far away from the prompt's
_SLOW, _FAST, _JUMP = 8.0, 44.0, 18.0
_JUMPS = (0.3, 0.65)  # when the jumping track is somewhere else


def given(name: str, clips: Clips) -> Clips:
    """The clips as tracks of this kind have them; see `PATHS`. Raises ValueError for another name, and for clips whose
    verb does not name two instances."""
    if name not in PATHS:
        raise ValueError(f"tracks are {', '.join(PATHS)}; got {name!r}")
    if len(clips) and not bool((clips.parts == 2).all()):
        raise ValueError("other paths are made for verbs that name two instances: choose those in WorldConfig.verbs")
    return clips if name == "own" else clips.restage(PATHS[name](clips))


def _static(clips: Clips) -> Tensor:
    return clips.trajectories[:, :, :1].expand_as(clips.trajectories).clone()


def _swapped(clips: Clips) -> Tensor:
    """Roles exchanged: the recipient acts on the agent, by the prompt's verb where that stays in the frame, else by
    pulling it, which always does."""
    paths, camera = _static(clips), clips.camera[:, None]
    at, shapes, radii = (part[:, [1, 0, 1]] for part in (paths[:, :, 0] - camera[:, :, 0], clips.shape, clips.radius))
    pulled = act(verb_named("pull"), at, shapes, radii, clips.config.frames, clips.config.unit)[:, :2].flip(1) + camera
    swapped = clips.swapped.to(paths)
    low, high = _room(clips, slice(0, 2))
    fits = ((swapped >= low[:, :, None]) & (swapped <= high[:, :, None])).flatten(1).all(1)
    paths[:, :2] = torch.where(fits[:, None, None, None], swapped, pulled)
    return paths


def _line(length: float) -> Callable[[Clips], Tensor]:
    """The agent goes straight, at an even pace and away from where the prompt leads; the frame's edges throw it back.
    Of the directions tried, the one that keeps clearest of the others."""

    def paths(clips: Clips) -> Tensor:
        out = _static(clips)
        start, time = out[:, 0, 0], torch.linspace(0, 1, clips.config.frames, device=out.device)
        angle = torch.arange(_WAYS, device=out.device) * (2 * math.pi / _WAYS)
        ways = torch.stack([angle.cos(), angle.sin()], -1)  # (A, 2)
        steps = ways[:, None] * time[:, None] * (length * clips.config.unit)  # (A, F, 2)
        low, high = (side[:, None, None] for side in _room(clips, 0))
        tried = _thrown_back(start[:, None, None] + steps, low, high)  # (N, A, F, 2)
        free = _clearance(clips, tried)
        straight = ((tried - start[:, None, None] - steps).abs().amax((2, 3)) < 0.01) | (length >= _FAST)
        habit = clips.trajectories[:, 0] - clips.trajectories[:, 0, :1]
        far = habit.norm(dim=-1).argmax(1)
        habit = torch.nn.functional.normalize(habit[torch.arange(len(habit)), far], dim=-1)
        against = habit @ ways.T <= _AGAINST
        best = (free - 1e3 * (~straight).float() - 1e4 * (~against).float()).argmax(1)
        out[:, 0] = tried[torch.arange(len(best)), best]
        return out

    return paths


def _jump(clips: Clips) -> Tensor:
    """The agent is at once somewhere else, and later at once at a third place."""
    out = _static(clips)
    low, high = _room(clips, 0)
    ticks = torch.linspace(0, 1, 9, device=out.device)
    raster = torch.stack(torch.meshgrid(ticks, ticks, indexing="ij"), -1).flatten(0, 1)
    places = low[:, None] + (high - low)[:, None] * raster  # (N, P, 2)
    free = _clearance(clips, places[:, :, None]).clamp_max(4.0 * clips.config.unit)
    row, begin = torch.arange(len(out), device=out.device), [round(at * clips.config.frames) for at in _JUMPS]
    for first in begin:
        before = out[:, 0, first - 1]
        apart = (places - before[:, None]).norm(dim=-1) / clips.config.unit
        best = (free - (apart - _JUMP).abs() - 1e3 * (apart < _JUMP).float()).argmax(1)
        out[:, 0, first:] = places[row, best][:, None]
    return out


def _room(clips: Clips, slots: int | slice) -> tuple[Tensor, Tensor]:
    """The lowest and highest centres (N, 2), or (N, K, 2) of several slots, with the whole shape in the frame."""
    margin = (clips.radius[:, slots] * MAX_REACH + _EDGE).unsqueeze(-1)
    start = clips.trajectories[:, slots, 0]
    size = torch.tensor((clips.config.width, clips.config.height), dtype=margin.dtype, device=margin.device)
    return margin.expand_as(start).minimum(start), (size - margin).maximum(start)


def _thrown_back(at: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """Positions folded into [low, high], as a ball between walls."""
    room = (high - low).clamp_min(1e-3)
    turn = torch.remainder(at - low, 2 * room)
    return low + torch.minimum(turn, 2 * room - turn)


def _clearance(clips: Clips, tried: Tensor) -> Tensor:
    """Least free space in pixels between the agent on each path (N, A, F, 2) and everybody else at rest: (N, A)."""
    others = clips.trajectories[:, 1:, 0]
    apart = (tried[:, :, :, None] - others[:, None, None]).norm(dim=-1)
    apart = apart - (clips.radius[:, :1] + clips.radius[:, 1:])[:, None, None]
    return apart.masked_fill(~clips.present[:, None, None, 1:], math.inf).amin((2, 3)).clamp_max(1e3)


PATHS: dict[str, Callable[[Clips], Tensor]] = {
    "own": lambda clips: clips.trajectories,
    "swapped": _swapped,
    "static": _static,
    "slow": _line(_SLOW),
    "fast": _line(_FAST),
    "jumping": _jump,
}
"""own: what the prompt says. swapped: the recipient acts on the agent. static, slow, fast, jumping: everybody rests but
the agent, which rests too, or goes its own way against the prompt."""
