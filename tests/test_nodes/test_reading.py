"""MATRIX Read Capture in the real host."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch
from support_capture import make_capture, make_frames, make_tracks

ASKED = {
    "kind": "words (video to text)", "names": "all", "layers": "sharpest", "steps": "last", "threshold": 0.5,
    "stream": 0, "fps": 8.0, "without_sinks": False,
}  # fmt: skip


def test_a_capture_becomes_masks_a_report_and_pictures(pack: Any) -> None:
    capture, tracks = make_capture(pack.lib, layers=8), make_tracks(pack.lib)
    out = pack.run("MatrixReadCapture", capture=capture, tracks=tracks, frames=make_frames(), **ASKED)
    masks, report, overlay, mix_ups, findings, _ = out.result
    assert masks.names == ("cyclist", "van")  # not the verb
    assert masks.palette == tracks.palette
    assert (masks.frames, masks.height, masks.width) == (9, 64, 96)
    assert mix_ups == 0
    assert "no swap or doubling (by given masks)" in report
    assert "masks of v2t maps, layers 6-7" in report
    scored = next(line for line in report.splitlines() if "J&F" in line)
    assert float(scored.split()[-1]) > 0.6  # tokens of 16 pixels, and masks that move within a token frame
    assert overlay.shape[0] == 9
    assert len(out.ui["images"]) == 9
    assert out.ui["text"] == (report,)
    assert len(out.ui["matrix_viewer"]) == 1
    assert json.loads(findings)["mix_ups"] == []

    named = pack.run("MatrixReadCapture", capture=capture, **{**ASKED, "names": "waits behind, VAN", "layers": "0, 7"})
    assert named.result[0].names == ("waits behind", "van")
    assert "layers 0, 7" in named.result[1]
    assert "compared with" not in named.result[1]


def test_masks_are_mended_on_request(pack: Any) -> None:
    """Words and given masks disagree about who is who: each gets the other's mask."""
    capture, tracks = make_capture(pack.lib, layers=8), make_tracks(pack.lib)
    other = tracks.rename({"cyclist": "nobody"}).rename({"van": "cyclist"}).rename({"nobody": "van"})
    asked = {**ASKED, "layers": "6-7"}
    plain = pack.run("MatrixReadCapture", capture=capture, tracks=other, **asked).result
    mended = pack.run("MatrixReadCapture", capture=capture, tracks=other, mended=True, **asked).result
    assert plain[3] == mended[3] == 1
    assert "are swapped in token frames 0-2: each gets the other's mask there" in mended[1]
    for name, its in (("cyclist", "van"), ("van", "cyclist")):
        assert torch.equal(mended[0].masks(name), plain[0].masks(its))
    more = pack.run("MatrixReadCapture", capture=capture, tracks=tracks, mended=True, **ASKED).result
    assert "masks of v2t maps, layers 3-7" in more[1]  # the sharper two thirds


def test_frames_of_another_shape_are_cropped_and_short_tracks_told(pack: Any) -> None:
    tracks = make_tracks(pack.lib)
    wide = torch.nn.functional.interpolate(make_frames(1).movedim(-1, 1), (64, 128)).movedim(1, -1)
    out = pack.run(
        "MatrixReadCapture", capture=make_capture(pack.lib), tracks=tracks.take([0]), frames=wide, **ASKED
    )  # fmt: skip
    assert "masks are not scored: the tracks have 1 of the clip's 9 frames" in out.result[1]
    assert out.result[2].shape[0] == 9
    with pytest.raises(ValueError, match="there are 3 images, but the masks have 9 frames"):
        pack.run("MatrixReadCapture", capture=make_capture(pack.lib), frames=make_frames(3), **ASKED)
    with pytest.raises(ValueError, match=r"18 images \(2 clips of a batch: take one"):
        pack.run("MatrixReadCapture", capture=make_capture(pack.lib), frames=make_frames(18), **ASKED)
    flat = make_capture(pack.lib)
    words = flat.streams[0].maps["v2t"]
    words.values[:, :, words.entities.index("van")] = 0.25
    nothing = pack.run("MatrixReadCapture", capture=flat, **{**ASKED, "layers": "all"}).result
    assert not nothing[0].areas("van").any()
    assert "! 'van' has a mask in no frame, and nothing can be steered by it" in nothing[1]
    bare = make_capture(pack.lib)
    del bare.streams[0].maps["v2v"]
    with pytest.raises(ValueError, match="no video to video maps: choose another kind, or switch 'instances' on"):
        pack.run("MatrixReadCapture", capture=bare, **{**ASKED, "kind": "instances over time (video to video)"})
    with pytest.raises(ValueError, match="layer 9 was not captured"):
        pack.run("MatrixReadCapture", capture=make_capture(pack.lib), **{**ASKED, "layers": "9"})


def test_pinned_points_become_paths_and_motion_is_told(pack: Any) -> None:
    """Head 1 looks at the cyclist in every token frame; without points what follows is blocked, with the reason."""
    capture = make_capture(pack.lib, layers=2)
    v2t, v2v = (capture.streams[0].maps[kind] for kind in ("v2t", "v2v"))
    values = torch.full((*v2v.values.shape[:2], 1, 2, *v2v.values.shape[3:]), 1e-3)
    values[:, :, 0, 1] = v2t.values[:, :, 0].float()
    point = "point 16 32 @0"
    made = pack.lib("instrument.maps").Maps(
        values.half(), (0, 1), (point,), v2v.counts[:, :, :1], heads=(0, 1), points={point: (0, 2, 1)}
    )
    capture.streams[0].maps["v2v"] = made
    out = pack.run("MatrixReadCapture", capture=capture, point_heads="0.1, 1.1", motion_head="1", **ASKED)
    paths = out.result[5]
    assert paths["track_path"].shape == (9, 1, 2)
    assert paths["track_visibility"].all()
    assert paths["track_path"][0, 0].tolist() == [16.0, 32.0]
    assert float(paths["track_path"][8, 0, 0]) > 32  # the cyclist moves right
    assert "points followed by layer 0 head 1, layer 1 head 1" in out.result[1]
    assert json.loads(out.result[4])["points"][0]["on"] == "cyclist"
    assert "motion" in out.result[1]
    tracks = pack.run("MatrixBoxTracks", width=96, height=64, frames=9, fps=8.0, hold=True, boxes="", bboxes=paths)
    assert tracks.result[0].names == ("path 1",)

    with pytest.raises(ValueError, match="motion is read off one head"):
        pack.run("MatrixReadCapture", capture=capture, motion_head="1.0, 1.1", **ASKED)
    with pytest.raises(ValueError, match="contact is 'auto', or a layer"):
        pack.run("MatrixReadCapture", capture=capture, contact="5: 1", **ASKED)
    met = pack.run("MatrixReadCapture", capture=make_capture(pack.lib), contact="1, 2, 1", **ASKED).result
    assert "when 'cyclist' and 'van' meet takes maps of both in four token frames" in met[1]
    blocked = pack.run("MatrixReadCapture", capture=make_capture(pack.lib), **ASKED).result[5]
    assert type(blocked).__name__ == "ExecutionBlocker"
    assert "no point was pinned in this capture" in blocked.message


def test_sinks_are_left_out_of_the_analysis_on_request(pack: Any) -> None:
    run = {"capture": make_capture(pack.lib), "tracks": make_tracks(pack.lib), "keep": 1, "prompt": 0}
    plain = pack.run("MatrixAnalyseLayers", **run).result
    without = pack.run("MatrixAnalyseLayers", **run, without_sinks=True).result
    assert "no sink was found" in without[2]
    assert "sink" not in plain[2]
    assert without[0].scores == plain[0].scores
    assert without[0].source.endswith("without attention sinks")
