"""When two instances meet, by how their maps run into each other.

The maps of two instances' first-frame tokens (V2V) overlap more and more while one comes nearer to the other, and
hardly more from the contact on. A line that is level at the end is laid through the overlap of the token frames, and
its bend is the reading. It comes late, by how much is a fact of the model: a line fitted on clips whose contact is
known makes frames of it. Chosen among readings, fitted and tested on mini alone (docs/reading-captures.md).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.grid import Grid
from ..capture import Capture
from .readers import check_readers, steps_of

__all__ = ["MINI", "ContactLine", "Meeting", "bend", "find_meetings", "meeting", "overlap", "parse_contact"]

_FINE = 4  # places of the bend that are tried in a pixel frame
_LAST = 2  # steps that are read, the least noisy: in noise a model looks where it expects a contact
_WRITTEN = "a layer, such as '5', or a layer with the offset and slope of its line, such as '5, -16.9, 1.96'"


@dataclass(frozen=True)
class ContactLine:
    """Frame of a contact = offset + slope * bend, in pixel frames, in one layer of a model; without both the bend alone
    is told. source: for people. Raises ValueError for numbers that are no line."""

    layer: int
    offset: float | None = None
    slope: float | None = None
    source: str = ""

    def __post_init__(self) -> None:
        given = [number for number in (self.offset, self.slope) if number is not None]
        if len(given) == 1 or not all(math.isfinite(number) for number in given) or self.slope == 0 or self.layer < 0:
            raise ValueError(f"a contact is read by {_WRITTEN}; got {self.layer}, {self.offset}, {self.slope}")


MINI = ContactLine(5, -16.9, 1.96, "mini's line, of clips of 17 frames")
"""Fitted on 16 clips, tried on 60 others (docs/reading-captures.md)."""
_MINI_HAS = (tuple(range(12)), 17)  # layers and pixel frames, which no released model has


@dataclass(frozen=True)
class Meeting:
    """When the two instances of a verb meet, if they touch: maps do not say that, for who chases comes as near.

    bend: the pixel frame in which the overlap of their maps stops growing, in `line.layer`. frame: of the contact, by
    the line; None without one. grows: whether the overlap grows to the clip's end: they meet then or later.
    """

    verb: str
    names: tuple[str, str]
    bend: float
    frame: float | None
    line: ContactLine
    grows: bool = False

    def text(self) -> str:
        """For people."""
        one, other = self.names
        read = f"the overlap of their maps in layer {self.line.layer} grows until frame {self.bend:.2f}"
        if self.frame is None:
            return f"{self.verb!r}: {one!r} and {other!r}: {read}, which is later than they meet"
        when = f"in frame {self.frame:.1f} or later" if self.grows else f"about frame {self.frame:.1f}"
        return f"{self.verb!r}: {one!r} and {other!r} meet {when}, if they touch ({self.line.source}; {read})"


def parse_contact(text: str) -> ContactLine | None:
    """The line that a person writes: "5, -16.9, 1.96" (layer, offset, slope), "5" for the bend alone, None for "auto"
    and an empty text. Raises ValueError for anything else."""
    if text.strip().lower() in ("", "auto"):
        return None
    pieces = [piece.strip() for piece in text.split(",")]
    try:
        if len(pieces) not in (1, 3) or not (pieces[0].isascii() and pieces[0].isdecimal() and len(pieces[0]) < 5):
            raise ValueError
        offset, slope = (float(piece) for piece in pieces[1:]) if pieces[1:] else (None, None)
        return ContactLine(int(pieces[0]), offset, slope, "the line that was given" if pieces[1:] else "")
    except ValueError:
        raise ValueError(f"contact is 'auto', or {_WRITTEN}; got {text[:60]!r}") from None


def find_meetings(
    capture: Capture, line: ContactLine | None = None, *, steps: Iterable[int] | None = None, stream: int = 0
) -> tuple[tuple[Meeting, ...], tuple[str, ...]]:
    """When subject and object of each verb meet, in pixel frames, and a sentence for each that could not be told.

    Args:
        line: None takes mini's where the capture is of 17 frames and of 12 layers, all that there are, and else tells
            nothing: every model has its own.
        steps: the last two of them are read; None: of all.

    Raises ValueError for a layer or steps that the capture does not hold.
    """
    own, chosen = capture.stream(stream), steps_of(capture, steps)
    maps = own.maps.get("v2v")
    pairs = [(v.name, (v.subject, v.object)) for v in own.binding.verbs if v.subject and v.object]
    if line is None and maps is not None and (maps.layers, own.grid.pixel_frames) == _MINI_HAS:
        line = MINI
    if line is None:
        return (), ()
    found, lost, spans = [], [], own.grid.pixel_spans()
    for name, pair in pairs:
        there = maps is not None and set(pair) <= set(maps.entities)
        at = [capture.steps[place].index for place in chosen[-_LAST:]]
        values = overlap(capture, pair, line.layer, steps=at, stream=stream) if there else torch.zeros(0)
        if len(values) < 4 or bool(values.isnan().any()):
            lost.append(
                f"{name!r}: when {pair[0]!r} and {pair[1]!r} meet takes maps of both in four token frames, or more"
            )
            continue
        turn, frame = bend(values, spans), None
        if line.offset is not None and line.slope is not None:
            frame = _inside(own.grid, line.offset + line.slope * turn)
        found.append(Meeting(name, pair, turn, frame, line, turn + 1 / _FINE > _end(spans)))
    return tuple(found), tuple(lost)


def _end(spans: Sequence[tuple[int, int]]) -> float:
    """The last bend that can be told: the middle of the last token frame."""
    return (spans[-1][0] + spans[-1][1] - 1) / 2


def _inside(grid: Grid, frame: float) -> float:
    return min(max(frame, 0.0), float(grid.pixel_frames - 1))


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
    frames = torch.arange(spans[-1][1], dtype=torch.float64)
    found: list[tuple[float, float]] = []
    for place in range(_FINE, int(_end(spans) * _FINE) + 1):
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

    layer: whose V2V maps are read. line: (offset, slope), fitted on clips whose contact is known. steps: as in
    `overlap`. Raises ValueError as `overlap` and `bend` do.
    """
    grid: Grid = capture.stream(stream).grid
    found = bend(overlap(capture, pair, layer, steps=steps, stream=stream), grid.pixel_spans())
    return _inside(grid, line[0] + line[1] * found)
