"""What a viewer shows of a capture's reading: masks of its words on the tokens, followed points, findings as sentences.

F, h, w token frames, rows, columns.
"""

from __future__ import annotations

import base64
import bisect
from typing import Any

import numpy as np

from ..draw.capture import choose_numbers
from ..draw.style import readable
from ..instrument.readings.reading import Reading, read_capture
from .exhibit import Exhibit
from .slices import Wanted

__all__ = ["reading_json"]


def reading_json(exhibit: Exhibit, wanted: Wanted) -> dict[str, Any]:
    """The reading of the layers and steps that somebody looks at. "sharpest" for layers takes those.

    `masks`: of each word or instance, `bits` of (F, h, w) tokens, most significant first, as base64, as in the
    manifest. `findings`: each `text`, and the numbers of its token `frames` and its `steps`. `points`: of each pinned
    point its `name`, `colour`, its way `xy` over the pixel frames, as shares of the width and height that the tokens
    cover, and in which it was `seen`. `ends`: the last pixel frame of each token frame. `lines`: sinks, motion, and
    what could not be told.

    Raises ValueError for what the capture does not hold.
    """
    stream = exhibit.capture.stream(wanted.stream)
    numbers = [step.index for step in exhibit.capture.steps]
    experts = exhibit.capture.experts if len(exhibit.capture.experts) > 1 else {}
    sharpest = wanted.layers.strip().lower() == "sharpest"
    steps = choose_numbers(wanted.steps, "step", numbers, experts)
    found = read_capture(
        exhibit.capture,
        exhibit.tracks,
        kind=wanted.kind,
        layers=None if sharpest else choose_numbers(wanted.layers, "layer", stream.get(wanted.kind).layers),
        steps=steps,
        stream=wanted.stream,
        without_sinks=wanted.sinkless,
    )
    on_grid = found.masks.to_grid(stream.grid, "nearest-exact")
    masks = [
        {
            "name": track.name,
            "colour": list(readable(track.colour)),
            "bits": base64.b64encode(np.packbits(on_grid.map(track.name).numpy() > 0).tobytes()).decode(),
        }
        for track in found.masks.tracks
    ]
    findings = [
        {"text": each.line(stream.grid), "frames": list(each.frames), "steps": list(each.steps)}
        for each in found.mix_ups.found
    ]
    shown = {each.text() for each in found.meetings if each.frame is not None}
    lines = [
        *found.mix_ups.nothing,
        *found.sinks.lines,
        *(line for line in found.followed if line not in shown),
        *found.all_notes,
    ]
    if exhibit.tracks is not None and exhibit.against is not None:
        lines += [line.removeprefix("! ") for line in exhibit.against(exhibit.tracks, found.masks)]
    known = {"kind": wanted.kind, "layers": list(found.layers), "masks": masks, "points": _points(found)}
    known["ends"] = [stop - 1 for _, stop in stream.grid.pixel_spans()]
    return {**known, "findings": findings + _begins(found, steps) + _meetings(found, steps), "lines": lines}


def _points(found: Reading) -> list[dict[str, Any]]:
    """Followed points, each in the colour of what it is on."""
    if found.points is None:
        return []
    (high, wide), grid = found.grid.token_pixels, found.grid
    colours = {track.name: list(readable(track.colour)) for track in found.masks.tracks}
    points = zip(found.points.names, found.points.on, found.points.xy, found.points.seen)
    return [
        {
            "name": name,
            "colour": colours.get(on, [255, 255, 255]),
            "xy": [
                [round(float(x) / (wide * grid.width), 4), round(float(y) / (high * grid.height), 4)] for x, y in path
            ],
            "seen": [bool(each) for each in seen],
        }
        for name, on, path, seen in points
    ]


def _begins(found: Reading, steps: tuple[int, ...]) -> list[dict[str, Any]]:
    """Verbs whose object begins to move, as findings that one can go to."""
    contacts = found.motion.contacts if found.motion is not None else ()
    return [{"text": each.line(), "frames": [each.begins], "steps": list(steps)} for each in contacts]


def _meetings(found: Reading, steps: tuple[int, ...]) -> list[dict[str, Any]]:
    """Contacts whose frame is known, as findings that one can go to."""
    starts = [start for start, _ in found.grid.pixel_spans()]
    return [
        {
            "text": each.text(),
            "frames": [bisect.bisect_right(starts, round(each.frame)) - 1],
            "steps": list(steps),
        }
        for each in found.meetings
        if each.frame is not None
    ]
