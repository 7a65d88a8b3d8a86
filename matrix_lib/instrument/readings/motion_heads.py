"""Heads that carry motion: whose maps of words stand out while a thing moves and fade while it rests.

A head is judged by how well its maps separate frames, without labels. That is the idea of IMAP (arXiv 2603.02919),
which scores each head by how separable its features are between frames. Here a cell is an entity in a token frame, its
value how far the peak of its map stands out of the frame, and the score of a head the distance between the two groups
that the cells fall into best (least squares, Otsu 1979). What is in the upper group moves.

Token frame 0 is one pixel frame, in which nothing moves; it is no cell. L layers, St step bins, E entities, C cells, F,
h, w token frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ...core.grid import Grid
from ...core.ranges import ranges
from ..capture import Capture, Stream
from ..maps import Maps
from .readers import Reader, check_readers, readers_text, steps_of
from .word_masks import told_names

__all__ = ["Contact", "Motion", "find_motion", "separation", "two_groups"]

_TURNED = 0.5  # nats by which the object leads: the subject should
_LEAST = 1.5  # nats between the two groups: a map that stands out less than 4.5 times as much does not tell them apart


@dataclass(frozen=True)
class Contact:
    """A verb whose object begins to move.

    verb, subject, object: names of phrases. begins: the first token frame in which the object moves. frames: its pixel
    frames, half-open.
    """

    verb: str
    subject: str
    object: str
    begins: int
    frames: tuple[int, int]

    def line(self) -> str:
        first, stop = self.frames
        return f"{self.verb!r}: {self.object!r} begins to move in frames {first}-{stop - 1} (token frame {self.begins})"


@dataclass(frozen=True)
class Motion:
    """Who moves when, as heads tell it.

    Args:
        entities: along E. reader: whose maps were read.
        stands_out: (E, F) float32: log(peak / median) of the map in each token frame; NaN where none was recorded.
        threshold: above it an entity moves; NaN where the cells do not fall into two groups.
        moving: (E, F) bool. All False where `threshold` is NaN, and in token frame 0.
        gap: the distance between the two groups, in the units of `stands_out`.
        contacts: of verbs whose object begins to move after it has been at rest.
        leads: by verb, how much further its subject stands out than its object, in nats: the mean over the first half
            of the token frames, where who acts moves first. It is the mean over layers, each by how far it separates
            frames, for one layer alone may look at what rests; of the reader alone, where one was named. Told where the
            cells do not fall into two groups, too; missing where one of the two has no maps.
        notes: what a person should know.
    """

    entities: tuple[str, ...]
    reader: Reader
    stands_out: Tensor
    threshold: float
    moving: Tensor
    gap: float
    contacts: tuple[Contact, ...]
    notes: tuple[str, ...]
    leads: Mapping[str, float] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """For people."""
        if not self.moving.any():
            return []
        told = [f"motion by {readers_text([self.reader])} (its maps stand out {self.gap:.1f} nats more in one group)"]
        for name, row in zip(self.entities, self.moving):
            frames = row.nonzero()[:, 0].tolist()
            told.append(f"- {name}: " + (f"moves in token frames {ranges(frames)}" if frames else "at rest"))
        return told + [contact.line() for contact in self.contacts]


def find_motion(
    capture: Capture,
    *,
    steps: Iterable[int] | None = None,
    stream: int = 0,
    reader: Reader | None = None,
) -> Motion:
    """Which bound instances (without any: which words but verbs) move in which token frames, read off the head that
    separates frames best.

    Args:
        steps: of `StepInfo.index`, None for all; they count as often as they were called.
        reader: whose maps are read, as (layer, head), head None for the mean over heads. None chooses the layer whose
            maps separate frames best, and in it the head that does, where heads were kept apart.

    Raises ValueError, listing what there is, for layers, heads and steps that the capture does not hold.
    """
    own = capture.stream(stream)
    maps, chosen, bins = own.get("v2t"), _instances(own), steps_of(capture, steps)
    weights: dict[Reader, float] = {}
    if reader is None:
        weights = _separations(maps, chosen, bins)
        reader = _best(weights)
    check_readers([reader], maps)
    values = stands_out(maps, reader, chosen, bins)
    cells = values[:, 1:]
    threshold, gap = two_groups(cells[~cells.isnan()])
    notes = list(_notes(chosen, values, reader, gap))
    moving = torch.zeros_like(values, dtype=torch.bool)
    if gap >= _LEAST:
        moving[:, 1:] = cells > threshold
    else:
        threshold = float("nan")
    contacts = tuple(_contacts(own, chosen, moving, values))
    weights = {each: weight for each, weight in weights.items() if each[1] is None} or {reader: 1.0}
    told = [(w, dict(_leads(own, chosen, stands_out(maps, each, chosen, bins)))) for each, w in weights.items()]
    total = max(sum(weights.values()), 1e-9)
    leads = {verb: sum(w * other.get(verb, 0.0) for w, other in told) / total for _, said in told for verb in said}
    if gap >= _LEAST:
        notes += _turned(own, leads)
    return Motion(chosen, reader, values, threshold, moving, gap, contacts, tuple(notes), leads)


def separation(capture: Capture, *, steps: Iterable[int] | None = None, stream: int = 0) -> dict[Reader, float]:
    """How far apart the two groups of cells are for each layer (head None) and, where heads were kept apart, each head;
    0 where there are fewer than two cells. Raises ValueError as `find_motion` does."""
    own = capture.stream(stream)
    return _separations(own.get("v2t"), _instances(own), steps_of(capture, steps))


def _separations(maps: Maps, names: Sequence[str], bins: Sequence[int]) -> dict[Reader, float]:
    found: dict[Reader, float] = {}
    for reader in [(layer, head) for layer in maps.layers for head in (None, *maps.heads)]:
        cells = stands_out(maps, reader, names, bins)[:, 1:]
        found[reader] = two_groups(cells[~cells.isnan()])[1]
    return found


def stands_out(maps: Maps, reader: Reader, names: Sequence[str], bins: Sequence[int]) -> Tensor:
    """(E, F) float32: log(peak / median) of each entity's map in each token frame, of the mean over steps; NaN where
    none was recorded. A median of 0 counts as a millionth of the peak."""
    layer, head = reader
    own, place = maps if head is None else maps.of_head(head), maps.layers.index(layer)
    heat = torch.stack([own.mean([place], bins, maps.entities.index(name)) for name in names]).flatten(-2)
    peak, median = heat.amax(-1), heat.median(-1).values
    return (peak / torch.maximum(median, peak * 1e-6)).log().nan_to_num(0.0).masked_fill(peak.isnan(), torch.nan)


def two_groups(cells: Tensor) -> tuple[float, float]:
    """(threshold, distance between the means) of the two groups that values (C,) fall into with the least squares
    within; (NaN, 0) of fewer than two values. The threshold is half way between the groups (Otsu 1979)."""
    values, count = cells.double().sort().values, len(cells)
    if count < 2:
        return float("nan"), 0.0
    below = torch.arange(1, count, dtype=torch.float64)
    low = values.cumsum(0)[:-1] / below
    high = values.flip(0).cumsum(0).flip(0)[1:] / (count - below)
    at = int((below * (count - below) * (high - low).square()).argmax())
    return float((values[at] + values[at + 1]) / 2), float(high[at] - low[at])


def _instances(stream: Stream) -> tuple[str, ...]:
    """The bound instances, or all words but verbs where none was bound."""
    named = told_names(stream, "v2t")
    instances = [phrase.name for phrase in stream.binding.instances]
    return tuple(name for name in named if name in instances) or named


def _best(found: dict[Reader, float]) -> Reader:
    """The layer that separates best, and in it the head that does, where heads are apart."""
    layer = max((reader for reader in found if reader[1] is None), key=lambda reader: found[reader])[0]
    heads = [reader for reader in found if reader[0] == layer and reader[1] is not None]
    return max(heads, key=lambda reader: found[reader]) if heads else (layer, None)


def _contacts(stream: Stream, names: Sequence[str], moving: Tensor, values: Tensor) -> Iterable[Contact]:
    grid: Grid = stream.grid
    for verb in stream.binding.verbs:
        if not verb.subject or not verb.object or verb.object not in names:
            continue
        row = names.index(verb.object)
        frames = moving[row].nonzero()[:, 0].tolist()
        rests = bool(frames) and frames[0] > 1 and not bool(values[row, 1 : frames[0]].isnan().any())
        if rests:
            yield Contact(verb.name, verb.subject, verb.object, frames[0], grid.pixel_span(frames[0]))


def _leads(stream: Stream, names: Sequence[str], values: Tensor) -> Iterable[tuple[str, float]]:
    half = values[:, 1 : 1 + -(-(stream.grid.frames - 1) // 2)]
    for verb in stream.binding.verbs:
        if verb.subject in names and verb.object in names:
            lead = (half[names.index(verb.subject)] - half[names.index(verb.object)]).nanmean()
            if not lead.isnan():
                yield verb.name, float(lead)


def _turned(stream: Stream, leads: Mapping[str, float]) -> Iterable[str]:
    """Verbs whose object moves where their subject should."""
    for verb in stream.binding.verbs:
        if leads.get(verb.name, 0.0) < -_TURNED:
            yield (
                f"{verb.name!r}: {verb.object!r} stands out in the first half of the clip, and {verb.subject!r}, which "
                "should act, does not: the roles may be exchanged"
            )


def _notes(names: Sequence[str], values: Tensor, reader: Reader, gap: float) -> Iterable[str]:
    """What a person should know."""
    for name, row in zip(names, values):
        if row.isnan().any():
            yield f"{name!r} was not recorded in token frames {ranges(row.isnan().nonzero()[:, 0].tolist())}: no motion"
    if gap < _LEAST:
        yield (
            f"motion cannot be told: the maps of {readers_text([reader])} stand out alike in all frames "
            f"({gap:.1f} nats between two groups; {_LEAST} are asked for)"
        )
    elif reader[1] is None:
        yield "motion is told by the mean over heads: keep heads apart (heads 'all') to find the head that carries it"
