"""Stage 8: a clip as files of the set. Its row waits here until the whole set is written.

{"name", "status", "reason", "row": {"video", "prompt", "caption", "phrases", "verb", "ids", ...}, "files": DIGEST}
"""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

from matrix_lib.core.tracks.palette import FIXED
from matrix_lib.io.clips.writing import tag_folders, write_clip
from matrix_lib.io.video import write_video

from ..frames import Frame, clip_frames, video_of
from ..stage import Item, Place, Resources, Result
from ..views import all_faults
from .tracks import load_of

__all__ = ["Write", "row_of"]


@dataclass
class Write:
    """Settings of the stage.

    Args:
        out: folder of the set. crf: quality of videos that are encoded anew, those that were cut or whose rate changed;
            others are copied as they are.
    """

    out: Path
    crf: int = 16
    name: str = field(default="write", init=False)
    version: int = field(default=1, init=False)
    needs: tuple[str, ...] = field(
        default=("raw", "clips", "triplets", "anchors", "tracks", "checks", "doubts", "review"), init=False
    )

    @property
    def resources(self) -> Resources:
        return Resources()

    def setup(self, place: Place) -> None:
        """See `Stage`."""
        self._place, self._tags = place, tag_folders(self.out)

    def process(self, batch: Sequence[Item]) -> list[Result]:
        """See `Stage`."""
        return [self._one(item) for item in batch]

    def taken(self, result: Result, item: Item) -> Result:
        """See `Stage`."""
        if not isinstance(result.get("row"), dict):
            raise ValueError("a line of written clips has `row`")
        return result

    def _one(self, item: Item) -> Result:
        start = item["checks"]["start"]
        try:
            tracks = load_of(item, self._place).starting(start)
        except ValueError as error:
            return {"status": "bad", "reason": str(error)}
        numbers = {name: int(name.removeprefix("id")) for name in tracks.names}
        tracks = tracks.with_palette([FIXED[k - 1] for k in numbers.values()])

        def video(path: Path) -> None:
            source = video_of(item, self._place)
            if item["clips"].get("whole") and not start and source.suffix.lower() == ".mp4":
                shutil.copyfile(source, path)
            else:
                write_video(path, _from(clip_frames(item, self._place), start), item["clips"]["fps"], self.crf)

        try:
            write_clip(self.out, item["name"], video, tracks, numbers, self._tags)
        except ValueError as error:
            return {"status": "bad", "reason": str(error)}
        return {"status": "kept", "reason": "", "row": row_of(item), "files": _digest(self.out, item["name"])}


def _from(frames: Iterator[Frame], start: int) -> Iterator[Frame]:
    return islice(frames, start, None)


def _digest(out: Path, name: str) -> str:
    """Of all files of a clip."""
    state = hashlib.sha256()
    paths = [out / "videos" / f"{name}.mp4", *sorted((out / "mask_annotation" / name).rglob("*.png"))]
    for path in paths:
        state.update(path.relative_to(out).as_posix().encode() + b"\0" + path.read_bytes())
    return state.hexdigest()


def row_of(item: Item) -> dict[str, Any]:
    """The clip's row of the set's table."""
    said, facts = item["triplets"], item["clips"]
    first = said["interactions"][0]
    row: dict[str, Any] = {
        "video": f"{item['name']}.mp4",
        "prompt": said["prompt"],
        "caption": item["caption"]["text"],
        "phrases": said["phrases"],
        "verb": first["verb"],
        "ids": {
            str(each["id"]): {"class": each["class"], "descriptor": each["descriptor"]} for each in said["instances"]
        },
        "interactions": said["interactions"],
        "contactness": max(each["contactness"] for each in said["interactions"]),
        "dynamism": max(each["dynamism"] for each in said["interactions"]),
        "anchors": item["anchors"]["anchors"],
        "ambiguous": bool(said.get("alike")),
        "review": {key: item["review"].get(key) for key in ("reviewed", "by") if key in item["review"]},
        "faults": sorted({fault["kind"] for fault in all_faults(item)}),
        "frames": facts["frames"] - item["checks"]["start"],
        "fps": facts["fps"],
        "sha256": facts["sha256"],
        "shot": facts["shot"],
    }
    row |= {key: facts[key] for key in ("source", "licence") if facts.get(key)}
    return row
