"""One model's videos against a suite, from files to scores. Each step keeps what it made and can be run again.

SUITE/suite.json, questions/ID.json
VIDEOS/ID.mp4 or ID/SEED.mp4                        generated videos
VIDEOS/ID[.SEED].tracks.safetensors                 tracks of each, made by a tracker or given
VIDEOS/intergen/frames/..., answers.jsonl, scores.jsonl, summary.json, report.html
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...core.tracks.tracks import MaskTracks
from ...io.tracks import load_tracks
from ..judges.judge import Picture, Request
from ..judges.store import Answers
from .answers import AnswerError, read_emergence, read_verification
from .frames import write_frames
from .presence import Detection, disappearance, emergence_of
from .questions import Sheet, from_template, read_sheet, write_sheet
from .requests import emergence_requests, verify_requests
from .scores import Presence, VideoScores, majority, score_video
from .suite import Sample, Suite

__all__ = [
    "EMERGENCE",
    "Options",
    "Video",
    "check",
    "find_videos",
    "prepare",
    "requests_about",
    "requests_of",
    "score",
    "score_clip",
    "sheet_of",
    "tracks_of",
]

Emergence = Literal["judge", "detector", "off"]
EMERGENCE: tuple[Emergence, ...] = ("judge", "detector", "off")
OUT, QUESTIONS = "intergen", "questions"


@dataclass(frozen=True)
class Options:
    """How videos are judged.

    Args:
        repeats: odd; the majority of as many judgements counts.
        emergence: who says what is new: the judge, a detector's boxes (VIDEOS/ID[.SEED].boxes.json), or nobody, who
            then leaves SPI to disappearance alone.
        shrunk, grace: see `presence.disappearance`. longest, boxes: see `frames.write_frames`.
        show_prompt: the judge reads the video's prompt. shuffle: mixes the questions.
    """

    repeats: int = 1
    emergence: Emergence = "judge"
    shrunk: float = 0.0
    grace: int = 0
    longest: int = 768
    boxes: bool = True
    show_prompt: bool = False
    shuffle: int | None = None

    def __post_init__(self) -> None:
        if self.repeats < 1 or self.repeats % 2 == 0:
            raise ValueError(f"repeats are odd, so that a majority decides; got {self.repeats}")
        if self.emergence not in EMERGENCE:
            raise ValueError(f"emergence is found by {', '.join(EMERGENCE)}; got {self.emergence!r}")


@dataclass(frozen=True)
class Video:
    """A generated video of a sample. seed: "" where there is one only."""

    sample: Sample
    seed: str
    path: Path
    folder: Path

    @property
    def name(self) -> str:
        return f"{self.sample.id}.{self.seed}" if self.seed else self.sample.id

    def beside(self, ending: str) -> Path:
        """A file that belongs to it."""
        return self.folder / f"{self.name}{ending}"


def prepare(suite: Suite, template: bool | None = None) -> dict[str, Sheet]:
    """The questions of each sample, from their files.

    Args:
        template: whether samples without questions get those of the template; None: unless a model was asked for
            them, since a suite that is half a model's and half the template's is nobody's wish.

    Raises ValueError for questions that were made for another suite: changed samples need new ones.
    """
    sheets = {}
    template = not (suite.folder / QUESTIONS / "requests.jsonl").is_file() if template is None else template
    for sample in suite.samples:
        path = suite.folder / QUESTIONS / f"{sample.id}.json"
        if not path.is_file():
            if not template:
                continue
            write_sheet(from_template(sample, suite.hash), path)
        sheet = read_sheet(path, sample)
        if sheet.suite_hash != suite.hash:
            raise ValueError(
                f"{path} was made for another state of the suite ({sheet.suite_hash}, now {suite.hash}): remove it to "
                "make it anew, and judge all models again"
            )
        sheets[sample.id] = sheet
    return sheets


def find_videos(suite: Suite, folder: Path) -> tuple[list[Video], list[str]]:
    """(the videos of the suite's samples, the samples without one)."""
    found, missing = [], []
    for sample in suite.samples:
        one, several = folder / f"{sample.id}.mp4", folder / sample.id
        seeds = (
            sorted(path for path in several.glob("*.mp4") if not path.name.startswith(".")) if several.is_dir() else []
        )
        if one.is_file() and seeds:
            raise ValueError(f"{one} and {several}/: a sample has one video, or a folder of seeds, not both")
        if one.is_file():
            found.append(Video(sample, "", one, folder))
        found += [Video(sample, path.stem, path, folder) for path in seeds]
        if not one.is_file() and not seeds:
            missing.append(sample.id)
    return found, missing


def tracks_of(video: Video) -> MaskTracks:
    """The tracks of a video. Raises ValueError where there are none, and where an instance of the sample has none."""
    path = video.beside(".tracks.safetensors")
    if not path.is_file():
        raise ValueError(f"{path} is missing: make it with `python -m training.judge track`, or save tracks there")
    tracks = load_tracks(path)
    if absent := [name for name in video.sample.names if name not in tracks.names]:
        raise ValueError(f"{path} has no track of {', '.join(map(repr, absent))}; it has {', '.join(tracks.names)}")
    return tracks


def requests_of(video: Video, sheet: Sheet, suite: Suite, options: Options) -> list[Request]:
    """Everything that a judge is asked about one video; its frames are written."""
    sample, tracks = video.sample, tracks_of(video)
    folder = video.folder / OUT / "frames" / video.name
    pictures = write_frames(video.path, tracks, sample, suite.stride, folder, options.longest, options.boxes)
    return requests_about(sample, video.seed, pictures, sheet, options)


def requests_about(
    sample: Sample, seed: str, pictures: Sequence[Picture], sheet: Sheet, options: Options
) -> list[Request]:
    """Everything that a judge is asked about one video, of which these are the sampled frames."""
    found = verify_requests(sample, sheet, seed, pictures, options.repeats, options.show_prompt, options.shuffle)
    if options.emergence == "judge":
        found += emergence_requests(sample, seed, pictures, options.repeats)
    return found


def check(request: Request, raw: str) -> None:
    """Raises AnswerError where an answer to a request cannot be read."""
    shown = [picture.index for picture in request.pictures]
    if request.kind == "verify":
        read_verification(raw, shown)
    else:
        read_emergence(raw, shown)


def sheet_of(video: Video, sheets: Mapping[str, Sheet]) -> Sheet:
    """The questions about a video. Raises ValueError where they were left open."""
    if (found := sheets.get(video.sample.id)) is None:
        raise ValueError(
            f"sample {video.sample.id!r} has no questions: the model's could not be read. Run `prepare --questions "
            "model` again, write them by hand, or take the template's (`prepare --questions template`)"
        )
    return found


def score(video: Video, requests: Sequence[Request], answers: Answers, options: Options) -> VideoScores:
    """Scores of one video from what has been answered; what is not, or cannot be read, is missing by name."""
    return score_clip(
        video.sample, video.seed, tracks_of(video), requests, answers, options, video.beside(".boxes.json")
    )


def score_clip(
    sample: Sample,
    seed: str,
    tracks: MaskTracks,
    requests: Sequence[Request],
    answers: Answers,
    options: Options,
    boxes: Path | None = None,
) -> VideoScores:
    """`score` of a clip whose tracks are at hand. boxes: a detector's, where it says what is new."""
    why: list[str] = []
    told: list[Any] = []
    agreements = []
    places = dict.fromkeys(request.interaction for request in requests if request.kind == "verify")
    for place in places:
        some = [request for request in requests if request.kind == "verify" and request.interaction == place]
        read = [_read(request, answers, why) for request in some]
        if all(each is not None for each in read):
            chosen, agreement = majority(read)
            told.append(chosen)
            agreements.append(agreement)
        else:
            told.append(None)
    presence = _presence(sample, tracks, requests, answers, options, why, boxes)
    agreement = sum(agreements) / len(agreements) if agreements else float("nan")
    return score_video(sample.id, seed, told, presence, agreement, why)


def _read(request: Request, answers: Answers, why: list[str]) -> Any:
    stored = answers.found.get(request.key)
    if stored is None:
        why.append(f"{request.where}: {answers.failed.get(request.key, 'not answered yet')[:200]}")
        return None
    shown = [picture.index for picture in request.pictures]
    try:
        return read_verification(stored.raw, shown) if request.kind == "verify" else read_emergence(stored.raw, shown)
    except AnswerError as error:
        why.append(f"{request.where}: the answer cannot be read: {error}")
        return None


def _presence(
    sample: Sample,
    tracks: MaskTracks,
    requests: Sequence[Request],
    answers: Answers,
    options: Options,
    why: list[str],
    boxes: Path | None,
) -> Presence | None:
    shown = next(tuple(picture.index for picture in request.pictures) for request in requests)
    try:
        lost = disappearance(tracks, sample.names, shown, shrunk=options.shrunk, grace=options.grace)
    except ValueError as error:
        why.append(f"{sample.id}: {error}")
        return None
    new: tuple[int, ...] | None = ()
    if options.emergence == "judge":
        some = [_read(request, answers, why) for request in requests if request.kind == "emergence"]
        new = None if any(each is None for each in some) else _majority_frames([each.frames for each in some])
    elif options.emergence == "detector":
        try:
            if boxes is None:
                raise ValueError("there are no boxes of a detector")
            kinds = {each.name: each.kind for each in sample.instances}
            new = emergence_of(read_detections(boxes), tracks, kinds, shown)
        except ValueError as error:
            why.append(f"{sample.id}: {error}")
            new = None
    return Presence(len(shown), lost.frames, new, lost.who, shown, options.emergence == "judge")


def read_detections(path: Path) -> Mapping[int, Sequence[Detection]]:
    """A detector's boxes, {frame: [{"class", "score", "box": [x0, y0, x1, y1]}]} as JSON. Raises ValueError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content, dict):
            raise ValueError("it is no object")
        return {int(frame): [_detection(each, frame) for each in boxes] for frame, boxes in content.items()}
    except KeyError as error:
        said = f"{error} is missing"
    except (TypeError, AttributeError):
        said = "a frame has a list of objects"
    except (OSError, ValueError, RecursionError) as error:
        said = str(error)[:200]
    form = '{"0": [{"class", "score", "box": [x0, y0, x1, y1]}], ...}'
    raise ValueError(f"{path.name} cannot be read as boxes, {form}: {said}") from None


def _detection(given: Mapping[str, Any], frame: str) -> Detection:
    kind, score, box = given["class"], given["score"], given["box"]
    numbers = [score, *box] if isinstance(box, list) else []
    if len(numbers) != 5 or not all(isinstance(each, int | float) and abs(each) < 1e9 for each in numbers):
        raise ValueError(f"frame {frame}: a box is four numbers, and its score one; got {box!s:.60} and {score!s:.20}")
    return Detection(str(kind), float(score), (float(box[0]), float(box[1]), float(box[2]), float(box[3])))


def _majority_frames(said: Sequence[Iterable[int]]) -> tuple[int, ...]:
    every = [set(frames) for frames in said]
    return tuple(sorted(k for k in set().union(*every) if sum(k in frames for frames in every) * 2 > len(every)))
