"""MoveBench's folders, point tracks in and out, and what is said where something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.benchmarks.movebench import read_movebench, read_points, score_movebench, write_points
from matrix_lib.evaluation.trajectories.points import Points
from matrix_lib.io.tracks import save_tracks
from training.score_benchmark import main


def points(seed: int, frames: int = 5, count: int = 4) -> Points:
    chance = np.random.default_rng(seed)
    return Points(chance.uniform(0, 64, (frames, count, 2)), chance.random((frames, count)) < 0.8)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    root = tmp_path / "MoveBench" / "en"
    for name in ("cat", "dog"):
        (root / "first_frame").mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (64, 48)).save(root / "first_frame" / f"{name}.jpg")
        write_points(points(len(name)), root / "track" / "single", name)
    (root / "single_track.txt").write_text("cat.mp4,A cat, on a mat.\n\n# a note\ndog.mp4,A dog.\n", encoding="utf-8")
    return tmp_path / "MoveBench"


def test_reads_and_scores(bench: Path, tmp_path: Path, capsys) -> None:
    clips = read_movebench(bench)
    assert [(clip.id, clip.caption) for clip in clips] == [("cat", "A cat, on a mat."), ("dog", "A dog.")]
    wanted = clips[0].points()
    videos, masks = tmp_path / "videos", tmp_path / "masks"
    write_points(Points(wanted.positions + [3, 4], wanted.visible), videos, "cat")
    one, other = score_movebench(clips, videos)
    assert one.epe == pytest.approx(5, abs=1e-5)
    assert np.isnan(one.mask_iou)
    assert np.isnan(other.epe)
    assert "there is no" in other.why
    assert "dog_tracks.npy" in other.why

    half = torch.zeros(5, 48, 64)
    half[:, :, :32] = 1
    save_tracks(MaskTracks.from_masks({"cat": torch.ones(5, 48, 64)}), masks / "cat.tracks.safetensors")
    save_tracks(MaskTracks.from_masks({"cat": half}), videos / "cat.tracks.safetensors")
    assert score_movebench(clips, videos, masks)[0].mask_iou == pytest.approx(0.5)
    out = tmp_path / "numbers.json"
    assert main(["movebench", str(bench), str(videos), "--masks", str(masks), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "1 of 2 clips" in said.out
    assert "dog: there is no" in said.err
    assert json.loads(out.read_text())["clips"][1]["epe"] is None


def test_arrays_with_an_axis_of_one(tmp_path: Path) -> None:
    made = points(1)
    np.save(tmp_path / "t.npy", made.positions[None])
    np.save(tmp_path / "v.npy", made.visible[None, ..., None].astype(np.float32))
    read = read_points(tmp_path / "t.npy", tmp_path / "v.npy")
    assert np.array_equal(read.positions, made.positions)
    assert np.array_equal(read.visible, made.visible)


def test_what_is_no_benchmark_is_refused(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"multi_track.txt: MoveBench has"):
        read_movebench(bench, "multi")
    listed = bench / "en" / "single_track.txt"
    for text, words in (
        ("no comma\n", "line 1 of single_track.txt is no VIDEO,CAPTION"),
        ("../../etc/passwd,x\n", "line 1 of single_track.txt is no VIDEO,CAPTION"),
        ("cow.mp4,x\n", "clip 'cow' of single_track.txt has no .*cow.jpg"),
        ("# nothing\n", "lists no clip"),
        ("cat.mp4,x\ncat.mp4,y\n", "lists a clip twice"),
    ):
        listed.write_text(text, encoding="utf-8")
        with pytest.raises(ValueError, match=words):
            read_movebench(bench)


def test_arrays_that_are_none(tmp_path: Path) -> None:
    for name, array, words in (
        ("text", np.array(["a"]), "no array of numbers"),
        ("flat", np.zeros(4), r"\(frames, points, 2\)"),
    ):
        np.save(tmp_path / f"{name}.npy", array)
        with pytest.raises(ValueError, match=words):
            read_points(tmp_path / f"{name}.npy")
    np.save(tmp_path / "objects.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "cut.npy").write_bytes(b"\x93NUMPY")
    for name in ("objects", "cut"):
        with pytest.raises(ValueError, match="cannot be read as a NumPy array"):
            read_points(tmp_path / f"{name}.npy")
    np.save(tmp_path / "t.npy", points(0).positions)
    np.save(tmp_path / "v.npy", np.full((5, 4), 0.5))
    with pytest.raises(ValueError, match="visibility is 0 or 1"):
        read_points(tmp_path / "t.npy", tmp_path / "v.npy")
