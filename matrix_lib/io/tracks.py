"""Track files: safetensors with the run lengths of every instance and frame, and a JSON header.

| tensor        | type                   | meaning                                                               |
|---------------|------------------------|-----------------------------------------------------------------------|
| `run_lengths` | uint32 (2R,)           | gap, run, gap, run, ... of each frame, instance after instance        |
| `offsets`     | int64 (E, F + 1)       | where each frame begins in its instance's part of `run_lengths`       |
| `shape`       | float64 (4,)           | frames, height, width, frames per second                              |

Each row of a frame has one guard pixel behind it that is never inside, so a run stays in its row. The header has
version, names, roles and palette, and `fit` where frames of another shape are not cropped to the model's.
"""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from ..core.grid import FITS, Fit
from ..core.tracks.checks import check_names, check_palette, check_size, shorten
from ..core.tracks.palette import Colour
from ..core.tracks.tracks import MaskTracks, Track
from .files import check_safetensors, parse_object, said, what_it_is, whole_file

__all__ = ["SUFFIX", "VERSION", "load_tracks", "save_tracks"]

FORMAT, VERSION = "matrix-tracks", 1
SUFFIX = ".safetensors"
_TYPES = {"run_lengths": "U32", "offsets": "I64", "shape": "F64"}
_LONGEST_HEADER = 1 << 20


@dataclass(frozen=True)
class _Header:
    names: tuple[str, ...]
    roles: tuple[str, ...]
    palette: tuple[Colour, ...]
    fit: Fit = "center"


def save_tracks(tracks: MaskTracks, path: str | os.PathLike[str]) -> Path:
    """Writes a track file, whole or not at all: an older file of that name stays until the new one is complete.

    Raises ValueError where the name does not end in .safetensors.
    """
    target = Path(path)
    if target.suffix != SUFFIX:
        raise ValueError(f"track files end in {SUFFIX}; got {target.name!r}")
    tensors = {
        "run_lengths": np.concatenate([_lengths(track) for track in tracks.tracks]),
        "offsets": np.stack([track.offsets for track in tracks.tracks]),
        "shape": np.array([tracks.frames, tracks.height, tracks.width, tracks.fps], dtype=np.float64),
    }
    roles = [track.role for track in tracks.tracks]
    header = {"version": VERSION, "names": list(tracks.names), "roles": roles, "palette": tracks.palette}
    if tracks.fit != "center":  # files of tracks that never said are as they were
        header["fit"] = tracks.fit
    with whole_file(target) as temporary:
        save_file(tensors, temporary, {"format": FORMAT, "header": json.dumps(header)})
    return target


def load_tracks(path: str | os.PathLike[str]) -> MaskTracks:
    """Reads a track file. Sizes, types, names and counts are checked before anything is allocated.

    Raises ValueError for anything that is not a whole track file of this version: missing, truncated, another kind of
    safetensors file, a pickle, wrong types, counts that disagree, runs that overlap or leave the frame.
    """
    source = Path(path)
    if source.suffix != SUFFIX:
        raise ValueError(f"track files end in {SUFFIX}; got {source.name!r}")
    if not source.is_file():
        raise ValueError(f"there is no track file {source.name!r}")
    try:
        check_safetensors(source, 2 * _LONGEST_HEADER)
        with safe_open(str(source), framework="np") as file:
            header = _read_header(file.metadata() or {})
            return _read_tracks(file, header)
    except (SafetensorError, OSError) as error:
        raise ValueError(
            f"{source.name!r} is not a track file that can be read: {what_it_is(source)} ({said(error)}). Save "
            "the tracks again with MatrixSaveTracks"
        ) from None
    except ValueError as error:
        raise ValueError(f"{source.name!r} is not a track file that can be read: {error}") from None


def _lengths(track: Track) -> NDArray[np.uint32]:
    """Gap, run, gap, run of each frame, from the run edges."""
    lengths = np.diff(track.edges, prepend=np.zeros(1, dtype=np.uint32))  # wraps around where a frame begins
    starts = track.offsets[:-1][np.diff(track.offsets) > 0]
    lengths[starts] = track.edges[starts]
    return lengths


def _edges(lengths: NDArray[np.uint32], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    """Run edges from gap, run, gap, run; as int64, so that nothing has wrapped around before it is checked."""
    total = np.zeros(len(lengths) + 1, dtype=np.int64)
    np.cumsum(lengths, out=total[1:])
    return total[1:] - np.repeat(total[offsets[:-1]], np.diff(offsets))


def _read_header(metadata: dict[str, str]) -> _Header:
    if metadata.get("format") != FORMAT:
        raise ValueError("it is a safetensors file of another kind, without the header of MatrixSaveTracks")
    header = parse_object(metadata.get("header", ""), "its header", _LONGEST_HEADER)
    if missing := {"version", "names", "roles", "palette"} - set(header):
        raise ValueError(f"its header lacks {', '.join(sorted(missing))}")
    version, names, roles, palette = (header[key] for key in ("version", "names", "roles", "palette"))
    if version != VERSION:
        raise ValueError(f"it is of version {shorten(repr(version), 20)}, and this release reads version {VERSION}")
    if not all(isinstance(part, list) for part in (names, roles, palette)) or not len(names) == len(roles):
        raise ValueError("its header does not list one role and one colour for each name")
    check_names(names)
    if len(palette) != len(names) or not all(isinstance(colour, list) for colour in palette):
        raise ValueError("its header does not list one role and one colour for each name")
    fit = header.get("fit", "center")
    if fit not in FITS:
        raise ValueError(f"its header fits frames by {shorten(repr(fit), 40)}, and there are {', '.join(FITS)}")
    return _Header(tuple(names), tuple(roles), check_palette(palette, len(names)), fit)


def _read_tracks(file: Any, header: _Header) -> MaskTracks:
    if set(file.keys()) != set(_TYPES):
        raise ValueError(f"it has tensors {sorted(file.keys())}, where tracks have {sorted(_TYPES)}")
    parts = {name: file.get_slice(name) for name in _TYPES}
    shapes = {name: list(part.get_shape()) for name, part in parts.items()}
    wrong = [name for name, kind in _TYPES.items() if parts[name].get_dtype() != kind]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is {parts[wrong[0]].get_dtype()}, where tracks have {_TYPES[wrong[0]]}")
    if shapes["shape"] != [4]:
        raise ValueError(f"'shape' holds {shapes['shape']} numbers: frames, height, width and fps are 4")
    frames, height, width, fps = _clip_size(file.get_tensor("shape"))
    if shapes["offsets"] != [len(header.names), frames + 1] or len(shapes["run_lengths"]) != 1:
        raise ValueError(
            f"'offsets' is {shapes['offsets']} and 'run_lengths' {shapes['run_lengths']}, but {len(header.names)} "
            f"instances over {frames} frames need [{len(header.names)}, {frames + 1}] and one row of lengths"
        )
    offsets, stored = file.get_tensor("offsets"), shapes["run_lengths"][0]
    _check_offsets(offsets, stored)
    ends = np.cumsum(offsets[:, -1])
    tracks = []
    for e, name in enumerate(header.names):
        first, last = int(ends[e] - offsets[e, -1]), int(ends[e])
        lengths = parts["run_lengths"][first:last] if last > first else np.zeros(0, dtype=np.uint32)
        edges = _edges(lengths, offsets[e])
        if len(edges) and int(edges.max()) >= height * (width + 1):
            raise ValueError(f"a run of {name!r} ends outside the {height}x{width} frame")
        tracks.append(Track(name, header.roles[e], header.palette[e], edges.astype(np.uint32), offsets[e].copy()))
    return MaskTracks(tuple(tracks), frames, height, width, fps, header.fit)


def _clip_size(shape: NDArray[np.float64]) -> tuple[int, int, int, float]:
    if not np.isfinite(shape).all() or (shape[:3] != np.floor(shape[:3])).any() or (np.abs(shape[:3]) > 2**32).any():
        raise ValueError(f"frames, height and width are whole numbers; got {shape[:3].tolist()} at {shape[3]} fps")
    frames, height, width = (int(n) for n in shape[:3])
    check_size(frames, height, width, float(shape[3]))
    return frames, height, width, float(shape[3])


def _check_offsets(offsets: NDArray[np.int64], stored: int) -> None:
    """Before they index anything: from 0, growing, within what is stored, and together all of it."""
    if (offsets[:, 0] != 0).any() or (offsets < 0).any() or (offsets > stored).any():
        raise ValueError(f"its offsets leave the {stored} stored run lengths")
    counts = np.diff(offsets, axis=1)
    if (counts < 0).any() or (counts % 2).any():
        raise ValueError("its offsets overlap: each frame begins behind the one before, by whole runs")
    if int(offsets[:, -1].sum()) != stored:
        raise ValueError(f"its offsets count {int(offsets[:, -1].sum())} run lengths, but {stored} are stored")
