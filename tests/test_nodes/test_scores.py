"""MATRIX Score Tracks in the real host, on clips of the mini world."""

from __future__ import annotations

import json
import math
import re
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
import torch


@pytest.fixture(scope="module")
def clip(pack: Any) -> Any:
    """One clip of the pack's own mini world: an interaction."""
    world = pack.lib("mini.world")
    config = world.WorldConfig(height=48, width=64, frames=9, split="all", single_motion_share=0.0)
    return world.make_clips(3, 1, config)


@pytest.fixture(scope="module")
def given(pack: Any, clip: Any) -> Any:
    return pack.lib("mini.export").mask_tracks(clip, 0)


@pytest.fixture(scope="module")
def frames(clip: Any) -> torch.Tensor:
    return clip.video[0].permute(0, 2, 3, 1).float() / 255


def test_a_clip_as_it_should_be(pack: Any, given: Any, frames: torch.Tensor) -> None:
    out = pack.run("MatrixScoreTracks", given=given, seen=given, frames=frames, measure="hota")
    overlay, table, scores, value = out.result
    assert overlay.shape[0] == 9
    assert overlay.shape[3] == 3
    assert value == pytest.approx(1)
    found = json.loads(scores)
    assert found["values"]["spi"] == 1
    assert found["values"]["epe"] is None
    assert "trajectory_iou" in table
    assert len(out.ui["images"]) == 9
    assert out.ui["text"] == (table,)


def test_somebody_vanishes(pack: Any, given: Any, frames: torch.Tensor) -> None:
    first = given.names[0]
    lost = pack.lib("core.tracks.tracks").MaskTracks.from_masks(
        {n: given.masks(n) & (torch.arange(9)[:, None, None] < (4 if n == first else 9)) for n in given.names}
    )
    out = pack.run("MatrixScoreTracks", given=given, seen=lost, measure="disappearance")
    assert out.result[3] == pytest.approx(5 / 8)
    assert f"gone: {first} in frames 4-8" in out.result[1]
    assert math.isnan(pack.run("MatrixScoreTracks", given=given, seen=lost, measure="drift").result[3])
    shown = pack.run("MatrixScoreTracks", given=given, seen=lost, frames=frames).result
    assert "may be in the picture where its track is empty" in shown[1]
    # The words below the picture differ once somebody is gone.
    below = shown[0][:, -20:]
    assert not torch.equal(below[3], below[4])


def test_a_pair_by_name(pack: Any, given: Any) -> None:
    one, other = given.names[:2]
    out = pack.run("MatrixScoreTracks", given=given, seen=given, pair=f"{one}, {other}", measure="contact_agreement")
    assert out.result[3] == 1
    with pytest.raises(ValueError, match="a pair is two names"):
        pack.run("MatrixScoreTracks", given=given, seen=given, pair=one)
    with pytest.raises(ValueError, match="no instance is called"):
        pack.run("MatrixScoreTracks", given=given, seen=given, pair=f"{one}, nobody")


def test_what_does_not_fit(pack: Any, given: Any, frames: torch.Tensor) -> None:
    with pytest.raises(ValueError, match="the video's tracks have no"):
        pack.run("MatrixScoreTracks", given=given, seen=given.select(given.names[1:]))
    for few in (1, 5):
        with pytest.raises(ValueError, match=f"the clip has {few} frames and its tracks 9"):
            pack.run("MatrixScoreTracks", given=given, seen=given, frames=frames[:few])
    one = pack.run("MatrixScoreTracks", given=given.take([0]), seen=given, frames=frames).result
    assert math.isnan(one[3])
    assert "first frame alone" in one[1]


def test_the_template_scores_what_follows_and_its_tracks_go_to_magicbench(
    server: Any, tmp_path: Path, capsys: Any
) -> None:
    """Two steps hold the squares near their boxes; what the graph saves is scored by the command, too."""
    from matrix_lib.evaluation.benchmarks.magicbench import write_magicbench
    from matrix_lib.io.tracks import load_tracks, save_tracks
    from scripts.follow import follow
    from scripts.steering_workflows import shortened
    from training.score_benchmark import main

    graph = shortened("15_score_tracks", steps=2)
    boxes = next(number for number, node in graph.items() if node["class_type"] == "MatrixBoxTracks")
    graph["asked"] = {"class_type": "MatrixSaveTracks", "inputs": {"tracks": [boxes, 0], "filename_prefix": "asked"}}
    shown = follow(server, graph, sink=StringIO())
    table = next("".join(out["text"]) for out in shown.values() if "box_iou" in "".join(out.get("text", ())))
    value = float(re.search(r"\bbox_iou\s+([\d.]+)", table)[1])  # type: ignore[index]
    assert 0.3 < value < 1
    objects = {"red square": "object 1", "blue square": "object 2"}
    output = server.base / "output"
    given, found = (load_tracks(max(output.glob(f"{name}*.safetensors"))) for name in ("asked", "matrix/found"))
    write_magicbench(tmp_path / "bench", "squares", given.rename(objects), "two squares")
    save_tracks(found.rename(objects), tmp_path / "made" / "squares.tracks.safetensors")
    assert main(["magicbench", str(tmp_path / "bench"), str(tmp_path / "made")]) == 0
    assert "| 2 |" in capsys.readouterr().out
