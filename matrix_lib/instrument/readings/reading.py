"""What a capture knows, in one reading: masks of its words, who was mistaken for whom, attention sinks, where pinned
points went, who moves when, when two meet.

F, h, w token frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ...core.grid import Grid
from ...core.ranges import ranges
from ...core.tracks.tracks import MaskTracks
from ..capture import Capture, MapKind
from .contacts import ContactLine, Meeting, find_meetings
from .mending import mend, verb_notes
from .mix_ups import MixUpRule, MixUps, find_mix_ups
from .motion_heads import Motion, find_motion
from .point_tracks import PointTracks, follow_points
from .readers import Reader, readers_text
from .sinks import Sinks, find_sinks
from .word_masks import sharpest_layers, word_masks

__all__ = ["MENDED_PART", "Reading", "read_capture"]

MENDED_PART = 2 / 3
"""Of the layers, the sharper part that mended masks of words are read off. Where things move is told by other layers
than where things at rest are: a quarter leaves the latter out (docs/two-passes.md)."""


@dataclass(frozen=True)
class Reading:
    """What was read off one stream of a capture.

    Args:
        masks: where each word or instance is, in pixels of the clip that the model made; mended if that was asked for.
        mix_ups: swaps and doublings.
        sinks: places that everybody looks at. left_out: whether they were left out of the rest.
        layers: that the masks are the mean of.
        notes: what a person should know.
        points: where pinned points went; None where none was pinned. motion: who moves when; None without words of
            instances, and for a clip of one token frame. meetings: of verbs, where a line is known (`find_meetings`).
    """

    masks: MaskTracks
    mix_ups: MixUps
    sinks: Sinks
    left_out: bool
    kind: MapKind
    layers: tuple[int, ...]
    grid: Grid
    notes: tuple[str, ...]
    points: PointTracks | None = None
    motion: Motion | None = None
    meetings: tuple[Meeting, ...] = ()

    @property
    def all_notes(self) -> tuple[str, ...]:
        """What a person should know, each once: of findings, masks, points and motion."""
        parts = [part.notes for part in (self.points, self.motion) if part is not None]
        nowhere = [
            f"{name!r} has a mask in no frame, and nothing can be steered by it: lower the threshold, or take other "
            "layers"
            for name in self.masks.names
            if self.mix_ups.recorded and not self.masks.areas(name).any()
        ]
        further = (note for part in parts for note in part)
        return tuple(dict.fromkeys([*nowhere, *self.mix_ups.notes, *self.notes, *further]))

    @property
    def followed(self) -> list[str]:
        """Points, motion and contacts, for people."""
        parts = [line for part in (self.points, self.motion) if part is not None for line in part.lines()]
        return parts + [each.text() for each in self.meetings]

    @property
    def lasting(self) -> int:
        """How many swaps and doublings are still there in the last recorded step."""
        return sum(each.lasting for each in self.mix_ups.found)

    def by_frame(self) -> dict[int, list[str]]:
        """What lasts, in each pixel frame, in a few words."""
        said: dict[int, list[str]] = {}
        for each in self.mix_ups.found:
            last = each.cells[-1][0]
            frames = {frame for step, frame in each.cells if step == last} if each.lasting else set()
            for number in (n for frame in sorted(frames) for n in range(*self.grid.pixel_span(frame))):
                said.setdefault(number, []).append(f"{each.kind}: {' and '.join(each.names)} ({each.maps})")
        for met in (each for each in self.meetings if each.frame is not None):
            said.setdefault(round(met.frame or 0.0), []).append(f"{met.verb}: {' and '.join(met.names)} may meet here")
        return said

    def report(self) -> str:
        """For people, the findings first."""
        found = [each.line(self.grid) for each in self.mix_ups.found]
        lines = [
            *(found or self.mix_ups.nothing),
            *([f"compared with {self.mix_ups.reference}"] if found else []),
            *self.sinks.lines,
            *(["sinks are left out of masks and findings"] if self.left_out and self.sinks.found else []),
            f"masks of {self.kind} maps, layer{'s' * (len(self.layers) > 1)} {ranges(self.layers)}",
        ]
        for name in self.masks.names:
            areas = self.masks.areas(name)
            share = float(areas.max()) / (self.masks.height * self.masks.width)
            lines.append(f"- {name}: in {int((areas > 0).sum())} of {self.masks.frames} frames, at most {share:.1%}")
        return "\n".join([*lines, *self.followed, *(f"! {note}" for note in self.all_notes)])

    def as_json(self) -> dict[str, Any]:
        """Findings and sinks as JSON values."""
        return {
            "version": 1,
            "reference": self.mix_ups.reference,
            "mix_ups": [
                {
                    "kind": each.kind,
                    "names": list(each.names),
                    "maps": each.maps,
                    "cells": [list(cell) for cell in each.cells],
                    "frames": list(each.pixel_frames(self.grid)),
                    "steps": list(each.steps),
                    "lasting": each.lasting,
                    "value": round(each.value, 4),
                    "text": each.line(self.grid),
                }
                for each in self.mix_ups.found
            ],
            "sinks": [
                {
                    "kind": each.kind,
                    "layer": each.layer,
                    "place": list(each.place),
                    "times": round(each.times, 4),
                    "share": round(each.share, 6),
                }
                for each in self.sinks.found
            ],
            "points": _points_json(self.points),
            "motion": _motion_json(self.motion, self.grid),
            "meetings": [
                {
                    "verb": each.verb,
                    "names": list(each.names),
                    "layer": each.line.layer,
                    "bend": each.bend,
                    "frame": None if each.frame is None else round(each.frame, 2),
                    "or_later": each.grows,
                    "text": each.text(),
                }
                for each in self.meetings
            ],
            "notes": list(dict.fromkeys((*self.sinks.notes, *self.all_notes))),
        }


def _points_json(points: PointTracks | None) -> list[dict[str, Any]]:
    if points is None:
        return []
    return [
        {
            "name": name,
            "on": on,
            "xy": [[round(float(value), 2) for value in place] for place in path],
            "seen": [bool(each) for each in seen],
            "read": readers_text(points.readers),
        }
        for name, on, path, seen in zip(points.names, points.on, points.xy, points.seen)
    ]


def _motion_json(motion: Motion | None, grid: Grid) -> dict[str, Any] | None:
    """Pixel frames in which each moves, and which verbs begin when; None where it cannot be told."""
    if motion is None or not motion.moving.any():
        return None
    spans = grid.pixel_spans()
    frames = {
        name: [number for f in row.nonzero()[:, 0].tolist() for number in range(*spans[f])]
        for name, row in zip(motion.entities, motion.moving)
    }
    begins = [{"verb": each.verb, "object": each.object, "frames": list(each.frames)} for each in motion.contacts]
    read = {"read": readers_text([motion.reader]), "gap": round(motion.gap, 3)}
    leads = {verb: round(lead, 3) for verb, lead in motion.leads.items()}
    return {"moving": frames, "begins": begins, "leads": leads, **read}


def read_capture(
    capture: Capture,
    tracks: MaskTracks | None = None,
    names: Sequence[str] | None = None,
    *,
    kind: MapKind = "v2t",
    layers: Iterable[int] | None = None,
    steps: Iterable[int] | None = None,
    stream: int = 0,
    threshold: float | None = None,
    without_sinks: bool = False,
    rule: MixUpRule | None = None,
    fps: float = 8.0,
    mended: bool = False,
    point_readers: Sequence[Reader] | None = None,
    motion_reader: Reader | None = None,
    contact: ContactLine | None = None,
) -> Reading:
    """Masks, mix-ups, sinks, point tracks, motion and contacts of one stream.

    Args:
        tracks: where everybody should be: words are compared with them, and no place inside of them is a sink.
        names, kind, layers, steps, threshold: of the masks; see `word_masks`. `layers` are of `kind`; those of the
            other kind are the sharpest. Mix-ups are looked for in every step.
        without_sinks: leaves sinks out of masks and mix-ups.
        mended: makes the masks fit to steer a second run by, see `mending`; what was done is in the notes. Of words it
            reads the sharper two thirds of the layers, and takes the maps of a thing at rest together.
        point_readers, motion_reader: whose maps are read for pinned points and for motion, as (layer, head); None
            chooses without labels, see `follow_points` and `find_motion`. Both read the same steps as the masks.
        contact: what makes frames of how maps run into each other, see `find_meetings`, which reads the last two.

    Raises ValueError for what the capture does not hold; see `word_masks` and `find_mix_ups`.
    """
    steps = None if steps is None else tuple(steps)
    part = MENDED_PART if mended and kind == "v2t" else 0.25
    at = tuple(layers) if layers is not None else sharpest_layers(capture, kind, stream, part)
    sinks = find_sinks(capture, stream, tracks)
    out = sinks if without_sinks else None
    palette = {} if tracks is None else dict(zip(tracks.names, tracks.palette))
    own = {name: at for name, of in (("layers", "v2t"), ("layers_v2v", "v2v")) if of == kind and layers is not None}
    mix_ups = find_mix_ups(capture, tracks, stream=stream, rule=rule or MixUpRule(), sinks=out, **own)
    asked: dict[str, Any] = {"steps": steps, "stream": stream}
    motion = find_motion(capture, reader=motion_reader, **asked) if _has_words(capture, stream) else None
    pinned = _pinned(capture, stream)
    points = follow_points(capture, readers=point_readers, motion=motion, **asked) if pinned else None
    rests = _rests(motion, mix_ups) if mended and kind == "v2t" else {}
    masks = word_masks(
        capture, names, kind=kind, layers=at, steps=steps, stream=stream, threshold=threshold, sinks=out,
        palette=palette, fps=fps, rests=rests,
    )  # fmt: skip
    grid, notes = capture.stream(stream).grid, []
    if mended:
        masks = mend(masks, mix_ups, grid, kind)
        notes = [
            f"the mask of {name!r} in token frames {ranges(frames)}, where it seems to rest, is of the mean of its maps"
            for name, frames in rests.items()
            if len(frames) > 1 and name in masks.tracks.names
        ]
        notes += verb_notes(capture, masks.tracks, at, stream) if kind == "v2t" else []
    meetings, untold = find_meetings(capture, contact, **asked)
    said = (*masks.notes, *notes, *untold)
    return Reading(masks.tracks, mix_ups, sinks, without_sinks, kind, at, grid, said, points, motion, meetings)


def _rests(motion: Motion | None, mix_ups: MixUps) -> dict[str, tuple[int, ...]]:
    """Token frames in which instances rest, but for those of a swap that lasts, which are mended one by one; none where
    motion cannot be told."""
    if motion is None or not motion.moving.any():
        return {}
    rests = {}
    for name, row in zip(motion.entities, motion.moving):
        swaps = (each for each in mix_ups.found if each.kind == "swapped" and each.lasting and name in each.names)
        swapped = {frame for each in swaps for frame in each.frames}
        rests[name] = tuple(frame for frame in (~row).nonzero()[:, 0].tolist() if frame not in swapped)
    return {name: frames for name, frames in rests.items() if frames}


def _pinned(capture: Capture, stream: int) -> bool:
    """Whether points were pinned."""
    maps = capture.stream(stream).maps.get("v2v")
    return maps is not None and bool(maps.points)


def _has_words(capture: Capture, stream: int) -> bool:
    """Whether words of instances were recorded over more than one token frame."""
    own = capture.stream(stream)
    verbs = {verb.name for verb in own.binding.verbs}
    return own.grid.frames > 1 and "v2t" in own.maps and any(name not in verbs for name in own.entities)
