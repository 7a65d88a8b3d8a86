"""MotiBench's list in and out, a judge's answers as they are given, and what is said of those that are none."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from matrix_lib.evaluation.benchmarks.motibench import (
    MotiFields,
    preferences,
    rated,
    read_motibench,
    score_motibench,
    write_motibench,
)
from matrix_lib.io.tracks import load_tracks
from training.score_benchmark import main

LINES = [
    {"filename": "dice.jpg", "prompt": "throw", "category": "Collision", "trajectories": [[[0, 0], [0.5, 1]]]},
    {"filename": "fan.jpg", "prompt": "turn on", "category": "Flow", "trajectories": [[0.5, 0.5], [0.5, 0.5], [1, 0]]},
]


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    (tmp_path / "bench" / "images").mkdir(parents=True)
    for line in LINES:
        Image.new("RGB", (8, 8)).save(tmp_path / "bench" / "images" / str(line["filename"]))
    lines(tmp_path / "bench" / "test.jsonl", LINES)
    return tmp_path / "bench"


def lines(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


def scores(*triples: tuple[float, float, float]) -> str:
    block = "Video {}:\n Physical Realism Score: {}\n Photorealism Score: [{}]\n **Semantic Consistency Score:** {}\n"
    return "".join(block.format(i, *triple) for i, triple in enumerate(triples, 1))


def verdict(*winners: str) -> str:
    kinds = ("physical_materiality", "interaction_dynamics")
    analysis = {kind: {"winner": winner, "strength": "Slight"} for kind, winner in zip(kinds, winners)}
    return f"```json\n{json.dumps({'analysis': analysis, 'overall_verdict': {'winner': winners[2]}})}\n```"


def test_pictures_and_paths_in_and_out(bench: Path, tmp_path: Path) -> None:
    dice, fan = read_motibench(bench)
    assert (dice.id, dice.prompt, dice.category) == ("dice", "throw", "Collision")
    assert len(fan.paths) == 1, "one path alone may stand without a list around it"
    found = fan.points(5, 100, 200)
    assert found.positions[:, 0].tolist() == [[100, 50], [100, 50], [100, 50], [150, 25], [200, 0]]
    fields = MotiFields("text", "points", "")
    write_motibench([dice, fan], tmp_path / "out", fields)
    again = read_motibench(tmp_path / "out", fields)
    assert [(clip.id, clip.prompt, clip.category) for clip in again] == [("dice", "throw", ""), ("fan", "turn on", "")]
    assert all(np.array_equal(a, b) for one, two in zip((dice, fan), again) for a, b in zip(one.paths, two.paths))
    assert (tmp_path / "out" / "images" / "fan.jpg").read_bytes() == fan.image.read_bytes()


def test_drawn_points_become_tracks_to_steer_by(bench: Path, tmp_path: Path, capsys) -> None:
    """Squares around each point, cut at the frame; how large they are has to be said."""
    asked = ["tracks", str(bench), str(tmp_path / "given"), "--frames", "5", "--size", "100", "200"]
    assert main(asked) == 1
    assert "--side" in capsys.readouterr().err
    assert main([*asked, "--side", "20"]) == 0
    fan = load_tracks(tmp_path / "given" / "fan.safetensors")
    assert fan.names == ("path 1",)
    rows, columns = fan.mask("path 1", 0).nonzero(as_tuple=True)
    assert [int(each) for each in (rows.min(), rows.max(), columns.min(), columns.max())] == [40, 59, 90, 109]
    assert int(fan.mask("path 1", 4).sum()) == 100, "a quarter is inside"
    assert len(load_tracks(tmp_path / "given" / "dice.safetensors").names) == len(read_motibench(bench)[0].paths)


def test_the_table_of_a_judge_and_of_the_drawn_points(bench: Path, tmp_path: Path, capsys) -> None:
    clips = read_motibench(bench)
    ratings = lines(
        tmp_path / "ratings.jsonl",
        [
            {"id": "dice", "models": ["ours", "theirs"], "raw": scores((0.5, 1, 0.2), (0.1, 1, 0))},
            {"id": "fan", "models": ["theirs", "ours"], "raw": scores((0.3, 0, 0), (0.9, 0.5, 0.4))},
        ],
    )
    table = rated(ratings, clips)
    assert table["ours"]["physical_realism"].mean == pytest.approx(0.7)
    assert table["theirs"]["photorealism"].mean == pytest.approx(0.5)
    assert table["ours"]["semantic_consistency"].mean == pytest.approx(0.3)

    choices = lines(
        tmp_path / "choices.jsonl",
        [
            {"id": "dice", "a": "ours", "b": "theirs", "raw": verdict("Video A", "Tie", "Video A")},
            {"id": "dice", "a": "theirs", "b": "ours", "raw": verdict("Video A", "Tie", "Video B")},
            {"id": "fan", "a": "ours", "b": "theirs", "raw": verdict("Video B", "Video A", "Video A")},
        ],
    )
    (pair,) = preferences(choices, clips).items()
    assert pair[0] == ("ours", "theirs")
    assert {name: value.mean for name, value in pair[1].items()} == {
        "physical_materiality": 0.25, "interaction_dynamics": 0.75, "overall_verdict": 1.0
    }  # fmt: skip

    videos = tmp_path / "videos"
    videos.mkdir()
    np.save(videos / "dice_tracks.npy", clips[0].points(7, 80, 100).positions + [3, 4])
    found = score_motibench(clips, videos, (80, 100))
    assert found[0].epe == pytest.approx(5)
    assert "fan_tracks.npy" in found[1].why
    given = ["motibench", str(bench), "--ratings", str(ratings), "--choices", str(choices), "--videos", str(videos)]
    assert main([*given, "--size", "80", "100", "--out", str(tmp_path / "numbers.json")]) == 2
    said = capsys.readouterr()
    assert "| ours | 0.700" in said.out
    assert "| ours over theirs | 0.250" in said.out
    assert "epe (ours, not the paper's): 5.000" in said.out
    assert json.loads((tmp_path / "numbers.json").read_text())["clips"][1]["epe"] is None
    assert main(["motibench", str(bench)]) == 1
    assert "give --ratings, --choices or --videos" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"prompt": None}, "line 1 of test.jsonl has no prompt; it has filename, category, trajectories"),
        ({"prompt": 3}, "line 1 of test.jsonl: prompt is a text; got 3"),
        ({"filename": "../dice.jpg"}, "filename is a name in images/"),
        ({"filename": "no.jpg"}, "there is no .*no.jpg"),
        ({"trajectories": [[[0, 0], [60, 20]]]}, "from 0 to 1; got 0 to 60. Divide pixels"),
        ({"trajectories": [[[0, 0]]]}, "a path is a list of two points"),
        ({"trajectories": "left"}, "a path is a list of two points"),
        ({"filename": "fan.jpg"}, "lists 'fan' twice"),
    ],
)
def test_lines_that_are_none(bench: Path, changed: dict[str, Any], says: str) -> None:
    first = {name: value for name, value in {**LINES[0], **changed}.items() if value is not None}
    lines(bench / "test.jsonl", [first, LINES[1]])
    with pytest.raises(ValueError, match=says):
        read_motibench(bench)


def test_answers_that_are_none(bench: Path, tmp_path: Path) -> None:
    clips = read_motibench(bench)
    with pytest.raises(ValueError, match="there is no file"):
        read_motibench(tmp_path)
    (bench / "test.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match="line 1 of test.jsonl is no JSON"):
        read_motibench(bench)
    good = {"id": "dice", "models": ["a"], "raw": scores((0, 0, 0))}
    for changed, says in (
        ({"id": "cow"}, "'cow' is no picture"),
        ({"models": ["a", "b"]}, "2 models take 2 of 'Physical Realism Score', and the answer has 1"),
        ({"models": "a"}, "models is no list"),
        ({"raw": scores((0, 1.5, 0))}, "'Photorealism Score' is from 0 to 1"),
        ({"raw": "I cannot tell."}, "the answer has 0"),
        ({"raw": 3}, "raw is the text"),
    ):
        with pytest.raises(ValueError, match=says):
            rated(lines(tmp_path / "answers.jsonl", [{**good, **changed}]), clips)
    with pytest.raises(ValueError, match="line 2 of answers.jsonl: 'a' has scores of 'dice' already"):
        rated(lines(tmp_path / "answers.jsonl", [good, good]), clips)
    choice = {"id": "dice", "a": "x", "b": "y", "raw": verdict("Video A", "Tie", "Video C")}
    with pytest.raises(ValueError, match="line 1 of answers.jsonl is no verdict about"):
        preferences(lines(tmp_path / "answers.jsonl", [choice]), clips)
    with pytest.raises(ValueError, match="a and b are both 'x'"):
        preferences(lines(tmp_path / "answers.jsonl", [{**choice, "b": "x"}]), clips)
