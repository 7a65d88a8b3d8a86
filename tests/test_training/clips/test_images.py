"""Pictures among clips: clips of one frame in sizes of their own, with a mask of that frame."""

from __future__ import annotations

import csv
import json
import math
from pathlib import Path

import pytest
from PIL import Image
from support_models import make_cogvideox, make_wan

from matrix_lib.io.video import read_video
from matrix_lib.mini.export import export_clips
from matrix_lib.mini.world import WorldConfig, make_clips
from training.clips.batches import open_clips
from training.clips.encoders import ModelFiles
from training.clips.folder import FolderData, open_folder
from training.clips.sheet import save_sheets
from training.fit import main

pytestmark = pytest.mark.usefixtures("one_thread")
STILLS = ("mini_00004",)
SEEN = ("frames=9", "height=64", "width=64", "bystanders=true", "skip_bad=true", "images=true", "batch=2")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four clips of 9 frames that are good, one of which is a picture: its first frame, with one mask each."""
    folder = tmp_path_factory.mktemp("images")
    world = WorldConfig(frames=9, single_motion_share=0.0, distractor_share=0.0, height=64, width=64)
    clips = folder / "clips"
    export_clips(make_clips(5, 6, world), clips)
    rows = [json.loads(line) for line in (clips / "metadata.jsonl").read_text().splitlines()]
    for row in rows:
        name = Path(row["video"]).stem
        if name in STILLS:
            video = clips / "videos" / row["video"]
            Image.fromarray(read_video(video, 0, 1).frames[0].numpy()).save(video.with_suffix(".png"))
            video.unlink()
            row["video"] = f"{name}.png"
            for mask in (clips / "mask_annotation" / name).rglob("*.png"):
                if mask.name != "000.png":
                    mask.unlink()
    for table in clips.glob("metadata.*"):
        table.unlink()
    (clips / "metadata.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    make_wan(folder / "wan")
    make_cogvideox(folder / "cogvideox", sample=(9, 8, 8))
    return folder


def data(home: Path, **more: object) -> FolderData:
    settings = dict(frames=9, height=64, width=64, bystanders=True, skip_bad=True, images=True, batch=2)
    return FolderData(str(home / "clips"), cache=str(home / "cache"), **{**settings, **more})  # type: ignore[arg-type]


def test_a_batch_is_of_pictures_or_of_videos(home: Path) -> None:
    clips = open_clips(data(home), ModelFiles(str(home / "wan")), say=str, bar=False)
    clips.fill(bar=False)
    assert {s.name: s.bucket.frames for s in clips.samples} == {
        f"mini_0000{n}": 1 if f"mini_0000{n}" in STILLS else 9 for n in (1, 2, 3, 4)
    }
    assert clips.steps_per_epoch == 3, "two of videos, one of pictures"
    for step in range(3):
        batch = clips.batch(step)
        still = batch.names[0] in STILLS
        assert all((name in STILLS) == still for name in batch.names)
        assert batch.latents.shape[1] == (1 if still else 3)
        assert all(tracks.frames == batch.size.frames for tracks in batch.tracks)
        assert batch.extra.shape[1] == batch.latents.shape[1]
    clips.close()


def test_training_on_both(home: Path, tmp_path: Path) -> None:
    settings = [f"data.{each}" for each in SEEN]
    main(
        [
            "matrix_wan21_i2v_14b", *settings, f"data.folder={home / 'clips'}", f"data.cache={home / 'cache'}",
            f"task.model={home / 'wan'}", "task.v2t=0", "task.v2v=1", "task.rank=2", "task.weights=fp32",
            "task.decoder=8", "optim.warmup=1", "run.steps=2", "run.preview_every=0", "run.log_every=1",
            "run.tensorboard=false", f"run.out={tmp_path}",
        ]
    )  # fmt: skip
    with (tmp_path / "metrics.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2, "a step of pictures and a step of videos"
    assert all(float(row[name]) > 0 and math.isfinite(float(row[name])) for row in rows for name in ("loss", "sga"))


def test_what_refuses_them(home: Path, tmp_path: Path) -> None:
    found = open_folder(data(home, images=False), say=str, bar=False, all_bad=True)
    assert "(data.images=true trains on pictures, too)" in found.skipped[STILLS[0]]
    found = open_folder(data(home), ModelFiles(str(home / "cogvideox")), say=str, bar=False, all_bad=True)
    assert "it is a picture, a clip of one frame: this model takes clips of 9 frames" in found.skipped[STILLS[0]]
    (path,) = save_sheets(found, data(home), None, tmp_path / "sheet.png", lambda: None)
    assert path.is_file()
