"""Stage 6: what looks wrong with tracks, and the rules about who has to be seen when.

    {"name", "status", "reason", "start": 0, "faults": [{"kind", "ids", "frames", "value"}], "touch": {"0": [...]}}

Faults are for a person to look at; they leave nothing out. `start` is the clip's first frame in the set.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.trajectories.faults import (
    Fault,
    Limits,
    anchor_faults,
    faults_of,
    seen_faults,
    touching,
)

from ..frames import clip_frames
from ..review import keys_of
from ..stage import Item, Place, Resources, Result
from .candidates import boxes_of
from .tracks import load_of

__all__ = ["Checks"]

_FAR = 0.02  # of a frame's diagonal: subject and object that are farther apart do not touch
_TOUCHED = 3  # frames in which they touch later


@dataclass
class Checks:
    """Settings of the stage.

    Args:
        limits: from where on something is suspicious.
        first_frame: who has to be seen in the first frame: "all" leaves out clips in which anybody is not, "shift" lets
            the clip begin where all are, "any" does not ask.
        frames: that a shifted clip has at least.
        not_yet: TAViD's rule (arXiv 2503.18950): in the first frame subject and object do not touch, and later they do.
    """

    limits: Limits = field(default_factory=Limits)
    first_frame: Literal["all", "shift", "any"] = "all"
    frames: int = 49
    not_yet: bool = False
    name: str = field(default="checks", init=False)
    version: int = field(default=1, init=False)
    needs: tuple[str, ...] = field(
        default=("clips", "who", "pairs", "candidates", "anchors", "fixes", "tracks"), init=False
    )

    @property
    def resources(self) -> Resources:
        return Resources()

    def setup(self, place: Place) -> None:
        """See `Stage`."""
        self._place = place

    def process(self, batch: Sequence[Item]) -> list[Result]:
        """See `Stage`."""
        return [self._one(item) for item in batch]

    def taken(self, result: Result, item: Item) -> Result:
        """See `Stage`."""
        result.setdefault("faults", [])
        result.setdefault("start", 0)
        return result

    def _one(self, item: Item) -> Result:
        try:
            tracks = load_of(item, self._place)
        except ValueError as error:
            return {"status": "bad", "reason": str(error), "faults": [], "start": 0}
        start, why = self._start(tracks, item)
        if why:
            return {"status": "dropped", "reason": why, "faults": [], "start": 0}
        faults = [_as_json(fault) for fault in self._faults(tracks, item)]
        result: Result = {"status": "kept", "reason": "", "start": start, "faults": faults}
        if item["pairs"]["pairs"]:
            result["touch"] = _touch(tracks, item["pairs"]["pairs"])
        if self.not_yet and (why := _not_yet(tracks, item["pairs"]["pairs"], start)):
            return {**result, "status": "dropped", "reason": why}
        return result

    def _start(self, tracks: MaskTracks, item: Item) -> tuple[int, str]:
        """(first frame, why there is none)."""
        who = {f"id{each['id']}": each["descriptor"] for each in item["who"]["instances"]}
        visible = {name: set(frames) for name, frames in tracks.visible.items()}
        if absent := [who[name] for name, frames in visible.items() if not frames]:
            return 0, f"its mask is empty in every frame: {', '.join(absent)}"
        late = [who[name] for name, frames in visible.items() if 0 not in frames]
        if self.first_frame == "any" or not late:
            return 0, ""
        if self.first_frame == "all":
            return 0, f"not in the first frame: {', '.join(late)}"
        together = sorted(set.intersection(*visible.values()))
        if not together or tracks.frames - together[0] < self.frames:
            seen = f"first in frame {together[0]} of {tracks.frames}" if together else "never"
            return 0, f"all are seen together {seen}, and {self.frames} frames are wanted"
        return together[0], ""

    def _faults(self, tracks: MaskTracks, item: Item) -> list[Fault]:
        classes = {f"id{each['id']}": each["class"] for each in item["who"]["instances"]}
        anchors = {}
        for number, given in {**item["anchors"]["anchors"], **item["fixes"]}.items():
            said = min(keys_of(given), key=lambda key: int(key["frame"]))
            if f"id{number}" in classes and said.get("box"):
                anchors[f"id{number}"] = (int(said["frame"]), tuple(said["box"]))
        first = {name: frame for name, (frame, _) in anchors.items()}
        found = faults_of(tracks, clip_frames(item, self._place), classes, first, self.limits)
        found += anchor_faults(tracks, anchors, self.limits)
        boxes: dict[int, dict[str, list[Any]]] = {}
        for frame, some in boxes_of(item["candidates"]).items():
            if frame < tracks.frames:
                by_class = boxes.setdefault(frame, {})
                for kind, box in some:
                    by_class.setdefault(kind, []).append(box.box)
        return found + seen_faults(tracks, boxes, classes, self.limits)


def _as_json(fault: Fault) -> dict[str, Any]:
    ids = [int(name.removeprefix("id")) for name in fault.names]
    return {"kind": fault.kind, "ids": ids, "frames": list(fault.frames), "value": fault.value}


def _touch(tracks: MaskTracks, pairs: Sequence[Sequence[int]]) -> dict[str, list[int]]:
    """Frames in which subject and object touch, by pair."""
    found = {}
    for one, other in pairs:
        frames = []
        for at in range(tracks.frames):
            if touching(tracks.mask(f"id{one}", at).numpy(), tracks.mask(f"id{other}", at).numpy(), 1):
                frames.append(at)
        found[f"{one}-{other}"] = frames
    return found


def _not_yet(tracks: MaskTracks, pairs: Sequence[Sequence[int]], start: int) -> str:
    """Why TAViD's rule leaves a clip out, "" where one of its interactions keeps it."""
    if not pairs:
        return "no interaction between two instances, which TAViD's rule wants"
    reach = math.ceil(_FAR * math.hypot(tracks.height, tracks.width))
    why = ""
    for one, other in pairs:
        first = [tracks.mask(f"id{each}", start).numpy() for each in (one, other)]
        later = _touch(tracks, [(one, other)])[f"{one}-{other}"]
        if touching(first[0], first[1], reach):
            why = "subject and object touch in the first frame"
        elif sum(at > start for at in later) < _TOUCHED:
            why = (
                f"subject and object touch in {sum(at > start for at in later)} later frames, and {_TOUCHED} are wanted"
            )
        else:
            return ""
    return why
