"""From judged videos to labels that the layer analysis reads: both commands, on clips of the mini world."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from support_models import make_cogvideox

from matrix_lib.evaluation.intergen.labels import Success, write_labels
from matrix_lib.evaluation.intergen.scores import MEASURES, Presence, VideoScores
from matrix_lib.evaluation.layers.labels import Labels, read_labels
from matrix_lib.evaluation.mini.clips import MiniClip, mini_clips
from matrix_lib.evaluation.mini.judges import judge
from matrix_lib.evaluation.mini.object_tracking import look
from matrix_lib.io.tracks import save_tracks
from matrix_lib.io.video import write_video
from training.analyse import main as analyse
from training.judge import main

SIZE = (9, 64, 64)


def write_suite(folder: Path, clips: list[MiniClip]) -> Path:
    samples = []
    for clip in clips:
        names = clip.tracks().names
        done = {"name": clip.truth.verb[0], "subject": names[0], "object": names[1] if len(names) > 1 else ""}
        who = [{"name": name, "appearance": f"the {name}"} for name in names]
        samples.append({"id": clip.name, "prompt": clip.prompt, "instances": who, "interactions": [done]})
    folder.mkdir()
    (folder / "suite.json").write_text(
        json.dumps({"format": "intergen", "version": 1, "stride": 1, "samples": samples})
    )
    return folder


def write_model(folder: Path, clips: list[MiniClip], good: int) -> None:
    """Videos of seed 0: the first show what was asked for, in the others nothing moves."""
    for number, clip in enumerate(clips):
        video = clip.truth.video if number < good else clip.truth.video[:, :1].expand_as(clip.truth.video)
        frames = video[0].permute(0, 2, 3, 1)
        write_video(folder / clip.name / "0.mp4", frames, crf=0)
        save_tracks(clip.seen(frames.numpy()), folder / f"{clip.name}.0.tracks.safetensors")


def answer(folder: Path, clips: list[MiniClip]) -> Path:
    """The exact judge answers."""
    by_name = {clip.name: clip for clip in clips}
    lines = []
    for line in (folder / "intergen" / "requests.jsonl").read_text().splitlines():
        request = json.loads(line)
        clip = by_name[request["id"]]
        still = clip not in clips[: len(clips) // 2]
        video = clip.truth.video[:, :1].expand_as(clip.truth.video) if still else clip.truth.video
        sight, last = look(video, clip.truth), request["frames"][-1]["index"]
        if request["kind"] == "verify":
            said: object = [
                {"question_id": q, "answer": "yes" if yes else "no", "frame_index": last if yes else None}
                for q, yes in enumerate(judge(video, clip.truth, sight=sight).questions[0].tolist(), 1)
            ]
        else:
            assert not sight.new.any()
            said = {"emergence": "no", "emergence_frames": [], "emergence_reason": ""}
        lines.append(json.dumps({"key": request["key"], "judge": "exact", "model": "1", "raw": json.dumps(said)}))
    path = folder / "said.jsonl"
    path.write_text("\n".join(lines) + "\n")
    return path


def test_labels_go_from_the_judge_into_the_analysis(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clips = mini_clips("mini:4", *SIZE)
    suite, folder = write_suite(tmp_path / "suite", clips), tmp_path / "videos"
    write_model(folder, clips, 2)
    assert main(["ask", str(suite), str(folder)]) == 2
    assert main(["ask", str(suite), str(folder), "--answers", str(answer(folder, clips))]) == 0
    assert main(["score", str(suite), str(folder)]) == 0
    labels = folder / "intergen" / "labels.csv"
    rows = list(csv.reader(labels.open(encoding="utf-8")))
    assert rows == [
        ["clip", "seed", "success"],
        *([clip.name, "0", ("yes", "no")[i > 1]] for i, clip in enumerate(clips)),
    ]

    make_cogvideox(tmp_path / "model", sample=(9, 8, 8), layers=2)
    out = ["--out", str(tmp_path / "analysis"), "--steps", "1", "--examples", "0", "--least", "2"]
    analyse(["mini:4", str(tmp_path / "model"), *out, "--labels", str(labels)])
    runs = pq.read_table(tmp_path / "analysis" / "tables" / "runs.parquet").to_pydict()
    told = dict(zip(runs["clip"], runs["success"]))
    assert told == {clip.name: i < 2 for i, clip in enumerate(clips)}

    # A label by hand wins; the limits are settings.
    hand = tmp_path / "hand.csv"
    hand.write_text(f"clip,success\n{clips[0].name},no\n")
    more = ["--hand-labels", str(hand), "--least-kisa", "0", "--least-sgi", "0"]
    assert main(["score", str(suite), str(folder), *more]) == 0
    assert [row[2] for row in csv.reader(labels.open(encoding="utf-8"))][1:] == ["no", "yes", "yes", "yes"]
    capsys.readouterr()
    assert main(["score", str(suite), str(folder), "--least-spi", "2"]) == 1
    assert "what a success needs is from 0 to 1" in capsys.readouterr().err


def scored(name: str, seed: str = "", missing: tuple[str, ...] = (), **values: float) -> VideoScores:
    return VideoScores(name, seed, dict.fromkeys(MEASURES, 1.0) | values, missing, (), Presence(5, (), ()))


def test_what_is_missing_has_no_label(tmp_path: Path) -> None:
    videos = [
        scored("a", kisa_raw=5 / 6, spi=0.9),
        scored("b", "1", sgi_raw=0.75),
        scored("b", "02"),
        scored("c", "first try"),
        scored("d", missing=("interaction 1 was not answered",), kisa_raw=float("nan")),
        scored("e", missing=("there is no video",)),
    ]
    path = tmp_path / "labels.csv"
    left = write_labels(path, videos, by_hand=Labels({("e", None): True}))
    assert path.read_text() == "clip,seed,success\na,,yes\nb,1,no\nb,2,yes\ne,,yes\n"
    assert left == [
        "c/first try has no label: seeds are whole numbers there",
        "d has no label: interaction 1 was not answered",
    ]
    read = read_labels(path)
    assert [read.of("a", 7), read.of("b", 1), read.of("b", 2), read.of("d", 0)] == [True, False, True, None]
    assert Success(kisa=1).of(videos[0]) is False
