"""What a capture knows, in one reading: masks of its words, who was mistaken for whom, attention sinks.

F, h, w token frames, rows, columns.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from ..core.grid import Grid
from ..core.ranges import ranges
from ..core.tracks.tracks import MaskTracks
from .capture import Capture, MapKind
from .mending import mend, verb_notes
from .mix_ups import MixUpRule, MixUps, find_mix_ups
from .sinks import Sinks, find_sinks
from .word_masks import sharpest_layers, word_masks

__all__ = ["Reading", "read_capture"]


@dataclass(frozen=True)
class Reading:
    """What was read off one stream of a capture.

    Args:
        masks: where each word or instance is, in pixels of the clip that the model made; mended if that was asked for.
        mix_ups: swaps and doublings.
        sinks: places that everybody looks at. left_out: whether they were left out of the rest.
        layers: that the masks are the mean of.
        notes: what a person should know.
    """

    masks: MaskTracks
    mix_ups: MixUps
    sinks: Sinks
    left_out: bool
    kind: MapKind
    layers: tuple[int, ...]
    grid: Grid
    notes: tuple[str, ...]

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
        return said

    def report(self) -> str:
        """For people, the findings first."""
        found = [each.line(self.grid) for each in self.mix_ups.found]
        lines = [
            *(found or [f"no swap or doubling (by {self.mix_ups.reference})"]),
            *([f"compared with {self.mix_ups.reference}"] if found else []),
            *self.sinks.lines,
            *(["sinks are left out of masks and findings"] if self.left_out and self.sinks.found else []),
            f"masks of {self.kind} maps, layer{'s' * (len(self.layers) > 1)} {ranges(self.layers)}",
        ]
        for name in self.masks.names:
            areas = self.masks.areas(name)
            share = float(areas.max()) / (self.masks.height * self.masks.width)
            lines.append(f"- {name}: in {int((areas > 0).sum())} of {self.masks.frames} frames, at most {share:.1%}")
        return "\n".join([*lines, *(f"! {note}" for note in dict.fromkeys((*self.mix_ups.notes, *self.notes)))])

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
            "notes": list(dict.fromkeys((*self.mix_ups.notes, *self.sinks.notes, *self.notes))),
        }


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
) -> Reading:
    """Masks, mix-ups and sinks of one stream.

    Args:
        tracks: where everybody should be: words are compared with them, and no place inside of them is a sink.
        names, kind, layers, steps, threshold: of the masks; see `word_masks`. `layers` are of `kind`; those of the
            other kind are the sharpest. Mix-ups are looked for in every step.
        without_sinks: leaves sinks out of masks and mix-ups.
        mended: makes the masks fit to steer a second run by, see `mending`; what was done is in the notes.

    Raises ValueError for what the capture does not hold; see `word_masks` and `find_mix_ups`.
    """
    at = tuple(layers) if layers is not None else sharpest_layers(capture, kind, stream)
    sinks = find_sinks(capture, stream, tracks)
    out = sinks if without_sinks else None
    palette = {} if tracks is None else dict(zip(tracks.names, tracks.palette))
    masks = word_masks(
        capture, names, kind=kind, layers=at, steps=steps, stream=stream, threshold=threshold, sinks=out,
        palette=palette, fps=fps,
    )  # fmt: skip
    own = {name: at for name, of in (("layers", "v2t"), ("layers_v2v", "v2v")) if of == kind}
    mix_ups = find_mix_ups(capture, tracks, stream=stream, rule=rule or MixUpRule(), sinks=out, **own)
    grid, notes = capture.stream(stream).grid, []
    if mended:
        masks = mend(masks, mix_ups, grid, kind)
        notes = verb_notes(capture, masks.tracks, at, stream) if kind == "v2t" else []
    return Reading(masks.tracks, mix_ups, sinks, without_sinks, kind, at, grid, (*masks.notes, *notes))
