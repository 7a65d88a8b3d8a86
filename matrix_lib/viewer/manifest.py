"""What a viewer has to know before it asks for a map: prompts, words and their colours, layers, steps, sizes.

JSON values alone, some kilobytes, whatever the size of the capture.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ..core.tracks.palette import distinct_colours
from ..core.words.binding import Phrase, PromptBinding
from ..draw.heatmaps import seen_box, token_frames
from ..draw.style import COLORMAPS, INK, Colour, colormap, colours_of, readable
from ..instrument.capture import Capture, Stream
from ..instrument.maps import Maps
from .exhibit import Exhibit, Film

__all__ = ["manifest", "prompt_pieces"]

VERSION = 1


def manifest(exhibit: Exhibit) -> dict[str, Any]:
    """What there is to see. Layers, steps and heads go by the model's own numbers, entities by their place."""
    capture = exhibit.capture
    return {
        "version": VERSION,
        "label": exhibit.label,
        "backbone": capture.backbone,
        "branch": capture.branch,
        "notes": [str(note) for note in capture.meta.get("notes", ())],
        "steps": [{"index": step.index, "sigma": float(step.sigma), "calls": step.calls} for step in capture.steps],
        "experts": {name: list(steps) for name, steps in capture.experts.items()} if len(capture.experts) > 1 else {},
        "streams": [_stream(exhibit, stream) for stream in capture.streams],
        "film": _film(exhibit.film),
        "colormaps": {name: base64.b64encode(colormap(name).tobytes()).decode() for name in COLORMAPS},
    }


def prompt_pieces(binding: PromptBinding) -> list[dict[str, Any]]:
    """The prompt in pieces of `text`, each with the `names` of the phrases that it belongs to."""
    spans = [
        (span, phrase.name) for phrase in binding.phrases for span in phrase.spans or ((phrase.start, phrase.end),)
    ]
    edges = sorted({0, len(binding.prompt), *(min(edge, len(binding.prompt)) for span, _ in spans for edge in span)})
    return [
        {
            "text": binding.prompt[start:end],
            "names": list(dict.fromkeys(name for (first, last), name in spans if first <= start and end <= last)),
        }
        for start, end in pairwise(edges)
    ]


def _film(film: Film) -> dict[str, Any]:
    return {"frames": len(film.frames), "width": film.width, "height": film.height, "fps": film.fps}


def _stream(exhibit: Exhibit, stream: Stream) -> dict[str, Any]:
    grid, film = stream.grid, exhibit.film
    height, width = (film.height, film.width) if film.frames else grid.frame_pixels
    left, top, right, bottom = seen_box(grid, height, width, exhibit.fit)
    return {
        "prompt": prompt_pieces(stream.binding),
        "phrases": [_phrase(phrase) for phrase in stream.binding.phrases],
        "grid": list(grid.shape),
        "token": list(grid.token_pixels[::-1]),
        "frame": list(grid.frame_pixels[::-1]),
        "starts": [start for start, _ in grid.pixel_spans()],
        "size": [width, height],
        "box": [left / width, top / height, right / width, bottom / height],
        "pictures": [list(pair) for pair in token_frames(grid, len(film.frames))],
        "maps": {kind: _maps(exhibit, stream, maps) for kind, maps in stream.on_clip.items()},
        "masks": _masks(exhibit, stream),
    }


def _phrase(phrase: Phrase) -> dict[str, Any]:
    return {"name": phrase.name, "text": phrase.text, "role": phrase.role}


def _maps(exhibit: Exhibit, stream: Stream, maps: Maps) -> dict[str, Any]:
    colours = _colours(exhibit, stream, maps.entities)
    return {
        "layers": list(maps.layers),
        "entities": list(maps.entities),
        "colours": [list(readable(colours[name])) for name in maps.entities],
        "heads": list(maps.heads),
        "points": {name: list(place) for name, place in maps.points.items()},
        "counts": _counted(maps, exhibit.capture),
    }


def _counted(maps: Maps, capture: Capture) -> list[int]:
    """For each step bin the largest count of calls in it."""
    return [int(maps.counts[:, place].max()) for place in range(len(capture.steps))]


def _colours(exhibit: Exhibit, stream: Stream, names: Sequence[str]) -> dict[str, Colour]:
    """A track's colour for its name; instances without tracks get the same ones, and everything else light tones."""
    if exhibit.tracks is not None:
        return colours_of(names, exhibit.tracks.names, exhibit.tracks.palette)
    instances = [phrase.name for phrase in stream.binding.instances]
    found = colours_of(names, instances, distinct_colours(len(instances)))
    return {name: found.get(name, INK["text"]) for name in names}


def _masks(exhibit: Exhibit, stream: Stream) -> list[dict[str, Any]]:
    """The tokens of each instance's mask: bits of (F, h, w), most significant first, as base64."""
    if exhibit.tracks is None:
        return []
    names = [phrase.name for phrase in stream.binding.instances]
    tracks = exhibit.tracks.spelled(names)
    on_grid = tracks.to_grid(stream.grid)
    return [
        {
            "name": track.name,
            "colour": list(readable(track.colour)),
            "bits": base64.b64encode(np.packbits(on_grid.map(track.name).numpy() > 0).tobytes()).decode(),
        }
        for track in tracks.tracks
    ]
