"""MagicBench's folders in and out, its table in percent, and what is said where something is missing."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.benchmarks.magicbench import magic_table, read_magicbench, score_magicbench, write_magicbench
from matrix_lib.io.tracks import load_tracks, save_tracks
from training.score_benchmark import main

FRAMES, HEIGHT, WIDTH = 3, 40, 60


def moving(count: int, shift: int = 0) -> MaskTracks:
    """Squares of 10 pixels in a row, all `shift` pixels to the right and one more in each frame."""
    masks = {f"object {k + 1}": torch.zeros(FRAMES, HEIGHT, WIDTH) for k in range(count)}
    for k, mask in enumerate(masks.values()):
        for frame in range(FRAMES):
            left = 2 + 16 * k + shift + frame
            mask[frame, 4 + k : 14 + k, left : left + 10] = 1
    return MaskTracks.from_masks(masks)


@pytest.fixture
def bench(tmp_path: Path) -> Path:
    for name, count in (("cat", 1), ("dogs", 3)):
        write_magicbench(tmp_path / "bench", name, moving(count), f"A caption, of {name}.")
    return tmp_path / "bench"


def test_what_is_written_is_read(bench: Path) -> None:
    cat, dogs = read_magicbench(bench)
    assert [cat.id, dogs.id] == ["cat", "dogs"]
    assert dogs.caption == "A caption, of dogs."
    assert cat.video is None
    for clip, count in ((cat, 1), (dogs, 3)):
        for found in (clip.tracks(), clip.box_tracks()):
            assert found.names == moving(count).names
            for name in found.names:
                assert all(torch.equal(found.mask(name, f), moving(count).mask(name, f)) for f in range(FRAMES))
    first = np.asarray(Image.open(bench / "boxs" / "dogs" / "annotated_frame_00000.png"))
    assert (first[5:13, 3:11] == 0).all(), "a box is an outline"
    assert first[4:14, 2:12].any()


def test_colours_say_who_is_who_and_an_object_may_be_away(tmp_path: Path) -> None:
    """Written by hand, as another program would: frames from 1, one object that comes late and one that leaves."""
    place = tmp_path / "masks" / "street"
    place.mkdir(parents=True)
    for frame in range(1, 4):
        picture = np.zeros((8, 8, 3), np.uint8)
        if frame < 3:
            picture[2:4, 4:8] = (0, 128, 64)
        if frame > 1:
            picture[0:2, 0:2] = (90, 0, 0)
        Image.fromarray(picture).save(place / f"annotated_frame_{frame:05d}.png")
    (clip,) = read_magicbench(tmp_path)
    tracks = clip.tracks()
    assert tracks.palette == ((0, 128, 64), (90, 0, 0))
    assert tracks.areas("object 1").tolist() == [8, 8, 0]
    assert tracks.areas("object 2").tolist() == [0, 4, 4]
    with pytest.raises(ValueError, match="has no folder boxs/street"):
        clip.box_tracks()


def test_scores_are_in_percent_by_the_number_of_objects(bench: Path, tmp_path: Path, capsys) -> None:
    videos = tmp_path / "videos"
    save_tracks(moving(1, shift=5), videos / "cat.tracks.safetensors")  # half of it is off: an IoU of 5 / 15
    save_tracks(moving(3), videos / "dogs.tracks.safetensors")
    scores = score_magicbench(read_magicbench(bench), videos)
    assert [score.objects for score in scores] == [1, 3]
    table = magic_table(scores)
    assert [*table] == ["1", "3", "all"]
    assert table["1"]["mask_iou"].mean == pytest.approx(100 / 3)
    assert table["3"]["box_iou"].mean == pytest.approx(100)
    assert table["all"]["mask_iou"].mean == pytest.approx(200 / 3)

    (videos / "dogs.tracks.safetensors").unlink()
    out = tmp_path / "numbers.json"
    assert main(["magicbench", str(bench), str(videos), "--out", str(out)]) == 2
    said = capsys.readouterr()
    assert "| 1 | 33.333" in said.out
    assert "dogs: there is no" in said.err
    assert json.loads(out.read_text())["clips"][1] | {"why": ""} == {
        "id": "dogs", "objects": 3, "mask_iou": None, "box_iou": None, "why": ""
    }  # fmt: skip
    assert main(["tracks", str(bench), str(tmp_path / "given")]) == 0
    assert load_tracks(tmp_path / "given" / "dogs.safetensors").names == moving(3).names


def test_what_is_no_benchmark_is_refused(bench: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="MagicBench has masks/ID/annotated_frame"):
        read_magicbench(tmp_path)
    with pytest.raises(ValueError, match="has a clip 'cat' already"):
        write_magicbench(bench, "cat", moving(1))
    with pytest.raises(ValueError, match="a file name without folders"):
        write_magicbench(bench, "../cat", moving(1))
    masks, boxes = bench / "masks" / "cat", bench / "boxs" / "cat"
    for name in ("masks/.checkpoints", "boxs/dog 2"):
        (bench / name).mkdir()
    for name in ("masks/cat/._annotated_frame_00000.png", "boxs/dog 2/annotated_frame_00000.png"):
        (bench / name).write_bytes(b"")
    assert [clip.id for clip in read_magicbench(bench)] == ["cat", "dog 2", "dogs"], "what is hidden is no clip"
    assert score_magicbench(read_magicbench(bench), tmp_path)[1].why == "clip 'dog 2' has no folder masks/dog 2"
    (boxes / "annotated_frame_00002.png").unlink()
    with pytest.raises(ValueError, match="3 pictures of masks and 2 of boxes"):
        read_magicbench(bench)
    (masks / "annotated_frame_00001.png").unlink()
    with pytest.raises(ValueError, match=r"pictures are missing in .*cat"):
        read_magicbench(bench)
    (masks / "annotated_frame_00001.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match="JPEG blends colours"):
        read_magicbench(bench)
    (masks / "annotated_frame_00001.jpg").unlink()

    def told(picture: np.ndarray | bytes) -> str:
        path = masks / "annotated_frame_00001.png"
        path.write_bytes(picture) if isinstance(picture, bytes) else Image.fromarray(picture).save(path)
        (boxes / "annotated_frame_00002.png").write_bytes((boxes / "annotated_frame_00001.png").read_bytes())
        with pytest.raises(ValueError, match=".") as error:
            read_magicbench(bench)[0].tracks()
        return str(error.value)

    assert "cannot be read as a picture" in told(b"no picture")
    assert "is 5x5 pixels, the first one 60x40" in told(np.zeros((5, 5, 3), np.uint8))
    assert "more than 8 bits" in told(np.full((40, 60), 300, np.uint16))
    blended = np.arange(40 * 60 * 3).reshape(40, 60, 3).astype(np.uint8)
    assert "more than 64 colours, by annotated_frame_00001.png: colours are blended" in told(blended)
    (bench / "more.csv").write_text("path,text\n")
    with pytest.raises(ValueError, match="2 lists of captions, clips.csv and more.csv"):
        read_magicbench(bench)
    (bench / "clips.csv").unlink()
    (bench / "more.csv").write_text("video,caption\n")
    with pytest.raises(ValueError, match="its columns are video, caption; path and text are needed"):
        read_magicbench(bench)
