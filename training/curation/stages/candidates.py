"""Stage 3: boxes of each class in a few frames, by a detector.

    {"name", "status", "reason", "frames": {"0": [{"class", "score", "box": [x0, y0, x1, y1]}], ...}}

Frames are numbered in the clip. Any detector's JSON of this form is taken.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from ..frames import picked, sampled
from ..models.detectors import Box, DetectorSource, distinct
from ..stage import Failure, Item, Place, Resources, Result

__all__ = ["Candidates", "boxes_of"]


@dataclass
class Candidates:
    """Settings of the stage.

    Args:
        detector: who finds boxes. sampled: frames that are looked at, besides the first.
        score: of a box at least. overlap: of boxes of one class, from which on the surest alone stays.
        smallest, largest: shares of a frame that a box covers.
    """

    detector: DetectorSource | None
    sampled: int = 8
    score: float = 0.35
    overlap: float = 0.7
    smallest: float = 0.001
    largest: float = 0.9
    name: str = field(default="candidates", init=False)
    version: int = field(default=1, init=False)
    needs: tuple[str, ...] = field(default=("clips", "classes"), init=False)

    @property
    def resources(self) -> Resources:
        return Resources(gpu=bool(self.detector and self.detector.gpu))

    def setup(self, place: Place) -> None:
        """See `Stage`."""
        self._place = place
        self._detector = None if self.detector is None else self.detector.open(place)

    def process(self, batch: Sequence[Item]) -> list[Result]:
        """See `Stage`."""
        return [self._one(item) for item in batch]

    def taken(self, result: Result, item: Item) -> Result:
        """See `Stage`."""
        count = item["clips"]["frames"]
        if late := [frame for frame in boxes_of(result) if frame >= count]:
            raise ValueError(f"it has boxes of frame {max(late)}, and the clip has frames 0 to {count - 1}")
        return result

    def _one(self, item: Item) -> Result:
        if self._detector is None:
            said = "there is no detector, and 3_candidates.jsonl has no line about it"
            return Failure(item["name"], f"{said}: --detector FOLDER, or boxes of your own")
        frames: dict[str, list[dict[str, Any]]] = {}
        unknown: dict[str, str] = {}
        for index, picture in picked(item, self._place, sampled(item["clips"]["frames"], self.sampled)):
            found = []
            for kind in item["classes"]["classes"]:
                try:
                    boxes = self._detector.find(picture, kind)
                except ValueError as error:
                    unknown[kind] = str(error)
                    continue
                kept = distinct([box for box in boxes if self._fits(box, picture.shape)], self.overlap)
                found += [{"class": kind, "score": box.score, "box": list(box.box)} for box in kept]
            frames[str(index)] = found
        if unknown:
            return {"status": "open", "reason": "; ".join(unknown.values()), "frames": frames}
        if not any(frames.values()):
            classes = ", ".join(item["classes"]["classes"])
            return {"status": "dropped", "reason": f"none of {classes} was found in any frame", "frames": frames}
        return {"status": "kept", "reason": "", "frames": frames}

    def _fits(self, box: Box, shape: tuple[int, ...]) -> bool:
        x0, y0, x1, y1 = box.box
        share = (x1 - x0) * (y1 - y0) / (shape[0] * shape[1])
        return box.score >= self.score and self.smallest <= share <= self.largest


def boxes_of(result: Result) -> dict[int, list[tuple[str, Box]]]:
    """{frame: [(class, box)]} of a line. Raises ValueError where it is none."""
    try:
        found = {
            int(frame): [
                (str(each["class"]), Box(float(each["score"]), tuple(float(v) for v in each["box"])))  # type: ignore[arg-type]
                for each in boxes
            ]
            for frame, boxes in result["frames"].items()
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        form = '{"frames": {"0": [{"class", "score", "box": [x0, y0, x1, y1]}]}}'
        raise ValueError(f"a line of candidates is {form}: {error!r:.120}") from None
    for frame, boxes in found.items():
        for kind, box in boxes:
            if frame < 0 or len(box.box) != 4 or not (box.box[2] > box.box[0] and box.box[3] > box.box[1]):
                raise ValueError(f"frame {frame} has a box of {kind!r} without an area: {list(box.box)}")
    return found
