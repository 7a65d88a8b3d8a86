"""What a viewer is told of a reading, over the routes and inside of a page."""

from __future__ import annotations

import base64
import json

import numpy as np
import torch
from support_viewer import exhibit, heads_capture

from matrix_lib.instrument.point_tracks import follow_points
from matrix_lib.instrument.word_masks import word_masks
from matrix_lib.viewer.answers import answer_about
from matrix_lib.viewer.embedding import embedded
from matrix_lib.viewer.exhibit import Exhibit


def test_masks_on_the_tokens_and_findings() -> None:
    shown = exhibit(layers=8)
    answer = answer_about(shown, "reading", {"kind": "v2t", "layers": "6-7", "steps": "10"})
    told = json.loads(answer.body)
    assert answer.ok
    assert told["layers"] == [6, 7]
    grid = shown.capture.stream().grid
    want = word_masks(shown.capture, layers=[6, 7], steps=[10])
    on_grid = want.tracks.to_grid(grid, "nearest-exact")
    for mask in told["masks"]:
        bits = np.unpackbits(np.frombuffer(base64.b64decode(mask["bits"]), np.uint8))[: grid.size]
        assert (bits.reshape(grid.shape) == on_grid.map(mask["name"]).numpy()).all()
        assert bits.any()
    assert [mask["name"] for mask in told["masks"]] == ["cyclist", "van"]
    assert told["findings"] == []
    assert told["lines"][0] == "no swap or doubling (by given masks)"
    wrong = answer_about(shown, "reading", {"layers": "40"})
    assert wrong.status == 400
    assert b"layer 40 was not captured" in wrong.body


def test_a_page_carries_the_reading_of_each_of_its_maps() -> None:
    made = embedded(exhibit(layers=8, streams=2), 10**7)
    assert [each["kind"] for each in made["readings"]] == [entry["kind"] for entry in made["maps"]]
    assert made["readings"][0]["layers"] == [6, 7]
    lone = embedded(Exhibit(heads_capture()), 10**7)["readings"][0]
    assert any("swaps cannot be told" in line for line in lone["lines"])


def test_followed_points_are_told_as_shares_of_the_picture() -> None:
    """The pinned token looks everywhere alike in this capture, so its place in other frames is a guess, and said so."""
    capture = heads_capture()
    found = follow_points(capture)
    told = json.loads(answer_about(Exhibit(capture), "reading", {"kind": "v2v", "layers": "3, 7", "steps": "0"}).body)
    assert told["ends"] == [0, 4]
    (point,) = told["points"]
    assert point["name"] == "spot"
    assert point["seen"] == follow_points(capture, steps=[0]).seen[0].tolist()
    assert len(point["xy"]) == found.xy.shape[1] == 5
    assert all(0 <= x <= 1 and 0 <= y <= 1 for x, y in point["xy"])
    want = follow_points(capture, steps=[0]).xy[0] / torch.tensor([4 * 16.0, 3 * 16.0])
    torch.testing.assert_close(torch.tensor(point["xy"]), want, atol=1e-4, rtol=0)
