"""A second look (`--verify k`): a vision-language model sees k whole frames with everybody's mask in their colour, and
says whether each is still the one that it should be.

    {"name", "status", "reason", "frames": [4, 12], "faults": [{"kind": "doubt" | "unread", "ids", "frames", "value"}]}

Doubts are faults like those of the checks: they leave nothing out, and bring the clip in front of a person first.
"""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from matrix_lib.core.tracks.palette import FIXED, FIXED_NAMES
from matrix_lib.draw.clip_sheets import tinted
from matrix_lib.evaluation.intergen.answers import AnswerError, read_json
from matrix_lib.evaluation.judges.judge import JudgeError, Picture, Request
from matrix_lib.io.files import whole_file

from ..asking import Asking, JudgeSource, UnreadableError
from ..frames import picked
from ..stage import Failure, Item, Place, Resources, Result
from .tracks import load_of

__all__ = ["Verify", "read_same"]

_TASK = """You see one frame of a video. Each person or thing of a list is tinted and outlined in a colour of its own.
For each say whether what has its colour is what its words say, and how sure you are, from 0 to 1.
Answer with one JSON object: {"answers": [{"id": 1, "same": true, "confidence": 0.9}, ...]}
Write nothing else."""


@dataclass
class Verify:
    """Settings of the stage.

    Args:
        judge: who looks. frames: that are looked at, spread evenly. confidence: of a no from which on it is a fault.
        longest: pixels of a picture's longer side.
    """

    judge: JudgeSource
    frames: int = 2
    confidence: float = 0.5
    longest: int = 768
    name: str = field(default="verify", init=False)
    version: int = field(default=1, init=False)
    needs: tuple[str, ...] = field(default=("clips", "who", "tracks"), init=False)

    @property
    def resources(self) -> Resources:
        return Resources(gpu=self.judge.gpu, alone=not self.judge.gpu, batch=8)

    def setup(self, place: Place) -> None:
        """See `Stage`."""
        self._place = place
        self._asking = Asking(self.judge, place, self.name)

    def process(self, batch: Sequence[Item]) -> list[Result]:
        """See `Stage`. All clips of a batch are asked about side by side."""
        asked: dict[str, list[tuple[int, tuple[int, ...], Request]]] = {}
        bad: dict[str, Result] = {}
        for item in batch:
            try:
                asked[item["name"]] = list(self._requests(item))
            except ValueError as error:
                bad[item["name"]] = {"status": "bad", "reason": str(error), "frames": [], "faults": []}
        ids = {request.key: some for each in asked.values() for _, some, request in each}

        def check(request: Request, raw: str) -> None:
            read_same(raw, ids[request.key])

        said = self._asking.put([request for each in asked.values() for _, _, request in each], check)
        if not self._asking.by_file:
            for item in batch:
                shutil.rmtree(self._folder(item), ignore_errors=True)
        return [bad.get(item["name"]) or self._result(item, asked[item["name"]], said) for item in batch]

    def taken(self, result: Result, item: Item) -> Result:
        """See `Stage`."""
        result.setdefault("faults", [])
        return result

    def _folder(self, item: Item) -> Path:
        return self._place.work / "asked" / f"{item['name']}-verify"

    def _requests(self, item: Item) -> Any:
        """(frame, ids that are seen there, request) of each frame in which somebody is."""
        tracks, count = load_of(item, self._place), item["clips"]["frames"]
        who = {each["id"]: each["descriptor"] for each in item["who"]["instances"]}
        frames = sorted({int((n + 0.5) * count / self.frames) for n in range(self.frames)})
        for at, frame in picked(item, self._place, frames):
            masks = {f"id{n}": tracks.mask(f"id{n}", at).numpy() for n in who}
            ids = tuple(n for n in who if masks[f"id{n}"].any())
            if not ids:
                continue
            height, width = frame.shape[:2]
            scale = min(1.0, self.longest / max(height, width))
            colours = {f"id{n}": FIXED[n - 1] for n in ids}
            shown = {f"id{n}": masks[f"id{n}"] for n in ids}
            path = self._folder(item) / f"{at:05d}.png"
            with whole_file(path) as temporary:
                picture = tinted(frame, shown, colours, (round(width * scale), round(height * scale)))
                picture.save(temporary, format="PNG", compress_level=1)
            lines = "\n".join(f"{n} ({FIXED_NAMES[n - 1]}): {who[n]}" for n in ids)
            yield at, ids, _request(item["name"], path, f"Frame {at} of the clip.\nPersons or things, by id:\n{lines}")

    def _result(
        self, item: Item, asked: Sequence[tuple[int, tuple[int, ...], Request]], said: Mapping[str, str | JudgeError]
    ) -> Result:
        faults: list[dict[str, Any]] = []
        for at, ids, request in asked:
            answer = said[request.key]
            if isinstance(answer, UnreadableError):
                faults.append({"kind": "unread", "ids": list(ids), "frames": [at], "value": 0.0})
            elif isinstance(answer, JudgeError):
                return Failure(item["name"], f"no answer to the second look: {answer}"[:600])
            else:
                for n, (same, sure) in read_same(answer, ids).items():
                    if not same and sure >= self.confidence:
                        faults.append({"kind": "doubt", "ids": [n], "frames": [at], "value": sure})
        return {"status": "kept", "reason": "", "frames": [at for at, _, _ in asked], "faults": faults}


def _request(name: str, path: Path, text: str) -> Request:
    one = {"id": {"type": "integer"}, "same": {"type": "boolean"}, "confidence": {"type": "number"}}
    item = {"type": "object", "properties": one, "required": list(one), "additionalProperties": False}
    answers = {"answers": {"type": "array", "items": item}}
    schema = {"type": "object", "properties": answers, "required": ["answers"], "additionalProperties": False}
    return Request("verify", name, "", _TASK, text, (Picture(0, path),), schema=schema)


def read_same(raw: str, ids: Sequence[int]) -> dict[int, tuple[bool, float]]:
    """{id: (whether it is the one, confidence)}. Raises AnswerError unless each id is answered once."""
    content = read_json(raw)
    answers = content.get("answers") if isinstance(content, Mapping) else content
    if not isinstance(answers, list) or not all(isinstance(each, dict) for each in answers):
        raise AnswerError('the answer is an object {"answers": [{"id", "same", "confidence"}, ...]}')
    found: dict[int, tuple[bool, float]] = {}
    for each in answers:
        n, same, sure = each.get("id"), each.get("same"), each.get("confidence", 1.0)
        if n not in ids or isinstance(n, bool) or n in found:
            raise AnswerError(f"each of the ids {list(ids)} is answered once; got {str(n)[:40]!r}")
        if not isinstance(same, bool):
            raise AnswerError(f"same is true or false; got {str(same)[:40]!r}")
        if isinstance(sure, bool) or not isinstance(sure, int | float) or not 0 <= sure <= 1:
            raise AnswerError(f"confidence is from 0 to 1; got {str(sure)[:40]!r}")
        found[n] = (same, float(sure))
    if missing := [n for n in ids if n not in found]:
        raise AnswerError(f"ids {missing} are not answered")
    return found
