"""Mini clips as raw clips, and who answers about them without any model: a scripted language model, a detector of
blobs with noise on its boxes, and a verifier that knows where everybody really is."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from matrix_lib.evaluation.judges.judge import JudgeError, Reply, Request
from matrix_lib.mini.export import export_clips, mask_tracks
from matrix_lib.mini.shapes import PALETTE
from matrix_lib.mini.verbs import VERBS
from matrix_lib.mini.world import WorldConfig, make_clips
from training.curation.models.detectors import Box, clipped
from training.curation.models.trackers import MiniTracker
from training.curation.run import Stages
from training.curation.stage import Place
from training.curation.stages.anchors import Anchors
from training.curation.stages.candidates import Candidates
from training.curation.stages.checks import Checks
from training.curation.stages.clips import Clips
from training.curation.stages.tracks import Tracks
from training.curation.stages.triplets import Triplets
from training.curation.stages.write import Write

__all__ = ["Blobs", "Reader", "Verifier", "read_caption", "stages_for", "write_raw"]

PHRASE = re.compile(r"the (\w+) (\w+)")
_MANY = 20  # clips that are made at once


def write_raw(folder: Path, count: int, seed: int = 0, size: int = 96, frames: int = 17, **more: Any) -> Path:
    """FOLDER/exported (the set as mini exports it), FOLDER/raw (its videos and plain captions), FOLDER/truth/NAME.json
    ({frame: {descriptor: [boxes]}}). Returns FOLDER/raw."""
    raw, truth = folder / "raw", folder / "truth"
    raw.mkdir(parents=True)
    truth.mkdir()
    config = WorldConfig(height=size, width=size, frames=frames, **more)
    lines = []
    for start in range(0, count, _MANY):
        some = make_clips(seed + start, min(_MANY, count - start), config)
        names = export_clips(some, folder / "exported", "mini", start)
        for index, name in enumerate(names):
            shutil.copyfile(folder / "exported" / "videos" / f"{name}.mp4", raw / f"{name}.mp4")
            lines.append({"video": f"{name}.mp4", "caption": some.prompts[index], "licence": "CC0"})
            tracks = mask_tracks(some, index)
            parts = int(some.parts[index])
            found: dict[str, list[Any]] = {}
            for place, track in enumerate(tracks.names):
                boxes = [None if np.isnan(box[0]) else box.tolist() for box in tracks.boxes(track).numpy()]
                found[track] = [place < parts, boxes]
            (truth / f"{name}.json").write_text(json.dumps(found))
    (raw / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return raw


def read_caption(caption: str) -> dict[str, Any]:
    """What a perfect language model says of a caption of the mini world."""
    sentence = caption.split(", the camera")[0]
    verb = next(v for v in sorted(VERBS, key=lambda v: -len(v.words)) if f" {v.words}" in sentence)
    looks = PHRASE.findall(sentence)[: verb.parts]
    said: dict[tuple[str, str], int] = {}
    instances = []
    for number, look in enumerate(looks, 1):
        said[look] = said.get(look, 0) + 1
        words = "the " + " ".join(look)
        nth = said[look] if looks.count(look) > 1 else None
        instances.append({"id": number, "class": "shape", "words": words, "occurrence": nth, "descriptor": words})
    grade = {"contactness": 4, "dynamism": 4} if verb.interaction else {"contactness": 1, "dynamism": 4}
    other = 2 if verb.parts > 1 else None
    return {
        "instances": instances,
        "interactions": [{"subject": 1, "verb": verb.name, "words": verb.words, "object": other, **grade}],
    }


@dataclass(frozen=True)
class Reader:
    """A scripted language model. log: a file that gets a line for each answer. wrong: share of captions of which it
    says nothing that can be read. down: a file that, where it is there, takes it off the net."""

    log: Path | None = None
    wrong: float = 0.0
    down: Path | None = None
    gpu = False
    identity = "scripted reader"

    def open(self, place: Place, stage: str) -> Any:
        return _Judge("reader", self.log, self.down, self._said)

    def _said(self, request: Request) -> str:
        caption = request.text.removeprefix("Caption: ")
        if int(hashlib.sha256(caption.encode()).hexdigest()[:8], 16) / 2**32 < self.wrong:
            return "I would rather not."
        return json.dumps(read_caption(caption))


@dataclass(frozen=True)
class Verifier:
    """Says which numbered box is whom, from where everybody really is. planted: {clip: {id: another instance}} of whom
    it takes somebody else. die: a file that the first process to answer writes before it kills itself. down: as
    of the reader."""

    truth: Path
    log: Path | None = None
    planted: tuple[tuple[str, int, int], ...] = ()
    die: Path | None = None
    down: Path | None = None
    gpu = False
    identity = "exact verifier"

    def open(self, place: Place, stage: str) -> Any:
        return _Judge("verifier", self.log, self.down, self._said)

    def _said(self, request: Request) -> str:
        if self.die is not None and not self.die.exists():
            self.die.touch()
            os.kill(os.getpid(), 9)
        frame = int(re.search(r"in frame (\d+)", request.text)[1])  # type: ignore[index]
        head, _, tail = request.text.partition("Boxes, as left")
        ids = [int(n) for n in re.findall(r"^(\d+): the", head, re.MULTILINE)]
        boxes = [json.loads(found) for found in re.findall(r"^\d+: (\[.*\])$", tail, re.MULTILINE)]
        tracks = list(json.loads((self.truth / f"{request.id}.json").read_text()).values())
        answers = []
        for n in ids:
            swap = {(name, one): other for name, one, other in self.planted}
            own = tracks[swap.get((request.id, n), n) - 1][1][frame]
            overlaps = [0.0 if own is None else _iou(own, box) for box in boxes]
            best = int(np.argmax(overlaps))
            sure = overlaps[best] > 0.4
            answers.append({"id": n, "number": best + 1 if sure else None, "confidence": 0.9 if sure else 0.2})
        return json.dumps({"answers": answers})


class _Judge:
    workers = 2

    def __init__(self, name: str, log: Path | None, down: Path | None, said: Any) -> None:
        self.name, self.log, self.down, self.said = name, log, down, said

    def answer(self, request: Request, complaint: str = "") -> Reply:
        if self.down is not None and self.down.exists():
            raise JudgeError("the service is down", again=False)
        raw = self.said(request)
        if self.log is not None:
            with open(self.log, "ab", buffering=0) as file:
                file.write(f"{request.key}\n".encode())
        return Reply(raw, self.name)


@dataclass(frozen=True)
class Blobs:
    """A detector of blobs of one paint, by pixels alone, with noise on its boxes (share of their sides)."""

    noise: float = 0.05
    gpu = False

    @property
    def identity(self) -> Any:
        return ["blobs", self.noise]

    def open(self, place: Place) -> Any:
        return self

    def find(self, picture: np.ndarray, kind: str) -> list[Box]:
        from scipy import ndimage

        if kind != "shape":
            raise ValueError(f"this detector knows no {kind!r}")
        rng = np.random.default_rng(int(hashlib.sha256(picture.tobytes()).hexdigest()[:8], 16))
        scores, boxes = [], []
        for paint in PALETTE.values():
            near = np.linalg.norm(picture.astype(float) - paint, axis=-1) < 60
            labels, _ = ndimage.label(near)
            for rows, columns in ndimage.find_objects(labels):
                tall, wide = rows.stop - rows.start, columns.stop - columns.start
                if tall * wide < 30:
                    continue
                jitter = rng.normal(0, self.noise, 4) * (wide, tall, wide, tall)
                boxes.append([columns.start - 0.5, rows.start - 0.5, columns.stop + 0.5, rows.stop + 0.5] + jitter)
                scores.append(float(rng.uniform(0.5, 0.95)))
        return clipped(scores, boxes, picture)


def stages_for(folder: Path, out: Path, size: int = 96, frames: int = 17, **more: Any) -> Stages:
    """Stages over `write_raw`'s folder, with nobody but the scripts of this file. more: in place of their judges."""
    return Stages(
        Clips(frames=frames, height=size, width=size),
        Triplets(more.get("reader") or Reader()),
        Candidates(more.get("detector") or Blobs()),
        Anchors(more.get("verifier") or Verifier(folder / "truth")),
        Tracks(MiniTracker()),
        Checks(frames=frames),
        Write(out),
    )


def _iou(one: Any, other: Any) -> float:
    wide, tall = min(one[2], other[2]) - max(one[0], other[0]), min(one[3], other[3]) - max(one[1], other[1])
    if wide <= 0 or tall <= 0:
        return 0.0
    areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (one, other)]
    return wide * tall / (sum(areas) - wide * tall)
