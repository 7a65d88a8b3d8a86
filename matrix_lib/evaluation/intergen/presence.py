"""Who is still there, from tracks: disappearance exactly, emergence by a judge or by a detector's boxes.

A video is asked on its sampled frames S = (0, ..., F - 1). Source: MATRIX's released evaluation; it asks a language
model for what the tracks say exactly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from ...core.tracks.tracks import MaskTracks

__all__ = ["Box", "Detection", "Lost", "disappearance", "emergence_of", "sampled"]

Rule = Literal["count", "absent"]
Box = tuple[float, float, float, float]  # x0, y0, x1, y1, pixels


@dataclass(frozen=True)
class Detection:
    """A detector's box. kind: the class."""

    kind: str
    score: float
    box: Box


@dataclass(frozen=True)
class Lost:
    """Frames of S after the first in which somebody is gone, and who."""

    frames: tuple[int, ...]
    who: tuple[tuple[str, int], ...]


def sampled(frames: int, stride: int) -> tuple[int, ...]:
    """The frames that a video is judged on: the first, the last, and each `stride`-th between.

    Raises ValueError for a single frame, which shows no interaction, and a stride below 1.
    """
    if frames < 2:
        raise ValueError(f"a video of {frames} frame shows no interaction: it needs at least 2")
    if stride < 1:
        raise ValueError(f"the stride is 1 or more; got {stride}")
    return tuple(sorted({0, frames - 1} | set(range(stride, frames - 1, stride))))


def disappearance(
    tracks: MaskTracks, roster: Sequence[str], shown: Sequence[int], gone: int = 0, shrunk: float = 0.0, grace: int = 0
) -> Lost:
    """Who of the roster is gone in which of the sampled frames.

    Args:
        tracks: of the generated video; every instance of the roster has a mask in frame 0.
        gone: an area of up to so many pixels counts as none. shrunk: so does one below this share of the first frame's.
        grace: runs of up to so many video frames without it are forgiven.

    Raises ValueError where an instance has no track, or no mask in frame 0, and where the tracks end before a sampled
    frame.
    """
    if tracks.frames <= max(shown):
        raise ValueError(f"the tracks have {tracks.frames} frames, but frame {max(shown)} of the video is asked for")
    found = []
    for name in roster:
        areas = [int(area) for area in tracks.areas(name)]  # a name that is none raises
        if areas[0] <= gone:
            raise ValueError(f"{name!r} has no mask in the first frame: nobody can say whether it disappears")
        absent = [area <= gone or area < shrunk * areas[0] for area in areas]
        runs = _runs(absent)
        found += [(name, k) for k in shown[1:] if runs[k] > grace]
    found.sort(key=lambda each: each[1])
    return Lost(tuple(sorted({k for _, k in found})), tuple(found))


def emergence_of(
    detections: Mapping[int, Sequence[Detection]],
    tracks: MaskTracks,
    kinds: Mapping[str, str],
    shown: Sequence[int],
    rule: Rule = "count",
    least: float = 0.35,
) -> tuple[int, ...]:
    """Sampled frames in which a detector sees something of a known class that no track explains.

    Args:
        detections: boxes of each sampled frame. kinds: class of each instance.
        rule: "count": more of a class unexplained than in frame 0; "absent": any unexplained, of a class that frame 0
            does not show at all.
        least: score of a box that counts.

    A box is explained by a track of its class whose own box it overlaps (IoU at least .3), or whose mask covers at
    least half of it. Raises ValueError for a sampled frame without an entry.
    """
    if missing := [k for k in shown if k not in detections]:
        raise ValueError(f"the detector's boxes lack frames {missing[:5]}: an empty list says that nothing was found")
    classes = dict.fromkeys(kinds.values())
    boxes = {name: tracks.boxes(name) for name in kinds}
    free = {
        k: [
            each
            for each in detections[k]
            if each.score >= least and each.kind in classes and not _explained(each, k, tracks, kinds, boxes)
        ]
        for k in shown
    }
    found = set()
    for kind in classes:
        before = sum(each.kind == kind for each in free[shown[0]])
        there = any(each.kind == kind and each.score >= least for each in detections[shown[0]])
        for k in shown[1:]:
            now = sum(each.kind == kind for each in free[k])
            if (now > before) if rule == "count" else (now > 0 and not there):
                found.add(k)
    return tuple(sorted(found))


def _runs(absent: Sequence[bool]) -> list[int]:
    """For each frame the length of the run of absence that it is in; 0 where it is present."""
    out, at = [0] * len(absent), 0
    while at < len(absent):
        end = at
        while end < len(absent) and absent[end]:
            end += 1
        for k in range(at, end):
            out[k] = end - at
        at = max(end, at + 1)
    return out


def _explained(
    found: Detection, k: int, tracks: MaskTracks, kinds: Mapping[str, str], boxes: Mapping[str, Tensor]
) -> bool:
    for name, kind in kinds.items():
        if kind != found.kind:
            continue
        x0, y0, x1, y1 = (float(v) for v in boxes[name][k])
        if not (x1 > x0 and y1 > y0):  # nan: the track is not there
            continue
        if _iou(found.box, (x0, y0, x1, y1)) >= 0.3:
            return True
        left, top, right, bottom = (max(0, round(v)) for v in found.box)
        inside = int(tracks.mask(name, k)[top:bottom, left:right].sum())
        if 2 * inside >= max(1, (right - left) * (bottom - top)):
            return True
    return False


def _iou(a: Box, b: Box) -> float:
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    both = max(wide, 0.0) * max(high, 0.0)
    either = (a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - both
    return both / either if either > 0 else 0.0
