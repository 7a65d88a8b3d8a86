"""Masks of words made fit to steer a second run by: what a capture knows to be wrong in them is put right.

Who was swapped in the last step that was recorded gets the other's mask in these frames; who was doubled keeps the
largest piece of its mask. A frame in which a map looks nowhere in particular takes the mask of the nearest frame that
says something; an instance of which more than half of the frames say nothing gets no mask, and is not steered. Every
one of these is told by name: a mask that was guessed is no mask that was seen.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from numpy.typing import NDArray

from ...core.grid import Grid
from ...core.ranges import ranges
from ...core.tracks import runs
from ...core.tracks.tracks import MaskTracks
from ..capture import Capture, MapKind
from .mix_ups import MixUp, MixUps, pieces
from .word_masks import WordMasks

__all__ = ["mend", "verb_notes"]

_MOST_VAGUE = 0.5  # of an instance's token frames
Frames = list[NDArray[Any]]


def mend(found: WordMasks, mix_ups: MixUps, grid: Grid, kind: MapKind = "v2t") -> WordMasks:
    """The masks with swaps, doubles and vague frames put right, and notes on each.

    Args:
        found: masks of one stream, read off maps of this `kind`. mix_ups: of the same stream. grid: its token grid.
    """
    tracks, notes = found.tracks, list(found.notes)
    frames: dict[str, Frames] = {t.name: [t.frame(i) for i in range(tracks.frames)] for t in tracks.tracks}
    for each in mix_ups.found:
        if not (each.lasting and each.maps == kind and all(name in frames for name in each.names)):
            continue
        last = _last_frames(each)
        if each.kind == "swapped":
            at = _since(last, grid.frames) if mix_ups.reference == "the frame before" else last
            _exchange(frames, each.names, _pixels(at, grid))
            said = f"{each.names[0]!r} and {each.names[1]!r} are swapped in token frames {ranges(at)}: each gets the "
            notes.append(said + "other's mask there")
        else:
            _largest(frames[each.names[0]], _pixels(last, grid), (tracks.height, tracks.width))
            notes.append(f"{each.names[0]!r} is doubled in token frames {ranges(last)}: its largest piece is kept")
    for name, vague in found.vague.items():
        notes += _filled(name, frames[name], vague, grid)
    made = tuple(track.with_frames(frames[track.name]) for track in tracks.tracks)
    return replace(found, tracks=replace(tracks, tracks=made), notes=tuple(notes))


def verb_notes(capture: Capture, masks: MaskTracks, layers: Sequence[int], stream: int = 0) -> list[str]:
    """Verbs whose words, in the last step, look at the masks of subject and object no more than at any other place: a
    sentence each."""
    own = capture.stream(stream)
    if not any(verb.subject in masks.names or verb.object in masks.names for verb in own.binding.verbs):
        return []
    found = capture.aas(masks.to_grid(own.grid), "v2t", stream)
    rows = [found.layers.index(layer) for layer in layers]
    notes = []
    for verb in own.binding.verbs:
        if verb.name in found.entities:
            column = found.entities.index(verb.name)
            share, chance = (float(part[rows, -1, column].nanmean()) for part in (found.share, found.area))
            if share <= chance:
                notes.append(
                    f"{verb.name!r} has {share:.1%} of its attention on its subject and object, no more than chance "
                    f"({chance:.1%}): who does it to whom is not told by its words"
                )
    return notes


def _last_frames(each: MixUp) -> list[int]:
    """Token frames in which it holds in its last step."""
    last = each.cells[-1][0]
    return sorted({frame for step, frame in each.cells if step == last})


def _since(turns: Iterable[int], count: int) -> list[int]:
    """Token frames in which two are in each other's place when they change places in `turns`."""
    turned = set(turns)
    return [frame for frame in range(count) if sum(turn <= frame for turn in turned) % 2]


def _pixels(frames: Iterable[int], grid: Grid) -> list[int]:
    return [number for frame in frames for number in range(*grid.pixel_span(frame))]


def _exchange(frames: dict[str, Frames], names: Sequence[str], numbers: Iterable[int]) -> None:
    first, second = (frames[name] for name in names)
    for i in numbers:
        first[i], second[i] = second[i], first[i]


def _largest(frames: Frames, numbers: Iterable[int], size: tuple[int, int]) -> None:
    made: dict[bytes, NDArray[Any]] = {}  # the pixel frames of a token frame have one mask
    for i in numbers:
        before = frames[i].tobytes()
        if before and before not in made:
            mask = torch.from_numpy(runs.unpack(frames[i], *size))
            told = pieces(mask[None])[0]
            made[before] = runs.pack((told == torch.bincount(told[mask]).argmax()).numpy())
        frames[i] = made.get(before, frames[i])


def _filled(name: str, frames: Frames, vague: Sequence[int], grid: Grid) -> list[str]:
    """Fills the vague token frames of one instance; says so."""
    if not vague:
        return []
    if len(vague) > _MOST_VAGUE * grid.frames:
        frames[:] = [runs.pack_box(0, 0, 0, 0, 1)] * len(frames)
        return [f"{name!r} looks nowhere in particular in {len(vague)} of {grid.frames} token frames: it gets no mask"]
    told = [frame for frame in range(grid.frames) if frame not in vague]
    for frame in vague:
        near = min(told, key=lambda other: abs(other - frame))
        mask = frames[grid.pixel_span(near)[0]]
        for i in range(*grid.pixel_span(frame)):
            frames[i] = mask
    return [f"{name!r} has the mask of the nearest frame in token frames {ranges(vague)}"]
