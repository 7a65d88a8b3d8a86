"""Peekaboo's files and table: the numbers of the released code, and files that are not what they should be."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from matrix_lib.evaluation.benchmarks.peekaboo import from_tracks, read_boxes, score_boxes, write_boxes
from matrix_lib.io.tracks import load_tracks
from training.score_benchmark import main

# What the release's get_metrics.py (commit 0aa5a86) prints for `cases()`, as shares
RELEASED = {
    "miou": 0.28292898026388225,
    "coverage": 0.6666666666666666,
    "centre_distance": 0.25333237986649676,
    "ap50": 0.29508196721311475,
    "miou_all": 0.20627687577245454,
    "ap50_all": 0.35914502164502166,
}


def cases() -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """(asked, found): boxes found often, seldom, never; of another length; and a clip whose boxes have no area."""
    chance = np.random.default_rng(0)
    asked, found = [], []
    for i, often in enumerate((0.9, 0.3, 0, 0.8, 0.6, 1, 1)):
        x, y = chance.uniform(0, 0.5, 2)
        w, h = chance.uniform(0.1, 0.4, 2)
        move = chance.uniform(-0.005, 0.02, 2)
        given, seen = [], []
        for k in range(24 if i % 2 == 0 else 16):
            corners = x + move[0] * k, y + move[1] * k, x + move[0] * k + w, y + move[1] * k + h
            box = [float(min(max(v, 0), 1)) for v in corners]
            given.append(box if i != 6 else [0.5] * 4)
            seen.append(_off(box, chance) if chance.random() < often else None)
        seen += [None] * 4 if i == 1 else []
        asked.append({"id": i, "caption": f"clip {i}", "subject": "Thing", "bboxes": given, "metadata": {}})
        found.append({"id": str(i), "caption": "", "subject": "Thing", "bboxes": seen})
    return asked, found


def _off(box: list[float], chance: np.random.Generator) -> list[float] | None:
    """The box a little off, in whole pixels of 576 x 320."""
    aside, down = chance.normal(0, 0.06, 2)
    shares = (box[0] + aside, box[1] + down, box[2] + aside, box[3] + down)
    at = [round(v * side) for v, side in zip(shares, (576, 320, 576, 320))]
    at = [min(max(at[0], 0), 575), min(max(at[1], 0), 319), min(max(at[2], 1), 576), min(max(at[3], 1), 320)]
    return [at[0] / 576, at[1] / 320, at[2] / 576, at[3] / 320] if at[2] > at[0] and at[3] > at[1] else None


def written(folder: Path, name: str, content: Any) -> Path:
    path = folder / name
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    asked, found = cases()
    return written(tmp_path, "asked.json", asked), written(tmp_path, "found.json", found)


def test_the_released_numbers(files) -> None:
    table = score_boxes(read_boxes(files[0]), read_boxes(files[1]))
    assert table.released == pytest.approx(RELEASED, abs=1e-9)
    assert table.empty == ("6",)
    assert table.missing == ()
    # A frame without a box is not in the upper left corner, and half of the frames is not 8 of any number.
    assert table.ours["centre_distance"] < table.released["centre_distance"] / 3
    assert table.ours["coverage"] == pytest.approx(3 / 6)


def test_clips_without_a_result_are_missing_and_in_no_mean(files) -> None:
    asked, found = read_boxes(files[0]), read_boxes(files[1])
    some = score_boxes(asked, found[:1])
    alone = score_boxes(asked[:1], found[:1])
    assert some.released == alone.released
    assert some.missing == ("1", "2", "3", "4", "5", "6")
    with pytest.raises(ValueError, match="nobody asked for: 1"):
        score_boxes(asked[:1], found[:2])
    with pytest.raises(ValueError, match="none of the"):
        score_boxes(asked, [])


def test_perfect_boxes(files) -> None:
    asked = read_boxes(files[0])[:6]
    table = score_boxes(asked, asked)
    assert table.ours == pytest.approx({"miou": 1, "coverage": 1, "centre_distance": 0, "ap50": 1}, abs=0.03)
    assert table.released["ap50"] == 1


def test_boxes_in_the_order_of_the_lasot_file(tmp_path: Path) -> None:
    asked, _ = cases()
    for clip in asked:
        clip["bboxes"] = [[a, c, b, d] for a, b, c, d in clip["bboxes"]]
    path = written(tmp_path, "lasot_inputs.json", asked)
    with pytest.raises(ValueError, match="As xxyy all of them are boxes: read it with the order 'xxyy'"):
        read_boxes(path)
    assert read_boxes(path, "xxyy") == read_boxes(written(tmp_path, "asked.json", cases()[0]))


def test_tracks_and_back(files, tmp_path: Path, capsys) -> None:
    given = tmp_path / "given"
    assert main(["tracks", str(files[0]), str(given)]) == 2
    assert "left out: 6: clip '6' has no box in any frame" in capsys.readouterr().err
    clip = read_boxes(files[0])[0]
    tracks = load_tracks(given / "0.safetensors")
    assert tracks.names == ("Thing",)
    assert (tracks.frames, tracks.height, tracks.width) == (24, 320, 576)
    back = from_tracks(clip, tracks)
    assert np.abs(np.array(back.boxes) - np.array(clip.boxes)).max() <= 1 / 320
    for path in given.glob("*.safetensors"):
        path.rename(path.with_name(f"{path.stem}.tracks.safetensors"))
    out = tmp_path / "numbers.json"
    assert main(["peekaboo", str(files[0]), str(given), "--out", str(out)]) == 2  # 6 is missing
    assert json.loads(out.read_text())["ours"]["coverage"] == 1
    write_boxes([back], tmp_path / "again.json")
    assert read_boxes(tmp_path / "again.json")[0].boxes == back.boxes
    assert main(["peekaboo", str(files[0]), str(files[1])]) == 0
    assert "| released | 0.2829 | 0.6667 | 0.2533 | 0.2951 |" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ({}, "no list of clips"),
        ([], "no list of clips"),
        ([{"id": 1}], "clip 0 is no object with id"),
        ([{"id": 1, "subject": "x", "bboxes": []}], "'1' has no list of bboxes"),
        ([{"id": 1, "subject": "x", "bboxes": [[0, 0, 1]]}], "box 0 of clip '1' is not four numbers"),
        ([{"id": 1, "subject": "x", "bboxes": [[0, 0, 99, 1]]}], "in shares of width and height"),
        ([{"id": 1, "subject": "x", "bboxes": [[0, 0, math.nan, 1]]}], "is not four numbers"),
        ([{"id": 1, "subject": "x", "bboxes": [[0, 0, True, 1]]}], "is not four numbers"),
        ([{"id": 1, "subject": "x", "bboxes": [[0.9, 0.8, 0.1, 0.2]]}], "1 of 1 clips have boxes whose first corner"),
        ([{"id": i, "subject": "x", "bboxes": [[0, 0, 1, 1]]} for i in (1, "1")], "several clips with the id '1'"),
    ],
)
def test_files_that_are_none(tmp_path: Path, content: Any, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        read_boxes(written(tmp_path, "boxes.json", content))


def test_pickles_are_never_opened(tmp_path: Path, capsys) -> None:
    (tmp_path / "found.pkl").write_bytes(b"cos\nsystem\n(S'exit 1'\ntR.")
    with pytest.raises(ValueError, match="is a pickle, and those are never opened"):
        read_boxes(tmp_path / "found.pkl")
    assert main(["peekaboo", str(tmp_path / "none.json"), str(tmp_path / "found.pkl")]) == 1
    assert "there is no file" in capsys.readouterr().err
