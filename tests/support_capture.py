"""A small capture whose maps mean something: two instances that move, a verb between them, layers that find them more
or less well, steps that get better. `lib` fetches modules: `matrix_lib`'s own or, for nodes, the pack's."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

import torch

__all__ = ["PREVIEW", "PROMPT", "library", "make_capture", "make_frames", "make_tracks"]

PROMPT = "a cyclist waits behind the grey van"
FRAMES, HEIGHT, WIDTH = 9, 64, 96
PREVIEW = {
    "kind": "words (video to text)",
    "names": "all",
    "layers": "all",
    "steps": "all",
    "stream": 0,
    "fps": 8.0,
    "heat": "smooth",
    "colour_scale": "one for the clip",
    "colours": "ember",
    "strength": 0.85,
    "width": 0,
}
"""What Preview Attention is given where nothing else is said: a test of that node compares."""
Lib = Callable[[str], ModuleType]


def library(name: str) -> ModuleType:
    """A module of `matrix_lib`, for example `library("core.grid")`."""
    return importlib.import_module(f"matrix_lib.{name}")


def make_tracks(lib: Lib = library) -> Any:
    """Two boxes: the cyclist moves right, the van stands."""
    boxes = {
        "cyclist": {0: (0, 8, 32, 56), FRAMES - 1: (32, 8, 64, 56)},
        "van": {0: (64, 16, 96, 64), FRAMES - 1: (64, 16, 96, 64)},
    }
    roles = {"cyclist": "subject", "van": "object"}
    return lib("core.tracks.tracks").MaskTracks.from_boxes(boxes, FRAMES, HEIGHT, WIDTH, roles)


def make_frames(count: int = FRAMES, height: int = HEIGHT, width: int = WIDTH) -> torch.Tensor:
    """(count, height, width, 3) float32 in [0, 1]: a soft gradient that changes in time."""
    ramp = torch.linspace(0, 1, width).expand(count, height, width)
    return torch.stack([ramp, ramp.flip(-1), torch.linspace(0.2, 0.6, count)[:, None, None].expand_as(ramp)], -1)


def make_binding(lib: Lib = library) -> Any:
    binding, words, at = lib("core.words.binding"), PROMPT.split(), 0
    tokens = []
    for row, word in enumerate(words):
        at = PROMPT.index(word, at)
        tokens.append(binding.Token(row, 100 + row, at, at + len(word), word))
        at += len(word)
    phrases = "cyclist: a cyclist [subject]\nvan: the grey van [object]\nwaits behind = verb(cyclist -> van)"
    return binding.bind(PROMPT, tokens, phrases, 16, "t5")


def make_capture(
    lib: Lib = library, layers: int = 4, steps: int = 3, streams: int = 1, calls: int | list[int] = 2
) -> Any:
    """Layer l puts a share of (l + 1) / (layers + 1) of its attention on the mask, growing with the steps."""
    capture, maps_of, grid_of = lib("instrument.capture"), lib("instrument.maps").Maps, lib("core.grid").Grid
    grid = grid_of.from_pixels(FRAMES, HEIGHT, WIDTH)
    masks = make_tracks(lib).to_grid(grid)
    both = torch.stack([masks.map("cyclist"), masks.map("van"), masks.map("cyclist", "van")])
    on = both / both.flatten(1).sum(1).view(-1, 1, 1, 1)
    flat = torch.full_like(on, 1 / grid.size)
    good = torch.arange(1, layers + 1)[:, None] / (layers + 1) * (torch.arange(1, steps + 1) / steps)
    maps = torch.einsum("ls,efhw->lsefhw", good, on) + torch.einsum("ls,efhw->lsefhw", 1 - good, flat)
    names = ("cyclist", "van", "waits behind")
    counts = [calls] * steps if isinstance(calls, int) else calls
    for empty in (i for i, count in enumerate(counts) if not count):
        maps[:, empty] = 0
    made = [
        capture.Stream(
            key=f"prompt {i}",
            binding=make_binding(lib),
            grid=grid,
            maps={
                "v2t": maps_of.whole(maps.half(), range(layers), names, counts),
                "v2v": maps_of.whole(maps[:2, :, :2].half(), range(min(layers, 2)), names[:2], counts),
            },
        )
        for i in range(streams)
    ]
    info = tuple(capture.StepInfo(i * 5, 1.0 - i / steps, count) for i, count in enumerate(counts))
    return capture.Capture(made, "cogvideox-5b-i2v", info, meta={"seed": 7})
