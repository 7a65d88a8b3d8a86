"""What one can ask of a capture: maps, alignment with masks, concentration, a second model's steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support_capture import make_capture, make_tracks

from matrix_lib.core.grid import Grid
from matrix_lib.instrument.capture import Capture, StepInfo, Stream


def test_a_map_is_the_mean_over_layers_and_calls() -> None:
    capture = make_capture(calls=[1, 3, 2])
    full = capture.streams[0].v2t.float()
    one = capture.maps("v2t", layer=2, step=5, entity="van")
    assert one.dtype == torch.float32
    assert one.shape == capture.streams[0].grid.shape
    assert torch.equal(one, full[2, 1, 1])
    weights = torch.tensor([1, 3, 2]) / 6
    torch.testing.assert_close(
        capture.maps("v2t", layer=[1, 3], entity="van"), torch.einsum("lsfhw,s->fhw", full[[1, 3], :, 1], weights) / 2
    )
    torch.testing.assert_close(
        capture.maps("v2v", step=[0, 10], entity="cyclist").sum(), torch.tensor(1.0), rtol=2e-3, atol=0
    )


def test_bins_without_calls_count_for_nothing() -> None:
    capture = make_capture(calls=[2, 0, 2])
    torch.testing.assert_close(
        capture.maps(entity="van"), (capture.maps(step=0, entity="van") + capture.maps(step=10, entity="van")) / 2
    )
    with pytest.raises(ValueError, match="0 calls"):
        capture.maps(step=5, entity="van")


@pytest.mark.parametrize(
    ("wanted", "says"),
    [
        ({"kind": "t2v"}, "video-to-text"),
        ({"layer": 9}, "layer 9 was not captured: this capture has layers 0, 1, 2, 3"),
        ({"layer": []}, "no layer was chosen"),
        ({"step": [0, 1]}, "step 1 was not captured: this capture has steps 0, 5, 10"),
        ({"entity": "dog"}, "cyclist, van, waits behind"),
        ({"stream": 1}, "holds 1"),
    ],
)
def test_choices_that_do_not_exist(wanted: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make_capture().maps(**{"entity": "van", **wanted})


def test_alignment_is_the_papers_sum_and_its_share() -> None:
    capture, grid = make_capture(), make_capture().streams[0].grid
    tracks = make_tracks().to_grid(grid)
    found = capture.aas(tracks)
    assert found.entities == ("cyclist", "van", "waits behind")
    full = capture.streams[0].v2t.double()
    masks = torch.stack([tracks.maps[0], tracks.maps[1], torch.maximum(*tracks.maps)]).double()
    raw = (full * masks).sum((-3, -2, -1))
    torch.testing.assert_close(found.raw.double(), raw, rtol=1e-5, atol=0)
    torch.testing.assert_close(found.share.double(), raw / full.sum((-3, -2, -1)), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.chance.double(), masks.mean((-3, -2, -1)), rtol=1e-6, atol=0)
    torch.testing.assert_close(found.over_steps(), found.share.mean(1))
    assert (found.over_steps().diff(dim=0) > 0).all()
    assert found.over_steps("raw").shape == (4, 3)


def test_first_frame_masks_are_scored_on_the_first_frame_alone() -> None:
    capture = make_capture()
    tracks = make_tracks().take([0]).to_grid(capture.streams[0].grid)
    found = capture.aas(tracks)
    first = capture.streams[0].v2t[:, :, :2, 0].double()
    raw = (first * tracks.maps[:, 0].double()).sum((-2, -1))
    torch.testing.assert_close(found.share[..., :2].double(), raw / first.sum((-2, -1)), rtol=1e-5, atol=0)
    torch.testing.assert_close(found.chance[:2], tracks.maps[:, 0].mean((-2, -1)))


def test_alignment_wants_masks_by_name_on_the_same_grid() -> None:
    capture = make_capture()
    only = capture.aas(make_tracks().select(["van"]).to_grid(capture.streams[0].grid))
    assert only.entities == ("van",), "a verb needs the masks of its subject and its object"
    with pytest.raises(ValueError, match="join words by name"):
        capture.aas(make_tracks().rename({"van": "bus", "cyclist": "man"}).to_grid(capture.streams[0].grid))
    with pytest.raises(ValueError, match="to_grid"):
        capture.aas(make_tracks().to_grid(Grid.from_pixels(9, 128, 96)))


def test_concentration_runs_from_flat_to_one_token() -> None:
    stream = make_capture(layers=1, steps=1).streams[0]
    maps = torch.zeros_like(stream.v2t)
    maps[:, :, 0] = 0.01
    maps[:, :, 1, 1, 2, 3] = 1.0
    capture = Capture([replace(stream, v2t=maps)], "x", (StepInfo(0, 1.0),))
    found = capture.concentration()
    torch.testing.assert_close(found.share[0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    assert not found.raw.isnan().any()


def test_the_steps_of_a_second_model_follow() -> None:
    first, second = make_capture(steps=3), make_capture(steps=2)
    both = first.extend(second)
    assert [s.index for s in both.steps] == [0, 5, 10, 11, 16]
    assert both.streams[0].v2t.shape[1] == 5
    assert torch.equal(both.streams[0].v2v[:, 3:], second.streams[0].v2v)
    assert len(first.steps) == 3, "the first capture stays as it was"
    told = replace(first, meta={"notes": ["a", "b"]}).extend(replace(second, meta={"notes": ["b", "c"]}))
    assert told.meta["notes"] == ["a", "b", "c"]
    assert both.nbytes == first.nbytes + second.nbytes


@pytest.mark.parametrize("what", ["backbone", "streams", "prompt", "layers"])
def test_captures_of_different_runs_do_not_mix(what: str) -> None:
    first, second = (
        make_capture(),
        make_capture(layers=3 if what == "layers" else 4, streams=2 if what == "streams" else 1),
    )
    if what == "backbone":
        second = replace(second, backbone="wan")
    if what == "prompt":
        stream = second.streams[0]
        second = replace(second, streams=[replace(stream, binding=replace(stream.binding, prompt="another"))])
    with pytest.raises(ValueError, match="not of one run"):
        first.extend(second)


def test_sizes_that_disagree_are_refused() -> None:
    stream = make_capture().streams[0]
    wrong: list[dict] = [
        {"v2t": stream.v2t.float()},
        {"v2t": stream.v2t[1:]},
        {"entities": ("a", "a", "b")},
        {"layers_v2t": (3, 2, 1, 0)},
        {"v2v": stream.v2v[:, 1:]},
        {"grid": Grid.from_pixels(9, 128, 96)},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match="v2"):
            replace(stream, **change)
    with pytest.raises(ValueError, match="step bins"):
        Capture([stream], "x", (StepInfo(0, 1.0),))
    with pytest.raises(ValueError, match="index of its own"):
        Capture([stream], "x", (StepInfo(0, 1.0), StepInfo(0, 0.5), StepInfo(1, 0.1)))


def test_a_capture_may_hold_no_instances() -> None:
    full = make_capture().streams[0]
    none = replace(full, v2v=full.v2v[:0, :, :0], layers_v2v=(), entities_v2v=())
    capture = Capture([none], "x", make_capture().steps)
    assert isinstance(none, Stream)
    with pytest.raises(ValueError, match="no v2v maps"):
        capture.maps("v2v")
    with pytest.raises(ValueError, match="no v2v maps"):
        capture.concentration("v2v")
