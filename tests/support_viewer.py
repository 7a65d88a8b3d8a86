"""Exhibits for tests of the viewer, and captures of the sizes that it meets."""

from __future__ import annotations

import torch
from support_capture import make_binding, make_capture, make_frames, make_tracks

from matrix_lib.core.grid import Grid
from matrix_lib.instrument.capture import Capture, StepInfo, Stream
from matrix_lib.instrument.maps import Maps
from matrix_lib.viewer.exhibit import Exhibit, film_of

__all__ = ["exhibit", "heads_capture", "sized_capture"]


def exhibit(layers: int = 4, steps: int = 3, streams: int = 1, calls: int | list[int] = 2, label: str = "") -> Exhibit:
    """Two instances and a verb, with frames and tracks."""
    capture = make_capture(layers=layers, steps=steps, streams=streams, calls=calls)
    return Exhibit(capture, film_of(make_frames()), make_tracks(), label)


def sized_capture(layers: int, steps: int, words: int, grid: tuple[int, int, int], seed: int = 0) -> Capture:
    """A capture of any size: soft bumps that differ between words, layers and steps."""
    frames, height, width = grid
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.linspace(0, 1, height)[:, None], torch.linspace(0, 1, width)[None]
    places = torch.rand(words, 2, generator=generator)
    away = (y - places[:, 0, None, None]).square() + (x - places[:, 1, None, None]).square()
    bumps = torch.exp(-12 * away)[:, None].expand(words, frames, height, width)
    depth = torch.rand(layers, steps, words, 1, 1, 1, generator=generator)
    values = (0.002 + 0.02 * depth * bumps).half()
    names = tuple(f"word {i}" for i in range(words))
    maps = Maps.whole(values, range(layers), names, [2] * steps)
    stream = Stream("a", make_binding(), Grid(frames, height, width), {"v2t": maps})
    return Capture([stream], "cogvideox", tuple(StepInfo(i, 1 - i / steps, 2) for i in range(steps)))


def heads_capture(heads: int = 3) -> Capture:
    """Heads apart, one point of the clip, and a step that a cache skipped."""
    values = torch.rand(2, 3, 2, heads, 2, 3, 4, generator=torch.Generator().manual_seed(3)).half()
    counts = torch.full((2, 3, 2, 2), 2, dtype=torch.int32)
    counts[:, 1] = 0
    counts[0, 2, 1, 1] = 0
    maps = Maps(values, (3, 7), ("cyclist", "spot"), counts, heads=tuple(range(heads)), points={"spot": (1, 2, 3)})
    stream = Stream("a", make_binding(), Grid(2, 3, 4), {"v2v": maps})
    return Capture([stream], "wan", (StepInfo(0, 1.0, 2), StepInfo(1, 0.5, 0), StepInfo(2, 0.2, 2)))
