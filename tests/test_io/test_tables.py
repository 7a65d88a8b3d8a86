"""Parquet tables and folders of clips."""

import json
import sys

import numpy as np
import pytest
from PIL import Image

from matrix_lib.io.clips.folder import read_clips
from matrix_lib.io.tables import need_pyarrow, read_table, write_table
from matrix_lib.io.video import write_video


def test_a_table_comes_back_as_it_was(tmp_path):
    columns = {"name": ["a", "b", "a"], "value": np.array([0.5, np.nan, -1.0]), "label": [True, None, False]}
    path = write_table(tmp_path / "sub" / "t.parquet", columns, {"score": "above"})
    found, notes = read_table(path)
    assert found["name"] == columns["name"]
    assert found["label"] == columns["label"]
    np.testing.assert_array_equal(found["value"], columns["value"])
    assert notes == {"score": "above"}
    assert [p.name for p in path.parent.iterdir()] == ["t.parquet"]


def test_tables_refuse_what_is_none(tmp_path):
    with pytest.raises(ValueError, match="equally long"):
        write_table(tmp_path / "t.parquet", {"a": [1], "b": [1, 2]})
    with pytest.raises(ValueError, match="one axis"):
        write_table(tmp_path / "t.parquet", {"a": np.zeros((2, 2))})
    (tmp_path / "x.parquet").write_bytes(b"not a table")
    with pytest.raises(ValueError, match="cannot be read"):
        read_table(tmp_path / "x.parquet")
    with pytest.raises(ValueError, match="no table"):
        read_table(tmp_path / "absent.parquet")


def test_a_missing_pyarrow_comes_with_its_install_line(monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(ValueError, match="pip install pyarrow"):
        need_pyarrow()


def place(folder, name, prompt="a man pushes a cart", entities="man: a man\ncart: a cart\npushes = verb(man -> cart)"):
    """One clip in a folder of its own, 32x48 pixels."""
    home = folder / name
    (home / "masks" / "cart").mkdir(parents=True)
    (home / "prompt.txt").write_text(prompt + "\n")
    (home / "entities.txt").write_text(entities)
    Image.new("RGB", (48, 32), (90, 120, 60)).save(home / "image.png")
    mask = np.zeros((32, 48), dtype=np.uint8)
    mask[8:24, 4:20] = 255
    Image.fromarray(mask).save(home / "masks" / "man.png")
    Image.fromarray(mask[:, ::-1].copy()).save(home / "masks" / "cart" / "000.png")
    return home


def test_a_folder_of_clips(tmp_path):
    place(tmp_path, "b")
    place(tmp_path, "a")
    found = read_clips(tmp_path)
    assert [clip.name for clip in found.clips] == ["a", "b"]
    clip = found.clips[0]
    assert clip.instances == ("man", "cart")
    assert clip.frames(9).shape == (1, 32, 48, 3)
    tracks = clip.tracks()
    assert tracks.roles == {"man": "subject", "cart": "object"}
    assert int(tracks.areas("man")[0]) == 16 * 16
    assert tracks.mask("cart", 0)[10, 30]


def test_every_bad_clip_is_listed_by_name(tmp_path):
    place(tmp_path, "fine")
    (place(tmp_path, "no_mask") / "masks" / "man.png").unlink()
    extra = place(tmp_path, "no_entity")
    Image.new("L", (48, 32), 255).save(extra / "masks" / "dog.png")
    (place(tmp_path, "no_picture") / "image.png").unlink()
    place(tmp_path, "not_in_prompt", entities="man: a man\ncart: the wagon")
    place(tmp_path, "in_time", entities="man: a man @0-1s\ncart: a cart")
    with pytest.raises(ValueError, match="5 of 6 clips") as told:
        read_clips(tmp_path)
    lines = {line.split(":")[0].strip(): line for line in str(told.value).splitlines()[1:]}
    assert "no mask of 'man'" in lines["no_mask"]
    assert "mask of 'dog'" in lines["no_entity"]
    assert "neither an image" in lines["no_picture"]
    assert "'the wagon' is not in the prompt" in lines["not_in_prompt"]
    assert "has a time, @0-1s" in lines["in_time"]
    assert "fine" not in lines


def test_no_clips_and_no_folder_are_told(tmp_path):
    with pytest.raises(ValueError, match="no clips"):
        read_clips(tmp_path)
    with pytest.raises(ValueError, match="no folder"):
        read_clips(tmp_path / "absent")


def matrix_folder(folder, rows):
    frames = np.full((5, 32, 48, 3), 80, dtype=np.uint8)
    for row in rows:
        write_video(folder / "videos" / row["video"], frames, 8.0)
        for k in (1, 2, 3):
            home = folder / "mask_annotation" / row["video"].removesuffix(".mp4") / f"<id{k}>"
            home.mkdir(parents=True)
            for f in range(5):
                mask = np.zeros((32, 48), dtype=np.uint8)
                mask[4:12, 10 * k : 10 * k + 8] = 255
                Image.fromarray(mask).save(home / f"{f:03d}.png")
    (folder / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))


def test_the_layout_of_matrix_with_and_without_phrases(tmp_path):
    tagged = "a <id1> man pushes a cart past another <id2> man"
    phrases = "who: a man\nwhom: another man\npushes = verb(who -> whom)"
    matrix_folder(
        tmp_path, [{"video": "x.mp4", "prompt": tagged}, {"video": "y.mp4", "prompt": tagged, "phrases": phrases}]
    )
    found = read_clips(tmp_path)
    bare, said = found.clips
    assert bare.prompt == said.prompt == "a man pushes a cart past another man"
    assert [(spec.name, str(spec.words[0]), spec.role) for spec in bare.phrases] == [
        ("id1", "man#1", "subject"),
        ("id2", "man#2", "object"),
    ]
    assert said.instances == ("who", "whom")
    assert int(said.tracks().boxes("whom")[0][0]) == 20
    assert said.tracks().frames == 5
    assert len(said.frames(3)) == 3
    assert any("bystanders" in note for note in found.notes)
    assert any("no verbs" in note for note in found.notes)


def test_videos_outside_of_the_folder_are_refused(tmp_path):
    (tmp_path / "metadata.jsonl").write_text(json.dumps({"video": "../../x.mp4", "prompt": "a <id1> man"}))
    with pytest.raises(ValueError, match="outside"):
        read_clips(tmp_path)
