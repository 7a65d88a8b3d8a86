"""WebDataset shards: the same batches as the folder that they were made from, bit for bit, in every layout."""

from __future__ import annotations

import copy
import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support_tuning import make_home

from matrix_lib.io.video import write_video
from training.clips.batches import open_clips
from training.clips.encoders import ModelFiles
from training.clips.folder import FolderData, open_folder
from training.clips.shards import shards_of, unpacked
from training.shards import main

pytestmark = pytest.mark.usefixtures("one_thread")
SEEN = ("frames=9", "height=64", "width=64", "bystanders=true", "skip_bad=true")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model, clips, and shards of them, about one clip each."""
    folder = make_home(tmp_path_factory.mktemp("shards"))
    main([str(folder / "clips"), str(folder / "shards"), *SEEN, f"cache={folder / 'cache'}", "--size", "0.03"])
    return folder


def test_the_same_batches_bit_for_bit(home: Path, tmp_path: Path) -> None:
    assert len(shards_of(str(home / "shards"))) > 1
    made = []
    for place in ("clips", "shards"):
        data = FolderData(
            str(home / place), frames=9, height=64, width=64, bystanders=True, skip_bad=True,
            cache=str(tmp_path / place), batch=2,
        )  # fmt: skip
        clips = open_clips(data, ModelFiles(str(home / "model")), seed=3, say=str, bar=False)
        clips.fill(bar=False)
        made.append((clips.fingerprint(clips.samples), [clips.batch(step) for step in range(4)]))
        clips.close()
    (theirs, folder), (ours, shards) = made
    assert ours == theirs, "a run may go on with either"
    for one, other in zip(folder, shards):
        assert (one.names, one.rows, one.bindings, one.target_names) == (
            other.names, other.rows, other.bindings, other.target_names,
        )  # fmt: skip
        for name in ("latents", "image", "extra"):
            assert torch.equal(getattr(one, name), getattr(other, name))
        assert all(torch.equal(value, other.text[name]) for name, value in one.text.items())
        assert [tracks.digest for tracks in one.tracks] == [tracks.digest for tracks in other.tracks]


def test_webdataset_itself_reads_them(home: Path) -> None:
    import webdataset

    paths = [str(path) for path in shards_of(str(home / "shards"))]
    samples = list(webdataset.WebDataset(paths, shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == [f"{n:06d}" for n in range(len(samples))]
    names = [json.loads(sample["json"])["name"] for sample in samples]
    assert names == [f"mini_0000{n}" for n in range(6)], "all that the folder's own check finds good"
    video = home / "clips" / "videos" / "mini_00000.mp4"
    assert samples[0]["mp4"] == video.read_bytes()
    assert "masks.safetensors" in samples[0]


@pytest.mark.parametrize("layout", ["places", "one mask"])
def test_other_layouts(layout: str, tmp_path: Path) -> None:
    """One folder a clip, whose name has a dot; one target mask a clip."""
    folder, mask = tmp_path / "clips", np.zeros((32, 48), np.uint8)
    mask[8:20, 10:30] = 255
    frames = np.random.default_rng(0).integers(0, 255, (5, 32, 48, 3), dtype=np.uint8)
    if layout == "places":
        for name in ("v1.0", "take é"):
            home = folder / name
            (home / "masks" / "cup").mkdir(parents=True)
            write_video(home / "video.mp4", frames, 8.0)
            (home / "prompt.txt").write_text("a man lifts a cup")
            (home / "entities.txt").write_text("cup: a cup [object]\nlifts = verb(cup)")
            for n in range(5):
                Image.fromarray(mask).save(home / "masks" / "cup" / f"{n}.png")
    else:
        write_video(folder / "videos" / "v1.0.mp4", frames, 8.0)
        (folder / "masks").mkdir()
        Image.fromarray(mask).save(folder / "masks" / "v1.0.png")
        row = {"video": "v1.0.mp4", "prompt": "she lifts the cup", "target": "the cup"}
        (folder / "metadata.jsonl").write_text(json.dumps(row))
    settings = dict(
        frames=5, height=32, width=48, verbs="optional", condition="target_mask", prompt_form="target_word",
        masks="first", cache=str(tmp_path / "cache"),
    )  # fmt: skip
    main([str(folder), str(tmp_path / "shards"), *(f"{name}={value}" for name, value in settings.items())])
    made = unpacked(str(tmp_path / "shards"), tmp_path / "cache")
    assert unpacked(str(tmp_path / "shards"), tmp_path / "cache") == made, "once"
    one, other = (
        open_folder(FolderData(str(place), **settings), say=str, bar=False)  # type: ignore[arg-type]
        for place in (folder, made)
    )
    assert [sample.name for sample in one.samples] == [sample.name for sample in other.samples]
    for a, b in zip(one.samples, other.samples):
        assert (a.prompt, a.written, a.files.video) == (b.prompt, b.written, b.files.video)
        assert a.tracks().digest == b.tracks().digest


def test_what_is_no_shard_of_clips(home: Path, tmp_path: Path) -> None:
    first = shards_of(str(home / "shards"))[0]
    (tmp_path / "cut.tar").write_bytes(first.read_bytes()[:700])
    (tmp_path / "text.tar").write_text("no tar")
    with tarfile.open(first) as tar, tarfile.open(tmp_path / "part.tar", "w") as out:
        for member in tar.getmembers()[:2]:
            out.addfile(member, tar.extractfile(member))
    with tarfile.open(first) as tar, tarfile.open(tmp_path / "twice.tar", "w") as out:
        for key in ("a", "b"):
            for member in tar.getmembers()[:3]:
                renamed = copy.copy(member)
                renamed.name = key + member.name[6:]
                out.addfile(renamed, tar.extractfile(member))
    for name, said in (
        ("cut", "is no whole tar file"),
        ("text", "is no whole tar file"),
        ("part", r"sample 000000: it holds json, mp4; expected"),
        ("twice", "'mini_00000' is there twice"),
    ):
        with pytest.raises(ValueError, match=said):
            unpacked(str(tmp_path / f"{name}.tar"), tmp_path / "cache")
    assert not list((tmp_path / "cache" / "shards").iterdir()), "no draft is left"
    with pytest.raises(ValueError, match=r"no shard .*shards-00000\d.tar. \(\d of 10 are missing"):
        shards_of(str(home / "shards" / "shards-{000000..000009}.tar"))
    with pytest.raises(SystemExit, match="holds shards already"):
        main([str(home / "clips"), str(home / "shards"), *SEEN, f"cache={tmp_path / 'cache'}"])
