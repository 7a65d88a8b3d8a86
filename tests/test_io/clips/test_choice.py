"""Which file of a folder is the clip, which are nobody's, and where links may lead."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_clips import one_instance
from support_counts import count

from matrix_lib.io.clips.choice import choose_clip, choose_tracks, found_at
from matrix_lib.io.clips.folder import read_clips, scan_clips
from matrix_lib.io.files import expanded
from matrix_lib.io.video import write_video


def touch(folder, *names):
    folder.mkdir(parents=True, exist_ok=True)
    for name in names:
        (folder / name).write_bytes(b"x")
    return folder


def place(folder, name="a", entities="man: the man\n", prompt="the man waves"):
    """A folder of one clip, its picture still lacking."""
    home = folder / name
    home.mkdir(parents=True)
    (home / "prompt.txt").write_text(prompt)
    (home / "entities.txt").write_text(entities)
    mask = np.zeros((1, 32, 48), bool)
    mask[:, 4:20, 4:20] = True
    one_instance(mask, home / "masks" / "man", "white")
    return home


def test_the_clip_beside_others(tmp_path):
    chosen = choose_clip(touch(tmp_path / "a", "video.mp4", "preview.mp4", "cover.jpg", "._video.mp4", ".hidden.mp4"))
    assert (chosen.path.name, chosen.note) == ("video.mp4", "video.mp4 is the clip; left aside: preview.mp4, cover.jpg")
    assert choose_clip(touch(tmp_path / "b", "take.MOV", "._take.MOV")) == (tmp_path / "b" / "take.MOV", "")
    assert choose_clip(touch(tmp_path / "kitchen", "kitchen.mp4", "preview.mp4")).path.name == "kitchen.mp4"
    for names, said in (
        (["one.mp4", "two.mp4"], "2 videos, and which is the clip. one.mp4, two.mp4: call the right one video.mp4"),
        (["frame_0.png", "frame_1.png"], "2 images.*ffmpeg -framerate FPS"),
        (["clip.wmv", "notes.txt"], r"neither an image .*it holds 'clip.wmv', 'notes.txt'"),
        ([], "neither an image"),
    ):
        with pytest.raises(ValueError, match=said):
            choose_clip(touch(tmp_path / said[:3] / "x", *names))
    assert choose_tracks(tmp_path / "a") is None
    found = choose_tracks(touch(tmp_path / "t", "tracks.safetensors", "old.safetensors", "._tracks.safetensors"))
    assert (found.path.name, "left aside: old.safetensors" in found.note) == ("tracks.safetensors", True)
    with pytest.raises(ValueError, match="2 files of tracks"):
        choose_tracks(touch(tmp_path / "u", "x.safetensors", "y.safetensors"))


@settings(max_examples=count(20, 2000))
@given(
    st.sets(
        st.sampled_from(
            [
                a + b
                for a in ("video", "preview", "x", "._video", "image")
                for b in (".mp4", ".MOV", ".png", ".jpg", ".txt")
            ]
        ),
        max_size=6,
    )
)
def test_any_files(tmp_path_factory, names):
    folder = touch(tmp_path_factory.mktemp("any") / "x", *names)
    shown = {name for name in names if not name.startswith(".")}
    kinds = [{n for n in shown if n.lower().endswith(ends)} for ends in ((".mp4", ".mov"), (".png", ".jpg"))]
    found = kinds[0] or kinds[1]
    named = {n for n in found if n.lower().startswith("video." if kinds[0] else "image.")}
    if len(found) != 1 and len(named) != 1:
        with pytest.raises(ValueError, match="neither an image" if not found else "which is the clip") as told:
            choose_clip(folder)
        assert all(name in str(told.value) for name in sorted(found)[:4])
        return
    chosen = choose_clip(folder)
    assert chosen.path.name in (kinds[0] or kinds[1])
    rest = (kinds[0] | kinds[1]) - {chosen.path.name}
    assert all(name in chosen.note for name in rest)
    assert bool(rest) == bool(chosen.note)


def test_hidden_files_and_folders_are_nobodys(tmp_path):
    home = place(tmp_path)
    Image.new("RGB", (48, 32)).save(home / "image.png")
    touch(home, "._image.png", "._prompt.txt", ".DS_Store")
    touch(home / "masks", "._man.png", "Thumbs.db")
    touch(home / "masks" / "man", "._000.png")
    touch(tmp_path / ".ipynb_checkpoints", "prompt.txt")
    touch(tmp_path / "__MACOSX", "prompt.txt")
    found = read_clips(tmp_path)
    assert [clip.name for clip in found.clips] == ["a"]
    assert found.clips[0].tracks().names == ("man",)


def test_links_lead_where_a_person_says(tmp_path, monkeypatch):
    folder, disk = tmp_path / "clips", tmp_path / "disk"
    home = place(folder)
    write_video(disk / "film.mp4", np.zeros((2, 32, 48, 3), np.uint8))
    (home / "video.mp4").symlink_to(disk / "film.mp4")
    said = scan_clips(folder).problems["a"]
    assert f"video.mp4 is a link to {disk / 'film.mp4'}" in said
    assert f"roots={disk}" in said
    assert [clip.name for clip in read_clips(folder, roots=f"/absent, {disk}").clips] == ["a"]
    monkeypatch.setenv("DISK", str(disk))
    assert read_clips(folder, roots="$DISK").clips[0].picture == home / "video.mp4"
    (home / "video.mp4").unlink()
    (home / "video.mp4").symlink_to(home / "gone.mp4")
    assert "where nothing is" in scan_clips(folder).problems["a"]
    (home / "video.mp4").unlink()
    write_video(home / "video.mp4", np.zeros((2, 32, 48, 3), np.uint8))
    (folder / "masks").mkdir()
    (home / "masks" / "man").rename(disk / "man")
    (home / "masks" / "man").symlink_to(disk / "man")
    assert "lies outside of the folder" in scan_clips(folder).problems["a"]
    assert read_clips(folder, roots=str(disk)).clips[0].instances == ("man",)
    linked = tmp_path / "linked"
    linked.symlink_to(folder)
    assert read_clips(linked, roots=str(disk)).clips, "the folder itself may be a link"


def test_homes_and_variables_in_paths(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("SET", "data")
    assert expanded("~/$SET/x") == tmp_path / "data" / "x"
    with pytest.raises(ValueError, match=r"'\$ABSENT/x' has the variable \$ABSENT, which is not set"):
        expanded("$ABSENT/x")
    odd = tmp_path / "a$b"
    odd.mkdir()
    assert expanded(odd) == odd, "a dollar in a name that is there"


def test_accents_of_either_form(tmp_path):
    (tmp_path / "cafe\u0301.mp4").write_bytes(b"x")
    assert found_at(tmp_path / "caf\u00e9.mp4").name == "cafe\u0301.mp4"
    assert found_at(tmp_path / "cafe.mp4") is None
