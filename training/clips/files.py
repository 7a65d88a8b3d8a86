"""The files of one clip, looked at whole: its video to the last frame, and every mask, which are packed on the way.

What was found about a clip is kept in the store under the names, sizes and times of its files, so an unchanged clip is
decoded once.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch

from matrix_lib.core.tracks import runs
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.io.clips.source import INSTANCES, ClipSource, mask_numbers, read_mask
from matrix_lib.io.video import VideoFacts, check_video

from .store import Entry, Store, file_hash, key_of

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["BadFilesError", "ClipFiles", "Masks", "read_files", "read_tracks"]

Masks = Literal["all", "first"]
KIND = "checks"
_MOST_LISTED = 6


class BadFilesError(ValueError):
    """Everything that is wrong with a clip's files, one reason each."""

    def __init__(self, reasons: Sequence[str]) -> None:
        super().__init__("; ".join(reasons))
        self.reasons = tuple(reasons)


@dataclass(frozen=True)
class ClipFiles:
    """Frames, height, width and fps of the video; `video` is the SHA-256 of its file, `masks` says which were asked
    for, `key` where the store has them, or ""."""

    frames: int
    height: int
    width: int
    fps: float
    video: str
    masks: Masks
    key: str = ""


def read_files(clip: ClipSource, masks: Masks, store: Store | None = None) -> tuple[ClipFiles, MaskTracks]:
    """What is known about a clip's files, and its tracks: of every frame of the video, or of the first alone.

    Args:
        masks: "all" wants a mask of every frame; "first" takes the first frame's where there are no others.

    Raises BadFilesError with every reason: a video that cannot be decoded to its end, masks that are missing, have
    holes, another size, nothing in them, or cannot be read.
    """
    if store is None:
        entry = _look(clip, masks, None)
        return ClipFiles(**entry.facts["files"]), _tracks(clip, entry)
    key = _stamp(clip, masks)
    entry = store.get(KIND, key, lambda: _look(clip, masks, store))
    return ClipFiles(**entry.facts["files"], key=key), _tracks(clip, entry)


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
    return key_of(KIND, str(clip.picture.resolve()), said, list(names.items()), masks)


def _look(clip: ClipSource, masks: Masks, store: Store | None) -> Entry:
    try:
        facts = check_video(clip.picture)
    except ValueError as error:
        raise BadFilesError([str(error), *_unread(clip)]) from None
    tracks = (_from_pictures if clip.tracks_file is None else _from_file)(clip, facts, masks)
    hashed = store.file_hash(clip.picture) if store is not None else file_hash(clip.picture)
    files = ClipFiles(facts.frames, facts.height, facts.width, facts.fps, hashed, masks)
    tensors: dict[str, Any] = {}
    for place, track in enumerate(tracks.tracks):
        tensors[f"edges.{place}"] = torch.from_numpy(track.edges.astype(np.int64))
        tensors[f"offsets.{place}"] = torch.from_numpy(track.offsets.copy())
    facts_of = {name: value for name, value in asdict(files).items() if name != "key"}
    said = {"files": facts_of, "names": list(tracks.names), "known": tracks.frames}
    return Entry(tensors, said)


def _tracks(clip: ClipSource, entry: Entry) -> MaskTracks:
    """Tracks of an entry, with the roles and colours that the clip gives them now."""
    files = ClipFiles(**entry.facts["files"])
    edges: dict[str, list[np.ndarray[Any, Any]]] = {}
    for place, name in enumerate(entry.facts["names"]):
        every = entry.tensors[f"edges.{place}"].numpy().astype(np.uint32)
        offsets = entry.tensors[f"offsets.{place}"].numpy()
        edges[name] = [every[a:b] for a, b in pairwise(offsets)]
    roles = {spec.name: spec.role for spec in clip.phrases if spec.role in INSTANCES}
    tracks = MaskTracks.from_edges(edges, entry.facts["known"], files.height, files.width, roles, files.fps)
    return tracks.with_palette(clip.palette)


def _unread(clip: ClipSource) -> Iterator[str]:
    """Masks that cannot be read, for a clip whose video tells no size."""
    for name in clip.instances:
        for path in clip.masks.get(name, ()):
            try:
                read_mask(path)
            except ValueError as error:
                yield str(error)
                break


def _from_file(clip: ClipSource, facts: VideoFacts, masks: Masks) -> MaskTracks:
    tracks = clip.tracks()
    wrong = []
    if (tracks.height, tracks.width) != (facts.height, facts.width):
        wrong.append(_sizes(f"the tracks are {tracks.height}x{tracks.width}", facts))
    if tracks.frames != facts.frames and not (masks == "first" and tracks.frames == 1):
        wrong.append(f"the tracks have {tracks.frames} frames, and the video {facts.frames}")
    wrong += [f"{name!r} is in no frame" for name, seen in tracks.visible.items() if not seen]
    if wrong:
        raise BadFilesError(wrong)
    return tracks


def _from_pictures(clip: ClipSource, facts: VideoFacts, masks: Masks) -> MaskTracks:
    paths = {name: clip.masks[name] for name in clip.instances}
    whole = {name: _gaps(name, found, facts.frames) for name, found in paths.items()}
    wrong = [why for why in whole.values() if why]
    if masks == "first" and wrong:  # of the first frame alone, then, of everybody
        firsts = {name: _first(found) for name, found in paths.items()}
        wrong = [f"there is no mask of {name!r} in frame 0" for name, found in firsts.items() if not found]
        paths = {name: found for name, found in firsts.items() if found}
    packed = {}
    for name, found in paths.items():
        packed[name], why = _pack(name, found, facts)
        wrong += why
    if wrong:
        raise BadFilesError(wrong)
    frames = len(next(iter(packed.values())))
    return MaskTracks.from_edges(packed, frames, facts.height, facts.width, fps=facts.fps)


def _first(paths: Sequence[Path]) -> tuple[Path, ...]:
    """The picture of frame 0. One picture alone is of the first frame, whatever it is called."""
    numbers = mask_numbers(paths)
    return tuple(paths) if len(paths) == 1 else tuple(p for p, number in zip(paths, numbers) if number == 0)


def _gaps(name: str, paths: Sequence[Path], frames: int) -> str:
    """What is wrong with the numbers of an instance's masks, or ""."""
    numbers = mask_numbers(paths)
    twice = sorted({n for n in numbers if numbers.count(n) > 1}) if len(set(numbers)) < len(numbers) else []
    if twice:
        return f"there are several masks of {name!r} for frame {_spans(twice)}"
    if beyond := [n for n in numbers if n >= frames]:
        return f"there are masks of {name!r} for frame {_spans(beyond)}, and the video has {frames} frames, from 0"
    missing = sorted(set(range(frames)) - set(numbers))
    return f"the masks of {name!r} have holes: frame {_spans(missing)} of {frames} is missing" if missing else ""


def _spans(numbers: Sequence[int]) -> str:
    """3, 7 to 9, 12"""
    found: list[list[int]] = []
    for number in numbers:
        if found and number == found[-1][-1] + 1:
            found[-1][1:] = [number]
        else:
            found.append([number])
    told = [" to ".join(map(str, span)) for span in found[:_MOST_LISTED]]
    return ", ".join(told) + (f" and {len(found) - _MOST_LISTED} more" if len(found) > _MOST_LISTED else "")


def _pack(name: str, paths: Iterable[Path], facts: VideoFacts) -> tuple[list[np.ndarray[Any, Any]], list[str]]:
    """Packed masks of an instance, and what is wrong with them: each kind of fault once, with its first picture."""
    packed, odd, unread = [], [], []
    for path in paths:
        try:
            mask = read_mask(path)
        except ValueError as error:
            unread.append(str(error))
            continue
        if tuple(mask.shape) != (facts.height, facts.width):
            odd.append(f"mask {path.name} of {name!r} is {mask.shape[0]}x{mask.shape[1]}")
        packed.append(runs.pack(mask.numpy()))
    more = [f" (and {len(found) - 1} more)" if len(found) > 1 else "" for found in (unread, odd)]
    wrong = [unread[0] + more[0]] if unread else []
    wrong += [_sizes(odd[0] + more[1], facts)] if odd else []
    if not wrong and not any(len(edges) for edges in packed):
        wrong = [f"the masks of {name!r} are empty: it is in no frame"]
    return packed, wrong


def _sizes(said: str, facts: VideoFacts) -> str:
    return f"{said} pixels (height x width), and the video {facts.height}x{facts.width}"
