"""MoveBench (Wan-Move, arXiv 2512.08765): first frames, captions and point tracks; end-point error and mask IoU.

    FOLDER/{en,zh}/{single,multi}_track.txt              a line a clip: VIDEO,CAPTION
    FOLDER/{en,zh}/first_frame/ID.jpg
    FOLDER/{en,zh}/track/{single,multi}/ID_tracks.npy    (F, P, 2) pixels, x and y; a leading axis of 1 is dropped
    FOLDER/{en,zh}/track/{single,multi}/ID_visibility.npy    (F, P)
    VIDEOS/ID.mp4                                        the generated videos
    VIDEOS/ID_tracks.npy                                 where a tracker found the same points in them (ours)

The folders are those that the released `generate.py` reads. The script that scores (`bench.py`) is a part of the data
set and was not at hand: which tracker it runs, over which points and frames it averages, and where masks lie is not
known here. `epe` is `trajectories.points.end_point_error`; say which tracker found the points beside any number.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...io.files import whole_file
from ...io.tracks import load_tracks
from ..trajectories.points import Points, end_point_error
from ..trajectories.score import score_tracks

__all__ = ["MoveClip", "MoveScore", "read_movebench", "read_points", "score_movebench", "write_points"]

Array = NDArray[Any]
Mode = Literal["single", "multi"]
Language = Literal["en", "zh"]
_MOST = 1 << 30  # bytes of one array


@dataclass(frozen=True)
class MoveClip:
    """One clip of the benchmark. Point tracks are read when they are asked for."""

    id: str
    caption: str
    first_frame: Path
    tracks: Path
    visibility: Path

    def points(self) -> Points:
        return read_points(self.tracks, self.visibility)


@dataclass(frozen=True)
class MoveScore:
    """epe: pixels; mask_iou: mean IoU over frames and instances, nan where no masks are given. why: what is missing."""

    id: str
    epe: float
    mask_iou: float
    why: str = ""


def read_movebench(folder: str | os.PathLike[str], mode: Mode = "single", language: Language = "en") -> list[MoveClip]:
    """The clips of the benchmark. Raises ValueError for a list or files that are not there, and for bad lines."""
    root = Path(folder) / language
    listed = root / f"{mode}_track.txt"
    if not listed.is_file():
        raise ValueError(f"there is no {listed}: MoveBench has {{en,zh}}/{{single,multi}}_track.txt")
    clips: list[MoveClip] = []
    for number, line in enumerate(listed.read_text(encoding="utf-8-sig").splitlines(), 1):
        text = line.strip()
        if not text or text.startswith("#"):
            continue
        video, comma, caption = text.partition(",")
        name = str(Path(video.strip()).with_suffix("")) if video.strip() else ""
        if not comma or not name or Path(name).is_absolute() or ".." in Path(name).parts:
            raise ValueError(f"line {number} of {listed.name} is no VIDEO,CAPTION: {text[:80]!r}")
        place = root / "track" / mode
        clip = MoveClip(
            name,
            caption.strip(),
            root / "first_frame" / f"{name}.jpg",
            place / f"{name}_tracks.npy",
            place / f"{name}_visibility.npy",
        )
        absent = [path for path in (clip.first_frame, clip.tracks, clip.visibility) if not path.is_file()]
        if absent:
            raise ValueError(f"clip {name!r} of {listed.name} has no {absent[0]}")
        clips.append(clip)
    if not clips:
        raise ValueError(f"{listed} lists no clip")
    if len({clip.id for clip in clips}) < len(clips):
        raise ValueError(f"{listed} lists a clip twice")
    return clips


def read_points(tracks: str | os.PathLike[str], visibility: str | os.PathLike[str] | None = None) -> Points:
    """Point tracks from .npy files; without `visibility` every point counts as visible. Nothing pickled is opened.

    Raises ValueError for files that are missing, too large, of another shape or type.
    """
    at = _array(Path(tracks))
    at = at[0] if at.ndim == 4 and len(at) == 1 else at
    if visibility is None:
        seen = np.ones(at.shape[:2], dtype=bool)
    else:
        seen = _array(Path(visibility))
        seen = seen[..., 0] if seen.ndim > 2 and seen.shape[-1] == 1 else seen
        seen = seen[0] if seen.ndim == 3 and len(seen) == 1 else seen
        if seen.dtype != bool:
            if not np.isin(seen, (0, 1)).all():
                raise ValueError(f"{Path(visibility).name}: visibility is 0 or 1; got {seen.dtype} of other values")
            seen = seen.astype(bool)
    try:
        return Points(at.astype(np.float64), seen)
    except ValueError as error:
        raise ValueError(f"{Path(tracks).name}: {error}") from None


def write_points(points: Points, folder: str | os.PathLike[str], name: str) -> tuple[Path, Path]:
    """Writes `name`_tracks.npy (float32) and `name`_visibility.npy (bool) and returns their paths."""
    made = []
    for ending, array in (("tracks", points.positions.astype(np.float32)), ("visibility", points.visible)):
        target = Path(folder) / f"{name}_{ending}.npy"
        with whole_file(target) as temporary:
            np.save(temporary, array, allow_pickle=False)
        made.append(target)
    return made[0], made[1]


def score_movebench(
    clips: Sequence[MoveClip], videos: str | os.PathLike[str], masks: str | os.PathLike[str] | None = None
) -> list[MoveScore]:
    """Scores of one model's folder, a line a clip; what is missing is said and is no number.

    Args:
        videos: with ID_tracks.npy, and ID.tracks.safetensors where masks are scored.
        masks: folder of ID.tracks.safetensors, the given masks as mask tracks; None scores points alone.
    """
    return [_score(clip, Path(videos), None if masks is None else Path(masks)) for clip in clips]


def _score(clip: MoveClip, videos: Path, masks: Path | None) -> MoveScore:
    why, epe, iou = [], math.nan, math.nan
    try:
        epe = end_point_error(clip.points(), read_points(videos / f"{clip.id}_tracks.npy"))[0]
    except ValueError as error:
        why.append(str(error))
    if masks is not None:
        try:
            given, seen = (load_tracks(place / f"{clip.id}.tracks.safetensors") for place in (masks, videos))
            iou = score_tracks(given, seen, pairs=[]).values["trajectory_iou"]
        except ValueError as error:
            why.append(str(error))
    return MoveScore(clip.id, epe, iou, "; ".join(why))


def _array(source: Path) -> Array:
    if not source.is_file():
        raise ValueError(f"there is no {source}")
    if source.stat().st_size > _MOST:
        raise ValueError(f"{source.name} has {source.stat().st_size:,} bytes; {_MOST:,} are the most")
    try:
        found = np.load(source, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{source.name} cannot be read as a NumPy array: {error!s:.200}") from None
    if not isinstance(found, np.ndarray) or found.dtype.kind not in "bfiu":
        raise ValueError(f"{source.name} is no array of numbers")
    return found
