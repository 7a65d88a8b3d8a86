"""Capture files: what is saved comes back, lazily, and nothing else is accepted."""

from __future__ import annotations

import json
import pickle
import resource
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support_capture import make_capture

from matrix_lib.io.captures import load_capture, save_capture
from matrix_lib.io.files import inside, whole_file

Header = dict[str, Any]


def test_everything_comes_back(tmp_path: Path) -> None:
    capture = make_capture(streams=2, calls=[1, 0, 3])
    path = save_capture(capture, tmp_path / "sub" / "a.safetensors")
    loaded = load_capture(path)
    assert (loaded.backbone, loaded.branch, loaded.steps, loaded.meta) == (
        capture.backbone,
        capture.branch,
        capture.steps,
        capture.meta,
    )
    for mine, its in zip(capture.streams, loaded.streams, strict=True):
        assert (mine.key, mine.grid, mine.binding) == (its.key, its.grid, its.binding)
        for kind in ("v2t", "v2v"):
            assert torch.equal(mine.get(kind)[0], its.get(kind)[0])
            assert mine.get(kind)[1:] == its.get(kind)[1:]
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"], "no temporary file is left"


def test_the_file_is_what_the_contract_says(tmp_path: Path) -> None:
    path = save_capture(make_capture(), tmp_path / "a.safetensors")
    raw = path.read_bytes()
    head = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert set(head) == {"v2t", "v2v", "__metadata__"}
    assert head["v2t"]["dtype"] == "F16"
    assert head["v2t"]["shape"] == [4, 3, 3, 3, 4, 6]
    header = json.loads(head["__metadata__"]["header"])
    assert header["version"] == 1
    assert header["steps"] == [0, 5, 10]
    assert header["branch"] == "cond"
    assert header["streams"][0]["entities"] == {"v2t": ["cyclist", "van", "waits behind"], "v2v": ["cyclist", "van"]}


def test_frames_that_end_within_the_last_tokens_come_back(tmp_path: Path) -> None:
    capture = make_capture()
    stream = capture.streams[0]
    height, width = stream.grid.frame_pixels
    odd = replace(stream.grid, pixels=(height - 8, width))
    path = save_capture(replace(capture, streams=(replace(stream, grid=odd),)), tmp_path / "odd.safetensors")
    assert load_capture(path).streams[0].grid == odd
    _, metadata = _read(save_capture(capture, tmp_path / "even.safetensors"))
    assert "pixels" not in metadata["header"]


def test_a_capture_without_instances_comes_back(tmp_path: Path) -> None:
    full = make_capture()
    none = replace(full.streams[0], v2v=full.streams[0].v2v[:0, :, :0], layers_v2v=(), entities_v2v=())
    loaded = load_capture(save_capture(replace(full, streams=[none]), tmp_path / "a.safetensors"))
    assert loaded.streams[0].v2v.shape == none.v2v.shape


def test_a_large_file_opens_without_being_read(tmp_path: Path) -> None:
    small = make_capture(layers=1, steps=1)
    stream = small.streams[0]
    big = stream.v2t.repeat(400, 100, 1, 1, 1, 1)
    many = replace(stream, v2t=big, layers_v2t=tuple(range(400)), v2v=stream.v2v.repeat(1, 100, 1, 1, 1, 1))
    steps = tuple(replace(small.steps[0], index=i) for i in range(100))
    path = save_capture(replace(small, streams=[many], steps=steps), tmp_path / "a.safetensors")
    status = Path("/proc/self/status")

    def resident() -> int:
        lines = status.read_text().splitlines() if status.exists() else []
        return sum(int(line.split()[1]) for line in lines if line.startswith("RssFile"))

    before = resident()
    loaded = load_capture(path)
    assert resident() - before < path.stat().st_size / 1024 / 4
    assert torch.equal(loaded.maps(layer=399, step=99, entity="van"), big[399, 99, 1].float())


def test_a_failed_save_keeps_the_older_file(tmp_path: Path) -> None:
    path = save_capture(make_capture(), tmp_path / "a.safetensors")
    before = path.read_bytes()
    with pytest.raises(ValueError, match="JSON"):
        save_capture(replace(make_capture(), meta={"x": object()}), path)
    with pytest.raises(OSError, match="disk"):
        _break_off(path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]
    with pytest.raises(ValueError, match=r"end in \.safetensors"):
        save_capture(make_capture(), tmp_path / "a.pt")


def _break_off(path: Path) -> None:
    with whole_file(path) as temporary:
        temporary.write_bytes(b"half")
        raise OSError("the disk is full")


def test_files_that_are_no_captures(tmp_path: Path) -> None:
    good = save_capture(make_capture(), tmp_path / "good.safetensors").read_bytes()
    bad: dict[str, tuple[bytes, str]] = {
        "truncated": (good[:-100], "truncated"),
        "cut header": (good[:50], "truncated"),
        "empty": (b"", "truncated"),
        "longer": (good + b"more", "truncated"),
        "huge header": (struct.pack("<Q", 1 << 60) + b"{}", "truncated"),
        "pickle": (pickle.dumps({"v2t": 1}), "never read from those"),
        "zip": (b"PK\3\4" + bytes(100), "never read from those"),
    }
    for name, (data, says) in bad.items():
        path = tmp_path / f"{name}.safetensors"
        path.write_bytes(data)
        with pytest.raises(ValueError, match=says) as caught:
            load_capture(path)
        assert name in str(caught.value)
    save_file({"lora.weight": torch.zeros(2)}, tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="another kind"):
        load_capture(tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match="no capture file"):
        load_capture(tmp_path / "missing.safetensors")


def _set(*path: Any, to: Any) -> Callable[[Header], None]:
    def change(header: Header) -> None:
        for key in path[:-1]:
            header = header[key]
        header[path[-1]] = to

    return change


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (_set("version", to=2), "version 2"),
        (_set("steps", to=[0, 5]), "header says"),
        (_set("steps", to="0"), "wrong type"),
        (_set("calls", to=[1, -1, 1]), "wrong type"),
        (_set("calls", to=[1, True, 1]), "wrong type"),
        (_set("sigmas", to=[1.0]), "shorter"),
        (_set("steps", to=[5, 5, 5]), "index of its own"),
        (_set("streams", to=[]), "its header"),
        (_set("streams", 0, "entities", "v2t", to=["a", "b"]), "header says"),
        (_set("streams", 0, "entities", "v2t", to=["a", "a", "b"]), "different entity names"),
        (_set("streams", 0, "layers", "v2v", to=[0, 1, 2]), "header says"),
        (_set("streams", 0, "layers", "v2t", to=[0, 1, 2, "3"]), "whole numbers"),
        (_set("streams", 0, "grid", "frames", to=1 << 40), "header says"),
        (_set("streams", 0, "grid", "frames", to=-3), "at least one token"),
        (_set("streams", 0, "grid", "patch", to=[1, 2]), "stream"),
        (_set("streams", 0, "grid", "patch", to=5), "stream"),
        (_set("streams", 0, "grid", "more", to=5), "not a grid"),
        (_set("streams", 0, "grid", to=None), "stream"),
        (_set("streams", 0, "grid", "pixels", to=[64]), "not a grid"),
        (_set("streams", 0, "grid", "pixels", to=[64, 1.5]), "not a grid"),
        (_set("streams", 0, "grid", "pixels", to=[1 << 40, 64]), "do not make"),
        (_set("streams", 0, "binding", to="{}"), "prompt binding"),
        (_set("streams", 0, "binding", to=3), "stream"),
        (_set("meta", to=[]), "wrong type"),
        (_set("meta", "notes", to=[5]), "wrong type"),
        (lambda header: header.pop("branch"), "lacks 'branch'"),
        (lambda header: header["streams"][0].pop("grid"), "lacks 'grid'"),
    ],
)
def test_headers_that_lie(tmp_path: Path, change: Callable[[Header], Any], says: str) -> None:
    path = save_capture(make_capture(), tmp_path / "a.safetensors")
    tensors, metadata = _read(path)
    header = json.loads(metadata["header"])
    change(header)
    save_file(tensors, path, {**metadata, "header": json.dumps(header)})
    with pytest.raises(ValueError, match=says) as caught:
        load_capture(path)
    assert "a.safetensors" in str(caught.value)


def test_tensors_that_do_not_belong(tmp_path: Path) -> None:
    path = save_capture(make_capture(), tmp_path / "a.safetensors")
    tensors, metadata = _read(path)
    for wrong in ({**tensors, "more": torch.zeros(1)}, {"v2t": tensors["v2t"]}):
        save_file(wrong, path, metadata)
        with pytest.raises(ValueError, match="holds tensors"):
            load_capture(path)
    save_file({**tensors, "v2t": tensors["v2t"].float()}, path, metadata)
    with pytest.raises(ValueError, match="F32"):
        load_capture(path)
    save_file(tensors, path, {**metadata, "header": "[" * 100_000})
    with pytest.raises(ValueError, match="not a capture file"):
        load_capture(path)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {name: file.get_tensor(name).clone() for name in file.keys()}, file.metadata()  # noqa: SIM118


def test_paths_stay_inside(tmp_path: Path) -> None:
    output, given, secret = tmp_path / "output", tmp_path / "input", tmp_path / "secret"
    for folder in (output, given, secret):
        folder.mkdir()
    (given / "b.safetensors").touch()
    (output / "link").symlink_to(secret)
    assert inside("a/b.safetensors", [output]) == output / "a" / "b.safetensors"
    assert inside("b.safetensors", [output, given]) == given / "b.safetensors"
    assert inside(str(given / "b.safetensors"), [output, given]) == given / "b.safetensors"
    for wrong in ("../secret/a", str(secret / "a"), "/etc/passwd", "a/../../secret/b"):
        with pytest.raises(ValueError, match="outside"):
            inside(wrong, [output, given])
    with pytest.raises(ValueError, match="outside"):
        inside("link/a", [output])
    with pytest.raises(ValueError, match="zero bytes"):
        inside("a\0b", [output])
    for long in ("x" * 300, "y/" * 3000, "\u540d" * 90):
        with pytest.raises(ValueError, match=r"^.{,200}choose a shorter one$"):
            inside(long, [output])


def test_a_disk_that_is_full_or_locked_says_so(tmp_path: Path) -> None:
    """A file where a folder should be, and a limit on the size of files in place of a full disk."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"was not written: .*Nothing of it was kept.*Free some space"):
        save_capture(make_capture(), tmp_path / "file" / "a.safetensors")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
        with pytest.raises(OSError, match="was not written"):
            save_capture(make_capture(), tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
