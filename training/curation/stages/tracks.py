"""Stage 5: every instance followed through its clip from its anchor, both ways.

    {"name", "status", "reason", "file": "5_tracks/NAME-DIGEST.tracks.safetensors", "digest", "notes"}

Tracks are called id1, id2, ... A person's fixes go before anchors: what is prompted there is followed from there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from matrix_lib.core.tracks.text import Prompt
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.io.tracks import load_tracks, save_tracks

from ..frames import clip_frames
from ..models.trackers import TrackerSource
from ..review import keys_of
from ..stage import Failure, Item, Place, Resources, Result

__all__ = ["Tracks", "load_of"]

_FOLDER = "5_tracks"


@dataclass
class Tracks:
    """Settings of the stage. tracker: who follows."""

    tracker: TrackerSource | None
    name: str = field(default="tracks", init=False)
    version: int = field(default=1, init=False)
    needs: tuple[str, ...] = field(default=("clips", "who", "anchors", "fixes"), init=False)

    @property
    def resources(self) -> Resources:
        return Resources(gpu=bool(self.tracker and self.tracker.gpu))

    def setup(self, place: Place) -> None:
        """See `Stage`."""
        self._place = place
        self._tracker = None if self.tracker is None else self.tracker.open(place)

    def process(self, batch: Sequence[Item]) -> list[Result]:
        """See `Stage`."""
        return [self._one(item) for item in batch]

    def taken(self, result: Result, item: Item) -> Result:
        """See `Stage`."""
        if not isinstance(result.get("file"), str):
            raise ValueError("a line of tracks has `file`, a file of tracks")
        result.setdefault("notes", [])
        return result

    def _one(self, item: Item) -> Result:
        facts = item["clips"]
        prompts = _prompts(item)
        lost = [each for each in item["who"]["instances"] if f"id{each['id']}" not in prompts]
        if lost:
            said = ", ".join(f"{each['id']} ({each['descriptor']})" for each in lost)
            why = f"nobody knows where to begin for {said}: give a box in 7_review.jsonl, or drop the clip"
            return {"status": "open", "reason": why}
        if late := [f"{n} in frame {at}" for n, keys in prompts.items() for at in keys if at >= facts["frames"]]:
            return {"status": "open", "reason": f"{', '.join(late)}: the clip has {facts['frames']} frames"}
        if self._tracker is None:
            return Failure(
                item["name"], "there is no tracker: --sam2 FILE, --sam3 FOLDER, or a line of your own in 5_tracks.jsonl"
            )
        try:
            words = {f"id{each['id']}": each["class"] for each in item["who"]["instances"]}
            tracks, notes = self._tracker.follow(clip_frames(item, self._place), prompts, facts["fps"], words)
        except ValueError as error:
            return {"status": "open", "reason": str(error)}
        if absent := [name for name in prompts if name not in tracks.names]:
            return {"status": "open", "reason": "; ".join(notes) or f"no track of {', '.join(absent)}"}
        tracks = tracks.select(sorted(tracks.names))
        path = self._place.work / _FOLDER / f"{item['name']}-{tracks.digest[:8]}.tracks.safetensors"
        save_tracks(tracks, path)
        relative = path.relative_to(self._place.work).as_posix()
        return {"status": "kept", "reason": "", "file": relative, "digest": tracks.digest, "notes": notes}


def load_of(item: Item, place: Place) -> MaskTracks:
    """The tracks of a clip. Raises ValueError where the file is gone, another one, or not of this clip."""
    said = item["tracks"]
    path = place.work / said["file"]
    tracks = load_tracks(path)
    if said.get("digest") and tracks.digest != said["digest"]:
        raise ValueError(f"{path.name} is not the file that was made: remove its line from 5_tracks.jsonl")
    facts = item["clips"]
    size = (tracks.frames, tracks.height, tracks.width)
    if size != (facts["frames"], facts["height"], facts["width"]):
        raise ValueError(f"{path.name} has {size} frames, rows and columns, and the clip "
                         f"{(facts['frames'], facts['height'], facts['width'])}")  # fmt: skip
    wanted = [f"id{each['id']}" for each in item["who"]["instances"]]
    if absent := [name for name in wanted if name not in tracks.names]:
        raise ValueError(f"{path.name} has no track of {', '.join(absent)}; its tracks are {', '.join(tracks.names)}")
    return tracks.select(wanted)


def _prompts(item: Item) -> dict[str, dict[int, Prompt]]:
    """{idK: {frame: Prompt}}: a person's, and where there are none the anchor."""
    found: dict[str, dict[int, Prompt]] = {}
    for each in item["who"]["instances"]:
        key = str(each["id"])
        if (fix := item["fixes"].get(key)) is not None:
            found[f"id{key}"] = {int(said["frame"]): _prompt(said) for said in keys_of(fix)}
        elif (anchor := item["anchors"]["anchors"].get(key)) is not None:
            found[f"id{key}"] = {int(anchor["frame"]): _prompt(anchor)}
    return found


def _prompt(said: Mapping[str, Any]) -> Prompt:
    points = [(float(x), float(y), bool(inside)) for x, y, inside in said.get("points", [])]
    box = tuple(float(v) for v in said["box"]) if said.get("box") else None
    return Prompt(points, box)  # type: ignore[arg-type]
