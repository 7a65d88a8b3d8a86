"""Points followed through a clip by the queries and keys of few heads: where in each frame a pinned place looks.

For each token frame the attention of the pinned token is read within that frame alone, and the place where it is
highest is the point's. Matching queries with keys of few layers is what DiffTrack (arXiv 2506.17220) found to follow
points best. Which layers is decided here without labels: those where points stay on the word that they are pinned on.

P points, R readers (a head of a layer, or the mean over heads of a layer), F, h, w token frames, rows, columns, n pixel
frames.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ...core.grid import Grid
from ...core.points import point_named
from ...core.ranges import ranges
from ..capture import Capture
from ..maps import Maps
from .motion_heads import Motion, find_motion
from .readers import Reader, check_readers, readers_of, readers_text, steps_of
from .word_masks import relative_heat, sharpest_layers, step_heat, told_names

__all__ = ["PointTracks", "follow_points"]

Heat = Mapping[str, Tensor]

_MOST = {True: 3, False: 1}  # readers that are chosen, where heads are apart and where they are not
_ON = 0.2  # of the way from a frame's median to its peak: a place that is this hot, with its neighbours, is on the word
_WINDOW = 2  # tokens around the highest one whose middle is taken
_NEAR = 1.5  # tokens: a point that looks further away is not at rest, whatever motion says
_SHARP = 2.0  # a peak of fewer medians of its frame looks nowhere in particular


@dataclass(frozen=True)
class PointTracks:
    """Where pinned points went.

    Args:
        names: of the points, as the capture has them.
        xy: (P, n, 2) float32, pixels from the left and from the top, in every pixel frame of the clip; between the
            middles of token frames on straight lines.
        seen: (P, n) bool: whether the point was found in that frame. Elsewhere `xy` is a guess between its neighbours.
        on: the word or instance that each is pinned on; "" for none.
        readers: whose maps were read.
        notes: what a person should know.
    """

    names: tuple[str, ...]
    xy: Tensor
    seen: Tensor
    on: tuple[str, ...]
    readers: tuple[Reader, ...]
    notes: tuple[str, ...]

    def lines(self) -> list[str]:
        """For people: each point and where it ends."""
        told = [f"points followed by {readers_text(self.readers)}"]
        for name, xy, seen, on in zip(self.names, self.xy, self.seen, self.on):
            (x, y), found = xy[-1].tolist(), int(seen.sum())
            whose = f" (on {on})" if on else ""
            told.append(f"- {name}{whose}: found in {found} of {len(seen)} frames, at {x:.0f}, {y:.0f} in the last")
        return told


def follow_points(
    capture: Capture,
    *,
    steps: Iterable[int] | None = None,
    stream: int = 0,
    readers: Sequence[Reader] | None = None,
    motion: Motion | None = None,
) -> PointTracks:
    """Follows the points that were pinned before sampling (`RecorderConfig.points`).

    A point on a thing that rests (`find_motion`) stays where it is as long as that does, where heads find it near by.

    Args:
        steps: of `StepInfo.index`, None for all; they count as often as they were called.
        readers: whose maps are read, as (layer, head), head None for the mean over heads; None chooses the three heads
            (or, where heads were not kept apart, the layer) whose points stay on the word that they are pinned on.
        motion: who rests when; None reads it off the same steps.

    Raises ValueError, listing what there is, where no point was pinned, and for readers and steps that the capture does
    not hold.
    """
    steps = None if steps is None else tuple(steps)
    own = capture.stream(stream)
    maps, bins = own.get("v2v"), steps_of(capture, steps)
    if not maps.points:
        raise ValueError(
            "no point was pinned in this capture: give points such as '60,90; 50%,25%@8' to the node that records, or "
            "watch(..., points=...), and sample again"
        )
    chosen, places, notes = tuple(maps.points), list(maps.points.values()), list[str]()
    words, on = _pinned_on(capture, stream, places)
    if readers is None:
        readers, notes = _choose(maps, readers_of(maps), bins, words, dict(zip(chosen, on)))
    check_readers(readers, maps)
    heat = torch.stack([_within_frames(maps, each, chosen, bins) for each in readers])
    mean = heat.nanmean(0)
    xy, sharp = _matched(mean, own.grid)
    notes += _lost(chosen, mean.flatten(-2).isnan().all(-1), sharp)
    if words and own.grid.frames > 1:
        motion = motion or find_motion(capture, steps=steps, stream=stream)
        notes += _held(motion, own.grid, list(zip(chosen, places, on)), xy, sharp)
    paths, seen = zip(*(_path(own.grid, n, p, a, s) for n, p, a, s in zip(chosen, places, xy, sharp)))
    return PointTracks(chosen, torch.stack(paths), torch.stack(seen), on, tuple(readers), tuple(notes))


def _within_frames(maps: Maps, reader: Reader, names: Sequence[str], bins: Sequence[int]) -> Tensor:
    """(P, F, h, w) float32: what a point looks at within each frame, each frame's sum 1, mean over steps; NaN where
    nothing was recorded or nothing of the frame is looked at."""
    layer, head = reader
    own = maps if head is None else maps.of_head(head)
    place, columns = maps.layers.index(layer), [maps.entities.index(name) for name in names]
    values = own.layer(place, bins, columns)  # (St, P, F, h, w)
    mass = values.flatten(-2).sum(-1)
    calls = maps.counts[place, list(bins)][:, columns].float() * (mass > 0)
    share = torch.where((calls > 0)[..., None, None], values / mass.clamp_min(1e-30)[..., None, None], 0.0)
    return torch.einsum("spfhw,spf->pfhw", share, calls) / calls.sum(0)[..., None, None]


# ---- which readers


def _pinned_on(capture: Capture, stream: int, places: Sequence[tuple[int, int, int]]) -> tuple[Heat, tuple[str, ...]]:
    """The heat of every word, (F, h, w) by name, and the word that each place is on, "" for none.

    In the first frame words are hardly looked at; where instances were recorded, it is told by where their first-frame
    tokens look."""
    words = _heat(capture, stream, "v2t")
    instances = {name: heat for name, heat in _heat(capture, stream, "v2v").items() if name in words}
    on = []
    for frame, row, column in places:
        told = instances if instances and frame == 0 else words
        best = {name: float(_around(heat[frame])[row, column]) for name, heat in told.items()}
        name = max(best, key=lambda name: best[name], default="")
        on.append(name if name and best[name] >= _ON else "")
    return words, tuple(on)


def _heat(capture: Capture, stream: int, kind: str) -> Heat:
    """The heat of every word or instance, relative to each frame, mean of the sharpest layers; none where the capture
    holds none."""
    own, maps = capture.stream(stream), capture.stream(stream).maps.get(kind)
    verbs = {verb.name for verb in own.binding.verbs}
    if maps is None or not {*maps.entities} - {*maps.points} - verbs:
        return {}
    names = told_names(own, kind)
    heat = step_heat(capture, names, kind, sharpest_layers(capture, kind, stream), stream)
    return dict(zip(names, relative_heat(heat.nanmean(0)).nan_to_num(0.0)))


def _around(heat: Tensor) -> Tensor:
    """A map (h, w) with half of each place's value from its 3x3 tokens."""
    return (heat + F.avg_pool2d(heat[None], 3, 1, 1, count_include_pad=False)[0]) / 2


def _choose(
    maps: Maps, readers: Sequence[Reader], bins: Sequence[int], words: Heat, on: Mapping[str, str]
) -> tuple[tuple[Reader, ...], list[str]]:
    """The readers that find what is pinned on a word on that word in other frames, best first, and notes. `on`: the
    word of each point. Where no point is on one, the first-frame tokens of instances are read in their place."""
    whose = {name: word for name, word in on.items() if word}
    notes = []
    if whose and len(whose) < len(on):
        notes = [f"{len(on) - len(whose)} of {len(on)} points are on no bound word: heads were chosen by the others"]
    if not whose:
        whose = {name: name for name in maps.entities if name in words}
        notes = ["no point is pinned on a bound word: heads were chosen by the instances"]
    if not whose:
        said = "neither a point nor a masked instance is on a bound word, so all heads are averaged: name layers"
        return tuple(readers), [f"{said} that follow points"]
    heat = torch.stack([words[word] for word in whose.values()]).flatten(-2)  # (P, F, h w)
    score = torch.stack([_on_word(_within_frames(maps, each, list(whose), bins), heat) for each in readers])
    home = {name: maps.points[name][0] for name in whose if name in maps.points}
    for place, name in enumerate(whose):
        score[:, place, home.get(name, 0)] = torch.nan  # there everything finds itself
    order = torch.argsort(score.flatten(1).nanmean(1).nan_to_num(-1.0), descending=True, stable=True).tolist()
    return tuple(readers[i] for i in order[: _MOST[bool(maps.heads)]]), notes


def _on_word(maps: Tensor, heat: Tensor) -> Tensor:
    """(P, F): how hot the word's map (P, F, h w) is at the peak of maps (P, F, h, w); NaN where there is none."""
    flat = maps.flatten(-2)
    found = heat.gather(-1, flat.nan_to_num(-1.0).argmax(-1, keepdim=True))[..., 0]
    return found.masked_fill(flat.isnan().all(-1), torch.nan)


# ---- where


def _matched(heat: Tensor, grid: Grid) -> tuple[Tensor, Tensor]:
    """Of maps (P, F, h, w): x, y in pixels (P, F, 2), and whether the peak stands out (P, F)."""
    flat = heat.flatten(-2).nan_to_num(0.0)
    top, at = flat.max(-1)
    rows, columns = torch.arange(grid.height), torch.arange(grid.width)
    near_row = (rows - (at // grid.width)[..., None]).abs() <= _WINDOW
    near_column = (columns - (at % grid.width)[..., None]).abs() <= _WINDOW
    near = flat.unflatten(-1, (grid.height, grid.width)) * near_row[..., :, None] * near_column[..., None, :]
    mass = near.sum((-1, -2))
    high, wide = grid.token_pixels
    y = (near.sum(-1) * (rows + 0.5)).sum(-1) / mass * high
    x = (near.sum(-2) * (columns + 0.5)).sum(-1) / mass * wide
    height, width = grid.frame_pixels  # the last tokens may reach over the frame
    xy = torch.stack([x.clamp(max=width), y.clamp(max=height)], -1)
    sharp = top >= _SHARP * flat.median(-1).values
    return xy, sharp & (mass > 0)


def _path(grid: Grid, name: str, place: tuple[int, int, int], xy: Tensor, sharp: Tensor) -> tuple[Tensor, Tensor]:
    """(n, 2) and (n,) bool of one point from its places in token frames (F, 2): straight lines between the middles of
    the token frames in which it was found, and through the place where it was pinned."""
    frame, where = _pinned(grid, name, place)
    knots = {frame: where}
    for number, (start, stop) in enumerate(grid.pixel_spans()):
        if number != place[0] and bool(sharp[number]):
            knots[(start + stop - 1) / 2] = xy[number]
    times = torch.tensor(sorted(knots))
    values = torch.stack([knots[time] for time in sorted(knots)])
    at = torch.arange(grid.pixel_frames, dtype=torch.float32)
    after = torch.searchsorted(times, at).clamp(1, max(1, len(times) - 1))
    if len(times) == 1:
        path = values.expand(len(at), 2).clone()
    else:
        left, right = times[after - 1], times[after]
        weight = ((at - left) / (right - left)).clamp(0, 1)[:, None]
        path = values[after - 1] * (1 - weight) + values[after] * weight
    seen = torch.zeros(len(at), dtype=torch.bool)
    for number, (start, stop) in enumerate(grid.pixel_spans()):
        seen[start:stop] = bool(sharp[number]) or number == place[0]
    return path, seen


def _pinned(grid: Grid, name: str, place: tuple[int, int, int]) -> tuple[float, Tensor]:
    """(pixel frame, x and y in pixels) where a point was pinned: as its name says, or else its token's middle."""
    said = point_named(name)
    if said is not None and said.inside(grid) and said.token(grid) == tuple(place):
        return float(said.frame), torch.tensor(said.pixels(grid), dtype=torch.float32)
    start, stop = grid.pixel_span(place[0])
    high, wide = grid.token_pixels
    return (start + stop - 1) / 2, torch.tensor([(place[2] + 0.5) * wide, (place[1] + 0.5) * high])


def _held(
    motion: Motion, grid: Grid, points: Sequence[tuple[str, tuple[int, int, int], str]], xy: Tensor, sharp: Tensor
) -> list[str]:
    """Puts points that are pinned on a thing at rest back to where they were pinned, in the token frames around that in
    which it rests, where what they look at is near by; in place, in xy (P, F, 2) and sharp (P, F). Says so."""
    notes = []
    for i, (name, place, word) in enumerate(points):
        if word not in motion.entities or not motion.moving.any():
            continue
        rests = (~motion.moving[motion.entities.index(word)]).tolist()
        first = last = place[0]
        if not rests[first]:
            continue
        while first > 0 and rests[first - 1]:
            first -= 1
        while last + 1 < len(rests) and rests[last + 1]:
            last += 1
        where, (high, wide) = _pinned(grid, name, place)[1], grid.token_pixels
        away = ((xy[i, first : last + 1] - where) / torch.tensor([wide, high])).norm(dim=-1)
        near = away[sharp[i, first : last + 1]]
        if last > first and bool((near <= _NEAR).all()):
            xy[i, first : last + 1], sharp[i, first : last + 1] = where, True
            notes.append(f"{name!r} is held in token frames {ranges(range(first, last + 1))}, where {word!r} rests")
    return notes


def _lost(names: Sequence[str], absent: Tensor, sharp: Tensor) -> list[str]:
    """Frames in which points were not found, and why."""
    notes = []
    for name, gone, found in zip(names, absent, sharp):
        if gone.any():
            notes.append(f"{name!r} was not recorded in token frames {ranges(gone.nonzero()[:, 0].tolist())}")
        if (lost := ~found & ~gone).any():
            where = ranges(lost.nonzero()[:, 0].tolist())
            notes.append(f"{name!r} looks nowhere in particular in token frames {where}: its place there is a guess")
    return notes
