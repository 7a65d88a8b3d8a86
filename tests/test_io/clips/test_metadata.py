"""Metadata files of clips: what they may hold, and what is said where they hold something else."""

import json

import numpy as np
import pytest
from PIL import Image

from matrix_lib.io.clips.folder import scan_clips
from matrix_lib.io.clips.metadata import read_rows
from matrix_lib.io.clips.source import mask_numbers, pictures_in, read_mask
from matrix_lib.io.video import write_video


def clip(folder, name, prompt, **more):
    write_video(folder / "videos" / f"{name}.mp4", np.zeros((3, 32, 32, 3), dtype=np.uint8))
    home = folder / "mask_annotation" / name / "<id3>"
    home.mkdir(parents=True)
    for number in (10, 2, 1):
        Image.new("L", (32, 32), 255).save(home / f"{number}.png")
    return {"video": f"{name}.mp4", "prompt": prompt, **more}


def test_masks_are_in_the_order_of_their_numbers(tmp_path):
    row = clip(tmp_path, "a", "a <id3> man waves")
    (tmp_path / "metadata.json").write_text(json.dumps([row]))
    paths = scan_clips(tmp_path).clips[0].masks["id3"]
    assert mask_numbers(paths) == [1, 2, 10]
    assert pictures_in(tmp_path / "absent") == ()


def test_the_words_of_the_verb(tmp_path):
    rows = [
        clip(tmp_path, "good", "a <id3> man picks his hat up", verb="picks ... up"),
        clip(tmp_path, "name", "a <id3> man picks his hat up", verb="pick_up"),
    ]
    (tmp_path / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    good, name = scan_clips(tmp_path).clips
    assert [(spec.name, spec.subject, spec.object) for spec in good.phrases[1:]] == [("picks ... up", "id3", None)]
    assert name.verbs == ()
    assert name.notes == ("no verb: the words 'pick_up' of the column `verb` are not in the prompt",)


def test_rows_that_are_none(tmp_path):
    path = tmp_path / "metadata.jsonl"
    path.write_text('{"video": "a.mp4", "prompt": "a <id1> man"}\n[1]\n{"video": null, "prompt": 3}\n{"prompt')
    found = scan_clips(tmp_path)
    assert found.clips == ()
    assert set(found.problems) == {"a", "row 2", "row 3", "row 4"}
    assert "not in" in found.problems["a"]
    assert "no JSON object" in found.problems["row 2"]
    assert "has no video" in found.problems["row 3"]


@pytest.mark.parametrize(
    ("name", "data", "said"),
    [
        ("metadata.json", b'{"video": 1}', "list of objects"),
        ("metadata.json", b"[" * 100_000, "cannot be read"),
        ("metadata.json", b"\xff\xfe\x00", "no text in UTF-8"),
        ("metadata.csv", b"video,prompt\na.mp4," + b"x" * 200_000, "field larger"),
        ("metadata.csv", b"name,text\na,b\n", "`video` and `prompt`"),
    ],
)
def test_files_that_are_no_metadata(tmp_path, name, data, said):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=said):
        read_rows(tmp_path)


def test_masks_that_are_no_pictures(tmp_path, monkeypatch):
    path = tmp_path / "<id1>" / "000.png"
    path.parent.mkdir()
    for data, said in ((b"", "0 bytes"), (b"\x89PNG\r\n\x1a\n junk", "cannot be read as a mask")):
        path.write_bytes(data)
        with pytest.raises(ValueError, match=said):
            read_mask(path)
    Image.new("1", (64, 64)).save(path)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(ValueError, match="exceeds limit"):
        read_mask(path)
