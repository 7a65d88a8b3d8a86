"""Runs that a report shows: frames, masks, and the mean maps of every layer, one file each.

L layers, E entities, F, h, w token frames, rows, columns; frames and masks are of F pixel frames, the first of each
token frame's span.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ...core.tracks.tracks import MaskTracks
from ...draw.heatmaps import outline, overlay, scale_of
from ...draw.style import INK, readable
from ...instrument.capture import Capture
from ...instrument.maps import Maps
from ...io.files import whole_file

__all__ = ["Example", "load_example", "make_example", "save_example"]

_FORMAT = "matrix-analysis-example-1"


@dataclass(frozen=True)
class Example:
    """frames (F, H, W, 3) uint8; masks: per entity (F, H, W) bool; maps: per kind (L, E, F, h, w) float16."""

    frames: NDArray[np.uint8]
    masks: Mapping[str, NDArray[np.bool_]]
    colours: Mapping[str, tuple[int, int, int]]
    maps: Mapping[str, NDArray[np.float16]]
    layers: Mapping[str, tuple[int, ...]]
    entities: Mapping[str, tuple[str, ...]]

    def pictures(self, kind: str, layer: int, count: int = 4, width: int = 300) -> dict[str, list[Image.Image]]:
        """Per entity that has a mask, `count` overlays from the first to the last token frame, the masks outlined."""
        if kind not in self.maps or layer not in self.layers[kind]:
            return {}
        row = self.layers[kind].index(layer)
        frames = np.linspace(0, len(self.frames) - 1, min(count, len(self.frames))).round().astype(int)
        size = (width, round(width * self.frames.shape[1] / self.frames.shape[2]))
        found: dict[str, list[Image.Image]] = {}
        for e, name in enumerate(self.entities[kind]):
            if name in self.masks:
                maps = self.maps[kind][row, e].astype(np.float32)
                found[name] = [self._one(maps, int(f), self.masks[name], name, size) for f in frames]
        return found

    def _one(self, maps: NDArray, frame: int, masks: NDArray, name: str, size: tuple[int, int]) -> Image.Image:
        low, high = scale_of(maps)[frame]
        ground = np.asarray(Image.fromarray(self.frames[frame]).resize(size, Image.Resampling.LANCZOS))
        picture = Image.fromarray(overlay(ground, (maps[frame] - low) / max(high - low, 1e-12)))
        if masks[frame].any():
            rim, line = outline(masks[frame], size)
            picture.paste(INK["page"], mask=rim)
            picture.paste(readable(self.colours.get(name, INK["text"])), mask=line)
        return picture


def make_example(capture: Capture, tracks: MaskTracks, frames: NDArray[np.uint8]) -> Example:
    """An example from the maps of one run (one step bin) and its frames (n, H, W, 3)."""
    stream = capture.stream(0)
    at = [span[0] for span in stream.grid.pixel_spans() if span[0] < len(frames)]
    verbs = {verb.name: [p for p in (verb.subject, verb.object) if p] for verb in stream.binding.verbs}
    named = {name: [name] for name in tracks.names} | verbs
    masks = {}
    for name, parts in named.items():
        dense = np.zeros((len(at), tracks.height, tracks.width), dtype=bool)
        for place, frame in enumerate(at):
            for part in parts:
                if frame < tracks.frames:
                    dense[place] |= tracks.mask(part, frame).numpy()
        masks[name] = dense
    kinds = {kind: stream.maps[kind] for kind in ("v2t", "v2v") if kind in stream.maps}
    return Example(
        frames[at],
        masks,
        dict(zip(tracks.names, tracks.palette)),
        {kind: _means(maps) for kind, maps in kinds.items()},
        {kind: maps.layers for kind, maps in kinds.items()},
        {kind: maps.entities for kind, maps in kinds.items()},
    )


def _means(maps: Maps) -> NDArray[np.float16]:
    """(L, E, F, h, w): the mean over steps; NaN where nothing was recorded."""
    steps, names = range(maps.bins), range(len(maps.entities))
    each = [[maps.mean([place], steps, e) for e in names] for place in range(len(maps.layers))]
    return np.stack([np.stack([part.numpy() for part in layer]) for layer in each]).astype(np.float16)


def save_example(example: Example, path: Path) -> Path:
    tensors: dict[str, Any] = {"frames": np.ascontiguousarray(example.frames)}
    tensors |= {f"maps.{kind}": np.ascontiguousarray(maps) for kind, maps in example.maps.items()}
    names = list(example.masks)
    tensors |= {f"mask.{i}": np.packbits(example.masks[name], axis=-1) for i, name in enumerate(names)}
    head = {
        "format": _FORMAT,
        "masks": names,
        "colours": {name: list(colour) for name, colour in example.colours.items()},
        "layers": {kind: list(layers) for kind, layers in example.layers.items()},
        "entities": {kind: list(entities) for kind, entities in example.entities.items()},
    }
    with whole_file(path) as temporary:
        save_file(tensors, temporary, {"example": json.dumps(head, sort_keys=True)})
    return path


def load_example(path: Path) -> Example:
    """Reads what `save_example` wrote. Raises ValueError for anything else."""
    try:
        with safe_open(path, "numpy") as file:
            head = json.loads((file.metadata() or {})["example"])
            if head["format"] != _FORMAT:
                raise ValueError("another format")
            frames = file.get_tensor("frames")
            width = frames.shape[2]
            masks = {
                name: np.unpackbits(file.get_tensor(f"mask.{i}"), axis=-1, count=width).astype(bool)
                for i, name in enumerate(head["masks"])
            }
            return Example(
                frames,
                masks,
                {name: (int(r), int(g), int(b)) for name, (r, g, b) in head["colours"].items()},
                {kind: file.get_tensor(f"maps.{kind}") for kind in head["layers"]},
                {kind: tuple(layers) for kind, layers in head["layers"].items()},
                {kind: tuple(entities) for kind, entities in head["entities"].items()},
            )
    except (KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
        raise ValueError(f"{path} is no example of an analysis ({error}): remove it and run again") from None
