"""One clip that is in memory, judged into a folder: what a graph does, and anybody with frames and tracks at hand.

FOLDER/requests.jsonl, answers.jsonl    as in a folder of videos: what was answered is not asked again
FOLDER/frames/CLIP/00000.png ...        the frames that were shown; CLIP is made of the clip's content
FOLDER/scores.jsonl, report.md          every clip that was judged into this folder, and their means
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.tracks.tracks import MaskTracks
from ...io.files import whole_file
from ..judges.files import FileJudge, write_requests
from ..judges.judge import Judge, JudgeError, Picture, Request
from ..judges.store import Answers, ask
from .frames import write_pictures
from .presence import sampled
from .questions import from_template
from .report import as_line, table
from .run import Options, check, requests_about, score_clip
from .scores import MEASURES, RunScores, VideoScores, summarise
from .suite import Sample

__all__ = ["Judgement", "clip_requests", "judge_clip"]

Read = Callable[[int], NDArray[np.uint8]]
_USUAL = Options()
_LONGEST = 256 << 20


@dataclass(frozen=True)
class Judgement:
    """Of one clip. all: the means over every clip of the folder, each sample's clips averaged first. stopped: why the
    judge could not go on, "" where it could."""

    scores: VideoScores
    pictures: tuple[Picture, ...]
    asked: int
    open: int
    all: RunScores
    stopped: str = ""

    def table(self) -> str:
        """For people: this clip, what is missing, and the folder."""
        lines = [f"{'measure':18} {'value':>9}"]
        for name, value in self.scores.values.items():
            lines.append(f"{name:18} {'not known' if math.isnan(value) else f'{value:.4f}':>9}")
        lines.append(f"answered: {self.asked - self.open} of {self.asked}")
        for place, answers in enumerate(self.scores.answers, 1):
            if answers is not None:
                words = (f"{q} {'yes' if each.yes else 'no'}" for q, each in sorted(answers.items()))
                lines.append(f"interaction {place}: {', '.join(words)}")
        if (presence := self.scores.presence) is not None:
            lines += [f"gone: {name} in frame {k}" for name, k in presence.who]
            lines += [f"new: something in frame {k}" for k in presence.emergence or ()]
        lines += [f"! {self.stopped}"] if self.stopped else []
        lines += [f"! {why}" for why in self.scores.missing]
        return "\n".join([*lines, "", "All clips of this folder:", table({"folder": self.all})])


def clip_requests(
    read: Read, tracks: MaskTracks, sample: Sample, folder: Path, options: Options, stride: int = 5
) -> tuple[tuple[Picture, ...], list[Request]]:
    """The frames that a judge sees, written into `folder`, and what it is asked about them. See `judge_clip`."""
    if absent := [name for name in sample.names if name not in tracks.names]:
        raise ValueError(
            f"the tracks have nobody called {', '.join(map(repr, absent))}; they have {', '.join(tracks.names)}. Names "
            "of the entry and of the tracks are the same"
        )
    shown = sampled(tracks.frames, stride)
    frames = {index: read(index) for index in shown}
    content = hashlib.sha256(f"{tracks.digest} {shown} {options.longest} {options.boxes} {sample.names}".encode())
    for frame in frames.values():
        content.update(np.ascontiguousarray(frame).data)
    place = folder / "frames" / content.hexdigest()[:16]
    pictures = write_pictures(frames, tracks, sample, place, options.longest, options.boxes)
    return pictures, requests_about(sample, place.name, pictures, from_template(sample, ""), options)


def judge_clip(
    read: Read,
    tracks: MaskTracks,
    sample: Sample,
    judge: Judge | None,
    folder: Path,
    options: Options = _USUAL,
    stride: int = 5,
    progress: Callable[[int, int], None] = lambda done, of: None,
    beat: Callable[[], None] = lambda: None,
) -> Judgement:
    """Judges a clip, and adds it to what `folder` holds.

    Args:
        read: gives a frame (H, W, 3) uint8. tracks: of the clip, with everybody of the sample.
        judge: None asks nobody: what `folder` does not know is missing.
        progress, beat: see `ask`.

    Raises ValueError where sample and tracks do not fit, where answers of another judge lie in the folder, and where
    another run works on it.
    """
    FileLock, Timeout = _locks()
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "answers.lock", timeout=0):
            pictures, requests = clip_requests(read, tracks, sample, folder, options, stride)
            _add_requests(requests, folder / "requests.jsonl")
            answers = Answers(folder / "answers.jsonl")
            stopped = "" if judge is None else _asked(requests, judge, answers, folder, progress, beat)
            answers.recheck(requests, check)
            clip = pictures[0].path.parent.name
            scores = score_clip(sample, clip, tracks, requests, answers, options)
            whole = _add_scores(folder, scores)
    except Timeout:
        raise ValueError(f"another run is judging into {folder}: wait for it, or choose another folder") from None
    left = sum(request.key not in answers.found for request in requests)
    return Judgement(scores, pictures, len(requests), left, whole, stopped)


def _locks() -> tuple[Any, Any]:
    """(`FileLock`, `Timeout`). Raises ValueError with the install line where the package is absent."""
    try:
        from filelock import FileLock, Timeout
    except ImportError:
        raise ValueError("judging needs the filelock package:  pip install filelock") from None
    return FileLock, Timeout


def _asked(
    requests: Sequence[Request],
    judge: Judge,
    answers: Answers,
    folder: Path,
    progress: Callable[[int, int], None],
    beat: Callable[[], None],
) -> str:
    """Why the judge could not go on, or ""."""
    others = answers.judges(request.key for request in requests) - {judge.name}
    if others and not isinstance(judge, FileJudge):  # whoever wrote a file has the names of those who answered
        raise ValueError(
            f"{folder} holds answers of {', '.join(sorted(others))}, and {judge.name} is asked: choose another folder"
        )
    try:
        ask(requests, judge, answers, check, progress=progress, beat=beat)
    except JudgeError as error:
        return f"the judge cannot go on: {error}"
    return ""


def _add_requests(requests: Sequence[Request], path: Path) -> None:
    """Those of other clips stay."""
    mine = {request.key for request in requests}
    others = [line for line in _lines(path) if line.get("key") not in mine]
    write_requests(requests, path)
    if others:
        text = path.read_text(encoding="utf-8") + "".join(
            json.dumps(each, ensure_ascii=False) + "\n" for each in others
        )
        with whole_file(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def _add_scores(folder: Path, scores: VideoScores) -> RunScores:
    path = folder / "scores.jsonl"
    mine = as_line(scores)
    lines = [line for line in _lines(path) if (line.get("id"), line.get("seed")) != (scores.id, scores.seed)]
    lines.append(mine)
    every = [found for line in lines if (found := _read_back(line)) is not None]
    whole = summarise(every)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    for name, content in (("scores.jsonl", text), ("report.md", table({folder.name: whole}))):
        with whole_file(folder / name) as temporary:
            temporary.write_text(content, encoding="utf-8")
    return whole


def _read_back(line: dict[str, Any]) -> VideoScores | None:
    """A line of `scores.jsonl` as far as means need it; None for one of another form."""
    try:
        values = {name: math.nan if (v := line["values"][name]) is None else float(v) for name in MEASURES}
        return VideoScores(str(line["id"]), str(line["seed"]), values, tuple(map(str, line["missing"])), (), None)
    except (KeyError, TypeError, ValueError):
        return None


def _lines(path: Path) -> list[dict[str, Any]]:
    """The objects of a JSON-lines file; what is no object is passed over."""
    if not path.is_file() or path.stat().st_size > _LONGEST:
        return []
    found = []
    with open(path, encoding="utf-8", errors="replace") as file:
        for line in file:
            with suppress(ValueError, RecursionError):
                if isinstance(content := json.loads(line), dict):
                    found.append(content)
    return found
