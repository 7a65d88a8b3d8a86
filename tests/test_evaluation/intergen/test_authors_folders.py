"""The released evaluation's folders: a suite and a model's videos go out and come back the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from support_judging import SUITE, write_clips, write_suite

from matrix_lib.evaluation.intergen.authors_folders import export_suite, take_suite
from matrix_lib.evaluation.intergen.questions import read_sheet
from matrix_lib.evaluation.intergen.run import prepare
from matrix_lib.evaluation.intergen.suite import read_suite
from matrix_lib.io.tracks import load_tracks
from training.judge import main


def whole(folder: Path) -> Path:
    """A suite with questions, first frames and masks."""
    suite = read_suite(write_suite(folder))
    prepare(suite)
    rng = np.random.default_rng(0)
    for sample in suite.samples:
        (folder / "images").mkdir(exist_ok=True)
        Image.fromarray(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8)).save(folder / "images" / f"{sample.id}.png")
        for name in sample.names:
            place = folder / "masks" / sample.id / f"{name}.png"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 2, (48, 64), dtype=np.uint8) * 255).save(place)
    return folder


def test_a_suite_and_its_videos_go_out_and_come_back(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    home, videos, data = whole(tmp_path / "suite"), write_clips(tmp_path / "ours"), tmp_path / "data"
    assert main(["export", str(home), str(data), "--videos", str(videos)]) == 0
    # The layout that the released scripts read, and nothing of it is named otherwise.
    for name in (
        "EVAL_DATA/manipulation/meta.json",
        "EVAL_DATA/manipulation/images/000.png",
        "EVAL_DATA/manipulation/masks/000/id2.png",
        "EVAL_DATA/social_contact/questions/000.json",
        "OUTPUTS/ours/social_contact/000.mp4",
        "EVAL_RESULTS/ours/manipulation/tracks/000/id1/010.png",
    ):
        assert (data / name).is_file(), name
    (entry,) = json.loads((data / "EVAL_DATA/manipulation/meta.json").read_text())
    assert entry["objects"][0]["class"] == "person"
    assert entry["num_objects"] == 2
    asked = json.loads((data / "EVAL_DATA/manipulation/questions/000.json").read_text())
    assert asked["colors"] == ["red", "green"]
    assert len(asked["items"][0]["questions"]) == 10
    assert "the man in a cap (red bbox)" in asked["items"][0]["questions"][0]

    back = ["prepare", str(tmp_path / "back"), "--authors", str(data), "--of", "ours", "--videos", str(tmp_path / "b")]
    assert main(back) == 0
    assert "2 videos, of which 2 have tracks" in capsys.readouterr().out
    one, other = read_suite(home), read_suite(tmp_path / "back")
    assert one.samples == other.samples
    assert one.hash == other.hash
    for sample in one.samples:
        sheets = [read_sheet(f / "questions" / f"{sample.id}.json", sample) for f in (home, tmp_path / "back")]
        assert sheets[0].asked == sheets[1].asked
        for name in sample.names:
            pictures = [f / "masks" / sample.id / f"{name}.png" for f in (home, tmp_path / "back")]
            assert pictures[0].read_bytes() == pictures[1].read_bytes()
        for ending in (".mp4", ".tracks.safetensors"):
            files = [f / f"{sample.id}{ending}" for f in (videos, tmp_path / "b")]
            if ending == ".mp4":
                assert files[0].read_bytes() == files[1].read_bytes()
            else:
                tracks = [load_tracks(path) for path in files]
                assert tracks[0].names == tracks[1].names
                assert all((tracks[0].masks(n) == tracks[1].masks(n)).all() for n in tracks[0].names)
                assert tracks[0].fps == tracks[1].fps
    assert main(back) == 1
    assert "is there already" in capsys.readouterr().err


def test_files_that_have_no_words_of_ours(tmp_path: Path) -> None:
    """As the released scripts write them: no names, no ids, interactions in the questions alone."""
    data = tmp_path / "data"
    export_suite(read_suite(whole(tmp_path / "suite")), data)
    for meta in (data / "EVAL_DATA").glob("*/meta.json"):
        entries: list[dict[str, Any]] = json.loads(meta.read_text())
        for entry in entries:
            del entry["id"], entry["interactions"]
            entry["objects"] = [{key: each[key] for key in ("class", "appearance")} for each in entry["objects"]]
        meta.write_text(json.dumps(entries))
    told = take_suite(data, tmp_path / "back")
    assert (told.samples, told.questions, told.notes) == (2, 2, ())
    suite = read_suite(tmp_path / "back")
    assert [sample.id for sample in suite.samples] == ["manipulation-000", "social_contact-000"]
    assert [sample.names for sample in suite.samples] == [("id1", "id2")] * 2
    first = suite.samples[0].interactions[0]
    assert (first.name, first.subject, first.recipient) == ("opens", "id1", "id2")
    # Two girls of one look: the colour alone tells them apart, and the roles are swapped in the second interaction.
    assert [(d.subject, d.recipient) for d in suite.samples[1].interactions] == [("id1", "id2"), ("id2", "id1")]
    assert set(prepare(suite)) == {"manipulation-000", "social_contact-000"}
    assert SUITE["samples"][0]["interactions"][0]["name"] == "opens"


@pytest.mark.parametrize(
    ("file", "change", "words"),
    [
        ("meta.json", lambda c: [{**c[0], "objects": {}}], "sample 0 has no list of objects"),
        ("meta.json", lambda c: {"a": 1}, "is not a list of objects"),
        ("meta.json", lambda c: [{**c[0], "video_text_prompt": ""}], "its prompt is empty"),
        ("questions/000.json", lambda c: {**c, "items": []}, "it has no items"),
        ("questions/000.json", lambda c: {"items": [{"key_interaction": "x", "questions": ["?"]}]}, "not 10"),
        (
            "questions/000.json",
            lambda c: {"items": [{**c["items"][0], "questions": ["Is a dog (blue bbox) there?"] * 10}]},
            "in a blue box by looks that no object",
        ),
    ],
)
def test_what_is_of_another_form(tmp_path: Path, file: str, change: Any, words: str) -> None:
    data = tmp_path / "data"
    export_suite(read_suite(whole(tmp_path / "suite")), data)
    path = data / "EVAL_DATA" / "manipulation" / file
    path.write_text(json.dumps(change(json.loads(path.read_text()))))
    with pytest.raises(ValueError, match=words):
        take_suite(data, tmp_path / "back")
    assert not (tmp_path / "back").exists()
