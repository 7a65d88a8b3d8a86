"""MotiBench (MotiMotion, arXiv 2605.22818): pictures of the moment before something happens, each with a drawn path and
a short prompt; what a judge says of the videos.

    FOLDER/test.jsonl       a line a picture: `filename`, and its prompt, paths and kind (see `MotiFields`)
    FOLDER/images/FILENAME
    VIDEOS/ID.mp4           the generated videos; ID is FILENAME without its ending
    VIDEOS/ID_tracks.npy    (F, P, 2) pixels: where a tracker found the points of the paths in them (ours)

The card (shinying/motibench) documents `filename`; the names of its other fields were not at hand, so they are given,
and a line that lacks one says which it has. Paths are lists of (x, y) in shares of width and height, as in the
instructions of motimotion/motimotion.

The paper reports no end-point error: a judge scores physical realism, photorealism and semantic consistency from 0 to 1
(its `eval.md`), and says of pairs which one is better (`eval-2afc.md`). Both are read here as they are answered. The
end-point error of the drawn points is ours; a drawn path is an intention, so that a low error alone is no merit.
"""

from __future__ import annotations

import json
import math
import os
import re
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ...core.tracks.tracks import MaskTracks
from ...io.files import whole_file
from ...io.strict_json import parse_json
from ..statistics import Estimate, estimate
from ..trajectories.points import Points, end_point_error
from .movebench import read_points

__all__ = [
    "QUESTIONS",
    "RATINGS",
    "MotiClip",
    "MotiFields",
    "MotiScore",
    "preferences",
    "rated",
    "read_motibench",
    "score_motibench",
    "write_motibench",
]

RATINGS = {
    "physical_realism": "Physical Realism Score",
    "photorealism": "Photorealism Score",
    "semantic_consistency": "Semantic Consistency Score",
}
"""What a judge scores, and how its answer calls that."""
QUESTIONS = ("physical_materiality", "interaction_dynamics", "overall_verdict")
_WINNERS = {"Video A": 1.0, "Video B": 0.0, "Tie": 0.5}
_MOST = 1 << 26


@dataclass(frozen=True)
class MotiFields:
    """How the lines of `test.jsonl` call what they hold. category: "" where they hold none."""

    prompt: str = "prompt"
    paths: str = "trajectories"
    category: str = "category"


@dataclass(frozen=True)
class MotiClip:
    """One picture. paths: each (N, 2), x and y in shares of width and height, from the first frame to the last."""

    id: str
    image: Path
    prompt: str
    category: str
    paths: tuple[NDArray[np.float64], ...]

    def points(self, frames: int, height: int, width: int) -> Points:
        """Where the drawn points should be in a video: (F, P, 2) pixels, evenly along each list in time. Raises
        ValueError for a video of no pixels or frames."""
        if min(frames, height, width) < 1:
            raise ValueError(f"a video has frames, a height and a width; got {frames} of {height}x{width} pixels")
        at = np.linspace(0, 1, frames)
        found = [
            np.stack([np.interp(at, np.linspace(0, 1, len(path)), path[:, axis]) for axis in (0, 1)], 1)
            for path in self.paths
        ]
        positions = np.stack(found, 1) * [width, height]
        return Points(positions, np.ones(positions.shape[:2], dtype=bool))

    def tracks(self, frames: int, height: int, width: int, side: int, fps: float = 8.0) -> MaskTracks:
        """Squares of `side` pixels around the drawn points, "path 1", "path 2", ..., to steer by. How large the thing
        on a path is the benchmark does not say. Raises ValueError for a picture without paths, and for no pixels."""
        if not self.paths or side < 1:
            raise ValueError(f"{self.id}: squares want a path and a side of 1 pixel or more; got {side}")
        found: dict[str, dict[int, tuple[float, float, float, float] | None]] = {}
        for place, path in enumerate(self.points(frames, height, width).positions.transpose(1, 0, 2), 1):
            low, high = path - side / 2, path + side / 2
            found[f"path {place}"] = {at: (*low[at].tolist(), *high[at].tolist()) for at in range(frames)}
        return MaskTracks.from_boxes(found, frames, height, width, fps=fps)


@dataclass(frozen=True)
class MotiScore:
    """epe: pixels, nan where it is not known. why: what is missing."""

    id: str
    category: str
    epe: float
    why: str = ""


def read_motibench(folder: str | os.PathLike[str], fields: MotiFields = MotiFields()) -> list[MotiClip]:
    """The pictures of the benchmark. Raises ValueError for files that are not there, lines that lack a field, and paths
    that are none in shares of width and height."""
    root = Path(folder)
    listed = root / "test.jsonl"
    clips = [_clip(root, line, f"line {number} of {listed.name}", fields) for number, line in _lines(listed)]
    if not clips:
        raise ValueError(f"{listed} lists no picture")
    ids = [clip.id for clip in clips]
    if twice := [name for name in ids if ids.count(name) > 1]:
        raise ValueError(f"{listed} lists {twice[0]!r} twice")
    return clips


def write_motibench(
    clips: Sequence[MotiClip], folder: str | os.PathLike[str], fields: MotiFields = MotiFields()
) -> Path:
    """Writes `test.jsonl` and copies the pictures; returns the list's path."""
    root = Path(folder)
    (root / "images").mkdir(parents=True, exist_ok=True)
    lines = []
    for clip in clips:
        target = root / "images" / clip.image.name
        if not (target.exists() and target.samefile(clip.image)):
            with whole_file(target) as temporary:
                shutil.copyfile(clip.image, temporary)
        paths = [[[round(float(value), 6) for value in point] for point in path] for path in clip.paths]
        line = {"filename": clip.image.name, fields.prompt: clip.prompt, fields.paths: paths}
        lines.append(line | ({fields.category: clip.category} if fields.category else {}))
    with whole_file(root / "test.jsonl") as temporary:
        temporary.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return root / "test.jsonl"


def score_motibench(
    clips: Sequence[MotiClip], videos: str | os.PathLike[str], size: tuple[int, int]
) -> list[MotiScore]:
    """End-point errors of one model's folder, a line a picture; what is missing is said and is no number.

    Args:
        videos: with ID_tracks.npy, the points of the paths in their order. size: height and width of the videos.
    """
    found = []
    for clip in clips:
        try:
            seen = read_points(Path(videos) / f"{clip.id}_tracks.npy")
            wanted = clip.points(len(seen.positions), *size)
            found.append(MotiScore(clip.id, clip.category, end_point_error(wanted, seen)[0]))
        except ValueError as error:
            found.append(MotiScore(clip.id, clip.category, math.nan, str(error)))
    return found


def rated(answers: str | os.PathLike[str], clips: Sequence[MotiClip]) -> dict[str, dict[str, Estimate]]:
    """Means of a judge's scores with intervals over pictures, by model, then by `RATINGS`.

    Args:
        answers: a file of lines {"id", "models": [...], "raw"}: the judge's text, which has a block "Video ..." with
            three scores for each model, in that order.

    Raises ValueError, naming the line, for ids that are no picture's, blocks that are missing or too many, scores that
    are none from 0 to 1, and a model that was scored twice on a picture.
    """
    found: dict[str, dict[str, dict[str, float]]] = {}
    for where, line in _answers(answers, clips, ("models",)):
        models = line["models"]
        if not isinstance(models, list) or not models or not all(isinstance(name, str) for name in models):
            raise ValueError(f"{where}: models is no list of names")
        columns = {key: _scores(where, line["raw"], title, len(models)) for key, title in RATINGS.items()}
        for place, model in enumerate(models):
            own = found.setdefault(model, {})
            if line["id"] in own:
                raise ValueError(f"{where}: {model!r} has scores of {line['id']!r} already")
            own[line["id"]] = {key: values[place] for key, values in columns.items()}
    return {
        model: {key: estimate(np.array([row[key] for row in rows.values()])) for key in RATINGS}
        for model, rows in found.items()
    }


def preferences(
    answers: str | os.PathLike[str], clips: Sequence[MotiClip]
) -> dict[tuple[str, str], dict[str, Estimate]]:
    """How often the first model of a pair is preferred, by `QUESTIONS`, with intervals over pictures; a tie is half.

    Args:
        answers: a file of lines {"id", "a": model, "b": model, "raw"}: the judge's JSON. Pairs that were shown in both
            orders are one.

    Raises ValueError, naming the line, for anything that is no such answer.
    """
    shares: dict[tuple[str, str], dict[str, dict[str, list[float]]]] = {}
    for where, line in _answers(answers, clips, ("a", "b")):
        first, second = str(line["a"]), str(line["b"])
        if first == second:
            raise ValueError(f"{where}: a and b are both {first!r}")
        pair, turned = ((second, first), True) if (second, first) in shares else ((first, second), False)
        for question, share in _verdicts(where, line["raw"]).items():
            rows = shares.setdefault(pair, {name: {} for name in QUESTIONS})[question]
            rows.setdefault(line["id"], []).append(1 - share if turned else share)
    return {
        pair: {name: estimate(np.array([np.mean(told) for told in rows.values()])) for name, rows in found.items()}
        for pair, found in shares.items()
    }


def _clip(root: Path, line: Mapping[str, Any], where: str, fields: MotiFields) -> MotiClip:
    names = [name for name in ("filename", fields.prompt, fields.paths, fields.category) if name]
    lost = [name for name in names if name not in line]
    if lost:
        raise ValueError(
            f"{where} has no {', '.join(lost)}; it has {', '.join(line)}. Say how the fields are called: prompt, "
            "paths, category"
        )
    file = str(line["filename"])
    if not file or Path(file).name != file:
        raise ValueError(f"{where}: filename is a name in images/, without folders; got {file[:80]!r}")
    image = root / "images" / file
    if not image.is_file():
        raise ValueError(f"{where}: there is no {image}")
    for name in (fields.prompt, fields.category):
        if name and not isinstance(line[name], str):
            raise ValueError(f"{where}: {name} is a text; got {json.dumps(line[name])[:80]}")
    paths = line[fields.paths]
    one = isinstance(paths, list) and paths and _is_point(paths[0])
    return MotiClip(
        image.stem,
        image,
        line[fields.prompt],
        line[fields.category] if fields.category else "",
        tuple(_path(path, where) for path in ([paths] if one else paths if isinstance(paths, list) else [None])),
    )


def _is_point(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(v) in (int, float) for v in value)


def _path(path: Any, where: str) -> NDArray[np.float64]:
    if not isinstance(path, list) or len(path) < 2 or not all(map(_is_point, path)):
        raise ValueError(f"{where}: a path is a list of two points [x, y] or more; got {json.dumps(path)[:80]}")
    made = np.array(path, dtype=np.float64)
    if made.min() < 0 or made.max() > 1:
        raise ValueError(
            f"{where}: points are shares of width and height, from 0 to 1; got {made.min():g} to {made.max():g}. "
            "Divide pixels by the picture's size"
        )
    return made


def _lines(path: Path) -> list[tuple[int, dict[str, Any]]]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}")
    if path.stat().st_size > _MOST:
        raise ValueError(f"{path.name} has {path.stat().st_size:,} bytes; {_MOST:,} are the most")
    found = []
    for number, text in enumerate(path.read_text(encoding="utf-8-sig", errors="replace").splitlines(), 1):
        if text.strip():
            try:
                line = parse_json(text)
            except ValueError as error:
                raise ValueError(f"line {number} of {path.name} is no JSON: {error!s:.120}") from None
            if not isinstance(line, dict):
                raise ValueError(f"line {number} of {path.name} is no JSON object")
            found.append((number, line))
    return found


def _answers(
    path: str | os.PathLike[str], clips: Sequence[MotiClip], keys: Sequence[str]
) -> list[tuple[str, dict[str, Any]]]:
    source, known = Path(path), {clip.id for clip in clips}
    found = [(f"line {number} of {source.name}", line) for number, line in _lines(source)]
    for where, line in found:
        if lost := [key for key in ("id", *keys, "raw") if key not in line]:
            raise ValueError(f"{where} has no {', '.join(lost)}")
        if line["id"] not in known:
            raise ValueError(f"{where}: {line['id']!r} is no picture of the benchmark")
        if not isinstance(line["raw"], str):
            raise ValueError(f"{where}: raw is the text of an answer")
    if not found:
        raise ValueError(f"{source} holds no answer")
    return found


def _scores(where: str, text: str, title: str, models: int) -> list[float]:
    found = re.findall(rf"{re.escape(title)}[*\s]*:[*\s]*\[?(-?[\d.]+)", text, re.IGNORECASE)
    if len(found) != models:
        raise ValueError(f"{where}: {models} models take {models} of {title!r}, and the answer has {len(found)}")
    try:
        values = [float(value.rstrip(".")) for value in found]
    except ValueError:
        raise ValueError(f"{where}: {title!r} is no number: {', '.join(found)}") from None
    if not all(0 <= value <= 1 for value in values):
        raise ValueError(f"{where}: {title!r} is from 0 to 1; got {', '.join(found)}")
    return values


def _verdicts(where: str, text: str) -> dict[str, float]:
    """By question, 1 for A, 0 for B, a half for a tie."""
    start, end = text.find("{"), text.rfind("}")
    try:
        answer = parse_json(text[start : end + 1])
        places = {"overall_verdict": answer["overall_verdict"]} | {q: answer["analysis"][q] for q in QUESTIONS[:2]}
        return {question: _WINNERS[places[question]["winner"]] for question in QUESTIONS}
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{where} is no verdict about {', '.join(QUESTIONS)} with a winner of {', '.join(_WINNERS)}: {error!s:.120}"
        ) from None
