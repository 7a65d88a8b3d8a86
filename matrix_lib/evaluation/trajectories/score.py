"""All scores of one generated video, from its tracks, the given ones and, where there are any, its frames.

Frames stream: one is in memory at a time, as masks and pixels; histograms, overlaps and boxes are what is kept.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from ...core.grid import Framing
from ...core.ranges import ranges
from ...core.tracks.tracks import MaskTracks
from ..intergen.presence import disappearance, sampled
from .contact import ContactDetector, longest_run, near
from .hota import Hota
from .identity import Looks, PathSwaps
from .masks import box_overlap, edge_score, overlaps
from .measures import MEASURES
from .points import Points, end_point_error

__all__ = ["Event", "TrackScores", "score_tracks"]

Array = NDArray[Any]
Frames = Iterable[Any]
_NAN = float("nan")


@dataclass(frozen=True)
class Event:
    """Something that happened. kind: gone, doubled, new, untracked, swapped looks, swapped paths, contact."""

    kind: str
    who: tuple[str, ...]
    frames: tuple[int, ...]


@dataclass(frozen=True)
class TrackScores:
    """Scores of one clip. A value that could not be known is nan, and a note says why.

    values: per measure of `MEASURES`. instances: per name, measures of that instance. events: what happened when.
    frames: of the video. shown: the frames that presence was judged on.
    """

    values: dict[str, float]
    instances: dict[str, dict[str, float]]
    events: tuple[Event, ...]
    notes: tuple[str, ...]
    frames: int
    shown: tuple[int, ...] = field(default=(), repr=False)

    def by_frame(self) -> dict[int, list[str]]:
        """What happens in each frame, in a few words."""
        said: dict[int, list[str]] = {}
        for event in self.events:
            for k in event.frames:
                said.setdefault(k, []).append(f"{event.kind}: {' and '.join(event.who)}")
        return said

    def as_json(self) -> dict[str, Any]:
        """For a file: nan as None."""
        return {
            "values": {name: _plain(value) for name, value in self.values.items()},
            "instances": {who: {name: _plain(v) for name, v in each.items()} for who, each in self.instances.items()},
            "events": [{"kind": e.kind, "who": list(e.who), "frames": list(e.frames)} for e in self.events],
            "notes": list(self.notes),
            "frames": self.frames,
        }

    @classmethod
    def from_json(cls, line: Mapping[str, Any]) -> TrackScores:
        """What `as_json` gave. Raises ValueError, KeyError or TypeError for anything else."""
        if set(line["values"]) != set(MEASURES):
            raise ValueError("the scores are of another version")
        events = tuple(Event(e["kind"], tuple(e["who"]), tuple(e["frames"])) for e in line["events"])
        instances = {who: _floats(each) for who, each in line["instances"].items()}
        return cls(_floats(line["values"]), instances, events, tuple(line["notes"]), int(line["frames"]))

    def table(self) -> str:
        """For people: measures, events, notes."""
        lines = [f"{'measure':18} {'value':>9}  better"]
        for name, value in self.values.items():
            shown = "not known" if math.isnan(value) else f"{value:.4f}"
            lines.append(f"{name:18} {shown:>9}  {MEASURES[name].better}")
        for who, each in self.instances.items():
            known = ", ".join(f"{name} {value:.3f}" for name, value in each.items() if not math.isnan(value))
            lines.append(f"- {who}: {known or 'nothing is known'}")
        lines += [f"{e.kind}: {' and '.join(e.who)} in frames {ranges(e.frames)}" for e in self.events]
        return "\n".join([*lines, *(f"! {note}" for note in self.notes)])


def score_tracks(
    given: MaskTracks,
    seen: MaskTracks,
    frames: Frames | None = None,
    *,
    pairs: Sequence[tuple[str, str]] | None = None,
    contact: ContactDetector = near,
    features: Mapping[str, Array] | None = None,
    points: tuple[Points, Points] | None = None,
    stride: int = 1,
    progress: Callable[[], None] | None = None,
) -> TrackScores:
    """Scores of one clip: see `MEASURES`.

    Args:
        given: where everybody should be; with one frame only who is there at first is known, and paths are not scored.
        seen: tracks of the generated video, by the same names. Further names are things that nobody asked for.
        frames: its pictures (H, W, 3): uint8, or float in [0, 1]; an iterator is read once, one at a time.
        pairs: (actor, target) whose contact is scored; the clip's is that of the first. By default the first subject
            with the first object, or the two named instances where there are just two.
        contact: says where the actor touches something.
        features: per name (F, D) of `seen`, for drift and swapped looks in place of colours.
        points: (given, found) point tracks.
        stride: presence is judged on frames 0, F - 1 and each `stride`-th between (InterGenEval: 5).
        progress: called after each frame; may raise to interrupt.

    Raises ValueError where names, sizes or counts do not fit.
    """
    clip = _Clip(_fitted(given, seen), seen, pairs, contact, features)
    pictures = None if frames is None else _pictures(frames, seen)
    for index in range(seen.frames):
        clip.add(index, None if pictures is None else next(pictures))
        if progress is not None:
            progress()
    if pictures is not None:
        for _ in pictures:  # reads on, so that one frame too many is told
            pass
    return clip.result(sampled(seen.frames, stride), points)


class _Clip:
    """One clip on its way."""

    def __init__(
        self,
        given: MaskTracks,
        seen: MaskTracks,
        pairs: Sequence[tuple[str, str]] | None,
        contact: ContactDetector,
        features: Mapping[str, Array] | None,
    ) -> None:
        self.given, self.seen, self.detect = given, seen, contact
        self.names = given.names
        self.notes: list[str] = []
        self.paths = given.frames == seen.frames
        if not self.paths:
            self.notes.append("the given tracks have the first frame alone: nothing that needs their paths is known")
        self.extra = tuple(name for name in seen.names if name not in self.names)
        _check_features(features, seen, self.names)
        self.looks = Looks(self.names, features)
        self.coloured = False
        self.swaps = PathSwaps()
        self.hota = Hota(len(self.names), len(seen.names))
        self.pairs = _pairs(given, pairs, self.notes)
        self.touch: dict[tuple[str, str], list[tuple[bool, bool]]] = {pair: [] for pair in self.pairs}
        self.per: dict[str, list[tuple[float, ...]]] = {name: [] for name in self.names}
        self.given_boxes = {name: given.boxes(name).numpy().astype(float) for name in self.names}
        self.seen_boxes = {name: seen.boxes(name).numpy().astype(float) for name in seen.names}

    def add(self, index: int, frame: Array | None) -> None:
        """One frame: (H, W, 3) uint8, or None."""
        found = {name: self.seen.mask(name, index).numpy() for name in self.seen.names}
        truth = {name: self.given.mask(name, index).numpy() for name in self.names} if self.paths else None
        if frame is not None:
            self.coloured = True
            others = {name: found[name] for name in self.extra}
            self.looks.add(index, frame, np.stack([found[name] for name in self.names]), others)
        if truth is not None:
            self._paths(index, truth, found)
        for actor, target in self.pairs:
            wanted = truth is not None and self._touching(index, None, truth[actor], truth[target], near)
            touches = self._touching(index, frame, found[actor], found[target], self.detect)
            self.touch[actor, target].append((wanted, touches))

    def _paths(self, index: int, truth: Mapping[str, Array], found: Mapping[str, Array]) -> None:
        one, other = np.stack([*truth.values()]), np.stack([*found.values()])
        iou = overlaps(one, other)
        there = np.asarray(one.any((1, 2))), np.asarray(other.any((1, 2)))
        self.hota.add(iou, *there)
        columns = {name: at for at, name in enumerate(found)}
        for row, name in enumerate(self.names):
            column = columns[name]
            self.per[name].append(
                (
                    float(there[0][row]),
                    float(there[1][column]),
                    float(iou[row, column]),
                    edge_score(truth[name], found[name]),
                )
            )
        centres = [
            {name: _centre(boxes[name][index]) for name in self.names} for boxes in (self.given_boxes, self.seen_boxes)
        ]
        self.swaps.add(index, *centres)

    def _touching(self, index: int, frame: Array | None, actor: Array, target: Array, detect: ContactDetector) -> bool:
        if not actor.any() or not target.any():
            return False
        where = np.asarray(detect(index, frame, actor, target))
        if where.shape != actor.shape:
            raise ValueError(f"a contact detector gives a mask {actor.shape} for each frame; got {where.shape}")
        return bool((where.astype(bool) & target).any())

    # --- what came of it

    def result(self, shown: tuple[int, ...], points: tuple[Points, Points] | None) -> TrackScores:
        values = dict.fromkeys(MEASURES, _NAN)
        instances: dict[str, dict[str, float]] = {name: {} for name in self.names}
        events: list[Event] = []
        self._looks(values, instances, events)
        self._presence(values, shown, events)
        if self.paths:
            self._tracked(values, instances, events)
        self._contact(values, events)
        if points is not None:
            values["epe"] = end_point_error(*points)[0]
        return TrackScores(values, instances, tuple(events), tuple(self.notes), self.seen.frames, shown)

    def _looks(self, values: dict[str, float], instances: dict[str, dict[str, float]], events: list[Event]) -> None:
        if not self.coloured:
            self.notes.append("no frames are given: looks, and doubles that nobody tracks, are not known")
            return
        later = max(self.seen.frames - 1, 1)
        drift = self.looks.drift()
        for name, (mean, last) in drift.items():
            instances[name] |= {"drift": mean, "drift_end": last}
        values["drift"] = _mean([mean for mean, _ in drift.values()])
        values["drift_end"] = _mean([last for _, last in drift.values()])
        values["doubled"] = len({k for _, k in self.looks.doubled}) / later
        values["swapped_looks"] = len({k for _, k in self.looks.swapped}) / later
        self.notes += self.looks.notes
        self.notes += [
            f"{one!r} and {other!r} look alike: their looks cannot say whether they were swapped, their paths can"
            for one, other in self.looks.alike
        ]
        events += _events("doubled", [((name,), k) for name, k in dict.fromkeys(self.looks.doubled)])
        events += _events("swapped looks", self.looks.swapped)
        lost = _events("untracked", [((name,), k) for name, k in self.looks.untracked])
        events += lost
        self.notes += [
            f"{e.who[0]!r} may be in the picture where its track is empty (frames {ranges(e.frames)})" for e in lost
        ]

    def _presence(self, values: dict[str, float], shown: tuple[int, ...], events: list[Event]) -> None:
        roster = [name for name in self.names if int(self.seen.areas(name)[0])]
        for name in self.names:
            if name not in roster:
                self.notes.append(f"{name!r} is not in the video's first frame: whether it disappears is not asked")
        if not roster:
            return
        lost = disappearance(self.seen, roster, shown)
        events += _events("gone", [((name,), k) for name, k in lost.who])
        values["disappearance"] = len(lost.frames) / (len(shown) - 1)
        visible = {name: self.seen.visible[name] for name in self.extra}
        new = [((name,), k) for name, found in visible.items() if 0 not in found for k in found if k in shown]
        events += _events("new", new)
        if self.coloured or self.extra:
            emerged = {k for _, k in new} | {k for _, k in self.looks.doubled if k in shown}
            values["emergence"] = len(emerged) / (len(shown) - 1)
        else:
            self.notes.append("nothing can be seen to emerge without frames or tracks of it: SPI holds disappearance")
        e, d = np.nan_to_num(values["emergence"]), values["disappearance"]
        values["spi"] = float((max(0.0, 1 - 5 * e) + max(0.0, 1 - 5 * d)) / 2)
        values["spi_released"] = float(1 - 2.5 * (e + d))

    def _tracked(self, values: dict[str, float], instances: dict[str, dict[str, float]], events: list[Event]) -> None:
        diagonal = math.hypot(self.seen.height, self.seen.width)
        for name in self.names:
            instances[name] |= _instance(
                np.array(self.per[name]), self.given_boxes[name], self.seen_boxes[name], diagonal
            )
            if math.isnan(instances[name]["trajectory_iou"]):
                self.notes.append(f"{name!r} is in no frame of the given tracks")
        for measure in next(iter(instances.values())):
            if measure in MEASURES and math.isnan(values[measure]):
                values[measure] = _mean([each[measure] for each in instances.values()])
        values |= self.hota.result()
        values["swapped_paths"] = len({k for _, k in self.swaps.swapped}) / max(self.seen.frames - 1, 1)
        events += _events("swapped paths", self.swaps.swapped)

    def _contact(self, values: dict[str, float], events: list[Event]) -> None:
        for at, (pair, found) in enumerate(self.touch.items()):
            wanted, touched = (np.array(flags, dtype=bool) for flags in zip(*found))
            events += _events("contact", [(pair, int(k)) for k in np.flatnonzero(touched)])
            if at:
                continue
            values["contact"] = float(touched.any())
            values["contact_sustained"] = longest_run(touched) / self.seen.fps
            if self.paths:
                values["contact_agreement"] = float((wanted == touched).mean())
                values["contact_share"] = float((wanted & touched).sum() / wanted.sum()) if wanted.any() else _NAN


def _instance(per: Array, given: Array, seen: Array, diagonal: float) -> dict[str, float]:
    """Measures of one instance. per (F, 4): given, seen, IoU, F of each frame; boxes (F, 4)."""
    there, found, iou, edge = per[:, 0] > 0, per[:, 1] > 0, per[:, 2], per[:, 3]
    j = np.where(there | found, iou, 1.0)
    shares = np.array([box_overlap(one, other) for one, other in zip(given, seen)])
    box_iou = shares[:, 0] / np.maximum(shares[:, 1], 1e-12)
    both = there & found
    off = np.linalg.norm(_centre(given[both].T) - _centre(seen[both].T), axis=0) / diagonal if both.any() else []
    count = there.sum()
    return {
        "trajectory_iou": float(iou[there].mean()) if count else _NAN,
        "j": float(j.mean()),
        "f": float(edge.mean()),
        "j_and_f": float((j.mean() + edge.mean()) / 2),
        "box_iou": float(box_iou[there].mean()) if count else _NAN,
        "box_iou_pooled": float(shares[:, 0].sum() / shares[:, 1].sum()) if shares[:, 1].sum() else _NAN,
        "coverage": float(found[there].mean() > 0.5) if count else _NAN,
        "centre_distance": float(np.mean(off)) if both.any() else _NAN,
        "ap50": float((box_iou[both] >= 0.5).mean()) if both.any() else _NAN,
    }


def _fitted(given: MaskTracks, seen: MaskTracks) -> MaskTracks:
    """The given tracks at the size of the seen ones. Raises ValueError where they cannot be of one clip."""
    absent = [name for name in given.names if name not in seen.names]
    if absent:
        raise ValueError(
            f"the video's tracks have no {absent[0]!r}; they have {', '.join(map(repr, seen.names))}. Track it, rename "
            "a track, or leave it out of the given ones; an instance that is in no frame has an empty track"
        )
    if given.frames not in (1, seen.frames):
        raise ValueError(
            f"the given tracks have {given.frames} frames and the video's {seen.frames}: bring them to one length "
            "('MATRIX Retime Tracks', `core.tracks.retime`), or give the first frame alone"
        )
    if (given.height, given.width) == (seen.height, seen.width):
        return given
    if abs(given.width * seen.height / (given.height * seen.width) - 1) > 0.01:
        raise ValueError(
            f"the given tracks are {given.width}x{given.height} pixels and the video's {seen.width}x{seen.height}, of "
            "another shape: give tracks of the clip as the model crops it (`framed` in Python)"
        )
    return given.framed(Framing((given.height, given.width), (seen.height, seen.width), "stretch"))


def _pictures(frames: Frames, seen: MaskTracks) -> Iterator[Array]:
    """(H, W, 3) uint8 of each frame. Raises ValueError where count, size, type or range do not fit."""
    count = 0
    for frame in frames:
        array = frame.detach().cpu().numpy() if isinstance(frame, torch.Tensor) else np.asarray(frame)
        if array.shape != (seen.height, seen.width, 3):
            raise ValueError(f"frames are {(seen.height, seen.width, 3)} like the video's tracks; got {array.shape}")
        if array.dtype != np.uint8:
            if not np.issubdtype(array.dtype, np.floating) or not (array.min() >= -0.01 and array.max() <= 1.01):
                raise ValueError(f"frames are uint8, or float in [0, 1]; frame {count} is {array.dtype}")
            array = np.round(array.clip(0, 1) * 255).astype(np.uint8)
        count += 1
        if count > seen.frames:
            raise ValueError(f"the video has more frames than its tracks, which have {seen.frames}")
        yield array
    if count < seen.frames:
        raise ValueError(f"the video has {count} frames and its tracks {seen.frames}")


def _pairs(given: MaskTracks, pairs: Sequence[tuple[str, str]] | None, notes: list[str]) -> list[tuple[str, str]]:
    if pairs is not None:
        for name in itertools.chain.from_iterable(pairs):
            given.track(name)
        return list(dict.fromkeys((one, other) for one, other in pairs))
    by_role = {role: [name for name, its in given.roles.items() if its == role] for role in ("subject", "object")}
    if by_role["subject"] and by_role["object"]:
        return [(by_role["subject"][0], by_role["object"][0])]
    if len(given.names) == 2:
        return [(given.names[0], given.names[1])]
    notes.append("nobody says whose contact matters: give roles (subject, object), or pairs")
    return []


def _check_features(features: Mapping[str, Array] | None, seen: MaskTracks, names: tuple[str, ...]) -> None:
    for name in names if features is not None else ():
        found = features.get(name) if features is not None else None
        if found is None or found.ndim != 2 or len(found) != seen.frames:
            got = "none" if found is None else found.shape
            raise ValueError(f"features of {name!r} are ({seen.frames} frames, any size); got {got}")


def _events(kind: str, found: Sequence[tuple[tuple[str, ...], int]]) -> list[Event]:
    grouped: dict[tuple[str, ...], list[int]] = {}
    for who, k in found:
        grouped.setdefault(who, []).append(k)
    return [Event(kind, who, tuple(sorted(at))) for who, at in grouped.items()]


def _centre(box: Array) -> Array:
    """(2, ...) of boxes (4, ...)."""
    return np.stack([box[0] + box[2], box[1] + box[3]]) / 2


def _mean(values: Sequence[float]) -> float:
    known = [value for value in values if not math.isnan(value)]
    return float(np.mean(known)) if known else _NAN


def _floats(values: Mapping[str, Any]) -> dict[str, float]:
    return {name: _NAN if value is None else float(value) for name, value in values.items()}


def _plain(value: float) -> float | None:
    return None if math.isnan(value) else round(value, 9)
