"""What looks like a mistake in tracks that a tracker made: jumps, merges, swaps, what leaves, boxes that disagree.

Everything is a suspicion for a person to look at, by name and frame. Frames go by once, one at a time. H, W pixels.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ...core.tracks.tracks import MaskTracks
from .looks import colours, distance, grown

__all__ = ["KINDS", "Fault", "Limits", "anchor_faults", "faults_of", "seen_faults", "touching"]

Array = NDArray[Any]
Box = Sequence[float]
Kind = Literal["jump", "leap", "overlap", "swap", "look", "gone", "border", "anchor", "unseen"]
KINDS: dict[Kind, str] = {
    "jump": "its area jumps from frame to frame",
    "leap": "it is suddenly somewhere else",
    "overlap": "two of one class cover each other",
    "swap": "two have changed places",
    "look": "it no longer looks as it did",
    "gone": "it is not there",
    "border": "it lies along the border of the frame",
    "anchor": "its mask does not fill the box that it began with",
    "unseen": "the detector sees nothing of its class there",
}
"""What each kind says of an instance, for people."""


@dataclass(frozen=True)
class Limits:
    """From where on something is suspicious.

    Args:
        jump: of areas in neighbouring frames, the larger by the smaller.
        leap: way of a centre beyond what its motion says, in square roots of its area.
        overlap: IoU of two of one class.
        apart: distance of looks (Hellinger's, 0 to 1) from which on they can tell two instances apart.
        look: distance from its own first look.
        better: share of the distance between two by which the other way round fits better.
        border: share of its outline along the frame's border.
        anchor, unseen: IoU with its first box, and with the detector's nearest, at least.
        least: pixels, and of its usual area: less of an instance says nothing of its look.
    """

    jump: float = 3.0
    leap: float = 1.5
    overlap: float = 0.8
    apart: float = 0.25
    look: float = 0.7
    better: float = 0.5
    border: float = 0.2
    anchor: float = 0.6
    unseen: float = 0.3
    least: tuple[int, float] = (16, 0.3)


@dataclass(frozen=True)
class Fault:
    """One suspicion: of one instance or of two, in which frames, and the largest value that made it."""

    kind: Kind
    names: tuple[str, ...]
    frames: tuple[int, ...]
    value: float


def faults_of(
    tracks: MaskTracks,
    frames: Iterable[Array],
    classes: Mapping[str, str],
    first: Mapping[str, int],
    limits: Limits = Limits(),
) -> list[Fault]:
    """Suspicions about all instances of one clip.

    Args:
        frames: (H, W, 3) uint8, as many as the tracks have. classes: per name. first: the frame of each anchor, whose
            look is the instance's own.

    Raises ValueError where there are fewer frames.
    """
    found = _Found()
    areas = {name: tracks.areas(name).numpy() for name in tracks.names}
    for name in tracks.names:
        _of_area(name, areas[name], limits, found)
    centres = {name: _centres(tracks.boxes(name).numpy()) for name in tracks.names}
    for name in tracks.names:
        _of_motion(name, centres[name], areas[name], limits, found)
    for one, other in itertools.combinations(tracks.names, 2):
        _of_crossing(one, other, centres, areas, limits, found)
    looks: dict[str, dict[int, Array]] = {name: {} for name in tracks.names}
    seen = 0
    for at, frame in zip(range(tracks.frames), frames):
        seen += 1
        masks = {name: tracks.mask(name, at).numpy() for name in tracks.names if areas[name][at]}
        for name, mask in masks.items():
            if (share := _along_border(mask)) > limits.border:
                found.add("border", (name,), at, share)
            if areas[name][at] >= max(limits.least[0], limits.least[1] * np.median(areas[name][areas[name] > 0])):
                looks[name][at] = colours(frame, mask)
        for one, other in itertools.combinations(masks, 2):
            if classes.get(one) == classes.get(other) and (far := _iou(masks[one], masks[other])) > limits.overlap:
                found.add("overlap", (one, other), at, far)
    if seen < tracks.frames:
        raise ValueError(f"the tracks have {tracks.frames} frames, and the clip {seen}")
    _of_looks(looks, first, limits, found)
    return found.all()


def anchor_faults(tracks: MaskTracks, anchors: Mapping[str, tuple[int, Box]], limits: Limits = Limits()) -> list[Fault]:
    """Instances whose mask does not fill the box that they began with. anchors: per name (frame, box)."""
    found = _Found()
    for name, (frame, box) in anchors.items():
        value = _box_iou(tracks.boxes(name)[frame].tolist(), box)
        if value < limits.anchor:
            found.add("anchor", (name,), frame, value)
    return found.all()


def seen_faults(
    tracks: MaskTracks,
    boxes: Mapping[int, Mapping[str, Sequence[Box]]],
    classes: Mapping[str, str],
    limits: Limits = Limits(),
) -> list[Fault]:
    """Instances where the detector saw nothing of their class. boxes: {frame: {class: boxes}} of frames looked at."""
    found = _Found()
    for frame, by_class in boxes.items():
        for name in tracks.names:
            mine = tracks.boxes(name)[frame].tolist()
            if np.isnan(mine[0]):
                continue
            best = max((_box_iou(mine, box) for box in by_class.get(classes.get(name, ""), [])), default=0.0)
            if best <= limits.unseen:
                found.add("unseen", (name,), frame, best)
    return found.all()


def touching(one: Array, other: Array, reach: int) -> bool:
    """Whether two masks (H, W) come within `reach` pixels of each other."""
    return bool(one.any() and other.any() and (grown(one, reach) & other).any())


class _Found:
    """Suspicions as they come, gathered by kind and instance."""

    def __init__(self) -> None:
        self._by: dict[tuple[Kind, tuple[str, ...]], dict[int, float]] = {}

    def add(self, kind: Kind, names: tuple[str, ...], frame: int, value: float) -> None:
        self._by.setdefault((kind, names), {})[int(frame)] = float(value)

    def all(self) -> list[Fault]:
        return [
            Fault(kind, names, tuple(sorted(frames)), round(max(frames.values()), 4))
            for (kind, names), frames in self._by.items()
        ]


def _of_area(name: str, areas: Array, limits: Limits, found: _Found) -> None:
    for at in np.flatnonzero(areas == 0).tolist():
        found.add("gone", (name,), at, 0.0)
    for at, (before, now) in enumerate(itertools.pairwise(areas.tolist()), 1):
        if before and now and (times := max(before, now) / min(before, now)) > limits.jump:
            found.add("jump", (name,), at, times)


def _of_motion(name: str, centres: Array, areas: Array, limits: Limits, found: _Found) -> None:
    """A centre that is far from where its motion puts it."""
    for at in range(1, len(centres)):
        expected = _expected(centres, at)
        if expected is None or np.isnan(centres[at, 0]):
            continue
        size = np.sqrt(max(areas[at], areas[at - 1], 1))
        far = min(np.linalg.norm(centres[at] - expected), np.linalg.norm(centres[at] - centres[at - 1])) / size
        if far > limits.leap:
            found.add("leap", (name,), at, far)


def _of_crossing(
    one: str, other: str, centres: Mapping[str, Array], areas: Mapping[str, Array], limits: Limits, found: _Found
) -> None:
    """Two that are each where the other's motion puts it."""
    a, b = centres[one], centres[other]
    for at in range(1, len(a)):
        pair = _expected(a, at), _expected(b, at)
        if pair[0] is None or pair[1] is None or np.isnan(a[at, 0]) or np.isnan(b[at, 0]):
            continue
        apart = np.linalg.norm(pair[0] - pair[1])
        own = np.linalg.norm(a[at] - pair[0]) + np.linalg.norm(b[at] - pair[1])
        crossed = np.linalg.norm(a[at] - pair[1]) + np.linalg.norm(b[at] - pair[0])
        size = np.sqrt(max(min(areas[one][at], areas[other][at]), 1))
        if own - crossed > 2 * limits.better * apart and apart > 0.25 * size:
            found.add("swap", (one, other), at, float((own - crossed) / apart))


def _expected(centres: Array, at: int) -> Array | None:
    """Where a centre should be, by the frame before it and the motion there."""
    if np.isnan(centres[at - 1, 0]):
        return None
    if at < 2 or np.isnan(centres[at - 2, 0]):
        return np.asarray(centres[at - 1])
    return np.asarray(2 * centres[at - 1] - centres[at - 2])


def _of_looks(looks: Mapping[str, dict[int, Array]], first: Mapping[str, int], limits: Limits, found: _Found) -> None:
    own = {name: seen[min(seen, key=lambda at: abs(at - first.get(name, 0)))] for name, seen in looks.items() if seen}
    for name, look in own.items():
        for at, now in looks[name].items():
            if (far := distance(now, look)) > limits.look:
                found.add("look", (name,), at, far)
    for one, other in itertools.combinations(own, 2):
        apart = distance(own[one], own[other])
        if apart < limits.apart:
            continue
        for at in looks[one].keys() & looks[other].keys():
            mine = distance(looks[one][at], own[one]) + distance(looks[other][at], own[other])
            crossed = distance(looks[one][at], own[other]) + distance(looks[other][at], own[one])
            if mine - crossed > limits.better * apart:
                found.add("swap", (one, other), at, (mine - crossed) / apart)


def _centres(boxes: Array) -> Array:
    """(F, 2) of boxes (F, 4); nan where there is none."""
    return (boxes[:, :2] + boxes[:, 2:]) / 2


def _along_border(mask: Array) -> float:
    """The share of a mask's outline that lies on the frame's border."""
    edge = int(mask[0].sum() + mask[-1].sum() + mask[:, 0].sum() + mask[:, -1].sum())
    if not edge:
        return 0.0
    inside = np.pad(mask, 1)
    sides = sum(int((inside & ~np.roll(inside, step, axis)).sum()) for axis in (0, 1) for step in (1, -1))
    return edge / max(sides, 1)


def _iou(one: Array, other: Array) -> float:
    either = int((one | other).sum())
    return float((one & other).sum() / either) if either else 0.0


def _box_iou(one: Box, other: Box) -> float:
    wide, tall = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    if not (wide > 0 and tall > 0):
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return float(wide * tall / (sum(areas) - wide * tall))
