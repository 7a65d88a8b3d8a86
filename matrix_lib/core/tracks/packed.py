"""What tracks hold, and how it is read: named instances over the frames of a clip, kept as runs, never dense.

F frames, H rows, W columns of pixels; boxes are (x0, y0, x1, y1) in pixels, x1 and y1 exclusive.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ..grid import FITS, Fit, Framing
from ..names import find_name
from ..near import did_you_mean
from . import runs
from .checks import check_name, check_names, check_size, shorten
from .packing import join_frames
from .palette import Colour

__all__ = ["ROLES", "PackedTracks", "Track"]

ROLES = ("subject", "object", "instance")


@dataclass(frozen=True, eq=False)
class Track:
    """One instance. `edges` (uint32) are the run edges of all frames one after the other, `offsets` (F + 1, int64)
    where each frame begins in them; see `runs`. Both are read-only."""

    name: str
    role: str
    colour: Colour
    edges: NDArray[np.uint32]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        check_name(self.name)
        if self.role not in ROLES:
            raise ValueError(f"the role of {self.name!r} is one of {', '.join(ROLES)}; got {shorten(self.role, 40)!r}")
        self.edges.setflags(write=False)
        self.offsets.setflags(write=False)

    def frame(self, index: int) -> NDArray[np.uint32]:
        """Edges of one frame."""
        return self.edges[self.offsets[index] : self.offsets[index + 1]]

    def with_frames(self, frames: Iterable[NDArray[Any]]) -> Track:
        """The same instance with the edges of these frames."""
        edges, offsets = join_frames(frames)
        return replace(self, edges=edges, offsets=offsets)


@dataclass(frozen=True, eq=False)
class PackedTracks:
    """The instances of one clip and what can be read of them; `tracks.MaskTracks` makes and changes them."""

    tracks: tuple[Track, ...]
    frames: int
    height: int
    width: int
    fps: float = 8.0
    fit: Fit = "center"

    def __post_init__(self) -> None:
        check_size(self.frames, self.height, self.width, self.fps)
        if self.fit not in FITS:
            raise ValueError(f"frames are fitted by one of {', '.join(FITS)}; got {shorten(self.fit, 40)!r}")
        check_names(self.names)
        for track in self.tracks:
            wrong = runs.problem(track.edges, track.offsets, self.frames, self.height, self.width)
            if wrong is not None:
                raise ValueError(f"the packed masks of {track.name!r} are damaged: {wrong}")

    # --- what is in it

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(track.name for track in self.tracks)

    @property
    def roles(self) -> dict[str, str]:
        return {track.name: track.role for track in self.tracks}

    @property
    def palette(self) -> tuple[Colour, ...]:
        """Colour (r, g, b) of each instance, 0 to 255, in the order of `names`."""
        return tuple(track.colour for track in self.tracks)

    @property
    def nbytes(self) -> int:
        """Bytes that the masks take."""
        return sum(track.edges.nbytes + track.offsets.nbytes for track in self.tracks)

    @property
    def visible(self) -> dict[str, tuple[int, ...]]:
        """Per name, the frames with at least one pixel."""
        return {t.name: tuple(int(i) for i in np.flatnonzero(np.diff(t.offsets))) for t in self.tracks}

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for people: instances that are never there, or not in the first frame."""
        found = []
        for name, frames in self.visible.items():
            if not frames:
                found.append(f"{name!r} is in no frame")
            elif frames[0]:
                found.append(f"{name!r} is not in the first frame; it appears in frame {frames[0]}")
        return tuple(found)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of the content, for caches."""
        head = [[t.name, t.role, *t.colour] for t in self.tracks], self.frames, self.height, self.width, self.fps
        fit = () if self.fit == "center" else (self.fit,)  # digests of tracks that never said are as they were
        state = hashlib.sha256(json.dumps((*head, *fit)).encode())
        for track in self.tracks:
            state.update(track.offsets.tobytes())
            state.update(np.ascontiguousarray(track.edges).data)
        return state.hexdigest()

    def __eq__(self, other: object) -> bool:
        return self.digest == other.digest if isinstance(other, PackedTracks) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.digest)

    def __repr__(self) -> str:
        who = ", ".join(f"{t.name} ({t.role})" for t in self.tracks)
        return f"MaskTracks({who}; {self.frames}x{self.height}x{self.width} at {self.fps:g} fps, {self.nbytes:,} bytes)"

    def track(self, name: str) -> Track:
        """The instance of this name, or of the only one that differs in case, blanks or the form of its letters."""
        found = find_name(name, self.names)
        if found is None:
            hint = did_you_mean(name, self.names)
            raise ValueError(
                f"no instance is called {name!r}; the tracks have {', '.join(map(repr, self.names))}{hint}"
            )
        return self.tracks[self.names.index(found)]

    # --- pixels

    def mask(self, name: str, frame: int = 0) -> Tensor:
        """(H, W) bool."""
        return self.masks(name, frame, frame + 1)[0]

    def masks(self, name: str, start: int = 0, stop: int | None = None) -> Tensor:
        """(stop - start, H, W) bool, frames `start` to `stop` - 1. Dense: ask for a few frames at a time."""
        track, stop = self.track(name), self.frames if stop is None else stop
        if not 0 <= start <= stop <= self.frames:
            raise ValueError(f"frames {start} to {stop} are outside the clip's 0 to {self.frames}")
        dense = np.empty((stop - start, self.height, self.width), dtype=bool)
        for i in range(start, stop):
            dense[i - start] = runs.unpack(track.frame(i), self.height, self.width)
        return torch.from_numpy(dense)

    def boxes(self, name: str) -> Tensor:
        """(F, 4) float32, the box around the mask in each frame; nan where the instance is absent."""
        track = self.track(name)
        return torch.from_numpy(runs.bounds(track.edges, track.offsets, self.width))

    def areas(self, name: str) -> Tensor:
        """(F,) int64, pixels in the mask of each frame."""
        track = self.track(name)
        return torch.from_numpy(runs.areas(track.edges, track.offsets))

    def id_map(self, frame: int = 0, framing: Framing | None = None) -> Tensor:
        """(H, W, 3) uint8, the palette picture of one frame on black: each instance in its colour, later ones on top.
        With a framing, as the model sees the frame."""
        size = (self.height, self.width) if framing is None else framing.target
        picture = torch.zeros(*size, 3, dtype=torch.uint8)
        for track in self.tracks:
            mask = self.mask(track.name, frame)
            mask = mask if framing is None else framing.apply(mask, "nearest")
            picture[mask] = torch.tensor(track.colour, dtype=torch.uint8)
        return picture
