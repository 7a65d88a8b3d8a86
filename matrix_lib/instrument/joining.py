"""Captures one after another: a second model of the same run, the parts that a run left on disk, segments of a clip."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal

import torch

from ..core.grid import Grid
from ..core.points import point_named
from ..core.words.binding import PromptBinding
from .capture import Capture, StepInfo, Stream
from .maps import Maps, joined

__all__ = ["check_next", "extend", "in_time", "segments"]

_MADE_IN = "this clip was made in "


def check_next(
    before: Capture,
    backbone: str,
    grid: Grid,
    layers: Mapping[str, tuple[int, ...]],
    bindings: Sequence[PromptBinding],
    heads: tuple[int, ...] | Literal["all"] = (),
    points: Mapping[str, tuple[int, int, int]] | None = None,
) -> None:
    """Raises ValueError where a run that is about to start could not be put behind a capture by `extend`: told now, and
    not after it has been sampled.

    Args:
        layers: of each kind of map that the run will record.
        bindings: of each prompt and sample.
        heads, points: that the run will keep; see `RecorderConfig`.
    """
    mine = [stream.binding.to_json() for stream in before.streams]
    theirs = [binding.to_json() for binding in bindings]
    if before.backbone != backbone:
        raise _differ("backbone", repr(before.backbone), repr(backbone))
    expected = before.meta.get("prompts", len(mine))  # a prompt that was not active yet has no stream
    if expected != len(theirs):
        raise _differ("the number of prompts and samples", expected, len(theirs))
    if set(mine) - set(theirs):
        raise _differ("the prompt or its bound words", repr(before.stream().binding.prompt), repr(bindings[0].prompt))
    for stream in before.streams:
        if stream.grid != grid:
            raise _differ("grid", stream.grid.shape, grid.shape)
        for kind, maps in stream.maps.items():
            if maps.layers != layers.get(kind, ()):
                raise _differ(f"layers_{kind}", maps.layers, layers.get(kind, ()))
            same = bool(maps.heads) if heads == "all" else maps.heads == heads
            if kind in ("v2t", "v2v") and not same:
                raise _differ(f"heads_{kind}", maps.heads or "their mean", heads or "their mean")
            if kind == "v2v" and maps.points != (points or {}):
                raise _differ("the pinned points", ", ".join(maps.points) or "none", ", ".join(points or {}) or "none")


def extend(first: Capture, *others: Capture) -> Capture:
    """A new capture with the steps of others after those of the first: a second model of the same run (Wan 2.2's
    low-noise expert after its high-noise one). Steps are renumbered to follow where the numbers would clash. A prompt
    that only some of them know is absent in the others.

    Raises ValueError where backbone, branch, prompts, grids, layers or entities differ.
    """
    for other in others:
        _check_model(first, other)
        prompts = [capture.meta.get("prompts") for capture in (first, other)]
        if None not in prompts and prompts[0] != prompts[1]:
            raise _differ("the number of prompts and samples", *prompts)
    every = (first, *others)
    steps: list[StepInfo] = []
    for capture in every:
        steps += _behind(steps, capture.steps)
    places = _places(every)
    streams = []
    for key in dict.fromkeys(key for have in places for key in have):
        streams.append(_joined_stream(every, [have.get(key) for have in places]))
    meta = {name: value for capture in reversed(every) for name, value in capture.meta.items()}
    if "notes" in meta:
        meta["notes"] = list(dict.fromkeys(note for capture in every for note in capture.meta.get("notes", ())))
    return replace(first, streams=streams, steps=tuple(steps), meta=meta)


def in_time(
    parts: Sequence[Capture], taken: Sequence[int], kinds: Sequence[str] = (), starts: Sequence[int] = ()
) -> Capture:
    """One capture of a long clip, of those of the segments that it was made in, one after the other.

    Args:
        taken: of each the token frames in front that the one before has, too; they are left out.
        kinds: those that stay; () for all. starts: pixel frames that segments begin with; (): as their grids say.

    Entities that a segment does not have are absent there. Raises ValueError where models, prompts, sizes, layers or
    steps differ, and for kinds whose maps have no places in the clip.
    """
    first, starts = parts[0], list(starts) or [part.streams[0].grid.start or 0 for part in parts]
    for other in parts[1:]:
        _check_model(first, other)
        if (a := [step.index for step in first.steps]) != (b := [step.index for step in other.steps]):
            raise _differ("the steps", a, b)
        if (c := len(first.streams)) != (d := len(other.streams)):
            raise _differ("the number of prompts and samples", c, d)
    streams = []
    for place, stream in enumerate(first.streams):
        every = [part.streams[place] for part in parts]
        if any(each.binding != stream.binding or each.grid.frame_size != stream.grid.frame_size for each in every):
            raise _differ("the prompt, or the size", stream.binding.prompt, every[-1].binding.prompt)
        found = dict.fromkeys(kind for each in every for kind in each.maps if not kinds or kind in kinds)
        frames = sum(each.grid.frames - cut for each, cut in zip(every, taken))
        grid = replace(stream.grid, frames=frames, start=None)
        maps = {kind: _along([each.maps.get(kind) for each in every], every, taken, frames) for kind in found}
        streams.append(replace(stream, grid=grid, maps=maps))
    notes = [note for part in parts for note in part.meta.get("notes", ()) if not note.startswith(_MADE_IN)]
    notes.append(
        f"{_MADE_IN}{len(starts)} segments, which begin with frames {', '.join(map(str, starts))}: where "
        "instances look, in the frames of a segment, is of that segment's own first frame that shows them"
    )
    steps = [replace(at[0], calls=max(step.calls for step in at)) for at in zip(*(part.steps for part in parts))]
    meta = {**first.meta, "notes": list(dict.fromkeys(notes)), "segments": starts}
    return replace(first, streams=streams, steps=tuple(steps), meta=meta)


def segments(parts: Sequence[Capture], shared: int) -> Capture:
    """One capture of a long clip, of captures of its segments, each sampled as a clip of its own.

    Args:
        parts: in the order of the clip; also ones that were joined before.
        shared: pixel frames in front of each later segment that are the last ones of the segment before. They count
            once, as the segment before made them.

    A pinned point is called by its frame of the whole clip, and followed in the segment that it was pinned in. Kinds of
    maps that have no places in the clip are left out, and a note names them.

    Raises ValueError as `in_time`, where `shared` frames are no whole token frames, or all of a segment, or break the
    cycles of a model's time, and for less than two captures.
    """
    if len(parts) < 2:
        raise ValueError(
            f"the captures of two segments or more are joined; got {len(parts)}: connect one for each segment"
        )
    placed, taken, starts, spans, end = [], [], [], [], 0
    for place, part in enumerate(parts):
        grid = part.stream().grid
        stops = [stop for _, stop in grid.pixel_spans()][:-1]
        if place and shared not in stops:
            few = ", ".join(map(str, stops[:4])) + (", ..." if len(stops) > 4 else "")
            raise ValueError(
                f"segment {place + 1} has {grid.pixel_frames} frames, and {shared} of them are to be those of the "
                f"segment before: its token frames end behind {few or 'none'} of them, so give one of these numbers "
                "(*trim_image* of the node that continues a clip)"
            )
        start = end - shared if place else 0
        if start < 0:
            raise ValueError(f"segment {place} has {end} frames, fewer than the {shared} that the next one takes of it")
        end = start + grid.pixel_frames
        starts += [start + own for own in part.meta.get("segments", [0])]
        taken.append(stops.index(shared) + 1 if place else 0)
        spans += [(start + a, start + b) for a, b in grid.pixel_spans()[taken[-1] :]]
        streams = [
            replace(
                stream,
                grid=replace(stream.grid, start=start),
                maps={kind: _renamed(maps, start) for kind, maps in stream.on_clip.items()},
            )
            for stream in part.streams
        ]
        placed.append(replace(part, streams=streams))
    joined = in_time(placed, taken, starts=starts)
    grid = joined.stream().grid
    if grid.cycle and grid.pixel_spans() != tuple(spans):
        raise ValueError(
            f"token frames of this model go in rounds of {grid.cycle}, which {shared} shared frames break: begin each "
            f"segment with the last {1 + grid.temporal_stride} frames of the one before"
        )
    if lost := sorted({kind for part in parts for s in part.streams for kind in s.maps.keys() - s.on_clip.keys()}):
        joined.meta["notes"].append(f"{', '.join(lost)} maps are of each segment alone, and left out")
    return joined


def _renamed(maps: Maps, start: int) -> Maps:
    """Maps whose pinned points are called by their frames of the whole clip; this segment begins at `start`."""
    points = {name: point_named(name) for name in maps.points}
    later = {name: replace(p, frame=p.frame + start).name for name, p in points.items() if p is not None}
    places = {later.get(name, name): place for name, place in maps.points.items()}
    return replace(maps, entities=tuple(later.get(name, name) for name in maps.entities), points=places)


def _along(parts: Sequence[Maps | None], streams: Sequence[Stream], taken: Sequence[int], frames: int) -> Maps:
    """Maps of one kind, one after another along F; None where a segment has none of it."""
    have = [part.stored("float16") for part in parts if part is not None]
    like, names = have[0], tuple(dict.fromkeys(name for part in have for name in part.entities))
    for part in have:
        if part.over is not None:
            raise ValueError("these maps have no places in the clip, so that segments of a clip have none in common")
        if (part.layers, part.heads, part.bins) != (like.layers, like.heads, like.bins):
            raise _differ("layers, heads or steps", (like.layers, like.heads), (part.layers, part.heads))
    shape = list(like.values.shape)
    shape[2], shape[-3] = len(names), frames
    values = torch.zeros(shape, dtype=torch.float16)
    counts = torch.zeros(*shape[:3], frames, dtype=torch.int32)
    at, points = 0, dict(like.points)
    for maps, stream, cut in zip(parts, streams, taken):
        span = slice(at, at + stream.grid.frames - cut)
        at = span.stop
        for place, name in enumerate(maps.entities if maps is not None else ()):
            assert maps is not None
            own = maps.stored("float16").values[:, :, place, ..., cut:, :, :]
            values[:, :, names.index(name), ..., span, :, :] = own
            counts[:, :, names.index(name), span] = maps.counts[:, :, place, cut:]
        for name, (frame, row, column) in maps.points.items() if maps is not None else ():
            points[name] = (max(span.start - cut + frame, 0), row, column)
    return Maps(values, like.layers, names, counts, None, like.heads, points)


def _check_model(a: Capture, b: Capture) -> None:
    """ValueError unless two captures are of one model family and branch."""
    for what in ("backbone", "branch"):
        if (x := getattr(a, what)) != (y := getattr(b, what)):
            raise _differ(what, repr(x), repr(y))


def _behind(before: Sequence[StepInfo], steps: Sequence[StepInfo]) -> list[StepInfo]:
    """Steps renumbered to come after others."""
    shift = 0
    if before and steps and steps[0].index <= before[-1].index:
        shift = before[-1].index + 1 - steps[0].index
    return [
        replace(step, index=step.index + shift, skipped=tuple(number + shift for number in step.skipped))
        for step in steps
    ]


def _places(captures: Sequence[Capture]) -> list[dict[str, int]]:
    """Of each capture, where the stream of a key is. Keys of files are texts. Where captures share no key their streams
    go by order."""
    keys = [{str(stream.key): i for i, stream in enumerate(capture.streams)} for capture in captures]
    counts = {len(have) for have in keys}
    if len(captures) > 1 and len(counts) == 1 and not set.intersection(*map(set, keys)):
        return [{str(i): i for i in have.values()} for have in keys]
    return keys


def _joined_stream(captures: Sequence[Capture], places: Sequence[int | None]) -> Stream:
    """One stream through all captures; places: where each has it."""
    own = [None if place is None else capture.streams[place] for capture, place in zip(captures, places)]
    have = [stream for stream in own if stream is not None]
    for stream in have[1:]:
        _check_same(have[0], stream)
    parts: dict[str, list[Maps]] = {}
    for capture, mine in zip(captures, own):
        for kind, like in have[0].maps.items():
            parts.setdefault(kind, []).append(like.absent(len(capture.steps)) if mine is None else mine.maps[kind])
    return replace(have[0], maps={kind: joined(maps) for kind, maps in parts.items()})


def _check_same(a: Stream, b: Stream) -> None:
    """ValueError unless two streams can be of one run."""
    if a.binding != b.binding:
        raise _differ("the prompt or its bound words", repr(a.binding.prompt), repr(b.binding.prompt))
    if a.grid != b.grid:
        raise _differ("grid", a.grid.shape, b.grid.shape)
    if set(a.maps) != set(b.maps):
        raise _differ("the kinds of maps", ", ".join(a.maps) or "none", ", ".join(b.maps) or "none")
    for kind in a.maps:
        for what in ("layers", "entities", "heads", "points", "over"):
            if (x := getattr(a.maps[kind], what)) != (y := getattr(b.maps[kind], what)):
                raise _differ(f"{what}_{kind}", x, y)


def _differ(what: str, a: object, b: object) -> ValueError:
    return ValueError(
        f"the captures are not of one run: {what} differ(s): {a} and {b}. Sample all models with the same "
        "conditioning, size and capture settings"
    )
