"""Judging with one thing broken: what is broken how, by a seed, and the words that the message has to have."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from support_judging import SUITE, answers, write_suite

__all__ = ["FAULTS", "Case", "break_it", "whole"]

JUNK: tuple[Any, ...] = (
    None,
    True,
    7,
    -1.5,
    10**40,
    "",
    "  ",
    [],
    {},
    [[]],
    {"a": 1},
    "\ud83d",
    "x" * 5000,
    [None] * 3,
)
"""Values of a wrong kind for a text that says something."""
FRAMES = 5


@dataclass(frozen=True)
class Case:
    """command: of `training.judge`, or "masks" for the first frame's masks. words: one of these stands in the message.
    codes: how the command may end."""

    command: tuple[str, ...]
    words: tuple[str, ...]
    codes: tuple[int, ...] = (1,)


def whole(folder: Path) -> None:
    """A suite of one sample with masks and questions, a model's video with tracks, and answers: all of it in order."""
    from matrix_lib.core.tracks.tracks import MaskTracks
    from matrix_lib.evaluation.intergen.authors_folders import export_suite
    from matrix_lib.evaluation.intergen.run import Options, find_videos, prepare, requests_of
    from matrix_lib.evaluation.intergen.suite import read_suite
    from matrix_lib.io.tracks import save_tracks
    from matrix_lib.io.video import write_video

    suite = read_suite(write_suite(folder / "suite", {**SUITE, "stride": 2, "samples": SUITE["samples"][:1]}))
    sheets, (sample,) = prepare(suite), suite.samples
    noise = np.random.default_rng(0).integers(0, 255, (FRAMES, 6, 8, 3), dtype=np.uint8).repeat(8, 1).repeat(8, 2)
    write_video(folder / "model" / "000.mp4", noise)
    boxes = {name: {0: (4 + 20 * k, 4, 20 + 20 * k, 40)} for k, name in enumerate(sample.names)}
    tracks = MaskTracks.from_boxes(boxes, FRAMES, 48, 64, hold=True)
    save_tracks(tracks, folder / "model" / "000.tracks.safetensors")
    masks = folder / "suite" / "masks" / "000"
    masks.mkdir(parents=True)
    for name in sample.names:
        Image.fromarray(tracks.mask(name, 0).numpy().astype(np.uint8) * 255).save(masks / f"{name}.png")
    (video,), _ = find_videos(suite, folder / "model")
    requests = requests_of(video, sheets["000"], suite, Options())
    new = {"emergence": "no", "emergence_frames": [], "emergence_reason": ""}
    said = (answers(frame=2), new)
    lines = [
        json.dumps({"key": request.key, "judge": "me", "model": "1", "raw": json.dumps(raw)})
        for request, raw in zip(requests, said, strict=True)
    ]
    (folder / "said.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    boxes_json = {str(k): [{"class": "person", "score": 0.9, "box": [4, 4, 20, 40]}] for k in (0, 2, 4)}
    (folder / "model" / "000.boxes.json").write_text(json.dumps(boxes_json), encoding="utf-8")
    export_suite(suite, folder / "released")
    (folder / "hand.csv").write_text("clip,seed,success\n000,,yes\n", encoding="utf-8")


def break_it(kind: str, folder: Path, rng: random.Random) -> Case:
    """Breaks what `whole` made in one way of this kind."""
    return FAULTS[kind](folder, rng)


# ---- files as bytes: cut off, noise, nothing, another file's content, a folder


def _bytes(path: Path, rng: random.Random, cut: bool = True) -> None:
    content = path.read_bytes()
    ways: list[Callable[[], Any]] = [
        lambda: path.write_bytes(b""),
        lambda: path.write_bytes(rng.randbytes(rng.randint(1, 400))),
        lambda: path.write_bytes(b"\x00" * rng.randint(1, 64)),
        lambda: path.write_text("<html><script>alert(1)</script>" * rng.randint(1, 3)),
        lambda: (path.unlink(), path.mkdir()),
        lambda: path.unlink(),
    ]
    if cut:
        ways.append(lambda: path.write_bytes(content[: rng.randint(1, max(1, len(content) // 2))]))
    rng.choice(ways)()


# ---- JSON: one value of another kind


def _spoilt(content: Any, path: tuple[Any, ...], value: Any) -> Any:
    if not path:
        return value
    copy = content.copy()
    if value is _GONE and len(path) == 1:
        del copy[path[0]]
        return copy
    copy[path[0]] = _spoilt(content[path[0]], path[1:], value)
    return copy


_GONE = object()


def _json(path: Path, where: tuple[Any, ...], value: Any) -> None:
    content = _spoilt(json.loads(path.read_text(encoding="utf-8")), where, value)
    path.write_text(json.dumps(content), encoding="utf-8")


def _junk(rng: random.Random, but: tuple[type, ...] = ()) -> Any:
    return rng.choice(
        [each for each in JUNK if not isinstance(each, but) or (isinstance(each, bool) and bool not in but)]
    )


def _suite_bytes(folder: Path, rng: random.Random) -> Case:
    _bytes(folder / "suite" / "suite.json", rng)
    return Case(("prepare", "suite"), ("suite.json",))


def _suite_value(folder: Path, rng: random.Random) -> Case:
    one = ("samples", 0)
    where, value = rng.choice(
        [
            (("format",), _junk(rng)),
            (("version",), _junk(rng)),
            (("stride",), _junk(rng, (int,))),
            (("stride",), rng.choice([0, -3, 10**6, 2.5, True])),
            (("samples",), rng.choice([None, 7, "x", [], {}, [3], ["x"], [None], [[]]])),
            ((*one, "id"), rng.choice([None, 7, "", "a/b", "..", ".x", "a\0b", "c:d", "e*", ["x"], _GONE])),
            ((*one, "prompt"), rng.choice([None, 7, "", "   ", [], _GONE])),
            ((*one, "type"), _junk(rng, (str,))),
            ((*one, "direction"), _junk(rng)),
            ((*one, "instances"), rng.choice([None, 7, "x", [], [3], [None], {}, _GONE])),
            ((*one, "instances", 0, "name"), rng.choice([None, 7, "", " ", "{man}", "fridge", [], _GONE])),
            ((*one, "instances", 0, "class"), _junk(rng, (str,))),
            ((*one, "instances", 0, "appearance"), _junk(rng, (str,))),
            ((*one, "instances", 0, "role"), _junk(rng)),
            ((*one, "interactions"), rng.choice([None, 7, "x", [3], [None], {}])),
            ((*one, "interactions", 0, "name"), rng.choice([None, 7, [], {}, _GONE])),
            ((*one, "interactions", 0, "subject"), rng.choice([None, 7, "", "nobody", "fridge", [], _GONE])),
            ((*one, "interactions", 0, "object"), rng.choice([7, "nobody", "man", [], {}])),
            ((*one, "interactions", 0, "phrase"), _junk(rng, (str,))),
        ]
    )
    _json(folder / "suite" / "suite.json", where, value)
    return Case(("prepare", "suite"), ("suite.json",))


def _suite_many(folder: Path, rng: random.Random) -> Case:
    path = folder / "suite" / "suite.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    sample = content["samples"][0]
    if rng.random() < 0.5:
        content["samples"] = [sample, {**sample, "id": rng.choice(["000", "000"])}]
    else:
        many = [{"name": f"n{k}", "class": "person"} for k in range(rng.randint(9, 40))]
        content["samples"] = [{**sample, "instances": many, "interactions": []}]
    path.write_text(json.dumps(content), encoding="utf-8")
    return Case(("prepare", "suite"), ("suite.json",))


def _questions_bytes(folder: Path, rng: random.Random) -> Case:
    path = folder / "suite" / "questions" / "000.json"
    _bytes(path, rng)
    if not path.exists():  # is made anew: not a fault
        path.write_bytes(b"{")
    return Case(("ask", "suite", "model"), ("000.json",))


def _questions_value(folder: Path, rng: random.Random) -> Case:
    asked = ("interactions", 0)
    where, value = rng.choice(
        [
            (("id",), _junk(rng)),
            (("suite_hash",), rng.choice(["x", "0" * 24, 7, None])),
            (("generator",), rng.choice([None, 7, [], {}])),
            (("interactions",), rng.choice([None, 7, "x", [], [3], {}])),
            ((*asked, "subject"), rng.choice(["nobody", "", 7, None])),
            ((*asked, "object"), rng.choice(["nobody", "man", 7, None])),
            ((*asked, "questions"), rng.choice([None, 7, [], [3], "x", {}])),
            ((*asked, "questions", rng.randrange(10), "text"), rng.choice(["", "?", "Is it so?", "x" * 300, 7, None])),
            ((*asked, "questions", rng.randrange(10), "q"), rng.choice([0, 11, "1", None, 2.5])),
        ]
    )
    _json(folder / "suite" / "questions" / "000.json", where, value)
    return Case(("ask", "suite", "model"), ("000.json", "sample '000'"))


def _video(folder: Path, rng: random.Random) -> Case:
    from matrix_lib.io.video import write_video

    path = folder / "model" / "000.mp4"
    if rng.random() < 0.6:
        _bytes(path, rng)
    else:
        frames = rng.choice([1, FRAMES - 1, FRAMES + rng.randint(1, 9)])
        write_video(path, np.full((frames, 48, 64, 3), rng.randint(0, 255), np.uint8))
    return Case(("ask", "suite", "model"), ("000",))


def _tracks_bytes(folder: Path, rng: random.Random) -> Case:
    _bytes(folder / "model" / "000.tracks.safetensors", rng)
    return Case(("ask", "suite", "model"), ("000.tracks.safetensors",))


def _tracks_content(folder: Path, rng: random.Random) -> Case:
    from matrix_lib.core.tracks.tracks import MaskTracks
    from matrix_lib.io.tracks import load_tracks, save_tracks

    path = folder / "model" / "000.tracks.safetensors"
    tracks = load_tracks(path)
    way = rng.randrange(3)
    if way == 0:
        tracks = tracks.rename({rng.choice(tracks.names): rng.choice(["nobody", "someone", "thing 7"])})
    elif way == 1:
        tracks = tracks.select([rng.choice(tracks.names)])
    else:
        tracks = MaskTracks.take(tracks, [0] * rng.choice([1, 2, FRAMES - 1, FRAMES + 3]))
    save_tracks(tracks, path)
    return Case(("ask", "suite", "model"), ("000",))


def _masks(folder: Path, rng: random.Random) -> Case:
    path = folder / "suite" / "masks" / "000" / f"{rng.choice(['man', 'fridge'])}.png"
    way = rng.randrange(3)
    if way == 0:
        _bytes(path, rng)
    elif way == 1:
        Image.fromarray(np.zeros((48, 64), np.uint8)).save(path)
    else:
        Image.fromarray(np.full((rng.randint(1, 40), 64), 255, np.uint8)).save(path)
    return Case(("masks",), ("000", path.stem))


def _answer(folder: Path, rng: random.Random) -> Case:
    """One answer that cannot be read: missing, and told why."""
    path = folder / "said.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    at = rng.randrange(2)
    lines[at]["raw"] = _unreadable(json.loads(lines[at]["raw"]), rng)
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return Case(("answered",), ("000, verify 1", "000, emergence"), (2,))


def _unreadable(said: Any, rng: random.Random) -> Any:
    text = json.dumps(said)
    ways: list[Any] = ["", " ", "I cannot judge people.", text[: rng.randint(1, len(text) - 2)], f"{text} {text}"]
    ways += [
        f"```json\n{text}\n```\n```json\n{text}\n```",
        "[" * 3000,
        "null",
        "7",
        '"yes"',
        "{}",
        "[]",
        "x" * 1_100_000,
    ]
    ways += [_spoilt(lines, (), value) for lines, value in ((None, 7), (None, None), (None, ["x"]))]  # no text at all
    if isinstance(said, list):
        q = rng.randrange(10)
        ways += [json.dumps(_spoilt(said, (q, "answer"), value)) for value in ("maybe", None, 1, [], "yes and no")]
        ways += [json.dumps(_spoilt(said, (q, "frame_index"), value)) for value in (1, 99, -1, "2", None, 2.5, [])]
        ways += [json.dumps(_spoilt(said, (q, "question_id"), value)) for value in (0, 11, None, "one", 1.5, True)]
        ways += [json.dumps(said[:q] + said[q + 1 :]), json.dumps([*said, said[q]]), json.dumps([*said, 7])]
    else:
        for change in (
            {"emergence": "yes"},
            {"emergence": "maybe"},
            {"emergence": None},
            {"emergence_frames": [2]},
            {"emergence": "yes", "emergence_frames": [1]},
            {"emergence": "yes", "emergence_frames": [0]},
            {"emergence": "yes", "emergence_frames": "2"},
            {"emergence": "yes", "emergence_frames": [2.5]},
        ):
            ways.append(json.dumps({**said, **change}))
    return rng.choice(ways)


def _answer_lines(folder: Path, rng: random.Random) -> Case:
    """Lines that are no answers: passed over, and what they would have answered is missing."""
    path = folder / "said.jsonl"
    lines = path.read_text(encoding="utf-8").splitlines()
    at = rng.randrange(len(lines))
    line = json.loads(lines[at])
    lines[at] = rng.choice(
        [
            "",
            "{",
            "null",
            "[]",
            "7",
            lines[at][: rng.randint(1, len(lines[at]) - 2)],
            json.dumps({**line, "key": "0" * 64}),
            json.dumps({key: value for key, value in line.items() if key != "judge"}),
            json.dumps({**line, "error": "it failed"}),
            rng.randbytes(40).decode("latin-1").replace("\n", " "),
            "[" * 5000,
        ]
    )
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return Case(("answered",), ("000, verify 1", "000, emergence"), (2,))


def _boxes(folder: Path, rng: random.Random) -> Case:
    path = folder / "model" / "000.boxes.json"
    if rng.random() < 0.4:
        _bytes(path, rng)
    else:
        where, value = rng.choice(
            [
                (("2",), rng.choice([None, 7, "x", [3], [None], {"a": 1}])),
                (("2",), _GONE),
                (("0", 0, "class"), _GONE),
                (("0", 0, "score"), rng.choice([None, "high", [], _GONE])),
                (("0", 0, "box"), rng.choice([None, 7, "box", [1, 2], ["a", "b", "c", "d"], _GONE])),
            ]
        )
        _json(path, where, value)
    return Case(("detected",), ("000",), (2,))


def _released(folder: Path, rng: random.Random) -> Case:
    home = folder / "released" / "EVAL_DATA" / "manipulation"
    meta, questions = home / "meta.json", home / "questions" / "000.json"
    way = rng.randrange(4)
    if way == 0:
        _bytes(meta, rng)
        return Case(("prepare", "taken", "--authors", "released"), ("meta.json",))
    if way == 1:
        where, value = rng.choice(
            [
                ((0,), rng.choice([None, 7, "x"])),
                ((0, "objects"), rng.choice([None, 7, [], [3], {}, _GONE])),
                ((0, "video_text_prompt"), rng.choice(["", "  "])),
                ((0, "interaction_direction"), rng.choice(["sideways", 7, ["x"]])),
                ((0, "id"), rng.choice(["a/b", ".x", "c:d"])),
                ((0, "interactions"), rng.choice([7, "x", [3]])),
                ((0, "objects", 0, "role"), rng.choice(["king", 7])),
                ((0, "objects", 0, "name"), rng.choice(["fridge", "{x}"])),
            ]
        )
        _json(meta, where, value)
        return Case(("prepare", "taken", "--authors", "released"), ("meta.json",))
    if way == 2:
        _bytes(questions, rng)
        if not questions.exists():
            questions.write_bytes(b"{")
    else:
        where, value = rng.choice(
            [
                (("items",), rng.choice([None, 7, [], [3], "x", {}, _GONE])),
                (("items", 0, "questions"), rng.choice([None, 7, [], ["x"] * 10, ["Is it so?"] * 9, _GONE])),
                (
                    ("items", 0, "questions", rng.randrange(10)),
                    rng.choice(["", "Who?", "Is a dog (blue bbox) there?", 7]),
                ),
                (("items", 0, "key_interaction"), _GONE),
            ]
        )
        _json(questions, where, value)
    return Case(("prepare", "taken", "--authors", "released"), ("000.json",))


def _labels(folder: Path, rng: random.Random) -> Case:
    path = folder / "hand.csv"
    path.write_text(
        rng.choice(
            [
                "",
                "a,b\n1,2\n",
                "clip\n000\n",
                "success\nyes\n",
                "clip,success\n000,maybe\n",
                "clip,success\n000,nan\n",
                "clip,success\n000\n",
                "clip,seed,success\n000,one,yes\n",
            ]
        ),
        encoding="utf-8",
    )
    if rng.random() < 0.1:
        path.unlink()
    return Case(("score", "suite", "model", "--hand-labels", "hand.csv"), ("hand.csv",))


def _settings(folder: Path, rng: random.Random) -> Case:
    """Numbers that make no sense."""
    more, words = rng.choice(
        [
            (["--repeats", str(rng.choice([0, 2, 4, -1]))], "repeats"),
            (["--least-spi", str(rng.choice([-1, 2, 1e9]))], "from 0 to 1"),
            (["--least-kisa", "nan"], "from 0 to 1"),
            (["--hand-labels", "nowhere.csv"], "nowhere.csv"),
        ]
    )
    return Case(("score", "suite", "model", *more), (words,))


FAULTS: dict[str, Callable[[Path, random.Random], Case]] = {
    "suite bytes": _suite_bytes,
    "suite value": _suite_value,
    "suite many": _suite_many,
    "questions bytes": _questions_bytes,
    "questions value": _questions_value,
    "video": _video,
    "tracks bytes": _tracks_bytes,
    "tracks content": _tracks_content,
    "masks": _masks,
    "answer": _answer,
    "answer lines": _answer_lines,
    "boxes": _boxes,
    "released": _released,
    "labels": _labels,
    "settings": _settings,
}
