"""What a recorder keeps of calls: what was settled, where it ran, in which type, and beside the run."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support_attention import make_binding, make_tracks

from matrix_lib.core.grid import Grid
from matrix_lib.core.points import parse_points
from matrix_lib.core.sites import AttentionCall, AttentionSite, BatchRow
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.instrument.capture import Capture
from matrix_lib.instrument.joining import check_next, extend
from matrix_lib.instrument.readings.ranking import describe
from matrix_lib.instrument.readings.reading import read_capture
from matrix_lib.instrument.recorder import Recorder, RecorderConfig
from matrix_lib.io.captures import CaptureParts, load_capture, save_capture

GRID, TEXT, SIGMAS = Grid(3, 4, 6), 20, (1.0, 0.75, 0.5, 0.25)
SITES = tuple(AttentionSite(i, "joint", f"blocks.{i}") for i in range(2))


def row(key: object = 0) -> BatchRow:
    tracks = make_tracks(tracks_module, GRID.pixel_frames, 64, 96)
    return BatchRow("cond", key, make_binding(binding_module, TEXT), tracks)


def call(
    site: AttentionSite, step: int, rows: tuple[BatchRow, ...], grid: Grid = GRID, frames: Any = None, seed: int = 0
) -> AttentionCall:
    g = torch.Generator().manual_seed(10 * step + site.layer + 100 * seed)
    q, k, v = (torch.randn(len(rows), 2, TEXT + grid.size, 8, generator=g) * 1.5 for _ in range(3))
    span = (TEXT, grid.size)
    sigma = SIGMAS[step]
    return AttentionCall(site, q, k, v, 0.3, grid, rows, None, span, span, (0, TEXT), step, sigma, frames)


def make(**config: Any) -> Recorder:
    return Recorder(RecorderConfig(**config), "cogvideox", SITES, GRID, SIGMAS)


def ran(
    recorder: Recorder, step: int, rows: tuple[BatchRow, ...], layers: tuple[int, ...] = (0, 1), **more: Any
) -> None:
    """The sites of these layers run in a step, and end well."""
    for layer in layers:
        recorder.observe(call(SITES[layer], step, rows, **more), None)
        recorder.settle(SITES[layer], True)


def test_what_is_not_settled_or_not_whole_does_not_count() -> None:
    recorder = make()
    ran(recorder, 0, (row(),))
    recorder.observe(call(SITES[0], 0, (row(),), seed=1), None)
    recorder.settle(SITES[0], False)  # ran twice, or with other keys
    recorder.observe(call(SITES[1], 0, (row(),), seed=2), None)  # its forward was torn off
    ran(recorder, 1, (row(),), layers=(1,))  # a layer that was left out
    ran(recorder, 2, (row(),))
    recorder.settle(SITES[0], True)  # nothing is pending: nothing happens
    recorder.note("layer 0 was left out")
    recorder.note("layer 0 was left out")
    capture, plain = recorder.result(), make()
    for step in (0, 2):
        ran(plain, step, (row(),))
    want = plain.result()
    for kind in ("v2t", "v2v"):
        got, ref = capture.streams[0].get(kind), want.streams[0].get(kind)
        assert torch.equal(got.values[:, [0, 2]], ref.values[:, [0, 2]])
        assert got.counts[:, :, 0, 0].tolist() == [[1, 0, 1, 0], [1, 1, 1, 0]]
    assert capture.meta["notes"] == ["layer 0 was left out"]
    assert [(s.index, s.calls, s.skipped) for s in capture.steps] == [(0, 1, ()), (1, 1, ()), (2, 1, ()), (3, 0, (3,))]


def test_skipped_steps_are_named_and_bins_know_which_of_their_steps_ran() -> None:
    recorder = make(bins=2)
    for step in (0, 2, 3):
        ran(recorder, step, (row(),))
    capture = recorder.result()
    assert [(s.index, s.calls, s.skipped) for s in capture.steps] == [(0, 1, (1,)), (2, 2, ())]
    assert capture.skipped == (1,)
    assert "step 1 was skipped" in describe(capture)
    tracks = make_tracks(tracks_module, GRID.pixel_frames, 64, 96).to_grid(GRID)
    found = capture.aas(tracks)
    torch.testing.assert_close(found.over_steps(), (found.share[:, 0] + 2 * found.share[:, 1]) / 3)


def test_prompts_of_one_run_have_steps_and_frames_of_their_own() -> None:
    """The first prompt is active in steps 0 and 1, the second in 2 and 3, where a window shows two of three frames."""
    recorder, window = make(), Grid(2, 4, 6)
    for step in (0, 1):
        ran(recorder, step, (row("first"),))
    for step in (2, 3):
        ran(recorder, step, (row("second"),), grid=window, frames=(0, 1))
    capture = recorder.result()
    first, second = capture.streams
    assert [first.calls(i) for i in range(4)] == [1, 1, 0, 0]
    assert [second.calls(i) for i in range(4)] == [0, 0, 1, 1]
    tracks = make_tracks(tracks_module, GRID.pixel_frames, 64, 96).to_grid(GRID)
    mine = first.v2t.float()[:, :2]
    masks = torch.stack([tracks.map("cyclist"), tracks.map("van")])
    share = (mine[:, :, :2] * masks).sum((-3, -2, -1)) / mine[:, :, :2].sum((-3, -2, -1))
    torch.testing.assert_close(capture.aas(tracks).over_steps()[:, :2], share.mean(1), rtol=1e-5, atol=0)
    seen = capture.maps("v2t", entity="van", stream=1)
    assert seen[2].isnan().all()
    assert not seen[:2].isnan().any()
    found = capture.aas(tracks, stream=1)
    torch.testing.assert_close(found.chance[:2], masks[:, :2].mean((-3, -2, -1)))
    told = describe(capture)
    assert "was not active in steps 2-3" in told
    assert "nothing was recorded in token frames 2" in told
    assert "skipped" not in told


def test_why_nothing_was_recorded_is_not_what_is_said_of_the_prompts() -> None:
    recorder = make()
    recorder.notes, recorder.beside = ["nothing reads these times", "another pack took our place"], 1
    with pytest.raises(ValueError, match="^nothing was recorded: another pack took our place$"):
        recorder.result()


def test_a_sampler_that_comes_back_to_a_step_adds_to_it() -> None:
    back, once = make(), make(bins=1)
    for recorder in (back, once):
        ran(recorder, 0, (row(),))
    ran(back, 1, (row(),))
    ran(back, 0, (row(),), seed=1)
    ran(once, 0, (row(),), seed=1)
    got, want = back.result().streams[0].get("v2t"), once.result().streams[0].get("v2t")
    assert got.counts[0, :2, 0, 0].tolist() == [2, 1]
    torch.testing.assert_close(got.layer(0)[0], want.layer(0)[0], atol=1e-3, rtol=0)


def test_one_byte_a_value_is_as_good_as_it_says() -> None:
    exact, coded = make(), make(storage="uint8")
    for recorder in (exact, coded):
        for step in range(4):
            ran(recorder, step, (row(),))
    want, got = exact.result(), coded.result()
    assert got.nbytes < want.nbytes * 0.62
    for kind in ("v2t", "v2v"):
        maps, ref = got.streams[0].get(kind), want.streams[0].get(kind)
        assert maps.error is not None
        largest = ref.dense().float().flatten(-3).amax(-1)
        wrong = (maps.dense().float() - ref.dense().float()).abs().flatten(-3).amax(-1)
        assert float((wrong / largest).max()) <= maps.error.largest + 2e-3  # float16 rounds as well
        assert 0 < maps.error.largest < 0.004
    assert "of a map's largest value off" in describe(got)
    tracks = make_tracks(tracks_module, GRID.pixel_frames, 64, 96).to_grid(GRID)
    torch.testing.assert_close(got.aas(tracks).over_steps(), want.aas(tracks).over_steps(), atol=2e-3, rtol=0)
    with pytest.raises(ValueError, match="'float16' or 'uint8'; got 'int4'"):
        make(storage="int4")


@pytest.mark.parametrize("storage", ["float16", "uint8"])
def test_heads_are_kept_apart_and_pinned_points_are_followed(storage: Any, tmp_path: Any) -> None:
    """Against a softmax in float64, in whole clips and in windows; the file keeps it; means over all heads are those of
    a recorder without heads."""
    text, window = "33%,50%; 50,20@5; 70,60@0", Grid(2, 4, 6)
    apart = make(storage=storage, heads="all", points=parse_points(text))
    mean, one = make(storage=storage, v2v=False, points=parse_points(text)), make(storage=storage, heads=(1,))
    for recorder in (apart, mean, one):
        for step in (0, 1):
            ran(recorder, step, (row(),))
        ran(recorder, 2, (row(),), grid=window, frames=(1, 2))
        ran(recorder, 0, (row(),), seed=1)  # the sampler comes back
    capture = apart.result()
    held = capture.streams[0].get("v2v")
    names = ("cyclist", "van", "passes", "point 33% 50% @0", "point 50 20 @5", "point 70 60 @0")
    places = {"point 33% 50% @0": (0, 2, 1), "point 50 20 @5": (2, 1, 3), "point 70 60 @0": (0, 3, 4)}
    assert (held.entities, held.heads, held.points) == (names, (0, 1), places)
    assert capture.streams[0].get("v2t").heads == (0, 1)
    assert capture.streams[0].get("v2t").points == {}

    def exact(layer: int, step: int, place: tuple[int, int, int], grid: Grid = GRID, **more: Any) -> torch.Tensor:
        made = call(SITES[layer], step, (row(),), grid, **more)
        token = TEXT + (place[0] * grid.height + place[1]) * grid.width + place[2]
        logits = made.scale * made.q[0, :, token].double()[:, None] @ made.k[0].double().mT
        return logits[:, 0].softmax(-1)[:, TEXT:].unflatten(-1, grid.shape).float()  # (H, F, h, w)

    near = {"rtol": 0, "atol": 2e-3 if storage == "uint8" else 1e-3}
    for number, (name, place) in enumerate(places.items(), 3):
        for head in (0, 1):
            own = held.of_head(head)
            torch.testing.assert_close(own.layer(1, [1], [number])[0, 0], exact(1, 1, place)[head], **near)
            both = (exact(0, 0, place) + exact(0, 0, place, seed=1))[head] / 2
            torch.testing.assert_close(own.layer(0, [0], [number])[0, 0], both, **near)
        seen = [0, 1, 1] if place[0] else [0, 0, 0]  # where the window lacks the point's frame, nothing is recorded
        assert held.counts[1, 2, number].tolist() == seen, name
    inside = held.of_head(1).layer(1, [2], [4])[0, 0, 1:]
    torch.testing.assert_close(inside, exact(1, 2, (1, 1, 3), window, frames=(1, 2))[1], **near)

    want, alone = mean.result().streams[0], one.result()
    torch.testing.assert_close(want.get("v2v").dense(), held.dense()[:, :, 3:], **near)
    torch.testing.assert_close(want.get("v2t").dense(), capture.streams[0].v2t, **near)
    torch.testing.assert_close(alone.streams[0].v2t, capture.streams[0].get("v2t").of_head(1).dense(), **near)
    assert alone.meta["notes"] == ["heads 1 of 2 alone were recorded: means over heads are over these"]
    assert "; heads 0-1" in describe(capture)

    again = load_capture(save_capture(capture, tmp_path / "apart.safetensors"))
    assert torch.equal(again.streams[0].get("v2v").values, held.values)
    assert again.streams[0].get("v2v").points == places
    assert len(extend(capture, capture).steps) == 8
    bindings = [stream.binding for stream in capture.streams]
    check_next(capture, "cogvideox", GRID, apart.layers, bindings, "all", places)
    for heads, points, message in (((0,), places, "heads_v2t differ"), ("all", {}, "the pinned points differ")):
        with pytest.raises(ValueError, match=message):
            check_next(capture, "cogvideox", GRID, apart.layers, bindings, heads, points)


def test_heads_and_points_that_there_are_not_are_told_and_heads_count_in_the_budget() -> None:
    plain, apart = make(budget_mb=0.01), make(budget_mb=0.01, heads="all")
    for recorder in (plain, apart):
        for step in range(4):
            ran(recorder, step, (row(),))
    whole, halved = plain.result(), apart.result()
    assert (len(whole.steps), len(halved.steps)) == (4, 2)
    assert halved.nbytes == whole.nbytes <= 0.01 * 1e6
    with pytest.raises(ValueError, match=r"heads 1-2 were to be kept apart, and blocks.0 has 2 heads: .* from 0 to 1"):
        ran(make(heads=(1, 2)), 0, (row(),))
    for wrong in ("96.1,3", "3,64.5", "3,3@9"):
        with pytest.raises(ValueError, match=r"lies outside of the clip: the model makes 9 frames \(0 to 8\) of 96x64"):
            make(points=parse_points(wrong))
    assert make(points=parse_points("96,64@8")).points == {"point 96 64 @8": (2, 3, 5)}
    with pytest.raises(ValueError, match="heads are 'all' or different numbers"):
        make(heads=(2, 1))


def test_finished_steps_are_kept_while_the_run_goes_on(tmp_path: Any) -> None:
    keep = CaptureParts(tmp_path / "run.safetensors")
    recorder = Recorder(RecorderConfig(), "cogvideox", SITES, GRID, SIGMAS, sink=keep)
    ran(recorder, 0, (row(),))
    assert not keep.folder.exists()
    ran(recorder, 2, (row(),))
    ran(recorder, 3, (row(),))
    broken_off = load_capture(keep.folder)  # killed here: what was finished by then is there
    assert [(s.index, s.calls) for s in broken_off.steps] == [(0, 1), (1, 0), (2, 1)]
    capture = recorder.result()
    for kind in ("v2t", "v2v"):
        assert torch.equal(broken_off.streams[0].get(kind).values, capture.streams[0].get(kind).values[:, :3])
    every = load_capture(keep.folder)
    assert [s.index for s in every.steps] == [0, 1, 2, 3]
    keep.finish(capture)
    assert isinstance(load_capture(tmp_path / "run.safetensors"), Capture)
    assert not keep.folder.exists()


def test_a_live_view_has_the_steps_that_are_done() -> None:
    for storage in ("float16", "uint8"):
        recorder = make(storage=storage)
        assert recorder.so_far() is None
        ran(recorder, 0, (row(),))
        assert recorder.so_far() is None, "a step is done when the next one begins"
        ran(recorder, 1, (row(),))
        live = recorder.so_far()
        assert live is not None
        assert [step.index for step in live.steps] == [0]
        for step in (2, 3):
            ran(recorder, step, (row(),))
        capture = recorder.result()
        for kind in ("v2t", "v2v"):
            seen, whole = live.stream().get(kind), capture.stream().get(kind)
            assert torch.equal(seen.mean([0, 1], [0], 0), whole.mean([0, 1], [0], 0))
            assert seen.values.data_ptr() == whole.values.data_ptr(), "nothing is copied"


def test_cells_that_are_no_number_are_absent() -> None:
    recorder = make()
    ran(recorder, 0, (row(),))
    bad = call(SITES[0], 1, (row(),))
    bad.q[:, :, TEXT] = torch.nan  # one token of frame 0
    recorder.observe(bad, None)
    recorder.settle(SITES[0], True)
    capture = recorder.result()
    counts = capture.streams[0].get("v2t").counts
    assert counts[0, 1, 0].tolist() == [0, 1, 1]
    assert counts[0, 0, 0].tolist() == [1, 1, 1]
    assert "not a number (NaN)" in describe(capture)
    assert not capture.maps(entity="van").isnan().any()


@pytest.mark.parametrize("storage", ["float16", "uint8"])
def test_where_words_look_is_kept_and_goes_through_files(storage: str, tmp_path: Path) -> None:
    made = [make(v2v=False, t2v=True, t2t=True, storage=storage, bins=2) for _ in range(2)]
    for recorder in made:
        for step in range(4):
            ran(recorder, step, (row(), row(1)))
    whole, alone = made[0].result(), make(v2t=False, v2v=False, t2t=True)
    read = load_capture(save_capture(whole, tmp_path / "words.safetensors"))
    ran(alone, 0, (row(),))
    for kind in ("t2v", "t2t"):
        for stream, want in zip(read.streams, whole.streams):
            assert torch.equal(stream.get(kind).values, want.get(kind).values)
            assert stream.get(kind).over == want.get(kind).over
    table = alone.result().stream().get("t2t")
    assert table.over is not None
    assert table.over.columns == ("cyclist", "van", "passes", "rest of the prompt", "the clip")
    # row 4 belongs to two phrases, and is in the share of both
    assert (table.values[:, 0].float().sum(-1) - 1).min() > 0
    assert "words among each other (text to text): layers 0-1: cyclist, van, passes" in describe(whole)
    with pytest.raises(ValueError, match="words look nowhere in this model"):
        Recorder(RecorderConfig(t2v=True), "wan", (AttentionSite(0, "cross", "b"),), GRID, SIGMAS)
    both = extend(whole, made[1].result())
    assert both.stream().get("t2t").values.shape[1] == 4
    damaged = replace(table, over=replace(table.over, columns=("a",)))
    with pytest.raises(ValueError, match="with a name for each"):
        damaged.check("t2t", GRID)


@pytest.mark.parametrize("config", [{}, {"heads": (1,)}], ids=["mean", "heads"])
def test_prompts_of_a_batch_are_read_as_each_one_alone(config: Any) -> None:
    said = [None, {"cyclist": (3,), "van": (7, 8, 9, 11)}, {"cyclist": (19,), "van": (0, 5), "passes": (6, 12)}]
    rows = [
        BatchRow("cond", at, make_binding(binding_module, TEXT, words), row().tracks) for at, words in enumerate(said)
    ]
    unasked = replace(row(9), branch="uncond", binding=None)
    for batch in (tuple(rows), (unasked, *rows)):
        together, apart = make(**config), [make(**config) for _ in rows]
        for step, site in ((0, SITES[0]), (0, SITES[1]), (1, SITES[0])):
            seen = call(site, step, batch)
            for recorder, own in [(together, seen), *zip(apart, map(seen.row, range(len(batch) - 3, len(batch))))]:
                recorder.observe(own, None)
                recorder.settle(site, True)
        found = together.result()
        for at, recorder in enumerate(apart):
            want, got = recorder.result(), found.stream(at)
            for kind, maps in want.stream().maps.items():
                assert got.maps[kind].entities == maps.entities
                assert torch.equal(got.maps[kind].counts, maps.counts)
                torch.testing.assert_close(got.maps[kind].values, maps.values, rtol=2e-3, atol=1e-6)
            assert read_capture(found, stream=at, mended=True).masks == read_capture(want, mended=True).masks
