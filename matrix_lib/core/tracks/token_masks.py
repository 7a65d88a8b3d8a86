"""Masks on the token grid, straight from their runs: causal union in time, nearest or area in space.

F, h, w: token frames, rows and columns. E instances. Source: pixels of the tracks; target: pixels that the model sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..grid import Framing, Grid
from ..names import find_name
from ..near import did_you_mean
from ..ranges import ranges
from . import runs
from .packed import PackedTracks
from .timing import time_notes

__all__ = ["GridTracks", "Resize", "default_framing", "project"]

Resize = Literal["nearest", "nearest-exact", "area"]
Array = NDArray[Any]
# Runs and cells handled at once: bounds the working memory to some tens of MB, whatever the length of the clip.
_RUNS_AT_ONCE = 1 << 19
_CELLS_AT_ONCE = 1 << 21


@dataclass(frozen=True)
class GridTracks:
    """Mask tracks on a token grid.

    Args:
        names: instances, in the order of `maps`.
        grid: the grid.
        maps: (E, F, h, w) float32 in [0, 1]; 0 or 1 for the nearest rules, the covered share of each token for area.
        missing: per name, the token frames whose pixels had a mask that no token kept.
        query_frame: per name, the first token frame that shows the instance; None if none does.
        known: per token frame, whether the tracks say anything about it (first-frame masks know frame 0 alone).
        notes: sentences for people about everything above that is not as one would expect.
    """

    names: tuple[str, ...]
    grid: Grid
    maps: Tensor
    missing: dict[str, tuple[int, ...]]
    query_frame: dict[str, int | None]
    known: tuple[bool, ...]
    notes: tuple[str, ...] = field(default=())

    def index(self, name: str) -> int:
        found = find_name(name, self.names)
        if found is None:
            hint = did_you_mean(name, self.names)
            raise ValueError(
                f"no instance is called {name!r}; the tracks have {', '.join(map(repr, self.names))}{hint}"
            )
        return self.names.index(found)

    def map(self, *names: str) -> Tensor:
        """(F, h, w) mask of one instance, or the union of several (a verb: its subject and its object)."""
        return self.maps[[self.index(name) for name in names]].amax(0)

    def query(self, name: str) -> Tensor:
        """Flat indices (n,) int64 into the F*h*w video tokens of the query set Q_e: the instance's tokens in the first
        token frame that shows it. Of an area map, tokens covered by half and more, or the best covered ones.

        Raises ValueError for an instance that no token shows."""
        frame = self.query_frame[self.names[self.index(name)]]
        if frame is None:
            raise ValueError(
                f"instance {name!r} shows on no token of the {self.grid.shape} grid, so it has no query tokens. "
                "Check its mask in MATRIX Preview Tracks, make it larger, or use the area resize."
            )
        plane = self.maps[self.index(name), frame].reshape(-1)
        inside = torch.nonzero(plane >= min(0.5, float(plane.max())))[:, 0]
        return inside + frame * self.grid.frame_size


def project(
    tracks: PackedTracks,
    grid: Grid,
    mode: Resize = "nearest",
    framing: Framing | None = None,
    progress: Callable[[], None] | None = None,
) -> GridTracks:
    """See `MaskTracks.to_grid`."""
    if mode not in ("nearest", "nearest-exact", "area"):
        raise ValueError(f"mode is 'nearest', 'nearest-exact' or 'area'; got {mode!r}")
    token_of, known, notes = _time(tracks, grid)
    rows, cols = _axes(grid, default_framing(tracks, grid, framing))
    resize = _area if mode == "area" else _nearest
    maps = np.zeros((len(tracks.names), *grid.shape), dtype=np.float32)
    for e, track in enumerate(tracks.tracks):
        for first, last in _chunks(track.offsets, token_of, min(tracks.height, grid.height) * (grid.width + 1)):
            part = track.offsets[first : last + 1]
            when = np.repeat(token_of[first:last], np.diff(part) // 2)
            low, high = int(token_of[first]), int(token_of[last - 1]) + 1
            plane = resize(track.edges[part[0] : part[-1]], when - low, high - low, tracks, rows, cols, mode)
            np.maximum(maps[e, low:high], plane, out=maps[e, low:high])
            if progress is not None:
                progress()
    return _collect(tracks, grid, maps, token_of, known, notes)


@dataclass(frozen=True)
class _Axis:
    """One axis of the grid in source pixels: the model sees `length` pixels from `start` as `shown` of its `target`
    pixels, from `lead` on; before and behind are bars."""

    start: int
    length: int
    lead: int
    shown: int
    target: int
    step: int  # target pixels per token
    tokens: int

    def samples(self, mode: Resize) -> Array:
        """Source pixel of each token. "nearest" is floor(i * source / tokens), the rule of OpenCV's INTER_NEAREST and
        torch's "nearest" (MATRIX' released analysis resizes its masks so); "nearest-exact" takes the token's centre."""
        i = np.arange(self.tokens, dtype=np.int64)
        at = (i * self.step - self.lead) * self.length // self.shown
        if mode == "nearest-exact":
            at = ((2 * i + 1) * self.step - 2 * self.lead) * self.length // (2 * self.shown)
        if self.shown < self.target:  # a token whose pixel lies in a bar: beside all pixels that there are
            return self.start + np.clip(at, -1, self.length)
        return self.start + np.minimum(at, self.length - 1)

    def edges(self) -> Array:
        """Borders of the tokens in source pixels, (tokens + 1,) float64; the last token may be cut by the frame, and
        tokens may reach into bars."""
        at = np.minimum(np.arange(self.tokens + 1) * self.step, self.target) - self.lead
        return self.start + at * (self.length / self.shown)


def default_framing(tracks: PackedTracks, grid: Grid, framing: Framing | None = None) -> Framing:
    """The framing to use; by default the tracks' own way (`fit`) to the pixels of the clip.

    Raises ValueError for a framing of other tracks or to other pixels.
    """
    source, target = (tracks.height, tracks.width), grid.frame_pixels
    if framing is None:
        return Framing(source, target, tracks.fit)
    if framing.source != source:
        raise ValueError(f"the framing is for frames of {framing.source} (h, w), but the tracks are {source}")
    if framing.target != target:
        (ph, pw), (height, width) = grid.token_pixels, framing.target
        raise ValueError(
            f"the framing ends in {height}x{width} pixels, which is {-(-height // ph)}x{-(-width // pw)} tokens, but "
            f"the model's grid has {grid.height}x{grid.width} for frames of {target[0]}x{target[1]}; give the size "
            "that the video is generated in"
        )
    return framing


def _axes(grid: Grid, framing: Framing) -> tuple[_Axis, _Axis]:
    (top, left, height, width), (above, before, high, wide) = framing.box(), framing.window()
    (ph, pw), (tall, broad) = grid.token_pixels, framing.target
    rows = _Axis(top, height, above, high, tall, ph, grid.height)
    return rows, _Axis(left, width, before, wide, broad, pw, grid.width)


def _time(tracks: PackedTracks, grid: Grid) -> tuple[Array, Array, list[str]]:
    """Token frame of each pixel frame that is used, known token frames, notes."""
    spans = np.array(grid.pixel_spans(), dtype=np.int64)
    notes: list[str] = []
    if tracks.frames == 1:
        token_of = np.zeros(1, dtype=np.int64)
        if grid.pixel_frames > 1:
            notes.append("the tracks hold the first frame alone: later frames are unknown, not empty")
    else:
        short = int(spans[-1, 1]) - tracks.frames
        if short >= spans[-1, 1] - spans[-1, 0]:
            raise ValueError(
                f"the tracks have {tracks.frames} frames, but the video has {grid.pixel_frames}. Give tracks of "
                f"{grid.pixel_frames} frames (longer ones are cut at the end), or of the first frame alone; MATRIX "
                "Retime Tracks makes them as long."
            )
        notes += time_notes(tracks, grid)
        frames = np.arange(min(tracks.frames, int(spans[-1, 1])))
        token_of = np.searchsorted(spans[:, 1], frames, side="right")
    known = np.zeros(grid.frames, dtype=bool)
    known[token_of] = True
    return token_of, known, notes


def _chunks(offsets: Array, token_of: Array, cells: int) -> Iterator[tuple[int, int]]:
    """Pixel frames [first, last) to convert at once: whole token frames, limited in runs and in accumulator cells."""
    starts = np.flatnonzero(np.diff(token_of, prepend=-1))
    stops = np.append(starts[1:], len(token_of))
    most = max(_CELLS_AT_ONCE // max(cells, 1), 1)
    first = 0
    while first < len(starts):
        last = first + 1
        while (
            last < len(starts)
            and last - first < most
            and offsets[stops[last]] - offsets[starts[first]] <= 2 * _RUNS_AT_ONCE
        ):
            last += 1
        yield int(starts[first]), int(stops[last - 1])
        first = last


def _nearest(
    edges: Array, when: Array, frames: int, tracks: PackedTracks, rows: _Axis, cols: _Axis, mode: Resize
) -> Array:
    """(frames, h, w): 1 where a run holds the pixel that stands for the token. Hits of a union are unions of hits."""
    wanted, back = np.unique(rows.samples(mode), return_inverse=True)
    columns = cols.samples(mode)
    slot = np.full(tracks.height + 2, -1, dtype=np.int64)  # one more on either side, for bars
    slot[wanted + 1] = np.arange(len(wanted))
    row, first, last = runs.runs(edges, tracks.width)
    keep = slot[row + 1] >= 0
    left, right = np.searchsorted(columns, first[keep]), np.searchsorted(columns, last[keep])
    stride = cols.tokens + 1
    line = (when[keep] * len(wanted) + slot[row[keep] + 1]) * stride
    size = frames * len(wanted) * stride
    depth = np.bincount(line + left, minlength=size) - np.bincount(line + right, minlength=size)
    hit = depth.reshape(frames, len(wanted), stride).cumsum(-1)[..., :-1] > 0
    return hit[:, back].astype(np.float32)


def _area(
    edges: Array, when: Array, frames: int, tracks: PackedTracks, rows: _Axis, cols: _Axis, mode: Resize
) -> Array:
    """(frames, h, w): covered share of each token, of the union in time. Exact for any ratio of sizes."""
    frame = tracks.height * (tracks.width + 1)
    starts, stops = runs.union(edges[0::2] + when * frame, edges[1::2] + when * frame)
    line, first = np.divmod(starts, tracks.width + 1)  # line: frame and source row in one
    last = stops - line * (tracks.width + 1)
    when, row = np.divmod(line, tracks.height)
    share = np.zeros((frames * rows.tokens, cols.tokens))
    for token, weight in zip(*_row_shares(rows, tracks.height)):
        used = np.flatnonzero(weight[row])
        at, part = when[used] * rows.tokens + token[row[used]], weight[row[used]]
        share += _left_of(at, last[used], part, cols, len(share)) - _left_of(at, first[used], part, cols, len(share))
    return np.clip(share, 0, 1).reshape(frames, rows.tokens, cols.tokens)


def _left_of(at: Array, x: Array, weight: Array, cols: _Axis, lines: int) -> Array:
    """(lines, w): for each line and token column the weighted sum, over the points x of that line, of the share of the
    column that lies left of x. A run covers what is left of its end and not left of its start."""
    borders = cols.edges()
    column = np.clip(np.searchsorted(borders, x, side="right") - 1, 0, cols.tokens)
    inner = np.minimum(column, cols.tokens - 1)
    part = np.clip((x - borders[inner]) / (borders[inner + 1] - borders[inner]), 0, 1) * (column < cols.tokens)
    cell, stride = at * (cols.tokens + 1) + column, cols.tokens + 1
    whole = np.bincount(cell, weight, lines * stride).reshape(lines, stride)
    inside = np.bincount(cell, weight * part, lines * stride).reshape(lines, stride)
    later = whole[:, ::-1].cumsum(-1)[:, ::-1] - whole  # a point in a later column has this one wholly on its left
    return (later + inside)[:, :-1]


def _row_shares(rows: _Axis, height: int) -> tuple[Array, Array]:
    """Token rows that each source row lies in, and the share of the token row that it makes up: both (K, H), where K is
    the most token rows that one source row reaches (2 when shrinking); a share of 0 where it reaches fewer."""
    borders, r = rows.edges(), np.arange(height)
    first = np.clip(np.searchsorted(borders, r, side="right") - 1, 0, rows.tokens - 1)
    final = np.clip(np.searchsorted(borders, r + 1, side="left") - 1, 0, rows.tokens - 1)
    token = first + np.arange(int((final - first).max()) + 1)[:, None]
    token, used = np.minimum(token, rows.tokens - 1), token <= final
    low, high = borders[token], borders[token + 1]
    overlap = np.clip(np.minimum(high, r + 1) - np.maximum(low, r), 0, None)
    return token, np.where(used, overlap / (high - low), 0.0)


def _collect(
    tracks: PackedTracks, grid: Grid, maps: Array, token_of: Array, known: Array, notes: list[str]
) -> GridTracks:
    shown: Array = maps.max((2, 3)) > 0
    missing, query_frame = {}, {}
    for e, track in enumerate(tracks.tracks):
        name = track.name
        visible = np.bincount(token_of, np.diff(track.offsets)[: len(token_of)], grid.frames) > 0
        lost = np.flatnonzero(visible & ~shown[e])
        missing[name] = tuple(int(i) for i in lost)
        query_frame[name] = int(shown[e].argmax()) if shown[e].any() else None
        if len(lost):
            notes.append(
                f"{name!r} is missing on the token grid in {len(lost)} of {int(known.sum())} token frames "
                f"({ranges(lost)}): its mask is too thin for a token there, or the crop cuts it off"
            )
        if query_frame[name] is None:
            notes.append(f"{name!r} shows in no token frame at all")
        elif query_frame[name]:
            notes.append(f"{name!r} is not in the first frame: its query tokens are of token frame {query_frame[name]}")
    with torch.inference_mode(False):  # masks are constants that training may save for backward
        tensor = torch.from_numpy(maps)
    return GridTracks(tracks.names, grid, tensor, missing, query_frame, tuple(map(bool, known)), tuple(notes))
