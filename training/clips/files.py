"""The files of one clip, looked at whole: its video to the last frame, and every mask, which are packed on the way.

What was found about a clip is kept in the store under the names, sizes and times of its files, so an unchanged clip is
decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image, ImageOps

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.io.clips.mask_files import BadMasksError, MaskFiles, fitted_masks
from matrix_lib.io.clips.source import INSTANCES, ClipSource
from matrix_lib.io.video import VideoFacts, check_video, frame_times, is_even

from .store import Entry, Store, file_hash, key_of

__all__ = ["BadFilesError", "ClipFiles", "Masks", "read_files", "read_tracks"]

Masks = Literal["all", "first"]
KIND = "checks"
_STILL = 1.0  # frames a second of a picture, which has no rate
_NEAR = 0.01  # rates that differ by less are one, written with fewer digits


class BadFilesError(ValueError):
    """Everything that is wrong with a clip's files, one reason each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True)
class ClipFiles:
    """What is known about a clip's files.

    Args:
        frames, height, width, fps: of the video; fps is the mean rate.
        video: SHA-256 of its file.
        masks: which masks were asked for.
        key: where the store has them, or "".
        times: seconds of each frame after the first, for a video without one rate; else empty.
        notes: sentences about how the files were read.
    """

    frames: int
    height: int
    width: int
    fps: float
    video: str
    masks: Masks
    key: str = ""
    times: tuple[float, ...] = ()
    notes: tuple[str, ...] = ()

    @classmethod
    def of(cls, facts: Mapping[str, Any], key: str = "") -> ClipFiles:
        """From the facts of an entry."""
        return cls(**{**facts, "times": tuple(facts["times"]), "notes": tuple(facts["notes"])}, key=key)


def read_files(clip: ClipSource, masks: Masks, store: Store | None = None) -> tuple[ClipFiles, MaskTracks]:
    """What is known about a clip's files, and its tracks: of every frame of the video, or of the first alone.

    Args:
        masks: "all" wants a mask of every frame; "first" takes the first frame's where there are no others.

    Raises BadFilesError with every reason: a video that cannot be decoded to its end, masks that are missing, have
    holes, another size, nothing in them, or cannot be read.
    """
    if store is None:
        entry = _look(clip, masks, None)
        return ClipFiles.of(entry.facts["files"]), _tracks(clip, entry)
    key = _stamp(clip, masks)
    entry = store.get(KIND, key, lambda: _look(clip, masks, store))
    return ClipFiles.of(entry.facts["files"], key), _tracks(clip, entry)


def read_tracks(clip: ClipSource, files: ClipFiles, store: Store | None = None) -> MaskTracks:
    """The tracks that `read_files` found, from the store without a look at the clip's files where it has them."""
    if store is None or not files.key:
        return read_files(clip, files.masks, store)[1]
    return _tracks(clip, store.get(KIND, files.key, lambda: _look(clip, files.masks, store)))


def _stamp(clip: ClipSource, masks: Masks) -> str:
    """A key of the clip's files as they are now: where, how large, when changed."""
    said = []
    for path in clip.files[: len(clip.files) - len(clip.merged)]:
        found = path.stat()
        said.append([path.name, found.st_size, found.st_mtime_ns])
    names = {name: len(clip.masks.get(name, ())) for name in clip.instances}
    how = [sorted(clip.keys.items()), clip.masks_are]
    return key_of(KIND, 2, str(clip.picture.resolve()), said, list(names.items()), masks, how)


def _look(clip: ClipSource, masks: Masks, store: Store | None) -> Entry:
    try:
        facts = check_video(clip.picture) if clip.is_video else _picture(clip.picture)
    except ValueError as error:
        raise BadFilesError([str(error), *_unread(clip)]) from None
    tracks, notes = (_from_files if clip.tracks_file is None else _from_tracks)(clip, facts, masks)
    times, rate = _times(clip, facts) if clip.is_video else ((), facts.fps)
    if times:
        notes = (*notes, f"its frames have no even rate ({rate:.4g} a second on average): set fps to sample it by time")
    hashed = store.file_hash(clip.picture) if store is not None else file_hash(clip.picture)
    files = ClipFiles(facts.frames, facts.height, facts.width, rate, hashed, masks, times=times, notes=notes)
    tensors: dict[str, Any] = {}
    for place, track in enumerate(tracks.tracks):
        tensors[f"edges.{place}"] = torch.from_numpy(track.edges.astype(np.int64))
        tensors[f"offsets.{place}"] = torch.from_numpy(track.offsets.copy())
    facts_of = {name: value for name, value in asdict(files).items() if name != "key"}
    said = {"files": facts_of, "names": list(tracks.names), "known": tracks.frames}
    return Entry(tensors, said)


def _picture(path: Path) -> VideoFacts:
    """A picture as a clip of one frame. Raises ValueError where it cannot be read."""
    try:
        with Image.open(path) as picture:
            width, height = ImageOps.exif_transpose(picture).convert("RGB").size
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError(f"{path.name!r} cannot be read as a picture: {error}. Copy it again") from None
    return VideoFacts(1, height, width, _STILL)


def _tracks(clip: ClipSource, entry: Entry) -> MaskTracks:
    """Tracks of an entry, with the roles and colours that the clip gives them now."""
    files = ClipFiles.of(entry.facts["files"])
    edges: dict[str, list[np.ndarray[Any, Any]]] = {}
    for place, name in enumerate(entry.facts["names"]):
        every = entry.tensors[f"edges.{place}"].numpy().astype(np.uint32)
        offsets = entry.tensors[f"offsets.{place}"].numpy()
        edges[name] = [every[a:b] for a, b in pairwise(offsets)]
    roles = {spec.name: spec.role for spec in clip.phrases if spec.role in INSTANCES}
    tracks = MaskTracks.from_edges(edges, entry.facts["known"], files.height, files.width, roles, files.fps)
    return tracks.with_palette(clip.palette)


def _times(clip: ClipSource, facts: VideoFacts) -> tuple[tuple[float, ...], float]:
    """Times of the frames where they have no one rate, and the mean rate.

    Where a file tells its rate from its length, the last frame may count for nothing: of 9 frames at 8 a second it then
    says 9. Its time stamps know better.
    """
    times = frame_times(clip.picture)
    if len(times) != facts.frames or len(times) < 2:
        return (), facts.fps
    rate = round((len(times) - 1) / times[-1], 6)
    even = is_even(times)
    return () if even else times, facts.fps if even and abs(rate / facts.fps - 1) < _NEAR else rate


def _unread(clip: ClipSource) -> Iterator[str]:
    """What is wrong with masks, for a clip whose video tells no size and no length."""
    for name in clip.instances if clip.tracks_file is None else ():
        try:
            fitted_masks(MaskFiles(name, clip.masks[name], clip.keys.get(name)), masks_are=clip.masks_are)
        except BadMasksError as error:
            yield from error.reasons


def _from_tracks(clip: ClipSource, facts: VideoFacts, masks: Masks) -> tuple[MaskTracks, tuple[str, ...]]:
    try:
        tracks = clip.tracks()
    except ValueError as error:
        raise BadFilesError([str(error)]) from None
    wrong = []
    if (tracks.height, tracks.width) != (facts.height, facts.width):
        wrong.append(_sizes(f"the tracks are {tracks.height}x{tracks.width}", facts))
    if tracks.frames != facts.frames and not (masks == "first" and tracks.frames == 1):
        wrong.append(f"the tracks have {tracks.frames} frames, and the video {facts.frames}")
    wrong += [f"{name!r} is in no frame" for name, seen in tracks.visible.items() if not seen]
    if wrong:
        raise BadFilesError(wrong)
    return tracks, ()


def _from_files(clip: ClipSource, facts: VideoFacts, masks: Masks) -> tuple[MaskTracks, tuple[str, ...]]:
    try:
        found = clip.fitted(facts.frames, (facts.height, facts.width), first_too=masks == "first")
    except BadMasksError as error:
        raise BadFilesError(error.reasons) from None
    edges = {name: made.edges for name, made in found.masks.items()}
    tracks = MaskTracks.from_edges(edges, found.frames, facts.height, facts.width, fps=facts.fps)
    return tracks, found.notes


def _sizes(said: str, facts: VideoFacts) -> str:
    return f"{said} pixels (height x width), and the video {facts.height}x{facts.width}"
