"""Track files: what is saved comes back, and nothing else is believed."""

from __future__ import annotations

import json
import pickle
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors import safe_open
from safetensors.numpy import load_file, save_file
from support_counts import count

from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.io.tracks import load_tracks, save_tracks


@pytest.fixture
def tracks() -> MaskTracks:
    rng = np.random.default_rng(0)
    clip = {name: torch.from_numpy(rng.random((5, 9, 14)) < 0.4) for name in ("the cat", "<id2>", "ünï 猫")}
    clip["the cat"][2] = False
    return MaskTracks.from_masks(clip, roles={"the cat": "subject", "<id2>": "object"}, fps=12.5)


@pytest.fixture
def saved(tracks, tmp_path):
    return save_tracks(tracks, tmp_path / "a.safetensors")


def test_round_trip(tracks, saved):
    again = load_tracks(saved)
    assert again == tracks
    assert again.names == tracks.names
    assert again.roles == tracks.roles
    assert again.palette == tracks.palette
    assert again.fps == 12.5
    for name in tracks.names:
        assert torch.equal(again.masks(name), tracks.masks(name))


@settings(max_examples=count(40, soak=800))
@given(st.integers(0, 2**31), st.integers(1, 6), st.integers(1, 12), st.integers(1, 12), st.sampled_from([0, 0.5, 1]))
def test_round_trip_of_anything(tmp_path_factory, seed, frames, height, width, density):
    clip = torch.from_numpy(np.random.default_rng(seed).random((2, frames, height, width)) < density)
    tracks = MaskTracks.from_masks({"a": clip[0], "b": clip[1]}, allow_empty=True)
    path = tmp_path_factory.mktemp("tracks") / "t.safetensors"
    assert load_tracks(save_tracks(tracks, path)) == tracks


def test_the_file_is_what_the_format_says(tracks, saved):
    tensors = load_file(saved)
    assert tensors["shape"].tolist() == [5, 9, 14, 12.5]
    assert tensors["offsets"].shape == (3, 6)
    value, row = False, []
    for length in tensors["run_lengths"][: tensors["offsets"][0, 1]]:
        row += [value] * int(length)
        value = not value
    row += [False] * (9 * 15 - len(row))
    assert torch.equal(torch.tensor(row).reshape(9, 15)[:, :14], tracks.mask("the cat", 0))
    with safe_open(saved, "np") as file:
        header = json.loads(file.metadata()["header"])
    assert header["version"] == 1
    assert header["names"] == ["the cat", "<id2>", "ünï 猫"]
    assert header["roles"] == ["subject", "object", "instance"]
    assert header["palette"][0] == [255, 0, 0]


def test_an_interrupted_save_keeps_the_old_file(tracks, saved, monkeypatch):
    from matrix_lib.io import tracks as module

    def broken(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "save_file", broken)
    with pytest.raises(KeyboardInterrupt):
        save_tracks(tracks.select(["<id2>"]), saved)
    assert load_tracks(saved) == tracks
    assert [p.name for p in saved.parent.iterdir()] == [saved.name]


def test_names_and_places(tracks, saved, tmp_path):
    for work in (save_tracks, lambda _, path: load_tracks(path)):
        with pytest.raises(ValueError, match=r"end in \.safetensors; got 'a\.pt'"):
            work(tracks, tmp_path / "a.pt")
    with pytest.raises(ValueError, match="there is no track file 'none"):
        load_tracks(tmp_path / "none.safetensors")
    (tmp_path / "folder.safetensors").mkdir()
    with pytest.raises(ValueError, match="there is no track file"):
        load_tracks(tmp_path / "folder.safetensors")


def test_truncated_at_every_length(saved, tmp_path):
    data = saved.read_bytes()
    broken = tmp_path / "broken.safetensors"
    for length in [*range(0, len(data), 37), len(data) - 1]:
        broken.write_bytes(data[:length])
        with pytest.raises(ValueError, match=r"'broken\.safetensors' is not a track file that can be read"):
            load_tracks(broken)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("the pickle was run",))


def test_pickles_are_named_and_never_run(tmp_path):
    for name, data in {"p": pickle.dumps(Bomb()), "z": b"PK\x03\x04" + bytes(50)}.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(ValueError, match="looks like a pickle"):
            load_tracks(path)


def test_header_that_claims_more_than_the_file_has(tmp_path):
    claims = {"run_lengths": {"dtype": "U32", "shape": [2**40], "data_offsets": [0, 2**42]}}
    text = json.dumps(claims).encode()
    for data in (struct.pack("<Q", len(text)) + text, struct.pack("<Q", 2**62) + text, b"\xff" * 64):
        path = tmp_path / "huge.safetensors"
        path.write_bytes(data)
        with pytest.raises(ValueError, match="truncated, damaged or of another kind"):
            load_tracks(path)


def edit(path, header=None, drop=None, **tensors):
    """The saved file with another header or other tensors."""
    with safe_open(path, "np") as file:
        metadata = dict(file.metadata())
    stored = {k: np.array(v) for k, v in load_file(path).items()}
    path.unlink()
    if header is not None:
        metadata["header"] = header if isinstance(header, str) else json.dumps(json.loads(metadata["header"]) | header)
    stored = {k: v for k, v in (stored | tensors).items() if k != drop}
    save_file(stored, path, metadata if header != "none" else None)
    return path


BAD_HEADERS = [
    ("none", "another kind"),
    ("{", "cannot be read as JSON"),
    ("[1]", "no JSON object"),
    ("[" * 100_000, "cannot be read as JSON"),
    (" " * 2_000_000, "1048576 are the most"),
    ({"version": 2}, "version 2, and this release reads version 1"),
    ({"names": "abc"}, "one role and one colour"),
    ({"names": ["a"]}, "one role and one colour"),
    ({"names": ["a", "a", "b"]}, "two instances are called 'a'"),
    ({"names": ["a", 3, "b"]}, "needs a name"),
    ({"names": ["a", "b" * 300, "c"]}, "at most 200"),
    ({"names": [], "roles": [], "palette": []}, "got 0"),
    ({"roles": ["subject", "hero", "object"]}, "got 'hero'"),
    ({"roles": ["subject", ["object"], "object"]}, "role"),
    ({"palette": [[1, 2, 3]]}, "one role and one colour"),
    ({"palette": [1, 2, 3]}, "one role and one colour"),
    ({"palette": [[1, 2, 3], [1, 2, 3], [4, 5, 6]]}, "different colours"),
    ({"palette": [[1, 2, 3], [1, 2, 999], [4, 5, 6]]}, "0 to 255"),
]


@pytest.mark.parametrize(("header", "words"), BAD_HEADERS, ids=range(len(BAD_HEADERS)))
def test_bad_headers(saved, header, words):
    with pytest.raises(ValueError, match=rf"'a\.safetensors' is not a track file that can be read: .*{words}"):
        load_tracks(edit(saved, header))


def shape(*values):
    return {"shape": np.array(values, dtype=np.float64)}


BAD_TENSORS = [
    ({"drop": "offsets"}, "it has tensors"),
    ({"extra": np.zeros(1)}, "it has tensors"),
    ({"run_lengths": np.zeros(4, np.int64)}, "'run_lengths' is I64, where tracks have U32"),
    ({"offsets": np.zeros((3, 6), np.float64)}, "'offsets' is F64"),
    ({"shape": np.zeros(4, np.float32)}, "'shape' is F32"),
    ({"shape": np.zeros(3)}, "'shape' holds"),
    (shape(5, 9, 14.5, 8), "whole numbers"),
    (shape(5, 9, np.nan, 8), "whole numbers"),
    (shape(5, 9, 1e300, 8), "whole numbers"),
    (shape(5, 9, -14, 8), "cannot have"),
    (shape(5, 2**31, 2**31, 8), "cannot have"),
    (shape(1e9, 9, 14, 8), "cannot have"),
    (shape(5, 9, 14, 0), "frames per second"),
    (shape(4, 9, 14, 8), r"need \[3, 5\]"),
    (shape(5, 9, 6, 8), "outside the 9x6 frame"),
    ({"offsets": np.zeros((2, 6), np.int64)}, r"need \[3, 6\]"),
    ({"run_lengths": np.zeros((4, 1), np.uint32)}, "one row of lengths"),
    ({"offsets": np.zeros((3, 6), np.int64)}, "but .* are stored"),
    ({"offsets": np.full((3, 6), -2, np.int64)}, "leave the"),
    ({"offsets": np.array([[0, 2**62, 0, 0, 0, 0]] * 3)}, "leave the"),
    ({"offsets": np.array([[0, 4, 2, 6, 6, 6]] * 3)}, "overlap"),
    ({"offsets": np.array([[0, 1, 2, 6, 6, 6]] * 3)}, "overlap"),
]


@pytest.mark.parametrize(("change", "words"), BAD_TENSORS, ids=range(len(BAD_TENSORS)))
def test_bad_tensors(saved, change, words):
    with pytest.raises(ValueError, match=rf"'a\.safetensors' is not a track file that can be read: .*{words}"):
        load_tracks(edit(saved, **change))


def test_bad_run_lengths(saved):
    good = load_file(saved)["run_lengths"]
    for at, value, words in ((1, 0, "strictly increase"), (0, 2**32 - 1, "outside the"), (3, 200, "row|outside")):
        lengths = good.copy()
        lengths[at] = value
        with pytest.raises(ValueError, match=words):
            load_tracks(edit(saved, run_lengths=lengths))


@settings(max_examples=count(150, soak=3000))
@given(st.data())
def test_flipped_bytes_never_do_anything_but_raise_value_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("flips")
    clip = torch.zeros(2, 4, 6, dtype=torch.bool)
    clip[:, 1:3, 2:5] = True
    path = save_tracks(MaskTracks.from_masks({"a": clip}), folder / "f.safetensors")
    content = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    path.write_bytes(content)
    try:
        tracks = load_tracks(path)
    except ValueError:
        return
    assert all(int(tracks.areas(name).min()) >= 0 for name in tracks.names)
