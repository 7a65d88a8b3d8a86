"""Stage 4: which candidate is whom, by a vision-language model that sees the frame with numbered boxes, and each crop.

    {"name", "status", "reason", "anchors": {"1": {"frame", "box", "score", "confidence", "tried"}}, "open": [2]}

All instances of one class are asked about in one request, so that nobody can be two of them. An instance that the model
is not sure of stays open and is looked for in the next frame; instances may have different frames.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from matrix_lib.draw.style import font
from matrix_lib.evaluation.intergen.answers import AnswerError, read_json
from matrix_lib.evaluation.judges.judge import JudgeError, Picture, Request
from matrix_lib.io.files import whole_file

from ..asking import Asking, JudgeSource, UnreadableError
from ..frames import Frame, picked
from ..models.detectors import Box
from ..stage import Failure, Item, Place, Resources, Result
from .candidates import boxes_of

__all__ = ["Anchors", "read_choice"]

_TASK = """You see one frame of a video with numbered boxes, and then each box by itself, in the order of the numbers.
You are told of persons or things by what can be seen of them. For each say which number it is, or null where none of
the boxes shows it, and how sure you are, from 0 to 1. One box is one of them at most.
Answer with one JSON object: {"answers": [{"id": 1, "number": 2, "confidence": 0.9}, ...]}
Write nothing else."""
_PADDED = 0.08  # of a box, on each side of its crop


@dataclass
class Anchors:
    """Settings of the stage.

    Args:
        judge: who chooses. confidence: of a choice at least. frames: that are tried for an instance at most.
        candidates: boxes of one class in a frame that are shown at most, the surest ones.
        longest: pixels of the longer side of pictures.
    """

    judge: JudgeSource
    confidence: float = 0.5
    frames: int = 4
    candidates: int = 12
    longest: int = 768
    name: str = field(default="anchors", init=False)
    version: int = field(default=1, init=False)
    needs: tuple[str, ...] = field(default=("clips", "who", "candidates"), init=False)

    @property
    def resources(self) -> Resources:
        return Resources(gpu=self.judge.gpu, alone=not self.judge.gpu, batch=8)

    def setup(self, place: Place) -> None:
        """See `Stage`."""
        self._place = place
        self._asking = Asking(self.judge, place, self.name)

    def process(self, batch: Sequence[Item]) -> list[Result]:
        """See `Stage`. All clips of a batch are asked about side by side, a frame of each class at a time."""
        clips = [_Clip(item, self) for item in batch]
        while any(turns := [(clip, turn) for clip in clips for turn in clip.turns()]):
            asked = [(clip, turn, clip.request(turn, self._place)) for clip, turn in turns]
            said = self._put([(request, turn) for _, turn, request in asked])
            for clip, turn, request in asked:
                clip.told(turn, said[request.key])
        if not self._asking.by_file:
            for clip in clips:
                shutil.rmtree(clip.folder(self._place), ignore_errors=True)
        return [clip.result() for clip in clips]

    def _put(self, asked: Sequence[tuple[Request, _Turn]]) -> dict[str, str | JudgeError]:
        turns = {request.key: turn for request, turn in asked}

        def check(request: Request, raw: str) -> None:
            turn = turns[request.key]
            read_choice(raw, turn.ids, len(turn.boxes))

        return self._asking.put([request for request, _ in asked], check)

    def taken(self, result: Result, item: Item) -> Result:
        """See `Stage`."""
        anchors = result.get("anchors")
        try:
            assert isinstance(anchors, dict)
            for each in anchors.values():
                x0, y0, x1, y1 = map(float, each["box"])
                if int(each["frame"]) < 0 or not (x1 > x0 and y1 > y0):
                    raise ValueError("no place")
        except (KeyError, TypeError, ValueError):
            raise ValueError('a line of anchors has `anchors`: {"1": {"frame", "box": [x0, y0, x1, y1]}}') from None
        result.setdefault("open", [])
        return result


@dataclass(frozen=True)
class _Turn:
    """One question: instances of a class, and the boxes of a frame among which they may be."""

    kind: str
    frame: int
    ids: tuple[int, ...]
    boxes: tuple[Box, ...]


class _Clip:
    """What is known of one clip while it is asked about."""

    def __init__(self, item: Item, stage: Anchors) -> None:
        self.item, self.stage = item, stage
        self.who = {each["id"]: each for each in item["who"]["instances"]}
        self.found: dict[int, dict[str, Any]] = {}
        self.tried: dict[int, int] = dict.fromkeys(self.who, 0)
        self.why: dict[int, str] = {}
        self.failed = ""
        kinds = dict.fromkeys(each["class"] for each in self.who.values())
        self.frames = {kind: self._order(kind) for kind in kinds}

    def _order(self, kind: str) -> list[tuple[int, tuple[Box, ...]]]:
        """Frames to try: those with a candidate for everybody first, then by the sum of scores."""
        ids = [n for n, each in self.who.items() if each["class"] == kind]
        found = []
        for frame, boxes in boxes_of(self.item["candidates"]).items():
            mine = sorted((box for each, box in boxes if each == kind), key=lambda box: (-box.score, box.box))
            if mine:
                found.append((frame, tuple(mine[: self.stage.candidates])))
        found.sort(key=lambda each: (len(each[1]) < len(ids), -sum(box.score for box in each[1]), each[0]))
        return found[: self.stage.frames]

    def turns(self) -> list[_Turn]:
        """What to ask next: the next frame of every class of which somebody is not found."""
        if self.failed:
            return []
        found = []
        for kind, frames in self.frames.items():
            ids = tuple(n for n, each in self.who.items() if each["class"] == kind and n not in self.found)
            if ids and frames:
                frame, boxes = frames.pop(0)
                found.append(_Turn(kind, frame, ids, boxes))
        return found

    def folder(self, place: Place) -> Path:
        return place.work / "asked" / self.item["name"]

    def request(self, turn: _Turn, place: Place) -> Request:
        """A turn as a request; its pictures are written."""
        ((_, frame),) = picked(self.item, place, [turn.frame])
        folder = self.folder(place) / f"{turn.frame:05d}-{'-'.join(map(str, turn.ids))}"
        shown = [_numbered(frame, turn.boxes), *(_crop(frame, box) for box in turn.boxes)]
        pictures = []
        for n, picture in enumerate(shown):
            path = folder / f"{n:02d}.png"
            picture.thumbnail((self.stage.longest, self.stage.longest))
            with whole_file(path) as temporary:
                picture.save(temporary, format="PNG", compress_level=1)
            pictures.append(Picture(n, path))
        asked = "\n".join(f"{n}: {self.who[n]['descriptor']} ({self.who[n]['class']})" for n in turn.ids)
        places = "\n".join(f"{n}: {[round(v) for v in box.box]}" for n, box in enumerate(turn.boxes, 1))
        text = (
            f"Who is who in frame {turn.frame} of the clip? Picture 0 is the frame, pictures 1 to {len(turn.boxes)} "
            f"are the boxes.\nPersons or things, by id:\n{asked}\nBoxes, as left, top, right, bottom in pixels:\n"
            f"{places}"
        )
        number = {"type": ["integer", "null"]}
        one = {"id": {"type": "integer"}, "number": number, "confidence": {"type": "number"}}
        item = {"type": "object", "properties": one, "required": list(one), "additionalProperties": False}
        answers = {"answers": {"type": "array", "items": item}}
        schema = {"type": "object", "properties": answers, "required": ["answers"], "additionalProperties": False}
        return Request("anchors", self.item["name"], "", _TASK, text, tuple(pictures), schema=schema)

    def told(self, turn: _Turn, said: str | JudgeError) -> None:
        """Takes an answer."""
        if isinstance(said, UnreadableError):
            self.why |= dict.fromkeys(turn.ids, f"an answer cannot be read: {said}"[:300])
            return
        if isinstance(said, JudgeError):
            self.failed = f"no answer about who is who: {said}"[:600]
            return
        for n, (number, confidence) in read_choice(said, turn.ids, len(turn.boxes)).items():
            self.tried[n] += 1
            if number is not None and confidence >= self.stage.confidence:
                box = turn.boxes[number - 1]
                self.found[n] = {
                    "frame": turn.frame,
                    "box": list(box.box),
                    "score": box.score,
                    "confidence": confidence,
                }

    def result(self) -> Result:
        if self.failed:
            return Failure(self.item["name"], self.failed)
        anchors = {str(n): {**self.found[n], "tried": self.tried[n]} for n in sorted(self.found)}
        left = sorted(set(self.who) - set(self.found))
        return {"status": "kept", "reason": "", "anchors": anchors, "open": left} | (
            {"why": {str(n): self.why[n] for n in left if n in self.why}} if self.why else {}
        )


def read_choice(raw: str, ids: Sequence[int], count: int) -> dict[int, tuple[int | None, float]]:
    """{id: (number of its box or None, confidence)}. Raises AnswerError unless each id is answered once, with a number
    from 1 to `count` that no other has."""
    content = read_json(raw)
    answers = content.get("answers") if isinstance(content, Mapping) else content
    if not isinstance(answers, list) or not all(isinstance(each, dict) for each in answers):
        raise AnswerError('the answer is an object {"answers": [{"id", "number", "confidence"}, ...]}')
    found: dict[int, tuple[int | None, float]] = {}
    for each in answers:
        n, number, sure = each.get("id"), each.get("number"), each.get("confidence", 1.0)
        if n not in ids or isinstance(n, bool) or n in found:
            raise AnswerError(f"each of the ids {list(ids)} is answered once; got {str(n)[:40]!r}")
        if number is not None and (isinstance(number, bool) or number not in range(1, count + 1)):
            raise AnswerError(f"number is null or from 1 to {count}; got {str(number)[:40]!r}")
        if isinstance(sure, bool) or not isinstance(sure, int | float) or not 0 <= sure <= 1:
            raise AnswerError(f"confidence is from 0 to 1; got {str(sure)[:40]!r}")
        found[n] = (number, float(sure))
    if missing := [n for n in ids if n not in found]:
        raise AnswerError(f"ids {missing} are not answered")
    numbers = [number for number, _ in found.values() if number is not None]
    if len(set(numbers)) < len(numbers):
        raise AnswerError(f"two of them have one box: {numbers}; one box is one of them at most")
    return found


def _numbered(frame: Frame, boxes: Sequence[Box]) -> Image.Image:
    picture = Image.fromarray(frame)
    pen = ImageDraw.Draw(picture)
    size = max(12, round(min(picture.size) / 24))
    for n, box in enumerate(boxes, 1):
        pen.rectangle(box.box, outline=(0, 0, 0), width=3)
        pen.rectangle(box.box, outline=(255, 255, 255), width=1)
        left, top = box.box[0] + 2, max(0.0, box.box[1] - size - 2)
        pen.text((left, top), str(n), fill=(255, 255, 255), font=font(size), stroke_width=2, stroke_fill=(0, 0, 0))
    return picture


def _crop(frame: Frame, box: Box) -> Image.Image:
    x0, y0, x1, y1 = box.box
    across, down = _PADDED * (x1 - x0), _PADDED * (y1 - y0)
    corners = (max(0, x0 - across), max(0, y0 - down), min(frame.shape[1], x1 + across), min(frame.shape[0], y1 + down))
    return Image.fromarray(frame).crop(tuple(round(v) for v in corners))  # type: ignore[arg-type]
