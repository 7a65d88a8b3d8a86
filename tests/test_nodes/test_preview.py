"""The preview, save and load nodes, run by the real host on captures whose maps mean something."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import av
import pytest
import torch
from support_capture import FRAMES, PREVIEW, make_capture, make_frames, make_tracks


def show(pack: Any, **inputs: Any) -> Any:
    """Runs the preview with its defaults."""
    return pack.run("MatrixAttentionPreview", **{"capture": make_capture(pack.lib), **PREVIEW, **inputs})


def test_defaults_are_the_schemas_own(pack: Any) -> None:
    schema = pack.classes["MatrixAttentionPreview"].GET_SCHEMA()
    assert schema.is_output_node
    for entry in schema.inputs:
        if entry.id in PREVIEW:
            options = getattr(entry, "options", None)
            assert PREVIEW[entry.id] == (options[0] if options else entry.default)


def test_overlay_video_and_chart(pack: Any) -> None:
    import folder_paths

    out = show(pack, frames=make_frames(), tracks=make_tracks(pack.lib), layers="2-3", steps="last")
    overlay, video, chart = out.result
    assert overlay.shape[0] == FRAMES
    assert overlay.dtype == chart.dtype == torch.float32
    assert chart.shape[0] == 1
    assert 0 <= overlay.min() < overlay.max() <= 1
    parts = video.get_components()
    assert torch.equal(parts.images, overlay)
    assert parts.frame_rate == 8
    json.dumps(out.ui)
    assert out.ui["animated"] == (True,)
    shown = Path(folder_paths.get_temp_directory()) / out.ui["images"][0]["subfolder"] / out.ui["images"][0]["filename"]
    with av.open(str(shown)) as container:
        assert sum(1 for _ in container.decode(video=0)) == FRAMES
    assert (Path(folder_paths.get_temp_directory()) / out.ui["matrix_chart"][0]["filename"]).is_file()


def test_the_host_can_save_the_video(pack: Any, tmp_path: Path) -> None:
    video = show(pack, frames=make_frames(), names="van").result[1]
    video.save_to(str(tmp_path / "a.mp4"))
    assert (tmp_path / "a.mp4").stat().st_size > 1000


def test_frames_of_another_size_and_count(pack: Any) -> None:
    for frames, count in ((make_frames(5, 128, 300), 5), (make_frames(1), 3), (make_frames(30), FRAMES), (None, 3)):
        out = show(
            pack, frames=frames, names="cyclist", heat="token cells", colour_scale="one for each frame", width=128
        )
        assert out.result[0].shape[0] == count
        assert out.result[0].shape[2] == 128
        rate = out.result[1].get_components().frame_rate
        assert float(rate) == pytest.approx(8 * 3 / 9 if count == 3 else 8, rel=1e-3)


def test_video_to_video(pack: Any) -> None:
    out = show(pack, kind="instances over time (video to video)", names="van", tracks=make_tracks(pack.lib))
    assert out.result[2].shape[0] == 1


def test_errors_say_what_exists(pack: Any) -> None:
    for wrong, says in (
        ({"names": "bus"}, "has cyclist, van, waits behind"),
        ({"layers": "9"}, "layers 0-3"),
        ({"steps": "x"}, "this capture has steps 0, 5, 10"),
        ({"stream": 3}, "holds 1"),
        ({"names": "waits behind", "kind": "instances over time (video to video)"}, "has cyclist, van"),
        ({"width": 20}, "64 to 4096"),
        ({"frames": torch.zeros(2, 0, 4, 3)}, "'frames' takes an IMAGE; got .*empty"),
    ):
        with pytest.raises(ValueError, match=says):
            show(pack, **wrong)


def test_it_stops_when_asked(pack: Any) -> None:
    import comfy.model_management as management

    management.interrupt_current_processing(True)
    with pytest.raises(management.InterruptProcessingException):
        show(pack)
    management.interrupt_current_processing(False)
    assert show(pack).result[0].shape[0] == 3


def test_save_and_load(pack: Any) -> None:
    import folder_paths

    capture = make_capture(pack.lib, streams=2)
    first = pack.run("MatrixSaveCapture", capture=capture, filename_prefix="deep/er/walk")
    second = pack.run("MatrixSaveCapture", capture=capture, filename_prefix="deep/er/walk")
    output = Path(folder_paths.get_output_directory())
    names = [Path(out.result[0]).relative_to(output).as_posix() for out in (first, second)]
    assert names == ["deep/er/walk_00001_.safetensors", "deep/er/walk_00002_.safetensors"]
    load = pack.classes["MatrixLoadCapture"]
    choice = load.GET_SCHEMA().inputs[0].options
    assert f"{names[1]} [output]" in choice
    for name in (f"{names[0]} [output]", names[0], first.result[0]):
        assert load.validate_inputs(file=name) is True
        loaded, summary = pack.run("MatrixLoadCapture", file=name).result
        assert isinstance(loaded, pack.lib("instrument.capture").Capture)
        assert torch.equal(loaded.maps(entity="van", stream=1), capture.maps(entity="van", stream=1))
        assert "cyclist" in summary
    before = load.fingerprint_inputs(file=names[0])
    (output / names[0]).write_bytes((output / names[1]).read_bytes() + b"")
    assert load.fingerprint_inputs(file=names[0]) != before
    assert show(pack, capture=loaded, names="van").result[0].shape[0] == 3


def test_paths_outside_are_refused(pack: Any, tmp_path: Path) -> None:
    capture, load = make_capture(pack.lib), pack.classes["MatrixLoadCapture"]
    outside = pack.lib("io.captures").save_capture(capture, tmp_path / "a.safetensors")
    for prefix in ("../walk", str(tmp_path / "walk"), "a/../../walk"):
        with pytest.raises(ValueError, match="outside"):
            pack.run("MatrixSaveCapture", capture=capture, filename_prefix=prefix)
    for name in (str(outside), "../../a.safetensors", "../a.safetensors [input]"):
        assert "outside" in load.validate_inputs(file=name)
        with pytest.raises(ValueError, match="outside"):
            pack.run("MatrixLoadCapture", file=name)
    assert "no capture file" in load.validate_inputs(file="missing.safetensors [output]")


def test_files_of_another_kind(pack: Any) -> None:
    import folder_paths

    path = Path(folder_paths.get_input_directory()) / "pickle.safetensors"
    path.write_bytes(b"\x80\x04not a capture")
    with pytest.raises(ValueError, match="never read from those"):
        pack.run("MatrixLoadCapture", file="pickle.safetensors [input]")
    path.unlink()


def test_menus_and_saves_survive_odd_files(pack: Any, tmp_path: Path) -> None:
    """Folders, pipes, links that lead out or nowhere: not offered, and told in words when asked for over the API."""
    import folder_paths

    given = Path(folder_paths.get_input_directory())
    (tmp_path / "far.safetensors").touch()
    odd = {name: given / f"{name}.safetensors" for name in ("broken", "far", "folder", "pipe")}
    odd["broken"].symlink_to(tmp_path / "nothing")
    odd["far"].symlink_to(tmp_path / "far.safetensors")
    odd["folder"].mkdir()
    os.mkfifo(odd["pipe"])
    try:
        for node in ("MatrixLoadCapture", "MatrixLoadTracks"):
            load = pack.classes[node]
            offered = " ".join(load.define_schema().inputs[0].options)
            assert not [name for name in odd if f"{name}.safetensors" in offered]
            for name in (*(path.name for path in odd.values()), "x" * 5000, "", None, "..", "missing.safetensors"):
                assert isinstance(load.validate_inputs(file=name), str)
                assert isinstance(load.fingerprint_inputs(file=name), str)
    finally:
        for path in odd.values():
            path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    (Path(folder_paths.get_output_directory()) / "taken").touch()
    for prefix, error, words in (
        ("", ValueError, "beginning of a name"),
        ("a/.hidden", ValueError, "beginning of a name"),
        ("x" * 300, ValueError, "choose a shorter one"),
        ("taken/walk", OSError, "Choose another filename_prefix"),
    ):
        with pytest.raises(error, match=words):
            pack.run("MatrixSaveCapture", capture=make_capture(pack.lib), filename_prefix=prefix)
