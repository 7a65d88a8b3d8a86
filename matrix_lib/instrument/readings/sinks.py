"""Attention sinks of a capture: places that are looked at whoever looks, named, and left out of scores on request.

A transformer puts attention that it has no use for on a few tokens (Xiao et al., arXiv 2309.17453). In the maps of a
clip such a token is hot for every entity at once, while what an entity really looks at is its own. So a place is a sink
of a layer where the map of every entity is at least `times` its own mean, in at least half of the steps, and no given
mask holds it. Tokens of the prompt that take attention so (the end of it, padding) are in no capture: only bound words
are recorded.

L layers, St step bins, E entities, F, h, w token frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ...core.tracks.tracks import MaskTracks
from ..capture import Capture, MapKind

__all__ = ["Sink", "Sinks", "find_sinks"]

TIMES = 6.0
_MOST_NAMED = 6  # places of one layer that a text lists


@dataclass(frozen=True)
class Sink:
    """One place that everybody looks at in one layer.

    Args:
        place: token frame, row and column.
        times: how many times its own mean the map of each entity is there, the least of them.
        share: of all that the entities look at, the mean over them, in [0, 1].
    """

    kind: MapKind
    layer: int
    place: tuple[int, int, int]
    times: float
    share: float


@dataclass(frozen=True)
class Sinks:
    """The sinks of one stream.

    Args:
        found: by kind, then layer, the greatest first.
        left_out: per kind, (L, F, h, w) bool, true at the sinks of each captured layer.
        notes: kinds in which sinks cannot be told, and why.
    """

    found: tuple[Sink, ...]
    left_out: Mapping[MapKind, Tensor]
    notes: tuple[str, ...] = ()

    @property
    def lines(self) -> list[str]:
        """For people: the sinks of each layer in a line, and the notes."""
        lines = []
        for kind, layer in dict.fromkeys((sink.kind, sink.layer) for sink in self.found):
            own = [sink for sink in self.found if (sink.kind, sink.layer) == (kind, layer)]
            places = ", ".join("{} at {}, {}".format(*sink.place) for sink in own[:_MOST_NAMED])
            more = f" and {len(own) - _MOST_NAMED} more" if len(own) > _MOST_NAMED else ""
            lines.append(
                f"sink: {kind} of layer {layer}, token frame {places}{more} (row, column): "
                f"{sum(sink.share for sink in own):.1%} of what everybody looks at"
            )
        return [*lines, *self.notes]


def find_sinks(
    capture: Capture,
    stream: int = 0,
    tracks: MaskTracks | None = None,
    kinds: Sequence[MapKind] | None = None,
    times: float = TIMES,
) -> Sinks:
    """The attention sinks of every captured layer.

    Args:
        stream: which prompt and sample.
        tracks: where the instances are: no place inside of a mask is a sink.
        kinds: of maps that have places in the clip; None for all of them.
        times: how many times its own mean every entity's map has to be at a place.

    Raises ValueError for a kind that was not recorded, and for `times` of 1 or less.
    """
    if not times > 1:
        raise ValueError(f"a sink is hotter than the mean of a map: times is above 1; got {times:g}")
    own = capture.stream(stream)
    chosen = tuple(own.on_clip) if kinds is None else tuple(kinds)
    inside = _masked(capture, stream, tracks)
    found: list[Sink] = []
    left_out: dict[MapKind, Tensor] = {}
    notes: list[str] = []
    for kind in chosen:
        maps = own.get(kind)
        verbs = {verb.name for verb in own.binding.verbs}  # a verb looks where its subject and object do
        columns = [i for i, name in enumerate(maps.entities) if name not in verbs]
        places = torch.zeros(len(maps.layers), *own.grid.shape, dtype=torch.bool)
        left_out[kind] = places
        if len(columns) < 2:
            notes.append(
                f"{kind}: sinks cannot be told with fewer than two words or instances: what one alone looks at may be "
                "its own"
            )
            continue
        for i, layer in enumerate(maps.layers):
            values = maps.layer(i, entities=columns)
            seen = (maps.counts[i][:, columns] > 0)[..., None, None]  # (St, E, F, 1, 1)
            here, hot, share = _common(torch.where(seen, values, torch.nan), times)
            here &= ~inside
            places[i] = here
            for place in here.nonzero().tolist():
                at = (place[0], place[1], place[2])
                found.append(Sink(kind, layer, at, float(hot[at]), float(share[at])))
    found.sort(key=lambda sink: (chosen.index(sink.kind), sink.layer, -sink.share))
    return Sinks(tuple(found), left_out, tuple(notes))


def _common(values: Tensor, times: float) -> tuple[Tensor, Tensor, Tensor]:
    """Of the maps (St, E, F, h, w) of one layer, NaN where nothing was recorded, each (F, h, w): whether a place is a
    sink, how many times its own mean each map is there at least, and the share of it all that lies there."""
    relative = values / values.nanmean((2, 3, 4), keepdim=True).clamp_min(1e-30)
    least = relative.nan_to_num(torch.inf).amin(1)  # a map that was not recorded there says nothing
    told = relative.isfinite().all(1)  # and a step in which one was not cannot say that everybody looks
    steps = told.sum(0)
    often = ((least >= times) & told).sum(0) * 2 >= steps.clamp_min(1)
    mean = torch.where(told, least, 0.0).sum(0) / steps.clamp_min(1)
    total = torch.where(values.isnan(), 0.0, values).sum(0)
    share = (total / total.flatten(1).sum(1).clamp_min(1e-30).view(-1, 1, 1, 1)).mean(0)
    return often & (mean >= times) & (steps > 0), mean, share


def _masked(capture: Capture, stream: int, tracks: MaskTracks | None) -> Tensor:
    """(F, h, w) bool: where any given mask is."""
    grid = capture.stream(stream).grid
    if tracks is None:
        return torch.zeros(grid.shape, dtype=torch.bool)
    return tracks.to_grid(grid, "area").maps.amax(0) > 0
