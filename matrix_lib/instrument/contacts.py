"""When two instances meet, by how their maps run into each other.

The maps of two instances' first-frame tokens (V2V) overlap more and more while one comes nearer to the other, and
hardly more from the contact on. A line that is level at the end is laid through the overlap of the token frames, and
its bend is the reading. It comes late, by how much is a fact of the model: a line fitted on clips whose contact is
known makes frames of it. Chosen among readings, fitted and tested on mini alone (docs/reading-captures.md).

"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from ..core.grid import Grid
from .capture import Capture
from .readers import check_readers, steps_of

__all__ = ["bend", "meeting", "overlap"]

_FINE = 4  # places of the bend that are tried in a pixel frame


def overlap(
    capture: Capture, pair: tuple[str, str], layer: int, *, steps: Iterable[int] | None = None, stream: int = 0
) -> Tensor:
    """(F,) float32 from 0 to 1: how much the maps of two instances have in common in each token frame (Bhattacharyya),
    each with a mass of 1 there; of `layer`, the mean over `steps` (None: all).

    Raises ValueError, listing what there is, for names, a layer or steps that the capture does not hold.
    """
    maps = capture.stream(stream).get("v2v")
    check_readers([(layer, None)], maps)
    if missing := [name for name in pair if name not in maps.entities]:
        raise ValueError(f"{missing[0]!r} has no maps; there are {', '.join(maps.entities)}")
    bins = steps_of(capture, steps)
    heat = [maps.mean([maps.layers.index(layer)], bins, maps.entities.index(name)).flatten(1) for name in pair]
    one, other = (each / each.sum(1, keepdim=True).clamp_min(1e-12) for each in heat)
    return (one * other).sqrt().sum(1)


def bend(values: Tensor, spans: Sequence[tuple[int, int]]) -> float:
    """The pixel frame in which a line bends that is level from there on, with the least squares to values (F,) of token
    frames, each the mean over its pixel frames `spans` (`Grid.pixel_spans`). Values that never change bend in frame 1.

    Raises ValueError for fewer than four values, and where one is NaN.
    """
    if len(values) < 4 or len(values) != len(spans) or bool(values.isnan().any()):
        raise ValueError(f"a bend is found in four token frames or more, each with a value; got {values.tolist()}")
    frames, last = torch.arange(spans[-1][1], dtype=torch.float64), spans[-1][0] + spans[-1][1] - 1
    found: list[tuple[float, float]] = []
    for place in range(_FINE, last * _FINE // 2 + 1):
        before = (place / _FINE - frames).clamp_min(0)
        slope = torch.stack([before[slice(*span)].mean() for span in spans])
        line = torch.stack([torch.ones_like(slope), slope], 1)
        left = values.double() - line @ torch.linalg.lstsq(line, values.double()[:, None]).solution[:, 0]
        found.append((round(float(left.square().sum()), 12), place / _FINE))
    return min(found)[1]


def meeting(
    capture: Capture,
    pair: tuple[str, str],
    layer: int,
    *,
    steps: Iterable[int] | None = None,
    stream: int = 0,
    line: tuple[float, float] = (0.0, 1.0),
) -> float:
    """The pixel frame in which two instances meet, inside the clip: offset + slope times the bend of their overlap.

    line: (offset, slope), fitted on clips whose contact is known. Raises ValueError as `overlap` and `bend` do.
    """
    grid: Grid = capture.stream(stream).grid
    found = bend(overlap(capture, pair, layer, steps=steps, stream=stream), grid.pixel_spans())
    return min(max(line[0] + line[1] * found, 0.0), float(grid.pixel_frames - 1))
