"""What one can ask of a capture: maps, alignment with masks, concentration, a second model's steps."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from support_capture import make_capture, make_tracks

from matrix_lib.core.grid import Grid
from matrix_lib.instrument.capture import Capture, StepInfo, Stream
from matrix_lib.instrument.joining import extend
from matrix_lib.instrument.maps import Maps


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
        ({"kind": "t2v"}, "no t2v maps: it has v2t, v2v"),
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
    capture = Capture(
        [replace(stream, maps={"v2t": replace(stream.get("v2t"), values=maps)})], "x", (StepInfo(0, 1.0),)
    )
    found = capture.concentration()
    torch.testing.assert_close(found.share[0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=1e-5, rtol=0)
    assert not found.raw.isnan().any()


def test_the_steps_of_a_second_model_follow() -> None:
    first, second = make_capture(steps=3), make_capture(steps=2)
    both = extend(first, second)
    assert [s.index for s in both.steps] == [0, 5, 10, 11, 16]
    assert both.streams[0].v2t.shape[1] == 5
    assert torch.equal(both.streams[0].v2v[:, 3:], second.streams[0].v2v)
    assert len(first.steps) == 3, "the first capture stays as it was"
    told = extend(replace(first, meta={"notes": ["a", "b"]}), replace(second, meta={"notes": ["b", "c"]}))
    assert told.meta["notes"] == ["a", "b", "c"]
    assert both.nbytes == first.nbytes + second.nbytes


@pytest.mark.parametrize("what", ["backbone", "streams", "prompt", "layers"])
def test_captures_of_different_runs_do_not_mix(what: str) -> None:
    first, second = (
        replace(make_capture(), meta={"prompts": 1}),
        replace(make_capture(layers=3 if what == "layers" else 4), meta={"prompts": 2 if what == "streams" else 1}),
    )
    if what == "backbone":
        second = replace(second, backbone="wan")
    if what == "prompt":
        stream = second.streams[0]
        second = replace(second, streams=[replace(stream, binding=replace(stream.binding, prompt="another"))])
    with pytest.raises(ValueError, match="not of one run"):
        extend(first, second)


def test_sizes_that_disagree_are_refused() -> None:
    stream = make_capture().streams[0]
    maps = stream.get("v2t")
    wrong: list[dict] = [
        {"values": maps.values.float()},
        {"values": maps.values[1:]},
        {"values": maps.values.byte()},
        {"counts": maps.counts.long()},
        {"counts": maps.counts[:, :, :1]},
        {"scale": torch.ones(4, 3, 3)},
        {"entities": ("a", "a", "b")},
        {"layers": (3, 2, 1, 0)},
        {"heads": (0, 1)},
        {"points": {"van": (0, 99, 0)}},
        {"points": {"dog": (0, 0, 0)}},
    ]
    for change in wrong:
        with pytest.raises(ValueError, match="v2t"):
            replace(stream, maps={"v2t": replace(maps, **change)})
    with pytest.raises(ValueError, match="v2t"):
        replace(stream, grid=Grid.from_pixels(9, 128, 96))
    with pytest.raises(ValueError, match="different numbers of step bins"):
        replace(stream, maps={"v2t": maps, "v2v": stream.get("v2v").take([0])})
    with pytest.raises(ValueError, match="step bins"):
        Capture([stream], "x", (StepInfo(0, 1.0),))
    with pytest.raises(ValueError, match="index of its own"):
        Capture([stream], "x", (StepInfo(0, 1.0), StepInfo(0, 0.5), StepInfo(1, 0.1)))


def test_a_capture_may_hold_no_instances() -> None:
    full = make_capture().streams[0]
    none = replace(full, maps={"v2t": full.get("v2t")})
    capture = Capture([none], "x", make_capture().steps)
    assert isinstance(none, Stream)
    with pytest.raises(ValueError, match="no v2v maps"):
        capture.maps("v2v")
    with pytest.raises(ValueError, match="no v2v maps"):
        capture.concentration("v2v")
    assert none.v2v.numel() == 0
    assert none.layers_v2v == none.entities_v2v == ()


def absent(stream: Stream, *cells: tuple) -> Stream:
    """The stream without these cells, [layer, step, entity, frame]; what stands there is nonsense."""
    maps = {}
    for kind, held in stream.maps.items():
        counts, values = held.counts.clone(), held.values.clone()
        for cell in cells:
            counts[cell], values[cell] = 0, 0.9
        maps[kind] = replace(held, counts=counts, values=values)
    return replace(stream, maps=maps)


def test_absent_cells_are_in_no_mean() -> None:
    whole = make_capture(layers=2)
    everything = slice(None)
    gone = absent(whole.streams[0], (0, 1), (everything, 2, 1), (everything, everything, everything, 1))
    capture = replace(whole, streams=[gone])
    full = whole.streams[0].v2t.float()
    got = capture.maps(entity="van")
    assert got[1].isnan().all(), "a frame that was never recorded is no zero"
    layers = torch.stack([full[0, 0, 1], (full[1, 0, 1] + full[1, 1, 1]) / 2])
    torch.testing.assert_close(got[[0, 2]], layers.mean(0)[[0, 2]])
    with pytest.raises(ValueError, match="0 calls.*skipped by a cache"):
        capture.maps(step=10, entity="van")
    tracks = make_tracks().to_grid(gone.grid)
    found, masks = capture.aas(tracks), torch.stack([tracks.map("cyclist"), tracks.map("van")])
    assert found.share[0, 1].isnan().all()
    assert found.share[:, 2, 1].isnan().all()
    seen = full[:, :, :2, [0, 2]].double()
    raw, area = (seen * masks[:, [0, 2]].double()).sum((-3, -2, -1)), masks[:, [0, 2]].mean((-3, -2, -1))
    torch.testing.assert_close(found.share[1, 0, :2].double(), (raw / seen.sum((-3, -2, -1)))[1, 0], rtol=1e-5, atol=0)
    torch.testing.assert_close(found.chance[:2], area, rtol=1e-6, atol=0)
    torch.testing.assert_close(found.over_steps()[0, 1], found.share[0, 0, 1])
    assert (found.over_steps("gain") > 0).all(), "absent cells lower no score below chance"
    assert capture.concentration().share[0, 1].isnan().all()


def test_steps_that_were_skipped_are_named_and_experts_are_told_apart() -> None:
    first = make_capture(steps=3, calls=[2, 0, 2])
    assert first.skipped == (5,)
    high = replace(first, steps=tuple(replace(step, model="#a") for step in first.steps))
    low = make_capture(steps=2)
    both = extend(high, replace(low, steps=tuple(replace(step, model="low noise") for step in low.steps)))
    assert both.experts == {"expert 1": (0, 5, 10), "low noise": (11, 16)}
    assert both.skipped == (5,)
    assert torch.equal(both.of_expert("Low noise").streams[0].v2t, low.streams[0].v2t)
    assert first.experts == {"expert 1": (0, 5, 10)}
    with pytest.raises(ValueError, match="this capture has expert 1, low noise"):
        both.of_expert("high")


def test_a_prompt_that_only_one_model_saw_is_absent_in_the_other() -> None:
    first, second = make_capture(steps=2), make_capture(steps=2, streams=2)
    both = extend(first, second)
    assert [stream.calls(0) for stream in both.streams] == [2, 0]
    torch.testing.assert_close(both.maps(entity="van", stream=1), second.maps(entity="van", stream=1))
    assert both.streams[1].get("v2t").counts[:, :2].sum() == 0


def test_codes_of_one_byte_keep_small_values() -> None:
    """Attention has few large values: the error of a value is bounded by the map's largest, the mean error is small."""
    stream = make_capture(layers=1, steps=1).streams[0]
    g = torch.Generator().manual_seed(0)
    values = (torch.rand(stream.v2t.shape, generator=g) ** 12 * 0.7).half()
    whole = replace(stream.get("v2t"), values=values)
    coded = whole.stored("uint8")
    coded.check("v2t", stream.grid)
    assert coded.values.dtype == torch.uint8
    wrong = (coded.layer(0) - values[0].float()).abs()
    largest = (wrong.flatten(-3).amax(-1) / values[0].float().flatten(-3).amax(-1)).max()
    assert coded.error is not None
    assert coded.error.largest == pytest.approx(float(largest), rel=1e-4)
    assert coded.error.largest <= (255.25 / 255**2) * 1.001
    assert coded.error.mean == pytest.approx(float(wrong.sum() / values.float().sum()), rel=1e-4)
    assert coded.error.mean < 0.01
    again = coded.stored("float16")
    assert again.values.dtype == torch.float16
    assert again.scale is None
    half = replace(stream, maps={"v2t": coded}).v2t
    torch.testing.assert_close(half, again.values)


def test_heads_apart_are_read_as_their_mean() -> None:
    stream = make_capture(layers=2, steps=2).streams[0]
    maps = stream.get("v2t")
    heads = torch.stack([maps.values * 0.5, maps.values * 1.0], 3)
    apart = Maps(heads, maps.layers, maps.entities, maps.counts, heads=(0, 5), points={"van": (0, 1, 2)})
    made = Capture([replace(stream, maps={"t2v": apart})], "x", make_capture(steps=2).steps)
    torch.testing.assert_close(
        made.maps("t2v", entity="van"), Capture([stream], "x", made.steps).maps(entity="van") * 0.75
    )
    coded = apart.stored("uint8")
    assert coded.scale is not None
    assert coded.scale.shape == (2, 2, 3, 2)
    torch.testing.assert_close(coded.layer(1), apart.layer(1), atol=1e-3, rtol=0)
