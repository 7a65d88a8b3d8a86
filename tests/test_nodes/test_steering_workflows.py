"""The workflows that steer, as they ship but in one step, over HTTP in the real ComfyUI with mini."""

from __future__ import annotations

from io import StringIO
from typing import Any

import pytest
import torch
from support_graphs import only, savers

from scripts.templates.steering import DRAFTS

NAMES = [make().name for make in DRAFTS]


@pytest.mark.parametrize("name", NAMES)
def test_it_runs_as_it_is_and_steers(name: str, server: Any) -> None:
    """Two videos of 17 frames come out, and without the steering nodes another one."""
    from matrix_lib.io.video import read_video
    from scripts.follow import follow
    from scripts.steering_workflows import STEERS, bypassed, saved_videos, shortened

    kinds = {node["class_type"] for node in shortened(name).values()}
    steering = kinds & set(STEERS)
    assert steering
    # What a latent is held to shows from the second step on: before the first there is nothing but noise.
    graph = shortened(name, steps=2 if "MatrixDualClockDenoising" in steering else 1)
    follow(server, graph, sink=StringIO())
    frames = {kind: read_video(path).frames for kind, path in saved_videos(server, graph).items()}
    rough = frames.pop("dragged_sketch", None)
    plain, drawn = (next(f for kind, f in frames.items() if kind.endswith("_tracks") is over) for over in (False, True))
    if rough is not None:
        assert tuple(rough.shape) == (17, 128, 128, 3)
        assert (plain.float() - rough.float()).abs().mean() < 12, "held for the whole run, the animation comes out"
    assert tuple(plain.shape) == (17, 128, 128, 3)
    assert len(drawn) == 17
    assert float(plain[0].float().std()) > 10, "the first frame's squares are there"

    alone = bypassed(graph, steering)
    assert not steering & {node["class_type"] for node in alone.values()}
    alone = only(alone, *savers(alone, "_tracks", "_sketch"))
    follow(server, alone, sink=StringIO())
    (path,) = saved_videos(server, alone).values()
    unsteered = read_video(path).frames
    assert (plain[1:].float() - unsteered[1:].float()).abs().mean() > 0.5


def test_masks_of_the_driving_clip_are_those_of_the_squares(server: Any) -> None:
    """Colour thresholds find both squares where the first frame has them."""
    from matrix_lib.io.tracks import load_tracks
    from scripts.follow import follow
    from scripts.steering_workflows import shortened
    from scripts.templates.squares import BLUE_AT, RED_AT, SIDE

    graph = shortened("04_steer_with_masks", steps=1)
    number = next(n for n, node in graph.items() if node["class_type"] == "MatrixMaskTracks")
    graph["save"] = {
        "class_type": "MatrixSaveTracks",
        "inputs": {"tracks": [number, 0], "filename_prefix": "matrix/driving"},
    }
    follow(server, only(graph, "save"), sink=StringIO())
    files = sorted((server.base / "output" / "matrix").glob("driving_*"), key=lambda path: path.stat().st_mtime_ns)
    tracks = load_tracks(files[-1])
    assert tracks.roles == {"red square": "subject", "blue square": "object"}
    for name, (x, y) in (("red square", RED_AT), ("blue square", BLUE_AT)):
        wanted = torch.tensor([x, y, x + SIDE, y + SIDE]).float()
        assert (tracks.boxes(name)[0] - wanted).abs().max() <= 4
