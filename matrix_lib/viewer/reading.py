"""What a viewer shows of a capture's reading: masks of its words on the tokens, and findings as sentences.

F, h, w token frames, rows, columns.
"""

from __future__ import annotations

import base64
from typing import Any

import numpy as np

from ..draw.capture import choose_numbers
from ..draw.style import readable
from ..instrument.reading import read_capture
from .exhibit import Exhibit
from .slices import Wanted

__all__ = ["reading_json"]


def reading_json(exhibit: Exhibit, wanted: Wanted) -> dict[str, Any]:
    """The reading of the layers and steps that somebody looks at. "sharpest" for layers takes those.

    `masks`: of each word or instance, `bits` of (F, h, w) tokens, most significant first, as base64, as in the
    manifest. `findings`: each `text`, and the numbers of its token `frames` and its `steps`. `lines`: sinks, and what
    could not be told.

    Raises ValueError for what the capture does not hold.
    """
    stream = exhibit.capture.stream(wanted.stream)
    numbers = [step.index for step in exhibit.capture.steps]
    experts = exhibit.capture.experts if len(exhibit.capture.experts) > 1 else {}
    sharpest = wanted.layers.strip().lower() == "sharpest"
    found = read_capture(
        exhibit.capture,
        exhibit.tracks,
        kind=wanted.kind,
        layers=None if sharpest else choose_numbers(wanted.layers, "layer", stream.get(wanted.kind).layers),
        steps=choose_numbers(wanted.steps, "step", numbers, experts),
        stream=wanted.stream,
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
    told = [] if findings else [f"no swap or doubling (by {found.mix_ups.reference})"]
    lines = [*told, *found.sinks.lines, *dict.fromkeys((*found.mix_ups.notes, *found.notes))]
    return {"kind": wanted.kind, "layers": list(found.layers), "masks": masks, "findings": findings, "lines": lines}
