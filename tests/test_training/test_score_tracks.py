"""`python -m training.score_tracks` over folders of clips of the mini world."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from support_failing_clips import FailingClip, failing_clips

from matrix_lib.evaluation.trajectories.measures import MEASURES
from matrix_lib.io.tables import read_table
from matrix_lib.io.tracks import save_tracks
from matrix_lib.io.video import each_frame, write_video
from training.score_tracks import main


@pytest.fixture(scope="module")
def clips() -> list[FailingClip]:
    return failing_clips(31, 5, height=48, width=48, frames=9)


@pytest.fixture
def folders(tmp_path: Path, clips: list[FailingClip]) -> tuple[Path, Path]:
    given, videos = tmp_path / "given", tmp_path / "model a"
    for i, clip in enumerate(clips):
        save_tracks(clip.given, given / f"clip {i}.safetensors")
        save_tracks(clip.seen, videos / f"clip {i}.tracks.safetensors")
        write_video(videos / f"clip {i}.mp4", clip.frames(), crf=0)
    return given, videos


def lines(videos: Path) -> list[dict]:
    return [json.loads(line) for line in (videos / "track_scores.jsonl").read_text(encoding="utf-8").splitlines()]


def test_scores_a_folder_and_goes_on(folders, capsys) -> None:
    given, videos = folders
    last = videos / "clip 4.tracks.safetensors"
    waiting = last.rename(videos / "later")
    assert main([str(given), str(videos)]) == 2
    said = capsys.readouterr()
    assert "clip 4 has no scores: there is no clip 4.tracks.safetensors" in said.err
    assert "| spi | higher |" in said.out
    summary = json.loads((videos / "track_summary.json").read_text(encoding="utf-8"))
    assert (summary["videos"], summary["scored"]) == (5, 4)
    assert list(summary["missing"]) == ["clip 4"]
    assert summary["means"]["spi"]["n"] == 4

    before = {line["sample"]: line for line in lines(videos)}
    waiting.rename(last)
    assert main([str(given), str(videos)]) == 0
    assert "model a: 5 of 5" in capsys.readouterr().err  # and no other one
    after = {line["sample"]: line for line in lines(videos)}
    assert all(after[name] == before[name] for name in before if name != "clip 4")
    assert after["clip 0"]["values"]["trajectory_iou"] == 1
    assert after["clip 3"]["values"]["disappearance"] > 0
    assert after["clip 4"]["values"]["emergence"] > 0
    columns, _ = read_table(videos / "track_scores.parquet")
    assert set(columns) == {"sample", "seed", *MEASURES}
    assert len(columns["spi"]) == 5


def test_changed_files_are_scored_again(folders, clips, capsys) -> None:
    given, videos = folders
    assert main([str(given), str(videos), "--no-video"]) == 0
    assert lines(videos)[0]["values"]["drift"] is None
    assert main([str(given), str(videos)]) == 0
    assert lines(videos)[0]["values"]["drift"] is not None
    save_tracks(clips[1].seen, videos / "clip 0.tracks.safetensors")  # of another clip
    os.utime(videos / "clip 0.tracks.safetensors", (1, 1))
    assert main([str(given), str(videos)]) == 2
    assert "clip 0 has no scores: the video's tracks have no" in capsys.readouterr().err


def test_several_seeds_and_models(folders, clips, tmp_path, capsys) -> None:
    given, videos = folders
    other = tmp_path / "model b"
    for i, clip in enumerate(clips):
        for seed in (1, 2):
            save_tracks(clip.given if seed == 1 else clip.seen, other / f"clip {i}.{seed}.tracks.safetensors")
    assert main([str(given), str(videos), str(other), "--stride", "2"]) == 0
    assert "| measure | better | model a | model b |" in capsys.readouterr().out
    summary = json.loads((other / "track_summary.json").read_text(encoding="utf-8"))
    assert (summary["videos"], summary["means"]["hota"]["n"]) == (10, 5)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "a folder of given tracks"),
        (["{nowhere}", "{videos}"], "there are no track files"),
        (["{given}", "{nowhere}"], "there is no folder"),
        (["{given}", "{videos}", "--pair", "x", "y"], "no instance is called 'x'"),
    ],
)
def test_what_cannot_be_done_is_said_in_a_line(folders, tmp_path, arguments, words, capsys) -> None:
    names = {"given": folders[0], "videos": folders[1], "nowhere": tmp_path / "nowhere"}
    assert main([each.format(**names) for each in arguments]) in (1, 2)
    assert words in capsys.readouterr().err


def test_strangers_are_refused(folders, clips, capsys) -> None:
    given, videos = folders
    save_tracks(clips[0].seen, videos / "stranger.tracks.safetensors")
    assert main([str(given), str(videos)]) == 1
    assert "belongs to no given tracks" in capsys.readouterr().err
    assert main(["--measures"]) == 0
    assert "| `spi` | 0 to 1 | higher |" in capsys.readouterr().out


def test_frames_come_one_at_a_time(folders) -> None:
    video = folders[1] / "clip 0.mp4"
    assert sum(1 for frame in each_frame(video) if frame.shape == (48, 48, 3)) == 9
    with pytest.raises(ValueError, match="there is no video file"):
        next(each_frame(folders[1] / "none.mp4"))
    (folders[1] / "text.mp4").write_text("no video")
    with pytest.raises(ValueError, match="cannot be read as a video"):
        next(each_frame(folders[1] / "text.mp4"))
