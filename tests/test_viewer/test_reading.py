"""What a viewer is told of a reading, over the routes and inside of a page."""

from __future__ import annotations

import base64
import json

import numpy as np
import torch
from support_capture import make_binding
from support_viewer import exhibit, heads_capture

from matrix_lib.core.grid import Grid
from matrix_lib.evaluation.trajectories.against import told_against
from matrix_lib.instrument.capture import Capture, StepInfo, Stream
from matrix_lib.instrument.maps import Maps
from matrix_lib.instrument.readings.contacts import MINI
from matrix_lib.instrument.readings.point_tracks import follow_points
from matrix_lib.instrument.readings.reading import read_capture
from matrix_lib.instrument.readings.sinks import find_sinks
from matrix_lib.instrument.readings.word_masks import word_masks
from matrix_lib.viewer.answers import answer_about
from matrix_lib.viewer.embedding import embedded
from matrix_lib.viewer.exhibit import Exhibit
from matrix_lib.viewer.reading import reading_json
from matrix_lib.viewer.scores import LEVELS
from matrix_lib.viewer.slices import Wanted


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
    shown.against = told_against
    lines = json.loads(answer_about(shown, "reading", {"layers": "6-7", "steps": "10"}).body)["lines"]
    assert lines == [*told["lines"], *told_against(shown.tracks, want.tracks)]
    assert lines[-3].startswith("against the given masks: J&F 0.")
    wrong = answer_about(shown, "reading", {"layers": "40"})
    assert wrong.status == 400
    assert b"layer 40 was not captured" in wrong.body


def test_of_an_empty_capture_nothing_is_claimed() -> None:
    shown = exhibit(calls=[0, 0, 0])
    shown.against = told_against
    lines = json.loads(answer_about(shown, "reading", {}).body)["lines"]
    assert lines[0] == "swaps and doublings cannot be told: nothing was recorded in any step"
    assert lines[-1] == "masks are not scored: none of them is anywhere"


def test_sinks_are_left_out_of_scores_and_readings_on_request() -> None:
    shown = exhibit(layers=4)
    words = shown.capture.stream().maps["v2t"].values
    words *= 0.05
    words[..., 0, 0, 3] = 1  # a place that everybody looks at, in every layer and step
    asked = {"kind": "v2t", "entity": "0"}
    plain, without = (json.loads(answer_about(shown, "scores", asked | more).body) for more in ({}, {"sinks": "out"}))
    sinks = find_sinks(shown.capture, 0, shown.tracks)
    assert any(sink.place == (0, 0, 3) for sink in sinks.found)
    grid = shown.tracks.spelled(["cyclist", "van"]).to_grid(shown.capture.stream().grid)
    wants = [shown.capture.aas(grid, "v2t", without=left).share[..., 0] for left in (None, sinks.left_out["v2t"])]
    for told, want in zip((plain, without), wants):
        values = np.frombuffer(base64.b64decode(told["values"]), "<u2").reshape(want.shape) / LEVELS
        np.testing.assert_allclose(values, want, atol=1e-4)
    assert float((wants[1] - wants[0]).min()) > 0.01
    told = json.loads(answer_about(shown, "reading", {"sinks": "out"}).body)["masks"]
    assert told == reading_json(shown, Wanted(sinkless=True))["masks"]
    assert told != reading_json(shown, Wanted())["masks"]
    assert b"sinks is 'out'" in answer_about(shown, "reading", {"sinks": "in"}).body


def test_when_two_meet_is_a_finding_of_its_frame() -> None:
    """Of a capture like mini's: 17 frames, twelve layers, a verb between two."""
    grid = Grid(5, 4, 4)
    values = torch.rand(12, 2, 2, *grid.shape, generator=torch.Generator().manual_seed(2)).half()
    maps = {kind: Maps.whole(values, range(12), ("cyclist", "van"), (1, 1)) for kind in ("v2t", "v2v")}
    stream = Stream("a", make_binding(), grid, maps)
    capture = Capture([stream], "cogvideox", (StepInfo(0, 1.0), StepInfo(1, 0.5)))
    (met,) = read_capture(capture).meetings
    (found,) = [each for each in reading_json(Exhibit(capture), Wanted())["findings"] if "meet" in each["text"]]
    assert met.line == MINI
    assert found == {"text": met.text(), "frames": [(round(met.frame) + 3) // 4], "steps": [0, 1]}


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
