"""A capture inside a page: its maps within a bound of bytes, as one blob.

Where all cells (layer x step) do not fit, neighbouring steps are kept as one mean, then neighbouring layers. The page
says so. L', S' such groups, F token frames.
"""

from __future__ import annotations

import base64
import gzip
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..instrument.capture import Capture
from ..instrument.maps import Maps, encode
from .exhibit import Exhibit
from .manifest import manifest
from .reading import reading_json
from .scores import scores_json
from .slices import Wanted, narrowed

__all__ = ["embedded", "groups"]


@dataclass(frozen=True)
class _Groups:
    """Places along L and St, in groups that are kept as one mean each."""

    layers: list[list[int]]
    steps: list[list[int]]


def embedded(exhibit: Exhibit, most_bytes: int) -> dict[str, Any]:
    """Everything that a page needs of an exhibit, as JSON values: `manifest`; `film`, frames as base64; `maps`, one
    entry for each stream and kind with its groups, where its cells begin, and scores by entity; `readings`, one for
    each of these entries, of the sharpest layers and all steps; `cells`, the gzipped blob as base64.

    A cell of the blob is a float32 peak, F uint16 counts of calls, then F*h*w codes (see `slices`); the cells of an
    entry lie as [E, L', S'].

    Args:
        most_bytes: of all cells, before they are compressed.

    Raises ValueError where one mean over everything is more than that already.
    """
    capture, told = exhibit.capture, manifest(exhibit)
    entries, shown, parts, begin = [], list[tuple[int, str]](), list[bytes](), 0
    share = most_bytes / max(1, _cell_bytes(capture))
    for number, stream in enumerate(capture.streams):
        for kind, maps in stream.on_clip.items():
            made = groups(len(maps.layers), maps.bins, int(share))
            scores = [scores_json(exhibit, number, kind, entity) for entity in range(len(maps.entities))]
            entry = {"stream": number, "kind": kind, "layers": made.layers, "steps": made.steps, "begin": begin}
            entries.append(entry | {"scores": scores})
            shown.append((number, kind))
            for entity in range(len(maps.entities)):
                cells = _cells(narrowed(stream, kind, entity), made)
                parts += cells
                begin += sum(map(len, cells))
    told["notes"] += _notes(told, entries)
    for each in told["streams"]:
        for held in each["maps"].values():
            held["heads"] = []
    return {
        "manifest": told,
        "film": [base64.b64encode(frame).decode() for frame in exhibit.film.frames],
        "maps": entries,
        "readings": [_reading(exhibit, *each) for each in shown],
        "cells": base64.b64encode(gzip.compress(b"".join(parts), 6, mtime=0)).decode(),
    }


def _reading(exhibit: Exhibit, stream: int, kind: str) -> dict[str, Any]:
    """What was read off a stream; where nothing can be, the line that says why."""
    try:
        return reading_json(exhibit, Wanted(stream, kind, "sharpest"))
    except ValueError as reason:
        return {"kind": kind, "layers": [], "masks": [], "findings": [], "lines": [str(reason)]}


def groups(layers: int, steps: int, cells: int) -> _Groups:
    """Which of so many layers and steps are kept as one, for at most `cells` cells; steps give way first. Raises
    ValueError for less than one cell."""
    if cells < 1:
        raise ValueError("the page has no room for a single map of each word: allow it more megabytes")
    if layers * steps <= cells:
        return _Groups(_split(layers, layers), _split(steps, steps))
    return _Groups(_split(layers, min(layers, cells)), _split(steps, max(1, cells // layers)))


def _split(count: int, parts: int) -> list[list[int]]:
    """The numbers 0 to count - 1 in `parts` runs of nearly the same length."""
    return [part.tolist() for part in np.array_split(np.arange(count), min(count, parts))]


def _cell_bytes(capture: Capture) -> int:
    """Bytes of one cell of every map in the capture."""
    return sum(
        len(maps.entities) * (4 + 2 * stream.grid.frames + stream.grid.size)
        for stream in capture.streams
        for maps in stream.on_clip.values()
    )


def _cells(maps: Maps, made: _Groups) -> list[bytes]:
    """The cells of one entity, [L', S']."""
    if all(len(group) == 1 for group in (*made.layers, *made.steps)):
        return [_own_cells(maps, layer) for layer in range(len(maps.layers))]
    return [_cell(maps, layers, steps) for layers in made.layers for steps in made.steps]


def _own_cells(maps: Maps, layer: int) -> bytes:
    """Every step of one layer, where no group holds several: all at once, as `_cell` makes them one by one."""
    counts = maps.counts[layer, :, 0]
    codes, peaks = encode(torch.where(counts[..., None, None] > 0, maps.layer(layer)[:, 0], 0.0))
    steps = len(counts)
    parts = (
        peaks.numpy().astype("<f4").reshape(steps, 1).view(np.uint8),
        np.clip(counts.numpy(), 0, 65535).astype("<u2").view(np.uint8).reshape(steps, -1),
        codes.numpy().reshape(steps, -1),
    )
    return np.concatenate(parts, 1).tobytes()


def _cell(maps: Maps, layers: list[int], steps: list[int]) -> bytes:
    mean = maps.mean(layers, steps, 0)
    calls = maps.counts[layers][:, steps, 0].sum(1).amax(0)
    counts = np.clip(calls.numpy(), 0, 65535).astype("<u2") * ~torch.isnan(mean[:, 0, 0]).numpy()
    codes, peak = encode(mean.nan_to_num(0.0))
    return np.float32(peak).tobytes() + counts.astype("<u2").tobytes() + codes.numpy().tobytes()


def _notes(told: dict[str, Any], entries: list[dict[str, Any]]) -> list[str]:
    """What a page keeps less of than the capture."""
    found = []
    for what in ("layers", "steps"):
        most = max((len(group) for entry in entries for group in entry[what]), default=1)
        if most > 1:
            kept = max(len(entry[what]) for entry in entries)
            found.append(f"to stay small this page keeps {kept} means over {what}, of up to {most} {what} each")
    if any(held["heads"] for stream in told["streams"] for held in stream["maps"].values()):
        found.append("this page keeps the mean over heads alone")
    return found
