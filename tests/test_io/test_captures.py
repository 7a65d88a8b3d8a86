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

from matrix_lib.instrument.capture import Capture
from matrix_lib.instrument.maps import Maps
from matrix_lib.instrument.readings.ranking import describe
from matrix_lib.io.captures import CaptureParts, load_capture, save_capture
from matrix_lib.io.files import inside, whole_file

Header = dict[str, Any]
PARTS = ("values", "counts")
V2T = ("streams", 0, "maps", "v2t")


def same(mine: Capture, its: Capture) -> None:
    """Two captures hold the same."""
    assert (its.backbone, its.branch, its.steps, its.meta) == (mine.backbone, mine.branch, mine.steps, mine.meta)
    for a, b in zip(mine.streams, its.streams, strict=True):
        assert (str(a.key), a.grid, a.binding, list(a.maps)) == (str(b.key), b.grid, b.binding, list(b.maps))
        for kind, maps in a.maps.items():
            other = b.maps[kind]
            for name in ("layers", "entities", "heads", "error"):
                assert getattr(maps, name) == getattr(other, name)
            assert dict(maps.points) == dict(other.points)
            for name in ("values", "counts", "scale"):
                one, two = getattr(maps, name), getattr(other, name)
                assert (one is None and two is None) or torch.equal(one, two)


def test_everything_comes_back(tmp_path: Path) -> None:
    capture = make_capture(streams=2, calls=[1, 0, 3])
    steps = tuple(replace(step, model="high noise") for step in capture.steps)
    path = save_capture(replace(capture, steps=steps), tmp_path / "sub" / "a.safetensors")
    same(replace(capture, steps=steps), load_capture(path))
    assert [p.name for p in path.parent.iterdir()] == ["a.safetensors"], "no temporary file is left"


def test_codes_heads_points_and_other_kinds_come_back(tmp_path: Path) -> None:
    capture = make_capture().stored("uint8")
    held = capture.streams[0].get("v2t")
    heads = torch.stack([held.dense(), held.dense() / 2], 3)
    place = {"van": (1, 2, 3)}
    t2v = Maps(heads, held.layers, held.entities, held.counts, heads=(1, 7), points=place).stored("uint8")
    stream = replace(capture.streams[0], maps={**capture.streams[0].maps, "t2v": t2v, "audio": held})
    capture = replace(capture, streams=[stream])
    loaded = load_capture(save_capture(capture, tmp_path / "a.safetensors"))
    same(capture, loaded)
    assert loaded.streams[0].get("t2v").scale is not None
    torch.testing.assert_close(loaded.maps("t2v", entity="van"), capture.maps("t2v", entity="van"))


def test_the_file_is_what_the_contract_says(tmp_path: Path) -> None:
    path = save_capture(make_capture(), tmp_path / "a.safetensors")
    raw = path.read_bytes()
    head = json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])
    assert set(head) == {"__metadata__", *(f"0/{kind}/{part}" for kind in ("v2t", "v2v") for part in PARTS)}
    assert (head["0/v2t/values"]["dtype"], head["0/v2t/values"]["shape"]) == ("F16", [4, 3, 3, 3, 4, 6])
    assert (head["0/v2t/counts"]["dtype"], head["0/v2t/counts"]["shape"]) == ("I32", [4, 3, 3, 3])
    header = json.loads(head["__metadata__"]["header"])
    assert header["version"] == 2
    assert header["steps"][1] == {"index": 5, "sigma": pytest.approx(2 / 3), "calls": 2, "model": "", "skipped": []}
    assert header["branch"] == "cond"
    maps = {"layers": [0, 1], "entities": ["cyclist", "van"], "heads": [], "points": {}, "error": None}
    assert header["streams"][0]["maps"]["v2v"] == maps
    coded = save_capture(make_capture().stored("uint8"), tmp_path / "b.safetensors").read_bytes()
    head = json.loads(coded[8 : 8 + struct.unpack("<Q", coded[:8])[0]])
    assert (head["0/v2t/values"]["dtype"], head["0/v2t/scale"]["dtype"]) == ("U8", "F32")
    error = json.loads(head["__metadata__"]["header"])["streams"][0]["maps"]["v2t"]["error"]
    assert 0 < error["largest"] < 0.005


def test_frames_that_end_within_the_last_tokens_come_back(tmp_path: Path) -> None:
    capture = make_capture()
    stream = capture.streams[0]
    height, width = stream.grid.frame_pixels
    odd = replace(stream.grid, pixels=(height - 8, width))
    path = save_capture(replace(capture, streams=[replace(stream, grid=odd)]), tmp_path / "odd.safetensors")
    assert load_capture(path).streams[0].grid == odd
    _, metadata = _read(save_capture(capture, tmp_path / "even.safetensors"))
    assert "pixels" not in metadata["header"]


def test_another_program_reads_a_value_as_the_page_says(tmp_path: Path) -> None:
    """docs/captures.md, with nothing but the standard library: one value of one map."""
    capture = make_capture().stored("uint8")
    raw = save_capture(capture, tmp_path / "a.safetensors").read_bytes()
    length = struct.unpack("<Q", raw[:8])[0]
    head = json.loads(raw[8 : 8 + length])
    codes, scales = head["0/v2t/values"], head["0/v2t/scale"]
    at, place = (2, 1, 1, 2, 3, 4), 0
    for index, size in zip(at, codes["shape"], strict=True):
        place = place * size + index
    code = raw[8 + length + codes["data_offsets"][0] + place]
    map_ = (at[0] * codes["shape"][1] + at[1]) * codes["shape"][2] + at[2]
    (scale,) = struct.unpack_from("<f", raw, 8 + length + scales["data_offsets"][0] + 4 * map_)
    assert scale * (code / 255) ** 2 == pytest.approx(float(capture.streams[0].get("v2t").layer(2)[1, 1, 2, 3, 4]))


def test_a_file_of_version_1_still_opens() -> None:
    """Written by release 0.1: two samples, three steps, of which the second was skipped."""
    capture = load_capture(Path(__file__).parent.parent / "data" / "captures" / "version1.safetensors")
    assert [(s.index, s.sigma, s.calls) for s in capture.steps] == [(0, 1.0, 1), (1, 0.75, 0), (2, 0.5, 1)]
    assert capture.skipped == (1,)
    assert (capture.backbone, capture.meta["seed"]) == ("cogvideox", 7)
    assert [stream.key for stream in capture.streams] == ["(0, 0)", "(0, 1)"]
    assert float(capture.streams[0].v2t.float().sum()) == pytest.approx(3.0269203)
    assert float(capture.streams[1].v2v.float().sum()) == pytest.approx(3.0915337)
    both = capture.maps(entity="van")
    torch.testing.assert_close(
        both, (capture.maps(entity="van", step=0) + capture.maps(entity="van", step=2)) / 2, rtol=1e-6, atol=0
    )
    assert "step 1 was skipped" in describe(capture)


def test_a_capture_without_instances_comes_back(tmp_path: Path) -> None:
    full = make_capture()
    none = replace(full.streams[0], maps={"v2t": full.streams[0].get("v2t")})
    loaded = load_capture(save_capture(replace(full, streams=[none]), tmp_path / "a.safetensors"))
    assert list(loaded.streams[0].maps) == ["v2t"]


def test_a_large_file_opens_without_being_read(tmp_path: Path) -> None:
    small = make_capture(layers=1, steps=1)
    stream = small.streams[0]
    big = stream.v2t.repeat(400, 100, 1, 1, 1, 1)
    many = replace(stream, maps={"v2t": Maps.whole(big, range(400), stream.entities, [1] * 100)})
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
    assert resident() - before < path.stat().st_size / 1024 / 3, "one map is read without the others"


def test_a_run_that_is_killed_leaves_its_finished_steps(tmp_path: Path) -> None:
    whole = make_capture(steps=4, streams=2, calls=[2, 2, 0, 2])
    late = replace(whole, streams=whole.streams[:1])  # the second prompt is not active in the first step
    keep = CaptureParts(tmp_path / "run.safetensors")
    keep(0, late.take(0))
    keep(1, whole.take([5, 10]))
    assert sorted(p.name for p in keep.folder.iterdir()) == ["000000-000000.safetensors", "000001-000002.safetensors"]
    (keep.folder / ".000003-000003.1234.part.safetensors").write_bytes(b"half a part")
    found = load_capture(tmp_path / "run.parts")
    assert [(s.index, s.calls) for s in found.steps] == [(0, 2), (5, 2), (10, 0)]
    assert found.skipped == (10,)
    assert torch.equal(found.streams[0].v2t, whole.streams[0].v2t[:, :3])
    assert [stream.calls(0) for stream in found.streams] == [2, 0]
    (keep.folder / ".000003-000003.1234.part.safetensors").unlink()
    keep(0, whole.take([0, 5]))  # a sampler came back: the step is there once
    assert [s.index for s in load_capture(keep.folder).steps] == [0, 5, 10]
    keep(3, whole.take(15))
    assert keep.finish(whole) == tmp_path / "run.safetensors"
    assert [p.name for p in tmp_path.iterdir()] == ["run.safetensors"]
    same(whole, load_capture(tmp_path / "run.safetensors"))


def test_parts_that_do_not_belong_together(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no parts"):
        load_capture(tmp_path)
    keep = CaptureParts(tmp_path / "run.safetensors")
    keep(0, make_capture(steps=1))
    keep(1, make_capture(steps=1, layers=3))
    with pytest.raises(ValueError, match=r"run\.parts.*not of one run: layers_v2t"):
        load_capture(keep.folder)


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
        (_set("version", to=3), "version 3"),
        (_set("version", to=True), "version True"),
        (lambda header: header["steps"].pop(), "header says"),
        (_set("steps", to="0"), "wrong type"),
        (_set("steps", to=[]), "wrong type"),
        (_set("steps", 0, "calls", to=-1), "wrong type"),
        (_set("steps", 0, "calls", to=True), "wrong type"),
        (_set("steps", 0, "sigma", to="1"), "wrong type"),
        (_set("steps", 0, "skipped", to=["1"]), "wrong type"),
        (_set("steps", 0, "model", to=5), "wrong type"),
        (_set("steps", 0, "index", to=5), "index of its own"),
        (_set("steps", 0, "index", to=10**17), "ok"),
        (_set("steps", 0, "index", to=10**18), "19 digits"),
        (_set("meta", "big", to=10**3999), "4000 digits"),
        (_set("streams", to=[]), "does not name"),
        (_set(*V2T, "entities", to=["a", "b"]), "header says"),
        (_set(*V2T, "entities", to=["a", "a", "b"]), "different entity names"),
        (_set(*V2T, "entities", to=[]), "no layers or no entities"),
        (_set(*V2T, "layers", to=[0, 1, 2]), "header says"),
        (_set(*V2T, "layers", to=[0, 1, 2, "3"]), "whole numbers"),
        (_set(*V2T, "heads", to=[0, 1]), "header says"),
        (_set(*V2T, "heads", to=["0"]), "heads are whole numbers"),
        (_set(*V2T, "points", to={"van": [0, 0, 99]}), "inside the"),
        (_set(*V2T, "points", to={"van": 3}), "whole numbers"),
        (_set(*V2T, "points", to=[]), "damaged"),
        (_set(*V2T, "error", to={"largest": "x", "mean": 0}), "no number"),
        (_set("streams", 0, "maps", to={"v2t/x": {}}), "no names"),
        (_set("streams", 0, "maps", to=5), "no names"),
        (_set("streams", 0, "grid", "frames", to=1 << 40), "larger than any clip"),
        (_set("streams", 0, "grid", "spatial_stride", to=1 << 40), "larger than any clip"),
        (_set("streams", 0, "grid", "frames", to=4), "header says"),
        (_set("streams", 0, "grid", "frames", to=-3), "at least one token"),
        (_set("streams", 0, "grid", "patch", to=[1, 2]), "not a grid"),
        (_set("streams", 0, "grid", "patch", to=5), "not a grid"),
        (_set("streams", 0, "grid", "more", to=5), "not a grid"),
        (_set("streams", 0, "grid", to=None), "not a grid"),
        (_set("streams", 0, "grid", "pixels", to=[64]), "not a grid"),
        (_set("streams", 0, "grid", "pixels", to=5), "not a grid"),
        (_set("streams", 0, "grid", "pixels", to=[64, 1.5]), "not a grid"),
        (_set("streams", 0, "grid", "pixels", to=[1 << 40, 64]), "do not make"),
        (_set("streams", 0, "binding", to=1), "the file holds 1"),
        (_set("bindings", to=["{}"]), "prompt binding"),
        (_set("bindings", to=[3]), "wrong type"),
        (_set("bindings", to=['{"prompt": ' + "9" * 4000 + "}"]), "4000 digits"),
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
    if says == "ok":
        load_capture(path)
        return
    with pytest.raises(ValueError, match=says) as caught:
        load_capture(path)
    assert "a.safetensors" in str(caught.value)
    assert len(str(caught.value)) < 500


def test_headers_are_no_longer_than_their_file_explains(tmp_path: Path) -> None:
    path = save_capture(make_capture(), tmp_path / "a.safetensors")
    tensors, metadata = _read(path)
    header = json.loads(metadata["header"])
    header["meta"]["notes"] = ["x" * 900_000]
    save_file(tensors, path, {**metadata, "header": json.dumps(header)})
    with pytest.raises(ValueError, match=r"its header takes 90\d{4} bytes, more than a file of"):
        load_capture(path)
    with pytest.raises(ValueError, match="shorten what `meta` holds"):
        save_capture(replace(make_capture(), meta=header["meta"]), tmp_path / "b.safetensors")
    deep = "[" * 30_000
    save_file(tensors, path, {**metadata, "header": deep})
    with pytest.raises(ValueError, match="nested too deeply|damaged"):
        load_capture(path)
    raw = bytearray(save_capture(make_capture(), path).read_bytes())
    raw[8:9] = b"["
    path.write_bytes(raw)
    with pytest.raises(ValueError, match="damaged"):
        load_capture(path)


def test_counts_and_scales_that_lie(tmp_path: Path) -> None:
    path = save_capture(make_capture().stored("uint8"), tmp_path / "a.safetensors")
    tensors, metadata = _read(path)
    for wrong, says in (
        ({"0/v2t/counts": tensors["0/v2t/counts"] - 9}, "below 0"),
        ({"0/v2t/counts": tensors["0/v2t/counts"].long()}, "I64"),
        ({"0/v2t/scale": tensors["0/v2t/scale"][:1].clone()}, "header says F32"),
        ({"0/v2t/values": tensors["0/v2t/values"].half()}, "float16 have none"),
    ):
        save_file({**tensors, **wrong}, path, metadata)
        with pytest.raises(ValueError, match=says):
            load_capture(path)
    save_file({name: t for name, t in tensors.items() if name != "0/v2t/scale"}, path, metadata)
    with pytest.raises(ValueError, match="uint8 values have a float32 scale"):
        load_capture(path)


def test_tensors_that_do_not_belong(tmp_path: Path) -> None:
    path = save_capture(make_capture(), tmp_path / "a.safetensors")
    tensors, metadata = _read(path)
    name = "0/v2t/values"
    for wrong, says in (
        ({**tensors, "more": torch.zeros(1)}, r"holds tensors \['more'\]"),
        ({name: tensors[name]}, "holds no tensor 0/v2t/counts"),
    ):
        save_file(wrong, path, metadata)
        with pytest.raises(ValueError, match=says):
            load_capture(path)
    save_file({**tensors, name: tensors[name].float()}, path, metadata)
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
    with pytest.raises(ValueError, match="whole characters"):
        inside("\ud800", [tmp_path])


def test_a_disk_that_is_full_or_locked_says_so(tmp_path: Path) -> None:
    """A file where a folder should be, and a limit on the size of files in place of a full disk."""
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"was not written: .*file is a file.*and no folder"):
        save_capture(make_capture(), tmp_path / "file" / "a.safetensors")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (512, hard))
        with pytest.raises(OSError, match=r"was not written: .*Nothing of it was kept.*Free some space"):
            save_capture(make_capture(), tmp_path / "a.safetensors")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [p.name for p in tmp_path.iterdir()] == ["file"]
