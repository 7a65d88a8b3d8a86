"""The bundle that comes with the library, and copies of it that something happened to."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from matrix_lib.hosts import bundle
from matrix_lib.mini.captions import CAMERA_MOVES, caption
from matrix_lib.mini.shapes import COLOURS, SHAPES
from matrix_lib.mini.verbs import VERBS

PART = "codec-01-of-01.safetensors"


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """The bundle again: its manifest copied, everything else linked."""
    folder = tmp_path / "model"
    (folder / "tokenizer").mkdir(parents=True)
    for path in bundle.HOME.rglob("*"):
        if path.is_file() and path.name != bundle.MANIFEST:
            (folder / path.relative_to(bundle.HOME)).symlink_to(path)
    shutil.copy(bundle.HOME / bundle.MANIFEST, folder)
    return folder


def change(folder: Path, **changes: Any) -> None:
    manifest = json.loads((folder / bundle.MANIFEST).read_text())
    (folder / bundle.MANIFEST).write_text(json.dumps({**manifest, **changes}))


def manifest() -> dict[str, Any]:
    return json.loads((bundle.HOME / bundle.MANIFEST).read_text())


def test_the_bundle_is_whole_and_small() -> None:
    found = bundle.load()
    assert found.grid == (5, 16, 16)
    assert 5e6 < sum(value.numel() for value in found.weights("transformer").values()) < 13e6
    files = [path for path in bundle.HOME.rglob("*") if path.is_file()]
    assert max(path.stat().st_size for path in files) < 16e6
    listed = {bundle.MANIFEST, "README.md"} | {name for names in found.files.values() for name in names}
    assert {path.relative_to(bundle.HOME).as_posix() for path in files} <= listed


def test_every_caption_of_the_world_is_known() -> None:
    found = bundle.load()
    looks = [f"{colour} {shape}" for colour in COLOURS for shape in SHAPES]
    prompts = [caption(verb, looks[i : i + verb.parts]).prompt for verb in VERBS for i in range(len(looks) - 2)]
    prompts += [caption(VERBS[0], looks[:2], move).prompt for move in CAMERA_MOVES]
    assert [word for prompt in prompts for word in found.unknown_words(prompt)] == []


def test_unknown_words_are_named() -> None:
    found = bundle.load()
    assert found.unknown_words("The <id1> red circle, bites the DOG. The dog") == ("bites", "dog")
    assert found.warning("the red circle pushes the blue square") == ""
    assert "'bites', 'dog'" in found.warning("the red circle bites the dog")


def test_sizes_and_counts() -> None:
    found = bundle.load()
    found.check_clip(17, 128, 128)
    found.check_instances(5)
    with pytest.raises(ValueError, match="got 49 frames of 480x720: set width 128, height 128 and length 17"):
        found.check_clip(49, 480, 720)
    with pytest.raises(ValueError, match="at most 5 instances in a clip; got 6"):
        found.check_instances(6)


def test_a_changed_byte_is_found_and_a_repaired_file_is_read_again(copy: Path) -> None:
    assert bundle.load(copy).sizes == bundle.load().sizes
    data = bytearray((bundle.HOME / PART).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / PART).unlink()
    (copy / PART).write_bytes(data)
    with pytest.raises(ValueError, match=f"{PART} is damaged: its checksum begins"):
        bundle.load(copy)
    (copy / PART).unlink()
    (copy / PART).symlink_to(bundle.HOME / PART)
    assert bundle.load(copy).files["codec"] == (PART,)


def test_a_cut_off_or_missing_file(copy: Path) -> None:
    (copy / PART).unlink()
    with pytest.raises(ValueError, match=f"not whole: {PART} is missing. Install this package again"):
        bundle.load(copy)
    (copy / PART).write_bytes((bundle.HOME / PART).read_bytes()[:1000])
    with pytest.raises(ValueError, match="is damaged"):
        bundle.load(copy)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"format": 2}, "bundle format 2; this version reads 1"),
        ({"words": None}, "lacks words"),
        ({"checksums": []}, "lacks checksums"),
        ({"checksums": {}}, "manifest says nothing"),
        ({"files": {**manifest()["files"], "text": "text"}}, "lacks text"),
        ({"files": {**manifest()["files"], "text": ["../secret"]}}, "outside of it"),
        ({"files": {**manifest()["files"], "text": [7]}}, "outside of it"),
        ({"sizes": {**manifest()["sizes"], "frames": "many"}}, "lacks frames"),
    ],
)
def test_a_manifest_that_says_something_else(copy: Path, changes: dict[str, Any], message: str) -> None:
    change(copy, **changes)
    with pytest.raises(ValueError, match=message):
        bundle.load(copy)


def test_no_manifest_or_none_that_can_be_read(copy: Path) -> None:
    for text, message in (("{", "is not valid JSON"), ("[]", "bundle format 'list'"), (" " * 2_000_000, "far more")):
        (copy / bundle.MANIFEST).write_text(text)
        with pytest.raises(ValueError, match=message):
            bundle.load(copy)
    (copy / bundle.MANIFEST).unlink()
    with pytest.raises(ValueError, match="is no bundle of the mini model"):
        bundle.load(copy)
    with pytest.raises(ValueError, match="is no bundle of the mini model"):
        bundle.load(copy / "nowhere")
