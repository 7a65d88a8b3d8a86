"""What is read off captures: of maps that are made to say it, and of mini's own, whose clips have a whole truth."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from support_capture import make_binding, make_capture, make_tracks

from matrix_lib.core.grid import Grid
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.evaluation.trajectories.score import score_tracks
from matrix_lib.instrument.capture import Capture, StepInfo, Stream
from matrix_lib.instrument.maps import Maps
from matrix_lib.instrument.readings.mending import verb_notes
from matrix_lib.instrument.readings.mix_ups import MixUpRule, find_mix_ups, pieces
from matrix_lib.instrument.readings.ranking import layer_table, rank_layers
from matrix_lib.instrument.readings.reading import read_capture
from matrix_lib.instrument.readings.sinks import find_sinks
from matrix_lib.instrument.readings.word_masks import sharpest_layers, word_masks
from matrix_lib.io.captures import load_capture
from scripts.reading_truth import exchanged, given_tracks, make

GRID = Grid(3, 6, 8, patch=(1, 1, 1), spatial_stride=16)
PLACES = {"cyclist": [(1, 1), (1, 2), (1, 3)], "van": [(4, 6), (4, 6), (4, 6)]}  # row and column in each token frame


def spots(moves: dict[tuple[str, int, int], list[tuple[int, int]]] | None = None, steps: int = 4) -> torch.Tensor:
    """(1, steps, 2, F, h, w): a spot of 2x2 tokens for each name over a low floor. `moves`: other corners of its spots,
    by name, step and token frame; none for a map that looks nowhere."""
    maps = torch.full((1, steps, 2, *GRID.shape), 0.01)
    for e, name in enumerate(PLACES):
        for step in range(steps):
            for frame in range(GRID.frames):
                for row, column in (moves or {}).get((name, step, frame), [PLACES[name][frame]]):
                    maps[0, step, e, frame, row : row + 2, column : column + 2] = 0.2
    return maps


def capture_of(v2t: torch.Tensor, v2v: torch.Tensor | None = None, counts: torch.Tensor | None = None) -> Capture:
    names, steps = tuple(PLACES), v2t.shape[1]
    maps = {"v2t": Maps.whole(v2t.half(), range(len(v2t)), names, [1] * steps)}
    if counts is not None:
        maps["v2t"] = replace(maps["v2t"], counts=counts)
    if v2v is not None:
        maps["v2v"] = Maps.whole(v2v.half(), range(len(v2v)), names, [1] * steps)
    info = tuple(StepInfo(2 * i, 1 - i / steps) for i in range(steps))
    return Capture([Stream("a", make_binding(), GRID, maps)], "cogvideox", info)


def spot_tracks() -> MaskTracks:
    """Boxes of the spots, over the pixel frames of `GRID`."""
    boxes: dict[str, dict[int, Any]] = {}
    for name, places in PLACES.items():
        boxes[name] = {}
        for frame, (row, column) in enumerate(places):
            for number in range(*GRID.pixel_span(frame)):
                boxes[name][number] = (16 * column, 16 * row, 16 * column + 32, 16 * row + 32)
    return MaskTracks.from_boxes(boxes, GRID.pixel_frames, *GRID.frame_pixels)


# ---- masks


def test_masks_are_where_the_maps_are_hot() -> None:
    found = word_masks(capture_of(spots()))
    scores = score_tracks(spot_tracks(), found.tracks)
    assert found.tracks.names == ("cyclist", "van")
    assert found.tracks.roles == {"cyclist": "subject", "van": "object"}
    assert (found.tracks.frames, found.tracks.height, found.tracks.width) == (9, 96, 128)
    assert scores.values["j"] > 0.8  # smooth edges: half of the heat is half a token further out or in at the corners
    assert not found.notes


def test_a_place_is_the_one_word_s_that_looks_there_most() -> None:
    both = spots({("van", step, 1): [(1, 2), (4, 6)] for step in range(4)})
    both[:, :, 1, 1, 1:3, 2:4] *= 0.7
    found = word_masks(capture_of(both)).tracks
    assert not bool((found.masks("cyclist", 1, 2) & found.masks("van", 1, 2)).any())
    assert bool(found.mask("cyclist", 1)[24:40, 40:56].all())


def test_frames_without_a_mask_are_told() -> None:
    maps = spots({("cyclist", step, 2): [] for step in range(4)})
    counts = torch.ones(1, 4, 2, 3, dtype=torch.int32)
    counts[:, :, 1, 1] = 0
    found = word_masks(capture_of(maps, counts=counts))
    assert [int(n) for n in found.tracks.areas("cyclist")[5:]] == [0, 0, 0, 0]
    assert [int(n) for n in found.tracks.areas("van")[1:5]] == [0, 0, 0, 0]
    assert any("'cyclist' looks nowhere in particular in token frames 2" in note for note in found.notes)
    assert any("'van' was not recorded in token frames 1" in note for note in found.notes)


def test_the_sharpest_layers_are_those_that_find_the_masks() -> None:
    assert sharpest_layers(make_capture(layers=8)) == (6, 7)
    with pytest.raises(ValueError, match="layer \\[9\\] was not captured: this capture has layers 0-7"):
        word_masks(make_capture(layers=8), layers=[9])
    with pytest.raises(ValueError, match="above 0 .* at most 1"):
        word_masks(make_capture(), threshold=0.0)
    with pytest.raises(ValueError, match="step \\[3\\] was not captured: this capture has steps 0, 5, 10"):
        word_masks(make_capture(), steps=[3])


# ---- mix-ups


def crossed(cells: list[tuple[int, int]]) -> torch.Tensor:
    """The two words at each other's place in these (step, token frame) cells."""
    moves = {("cyclist", s, f): [PLACES["van"][f]] for s, f in cells}
    return spots(moves | {("van", s, f): [PLACES["cyclist"][f]] for s, f in cells})


@pytest.mark.parametrize("reference", ["given masks", "first-frame tokens"])
def test_a_swap_is_told_by_frame_and_step(reference: str) -> None:
    cells = [(0, 1), (1, 1), (1, 2), (3, 2)]
    masks = reference == "given masks"
    capture = capture_of(crossed(cells), None if masks else spots())
    found = find_mix_ups(capture, spot_tracks() if masks else None)
    (swap,) = found.found
    assert (swap.kind, swap.names, found.reference) == ("swapped", ("cyclist", "van"), reference)
    assert swap.cells == tuple((2 * s, f) for s, f in cells)
    assert swap.lasting
    assert "frames 1-8 (token frames 1-2), steps 0, 2, 6, to the end" in swap.line(GRID)
    early = find_mix_ups(capture_of(crossed(cells[:2]), spots()))
    assert [each.lasting for each in early.found] == [False]
    assert not find_mix_ups(capture_of(spots(), spots()), spot_tracks()).found


def test_without_a_reference_only_the_moment_shows() -> None:
    found = find_mix_ups(capture_of(crossed([(s, f) for s in range(4) for f in (1, 2)])))
    assert [(each.kind, each.frames) for each in found.found] == [("swapped", (1,))]
    assert any("only the moment of a swap can be seen" in note for note in found.notes)


def test_one_word_at_anothers_place_is_no_mix_up_and_two_places_are_a_double() -> None:
    assert not find_mix_ups(capture_of(spots({("cyclist", 3, 2): [PLACES["van"][2]]})), spot_tracks()).found
    twice = spots({("cyclist", 2, 2): [PLACES["cyclist"][2], (4, 0)]})
    double = find_mix_ups(capture_of(twice), spot_tracks())
    assert [(each.kind, each.names, each.cells) for each in double.found] == [("doubled", ("cyclist",), ((4, 2),))]
    at_van = spots({("cyclist", 2, 2): [PLACES["cyclist"][2], PLACES["van"][2]]})
    at_van[0, 2, 1, 2] = 0.01  # the van's words are elsewhere, but its mask is there: whoever acts is looked at, too
    assert not find_mix_ups(capture_of(at_van), spot_tracks()).found
    assert find_mix_ups(capture_of(at_van)).found
    with pytest.raises(ValueError, match="double_sharp are 1 or more"):
        MixUpRule(margin=0.5)


# ---- masks made fit to steer by


def mask_of(tracks: MaskTracks, name: str, frame: int) -> torch.Tensor:
    """Of a token frame, (H, W) bool; the same in all of its pixel frames."""
    first, stop = GRID.pixel_span(frame)
    masks = tracks.masks(name, first, stop)
    assert bool((masks == masks[:1]).all())
    return masks[0]


@pytest.mark.parametrize("reference", ["given masks", "the frame before"])
def test_who_is_swapped_at_the_end_gets_the_others_mask(reference: str) -> None:
    """From token frame 1 on. By given masks each of these frames is seen; by the frame before, the moment is, and what
    comes after follows from it."""
    cells = [(step, frame) for step in range(4) for frame in (1, 2)]
    masks = spot_tracks() if reference == "given masks" else None
    wrong = read_capture(capture_of(crossed(cells)), masks)
    found = read_capture(capture_of(crossed(cells)), masks, mended=True)
    assert found.mix_ups.reference == reference
    right = word_masks(capture_of(spots())).tracks
    assert found.masks == right
    assert wrong.masks != right
    assert any("'cyclist' and 'van' are swapped in token frames 1-2" in note for note in found.notes)
    gone = read_capture(capture_of(crossed(cells[:2])), spot_tracks(), mended=True)
    assert not any("swapped" in note for note in gone.notes), "it was over by the last step"


def test_who_is_doubled_keeps_the_largest_piece() -> None:
    maps = spots({("cyclist", step, 2): [PLACES["cyclist"][2], (4, 0)] for step in range(4)})
    maps[:, :, 0, 2, 5, 1] = 0.01  # a smaller second place
    twice = read_capture(capture_of(maps), spot_tracks()).masks
    once = read_capture(capture_of(maps), spot_tracks(), mended=True)
    both, kept = mask_of(twice, "cyclist", 2), mask_of(once.masks, "cyclist", 2)
    assert bool(both[64:].any())
    assert bool(kept.any())
    assert not bool(kept[64:].any())
    assert bool((kept <= both).all())
    assert any("'cyclist' is doubled in token frames 2: its largest piece is kept" in note for note in once.notes)


def test_frames_that_say_nothing_take_the_nearest_and_mostly_vague_ones_no_mask() -> None:
    some = read_capture(capture_of(spots({("cyclist", s, 2): [] for s in range(4)})), mended=True)
    assert torch.equal(mask_of(some.masks, "cyclist", 2), mask_of(some.masks, "cyclist", 1))
    assert any("'cyclist' has the mask of the nearest frame in token frames 2" in note for note in some.notes)
    most = read_capture(capture_of(spots({("cyclist", s, f): [] for s in range(4) for f in (0, 2)})), mended=True)
    assert most.masks.visible["cyclist"] == ()
    assert most.masks.visible["van"] == tuple(range(9))
    assert any("2 of 3 token frames: it gets no mask" in note for note in most.notes)


def test_the_maps_of_a_thing_at_rest_are_taken_together() -> None:
    """The van rests: in each frame another place is looked at more than its own, and none of them twice."""
    maps = spots()
    maps[:, :, 1] = 0.01
    for frame, column in enumerate((0, 2, 4)):
        maps[:, :, 1, frame, 4:, 6:] = 0.02
        maps[:, :, 1, frame, 0:2, column : column + 2] = 0.035
    capture = capture_of(maps)
    plain, found = read_capture(capture), read_capture(capture, mended=True)
    assert found.motion is not None
    assert [row.tolist() for row in found.motion.moving] == [[False, True, True], [False, False, False]]
    for frame in range(GRID.frames):
        there = mask_of(spot_tracks(), "van", frame)
        assert not bool((mask_of(plain.masks, "van", frame) & there).any())
        assert bool((mask_of(found.masks, "van", frame) & there).any())
    assert any("the mask of 'van' in token frames 0-2, where it seems to rest" in note for note in found.notes)
    named = read_capture(capture, names=("cyclist",), mended=True)
    assert named.masks.names == ("cyclist",)
    assert not any("'van'" in note and "rest" in note for note in named.notes)
    part = word_masks(capture, rests={"van": (0, 2)}).tracks  # not one after the other: nothing to take together
    assert part == word_masks(capture).tracks


def test_mended_masks_are_read_off_more_layers() -> None:
    assert read_capture(make_capture(layers=8)).layers == (6, 7)
    assert read_capture(make_capture(layers=8), mended=True).layers == (3, 4, 5, 6, 7)
    assert read_capture(make_capture(layers=8), mended=True, layers=[7]).layers == (7,)


def test_verbs_that_look_elsewhere_are_told() -> None:
    capture, tracks = make_capture(layers=8), make_tracks()
    assert verb_notes(capture, tracks, [6, 7]) == []
    there = MaskTracks.from_boxes({name: {0: (0, 56, 96, 64)} for name in ("cyclist", "van")}, 9, 64, 96, hold=True)
    (note,) = verb_notes(capture, there, [6, 7])
    assert note.startswith("'waits behind' has ")
    assert "no more than chance" in note


def test_pieces_hang_together_by_sides_and_corners() -> None:
    mask = torch.zeros(2, 5, 6, dtype=torch.bool)
    mask[0, 0, 0] = mask[0, 1, 1] = mask[0, 2, 0] = mask[0, 4, 5] = True
    mask[1] = True
    found = pieces(mask)
    assert len(found[0].unique()) == 3  # outside, the chain over corners, and the one far away
    assert found[0, 0, 0] == found[0, 2, 0] != found[0, 4, 5]
    assert len(found[1].unique()) == 1


# ---- sinks


def test_sinks_are_named_and_left_out_of_the_alignment() -> None:
    clean = make_capture(layers=2)
    maps = clean.streams[0].maps["v2t"]
    values = maps.values.clone()
    sink = (1, 0, 5)
    values[1, :, :, *sink] = 0.5
    dirty = replace(clean, streams=[replace(clean.streams[0], maps={"v2t": replace(maps, values=values)})])
    found = find_sinks(dirty)
    assert [(each.kind, each.layer, each.place) for each in found.found] == [("v2t", 1, sink)]
    assert found.found[0].share > 0.3
    assert "sink: v2t of layer 1, token frame 1 at 0, 5 (row, column)" in found.lines[0]
    assert not find_sinks(clean).found

    tracks = make_tracks().to_grid(clean.streams[0].grid)
    left = dirty.aas(tracks, "v2t", without=found.left_out["v2t"])
    keep = torch.ones(clean.streams[0].grid.shape)
    keep[sink] = 0
    for layer, held in enumerate((torch.ones_like(keep), keep)):
        for e, name in enumerate(left.entities):
            names = (name,) if name != "waits behind" else ("cyclist", "van")
            mask = tracks.map(*names)
            a = values[layer, :, e].float() * held
            want = (a * mask).flatten(1).sum(1) / a.flatten(1).sum(1)
            torch.testing.assert_close(left.share[layer, :, e], want)
            area = ((mask * held).flatten(1).sum(1) / held.flatten(1).sum(1)).mean()
            torch.testing.assert_close(left.area[layer, :, e], area.expand(3))
    assert float((dirty.aas(tracks, "v2t").share[1] - left.share[1]).abs().min()) > 0.01
    ranked = rank_layers(dirty, make_tracks(), 1, without_sinks=True)
    assert (rank_layers(dirty, make_tracks(), 1).v2t, ranked.v2t) == ((0,), (1,))
    table = layer_table(dirty, make_tracks(), ranked, without_sinks=True)
    assert "left out, sink: v2t of layer 1" in table
    assert "v2t of layer 1" in read_capture(dirty).report()


def test_no_place_inside_of_a_mask_is_a_sink_and_one_entity_tells_none() -> None:
    clean = make_capture(layers=1)
    maps = clean.streams[0].maps["v2t"]
    values = maps.values.clone()
    values[:, :, :, 0, 2, 1] = 0.5  # on the cyclist in frame 0
    dirty = replace(clean, streams=[replace(clean.streams[0], maps={"v2t": replace(maps, values=values)})])
    assert [each.place for each in find_sinks(dirty).found] == [(0, 2, 1)]
    assert not find_sinks(dirty, tracks=make_tracks()).found
    alone = find_sinks(replace(clean, streams=[replace(clean.streams[0], maps={"v2t": maps.only(0)})]))
    assert not alone.found
    assert "fewer than two words" in alone.notes[0]
    with pytest.raises(ValueError, match="times is above 1"):
        find_sinks(clean, times=1.0)


# ---- on mini's own maps, whose clips have a whole truth (scripts/reading_truth.py made them)

TRUTH = Path(__file__).resolve().parents[1] / "data" / "reading"


@pytest.fixture(scope="module")
def truth() -> MaskTracks:
    return given_tracks(make(101, 1))


def test_masks_of_words_and_instances_overlap_the_truth(truth: MaskTracks) -> None:
    """They are coarse (tokens of 8 pixels, four frames each), and far better than the words' places by chance."""
    plain = load_capture(TRUTH / "plain.safetensors")
    for kind, least in (("v2t", 0.25), ("v2v", 0.35)):
        found = word_masks(plain, truth.names, kind=kind).tracks
        right, wrong = (score_tracks(each, found).values["j_and_f"] for each in (truth, exchanged(truth)))
        assert right > least > wrong + 0.1


def test_words_and_masks_that_disagree_are_a_swap_and_a_second_one_is_a_double(truth: MaskTracks) -> None:
    plain, twice = (load_capture(TRUTH / f"{name}.safetensors") for name in ("plain", "doubled"))
    for masks in (truth, None):
        found = find_mix_ups(plain, masks).found
        assert not [each for each in found if each.kind == "swapped" or each.lasting]
        (double,) = (each for each in find_mix_ups(twice, masks).found if each.lasting)
        assert double.kind == "doubled"
        late = {cell for cell in double.cells if cell[0] >= 3}  # the two least noisy steps
        assert {frame for _, frame in late} == {3, 4}  # it comes up in pixel frame 9, where token frame 3 begins
    swap = find_mix_ups(plain, exchanged(truth)).found[0]
    assert (swap.kind, swap.lasting, swap.frames) == ("swapped", True, (3, 4))
