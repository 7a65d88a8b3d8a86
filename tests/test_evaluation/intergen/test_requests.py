"""What a judge is shown and told: frames with boxes, questions, and nothing that gives the answer away."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support_judging import answers, write_clips, write_suite

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.intergen.frames import write_frames
from matrix_lib.evaluation.intergen.run import Options, check, find_videos, prepare, requests_of, sheet_of
from matrix_lib.evaluation.intergen.suite import Suite, read_suite
from matrix_lib.evaluation.judges.files import FileJudge
from matrix_lib.evaluation.judges.judge import Request
from matrix_lib.evaluation.judges.store import Answers, ask
from matrix_lib.io.tracks import save_tracks
from matrix_lib.io.video import read_video


@pytest.fixture
def suite(tmp_path: Path) -> Suite:
    return read_suite(write_suite(tmp_path / "suite"))


def requests(suite: Suite, folder: Path, **options: object) -> list[Request]:
    sheets = prepare(suite)
    videos, _ = find_videos(suite, folder)
    return [each for one in videos for each in requests_of(one, sheet_of(one, sheets), suite, Options(**options))]  # type: ignore[arg-type]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_frames_are_the_videos_own_with_boxes_of_each_instance(suite: Suite, tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "model")
    sample, video = suite.samples[0], folder / "000.mp4"
    frames = read_video(video).frames.numpy()
    keys = {"man": {0: (4, 4, 20, 40)}, "fridge": {0: (30, 8, 60, 44), 10: None}}
    tracks = MaskTracks.from_boxes(keys, 11, 48, 64, hold=True)  # type: ignore[arg-type]
    shown = write_frames(video, tracks, sample, 5, tmp_path / "boxes")
    clean = write_frames(video, tracks, sample, 5, tmp_path / "clean", boxes=False)
    assert [each.index for each in shown] == [0, 5, 10]
    for each in clean:  # defect 16: coloured lines in a lossy video of another rate
        assert np.array_equal(pixels(each.path), frames[each.index])
    first, middle, last = (pixels(each.path) for each in shown)
    assert tuple(middle[4, 10]) == tuple(last[39, 10]) == (255, 0, 0), "the man's box is red"
    assert tuple(middle[8, 40]) == (0, 255, 0), "the fridge's is green"
    assert np.array_equal(last[:, 30:], frames[10][:, 30:]), "who is not there has no box"
    assert np.array_equal(middle[20:30, 8:16], frames[5][20:30, 8:16])
    mixed = first[20:30, 8:16].astype(int) - frames[0][20:30, 8:16] // 2
    assert np.abs(mixed - [127, 0, 0]).max() <= 2, "in the first frame masks are filled by half"
    small = write_frames(video, tracks, sample, 5, tmp_path / "small", longest=32)
    assert pixels(small[0].path).shape == (24, 32, 3)
    double = tracks.from_boxes({name: {0: (8, 8, 40, 80)} for name in keys}, 11, 96, 128, hold=True)
    assert tuple(pixels(write_frames(video, double, sample, 5, tmp_path / "double")[1].path)[4, 10]) == (0, 255, 0)
    with pytest.raises(ValueError, match="has 11 frames and its tracks 3"):
        write_frames(video, tracks.take([0, 1, 2]), sample, 5, tmp_path / "other")


def test_the_text_names_looks_and_colours_and_not_the_prompt(suite: Suite, tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "model")
    found = requests(suite, folder)
    assert [(each.id, each.kind, each.interaction) for each in found] == [
        ("000", "verify", 0),
        ("000", "emergence", 0),
        ("001", "verify", 0),
        ("001", "verify", 1),
        ("001", "emergence", 0),
    ]
    assert "the man in a cap (red box)" in found[0].text
    # defect 15: two of one class and look are two, by the colour alone
    assert "Is the girl in red (red box) acted on by the girl in red (green box)?" in found[3].text
    prompts = [sample.prompt for sample in suite.samples]
    assert not any(prompt in each.text for prompt in prompts for each in found)  # defect 19: answered from the text
    assert suite.samples[0].prompt in requests(suite, folder, show_prompt=True)[0].text
    mixed = requests(suite, folder, shuffle=3)
    lines = json.loads(mixed[0].text.removeprefix("Questions:\n"))
    assert (
        sorted(each["question_id"] for each in lines) == list(range(1, 11)) != [each["question_id"] for each in lines]
    )
    assert len({each.key for each in [*found, *mixed, *requests(suite, folder, repeats=3)]}) == 3 + 2 + 3 + 2 * 5
    assert [each.kind for each in requests(suite, folder, emergence="off")] == ["verify"] * 3


def test_two_models_are_asked_the_same(suite: Suite, tmp_path: Path) -> None:  # defect 8: made anew for each model
    one, other = write_clips(tmp_path / "one"), write_clips(tmp_path / "other")
    before = [each.text for each in requests(suite, one)]
    files = {path: path.read_bytes() for path in (suite.folder / "questions").iterdir()}
    assert [each.text for each in requests(suite, other)] == before
    assert {path: path.read_bytes() for path in (suite.folder / "questions").iterdir()} == files


def test_keys_are_of_what_is_seen_and_of_nothing_else(suite: Suite, tmp_path: Path) -> None:
    folder = write_clips(tmp_path / "model")
    first = requests(suite, folder)
    for request in first:
        for picture in request.pictures:  # another compression of the same pixels
            Image.open(picture.path).save(picture.path.with_suffix(".tmp.png"), compress_level=0)
            picture.path.with_suffix(".tmp.png").replace(picture.path)
    assert [_bare(each).key for each in first] == [each.key for each in first]
    tracks = MaskTracks.from_boxes({name: {0: (9, 9, 30, 30)} for name in ("man", "fridge")}, 11, 48, 64, hold=True)
    save_tracks(tracks, folder / "000.tracks.safetensors")
    changed = [one.key == other.key for one, other in zip(requests(suite, folder), first, strict=True)]
    assert changed == [False, False, True, True, True], "other boxes are another question"


def _bare(request: Request) -> Request:
    """Without what it has worked out already."""
    pictures = tuple(type(each)(each.index, each.path) for each in request.pictures)
    return Request(request.kind, request.id, request.seed, request.system, request.text, pictures,
                   request.interaction, request.repeat, request.schema)  # fmt: skip


def test_answers_that_somebody_wrote_are_read_before_they_count(suite: Suite, tmp_path: Path) -> None:
    """Another program appends to the store itself: what cannot be read is open, and is answered anew (defect 18)."""
    request = requests(suite, write_clips(tmp_path / "model"))[0]
    store, other = tmp_path / "answers.jsonl", tmp_path / "other.jsonl"
    good = json.dumps(answers())
    store.write_text(json.dumps({"key": request.key, "judge": "x", "model": "1", "raw": "yes to all \ud800"}) + "\n")
    other.write_text(json.dumps({"key": request.key, "judge": "y", "model": "2", "raw": good}) + "\n")
    assert ask([request], FileJudge(store), Answers(store), check) == 1
    assert request.key not in Answers(store).found
    assert ask([request], FileJudge(other), Answers(store), check) == 0
    assert Answers(store).found[request.key].raw == good
    lines = [json.loads(line) for line in store.read_text().splitlines()]
    assert "yes to all" in lines[1]["error"]
    assert lines[-1]["date"]
