"""`python -m training.judge track`: a suite's first masks, through the real SAM 2 classes with tiny random weights."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from support_judging import SUITE, write_clips, write_suite
from support_sam2 import write_tiny_sam2

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.intergen.suite import read_suite
from matrix_lib.evaluation.intergen.tracking import first_masks, fitted
from matrix_lib.io.tracks import load_tracks, save_tracks
from training.judge import main


def picture(path: Path, height: int = 48, width: int = 64, box: tuple[int, int, int, int] = (8, 8, 32, 40)) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = np.zeros((height, width), dtype=np.uint8)
    mask[box[1] : box[3], box[0] : box[2]] = 255
    Image.fromarray(mask).save(path)


def test_videos_are_tracked_from_the_suites_masks(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, videos = write_suite(tmp_path / "suite"), write_clips(tmp_path / "model", frames=5, tracked=False)
    for name in ("man", "fridge"):
        picture(suite / "masks" / "000" / f"{name}.png", 96, 128, (16, 16, 64, 80))  # twice the video's size
    boxes = {"girl 1": {0: (4, 4, 20, 40)}, "girl 2": {0: (30, 8, 60, 44)}}
    save_tracks(MaskTracks.from_boxes(boxes, 1, 48, 64), suite / "masks" / "001.tracks.safetensors")
    weights = write_tiny_sam2(tmp_path / "sam2")
    command = ["track", str(suite), str(videos), "--sam2", str(weights)]
    assert main(command) == 0
    tracks = load_tracks(videos / "000.tracks.safetensors")
    assert (tracks.names, tracks.frames, tracks.height, tracks.width) == (("man", "fridge"), 5, 48, 64)
    assert tracks.roles["man"] == "subject"
    given = np.zeros((48, 64), dtype=bool)
    given[8:40, 8:32] = True
    seen = tracks.mask("man", 0).numpy()
    assert (seen & given).sum() / (seen | given).sum() > 0.8, "the mask of the first frame is what was given"
    before = (videos / "000.tracks.safetensors").read_bytes()
    (videos / "001.tracks.safetensors").unlink()
    picture(suite / "masks" / "000" / "man.png")
    assert main(command) == 0
    assert (videos / "000.tracks.safetensors").read_bytes() == before, "what is there is kept"
    assert main(["ask", str(suite), str(videos)]) == 2
    assert "5 requests are in" in capsys.readouterr().out


def test_what_is_missing_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suite, videos = write_suite(tmp_path / "suite"), write_clips(tmp_path / "model", frames=3, tracked=False)
    weights = write_tiny_sam2(tmp_path / "sam2")
    picture(suite / "masks" / "000" / "man.png")
    (suite / "masks" / "000" / "fridge.png").write_bytes(b"no picture")
    assert main(["track", str(suite), str(videos), "--sam2", str(weights)]) == 2
    said = capsys.readouterr().err
    assert "left out: 000: " in said
    assert "fridge.png cannot be read as a mask" in said
    assert "girl 1.png is missing, and so is " in said
    assert main(["track", str(suite), str(videos), "--sam2", str(tmp_path / "none.pt")]) == 1
    assert "none.pt" in capsys.readouterr().err


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    suite = read_suite(write_suite(tmp_path / "suite"))
    sample, masks = suite.samples[0], tmp_path / "suite" / "masks"
    picture(masks / "000" / "man.png")
    for size, box, message in (
        ((48, 64), (0, 0, 0, 0), "are empty for 'fridge'"),
        ((24, 64), (8, 8, 20, 20), "have several sizes: {'man': '64x48', 'fridge': '64x24'}"),
    ):
        picture(masks / "000" / "fridge.png", *size, box)
        with pytest.raises(ValueError, match=re.escape(message)):
            first_masks(suite, sample)
    save_tracks(MaskTracks.from_boxes({"man": {0: (1, 1, 9, 9)}}, 1, 48, 64), masks / "000.tracks.safetensors")
    with pytest.raises(ValueError, match="has no track of 'fridge'; it has man"):
        first_masks(suite, sample)
    assert len(SUITE["samples"]) == 2


def test_a_mask_covers_the_video_and_is_cut_at_its_middle() -> None:
    mask = np.zeros((40, 80), dtype=bool)
    mask[:, 30:50] = True
    assert np.array_equal(fitted(mask, 40, 80), mask)
    square = fitted(mask, 40, 40)
    assert square[:, 10:30].all()
    assert square.sum() == 40 * 20
    double = fitted(mask, 80, 160)
    assert abs(int(double.sum()) - 80 * 40) <= 80
    assert fitted(mask, 80, 40).shape == (80, 40)
