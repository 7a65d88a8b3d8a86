"""Several tracks as one, on their runs: instances of one clip side by side, and clips one after the other.

F frames. Nothing is unpacked: an hour of 1080p joins in seconds.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from ..names import find_name
from . import runs
from .checks import check_names
from .palette import distinct_colours
from .tracks import MaskTracks, Track

__all__ = ["CLASHES", "Clash", "follow", "side_by_side"]

Clash = Literal["refuse", "replace", "unite", "number"]
"""What becomes of a name that several tracks have: an error; the later one counts; the union of both; a number is added
to the later one."""
CLASHES: tuple[Clash, ...] = get_args(Clash)


def side_by_side(parts: Sequence[MaskTracks], clash: Clash = "refuse") -> MaskTracks:
    """Instances of one clip, in the order of `parts`. Rate, fit and colours are those of the first; a colour that is
    taken is replaced. Raises ValueError for clips of different size, and for names that several have (by `clash`)."""
    first = _checked(parts, clash)
    for other in parts[1:]:
        if (other.frames, other.fps) != (first.frames, first.fps):
            raise ValueError(
                f"tracks of one clip have as many frames and one rate; here are {first.frames} at {first.fps:g} fps "
                f"and {other.frames} at {other.fps:g}: MATRIX Retime Tracks makes them alike"
            )
    tracks = list(first.tracks)
    for track in (track for other in parts[1:] for track in other.tracks):
        names = [each.name for each in tracks]
        same = find_name(track.name, names)
        if same is None or clash == "number":
            tracks.append(replace(_coloured(track, tracks), name=track.name if same is None else _free(same, names)))
        elif clash == "refuse":
            raise ValueError(
                f"several tracks have an instance {same!r}: rename one, or say that the later one replaces it, unites "
                "with it, or gets a number"
            )
        else:
            at = names.index(same)
            tracks[at] = _onto(tracks[at], track, clash)
    check_names([track.name for track in tracks])
    return replace(first, tracks=tuple(tracks))


def follow(parts: Sequence[MaskTracks], overlap: int = 0) -> MaskTracks:
    """Clips one after the other. Instances join by name; one that a part does not have is absent there. Roles and
    colours are those of the part that has it first.

    Args:
        overlap: frames at the start of each later part that show what the end of the one before shows, and are left out
            (1 for chained clips, whose first frame is the last of the clip before).

    Raises ValueError for clips of different size or rate, and for an overlap that leaves nothing of a part.
    """
    first = _checked(parts, "refuse")
    for other in parts[1:]:
        if other.fps != first.fps:
            raise ValueError(
                f"clips that follow each other have one rate; here are {first.fps:g} and {other.fps:g} frames per "
                "second: MATRIX Retime Tracks brings one to the other's"
            )
        if not 0 <= overlap < other.frames:
            raise ValueError(f"an overlap of {overlap} frames leaves nothing of a part of {other.frames}")
    tracks: list[Track] = []
    for track in (track for part in parts for track in part.tracks):
        if find_name(track.name, [each.name for each in tracks]) is None:
            tracks.append(_coloured(track, tracks))
    nothing = np.zeros(0, dtype=np.uint32)
    joined = []
    for track in tracks:
        frames: list[NDArray[Any]] = []
        for number, part in enumerate(parts):
            start = overlap if number else 0
            name = find_name(track.name, part.names)
            own = None if name is None else part.track(name)
            frames += [nothing if own is None else own.frame(i) for i in range(start, part.frames)]
        joined.append(track.with_frames(frames))
    return replace(first, tracks=tuple(joined), frames=sum(p.frames for p in parts) - overlap * (len(parts) - 1))


def _checked(parts: Sequence[MaskTracks], clash: str) -> MaskTracks:
    if clash not in CLASHES:
        raise ValueError(f"equal names are one of {', '.join(CLASHES)}; got {clash!r}")
    if not parts:
        raise ValueError("there are no tracks to join")
    first = parts[0]
    for other in parts[1:]:
        if (other.height, other.width) != (first.height, first.width):
            raise ValueError(
                f"tracks that join are of one frame size; here are {first.width}x{first.height} and "
                f"{other.width}x{other.height} pixels (width x height)"
            )
        if other.fit != first.fit:
            raise ValueError(f"tracks that join are fitted alike; here are {first.fit!r} and {other.fit!r}")
    return first


def _coloured(track: Track, tracks: Sequence[Track]) -> Track:
    taken = [each.colour for each in tracks]
    return track if track.colour not in taken else replace(track, colour=distinct_colours(1, taken)[0])


def _onto(old: Track, new: Track, clash: Clash) -> Track:
    """The instance `old` with the masks of `new`: instead of its own, or besides."""
    role = old.role if new.role == "instance" else new.role
    if clash == "replace":
        return replace(old, role=role, edges=new.edges, offsets=new.offsets)
    return replace(old, role=role).with_frames(_union(old.frame(i), new.frame(i)) for i in range(len(old.offsets) - 1))


def _union(one: NDArray[Any], other: NDArray[Any]) -> NDArray[Any]:
    both = np.concatenate([one, other]).astype(np.int64)
    starts, stops = runs.union(both[0::2], both[1::2])
    return np.stack([starts, stops], 1).reshape(-1).astype(np.uint32)


def _free(name: str, names: Sequence[str]) -> str:
    return next(made for i in range(2, len(names) + 3) if find_name(made := f"{name} {i}", names) is None)
