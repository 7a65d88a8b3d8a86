"""Mask tracks against plain dense references."""

from __future__ import annotations

import time
import tracemalloc
from collections.abc import Iterator
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, reject, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from support_counts import SOAK, count

from matrix_lib.core.grid import Framing, Grid
from matrix_lib.core.tracks import runs, token_masks
from matrix_lib.core.tracks.palette import FIXED, distinct_colours
from matrix_lib.core.tracks.tracks import MaskTracks, Track

sizes = st.tuples(st.integers(1, 40), st.integers(1, 40))
lengths = st.integers(1, 14)
quick = settings(max_examples=count(60, soak=1200))


@st.composite
def clips(draw, frames=lengths, most=48):
    """Blobs, lines, noise, full and empty frames: (F, H, W) bool."""
    shape = (draw(frames), draw(st.integers(1, most)), draw(st.integers(1, most)))
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    clip = rng.random(shape) < draw(st.sampled_from([0.0, 0.02, 0.5, 0.98, 1.0]))
    for frame in clip:
        y, x = rng.integers(0, shape[1]), rng.integers(0, shape[2])
        frame[y : y + rng.integers(0, most), x : x + rng.integers(0, most)] ^= True
    return clip


def tracks_of(**clips_by_name: np.ndarray) -> MaskTracks:
    return MaskTracks.from_masks({n: torch.from_numpy(c) for n, c in clips_by_name.items()}, allow_empty=True)


def dense_axis(start: int, length: int, target: int, step: int, tokens: int) -> np.ndarray:
    """(tokens + 1,) borders of the tokens in source pixels."""
    return np.array([start + min(i * step, target) * length / target for i in range(tokens + 1)])


def dense_grid(clip: np.ndarray, grid: Grid, mode: str, framing: Framing) -> np.ndarray:
    """The definition, pixel by pixel: union in time, then one resize."""
    top, left, height, width = framing.box()
    ph, pw = grid.token_pixels
    out = np.zeros(grid.shape)
    for f, (a, b) in enumerate(grid.pixel_spans()):
        union = clip[a:b].any(0) if a < len(clip) else np.zeros(clip.shape[1:], bool)
        if mode == "area":
            ys = dense_axis(top, height, framing.target[0], ph, grid.height)
            xs = dense_axis(left, width, framing.target[1], pw, grid.width)
            for i in range(grid.height):
                wy = np.clip(
                    np.minimum(ys[i + 1], np.arange(len(union)) + 1) - np.maximum(ys[i], np.arange(len(union))), 0, 1
                )
                for j in range(grid.width):
                    r = np.arange(union.shape[1])
                    wx = np.clip(np.minimum(xs[j + 1], r + 1) - np.maximum(xs[j], r), 0, 1)
                    out[f, i, j] = wy @ union @ wx / (wy.sum() * wx.sum())
            continue
        half = 1 if mode == "nearest-exact" else 0
        for i in range(grid.height):
            y = min((2 * i + half) * ph * height // (2 * framing.target[0]), height - 1)
            for j in range(grid.width):
                x = min((2 * j + half) * pw * width // (2 * framing.target[1]), width - 1)
                out[f, i, j] = union[top + y, left + x]
    return out


# ---------------------------------------------------------------------------------------------------- runs


@quick
@given(clips(frames=st.just(1)))
def test_pack_and_unpack_are_inverse(clip):
    edges = runs.pack(clip[0])
    assert edges.dtype == np.uint32
    np.testing.assert_array_equal(runs.unpack(edges, *clip[0].shape), clip[0])
    assert runs.problem(edges, np.array([0, len(edges)]), 1, *clip[0].shape) is None


@quick
@given(clips())
def test_union_areas_and_boxes(clip):
    tracks = tracks_of(a=clip)
    np.testing.assert_array_equal(tracks.masks("a").numpy(), clip)
    np.testing.assert_array_equal(tracks.areas("a").numpy(), clip.sum((1, 2)))
    for box, frame in zip(tracks.boxes("a").numpy(), clip):
        ys, xs = np.nonzero(frame)
        expected = [xs.min(), ys.min(), xs.max() + 1, ys.max() + 1] if len(xs) else [np.nan] * 4
        np.testing.assert_array_equal(box, expected)
    edges = tracks.track("a").edges.astype(np.int64)
    starts, stops = runs.union(edges[0::2], edges[1::2])
    merged = np.stack([starts, stops], 1).reshape(-1)
    np.testing.assert_array_equal(runs.unpack(merged, *clip.shape[1:]), clip.any(0))


@quick
@given(
    hnp.arrays(np.uint32, st.integers(0, 12), elements=st.integers(0, 70)), st.lists(st.integers(-1, 14), max_size=5)
)
def test_damaged_runs_are_found(edges, cuts):
    """What `problem` lets through unpacks to masks that pack to the very same edges; nothing else gets through."""
    offsets = np.array([0, *cuts, len(edges)], dtype=np.int64)
    frames, height, width = len(offsets) - 1, 6, 9
    if runs.problem(edges, offsets, frames, height, width) is None:
        again = [runs.pack(runs.unpack(edges[a:b], height, width)) for a, b in pairwise(offsets)]
        np.testing.assert_array_equal(np.concatenate(again), edges)
    else:
        track = Track("a", "instance", (1, 2, 3), edges, offsets)
        with pytest.raises(ValueError, match="damaged"):
            MaskTracks((track,), frames, height, width)


# ---------------------------------------------------------------------------------------------------- tokens


def framing_of(clip, target, crop):
    """A framing; shapes whose centre crop leaves no pixel are no case."""
    try:
        return Framing(clip.shape[1:], target, crop)
    except ValueError:
        reject()


@quick
@given(clips(frames=st.sampled_from([1, 5, 9, 13])), st.sampled_from(["nearest", "nearest-exact", "area"]), sizes)
def test_grid_equals_the_dense_definition(clip, mode, target):
    framing = framing_of(clip, target, "center" if sum(target) % 2 else "stretch")
    grid = Grid.from_pixels(len(clip), *target, temporal_stride=4, spatial_stride=4)
    got = tracks_of(a=clip).to_grid(grid, mode, framing)
    np.testing.assert_allclose(got.maps[0].numpy(), dense_grid(clip, grid, mode, framing), atol=1e-6)
    assert got.maps.dtype == torch.float32


@pytest.mark.parametrize("mode", ["nearest", "area"])
def test_chunks_change_nothing(monkeypatch, mode):
    clip = np.random.default_rng(5).random((41, 30, 40)) < 0.5
    tracks, grid = tracks_of(a=clip), Grid.from_pixels(41, 30, 40, spatial_stride=2)
    whole = tracks.to_grid(grid, mode)
    for limit in (1, 700, 5000):
        monkeypatch.setattr(token_masks, "_RUNS_AT_ONCE", limit)
        monkeypatch.setattr(token_masks, "_CELLS_AT_ONCE", 10 * limit)
        steps = []
        part = tracks.to_grid(grid, mode, progress=lambda steps=steps: steps.append(1))
        assert torch.equal(part.maps, whole.maps)
        assert len(steps) > 1 or limit == 5000


@pytest.mark.parametrize("mode", ["nearest", "area"])
def test_nearest_and_area_are_torchs_own(mode):
    """Where sizes divide, the rules are those of torch's `interpolate` on the union (and OpenCV's INTER_NEAREST)."""
    clip = torch.rand(9, 96, 160, generator=torch.Generator().manual_seed(0)) > 0.6
    grid = Grid.from_pixels(9, 96, 160)
    union = torch.stack([clip[a:b].any(0) for a, b in grid.pixel_spans()]).float()[:, None]
    expected = torch.nn.functional.interpolate(union, (6, 10), mode=mode)[:, 0]
    torch.testing.assert_close(MaskTracks.from_masks({"a": clip}).to_grid(grid, mode).maps[0], expected)


def moving_dot(frames: int) -> torch.Tensor:
    """One 16 x 16 cell that is inside in frame i alone, at column i."""
    clip = torch.zeros(frames, 16, 16 * frames, dtype=torch.bool)
    for i in range(frames):
        clip[i, :, 16 * i : 16 * i + 16] = True
    return clip


def test_time_is_causal_and_a_union():
    """Latent frame 0 is pixel frame 0 alone, latent frame i the union of 4i-3..4i; CogVideoX 1.5 joins two of them."""
    tracks = MaskTracks.from_masks({"a": moving_dot(9)})
    for mode in ("nearest", "area"):
        maps = tracks.to_grid(Grid.from_pixels(9, 16, 144), mode).maps[0, :, 0]
        assert [row.nonzero().flatten().tolist() for row in maps] == [[0], [1, 2, 3, 4], [5, 6, 7, 8]]
    padded = Grid.from_pixels(9, 16, 144, patch=(2, 2, 2))
    assert padded.prefix_frames == 1
    maps = tracks.to_grid(padded).maps[0, :, 0]
    assert [row.nonzero().flatten().tolist() for row in maps] == [[0], [1, 2, 3, 4, 5, 6, 7, 8]]
    behind = Grid.from_latent((4, 2, 26), patch=(2, 2, 2))
    maps = MaskTracks.from_masks({"a": moving_dot(13)}).to_grid(behind).maps[0, :, 0]
    assert [row.nonzero().flatten().tolist() for row in maps] == [[0, 1, 2, 3, 4], list(range(5, 13))]


def test_a_mask_that_the_grid_loses_is_reported():
    clip = torch.zeros(9, 64, 64, dtype=torch.bool)
    clip[:, 17:20, :] = True  # between the rows that nearest looks at
    clip[5:, 16:20] = True
    got = MaskTracks.from_masks({"rope": clip}).to_grid(Grid.from_pixels(9, 64, 64))
    assert got.missing == {"rope": (0, 1)}
    assert got.query_frame == {"rope": 2}
    assert "missing" in " ".join(got.notes)
    assert got.query("rope").tolist() == [2 * 16 + 4 + i for i in range(4)]
    area = MaskTracks.from_masks({"rope": clip}).to_grid(Grid.from_pixels(9, 64, 64), "area")
    assert area.missing == {"rope": ()}
    assert area.query("rope").tolist() == [4, 5, 6, 7]  # the best covered tokens, though none is half covered


def test_query_set_of_a_latecomer_and_of_nobody():
    clip = torch.zeros(9, 32, 32, dtype=torch.bool)
    clip[7, :16, :16] = True
    nobody = torch.zeros(9, 32, 32, dtype=torch.bool)
    nobody[:, 1:3, 1:3] = True
    got = MaskTracks.from_masks({"late": clip, "tiny": nobody}).to_grid(Grid.from_pixels(9, 32, 32))
    assert got.query_frame == {"late": 2, "tiny": None}
    assert got.query("late").tolist() == [8]
    assert got.missing["tiny"] == (0, 1, 2)
    with pytest.raises(ValueError, match="no token"):
        got.query("tiny")
    assert len(got.notes) == 3
    assert torch.equal(got.map("late", "tiny"), got.maps[0])
    with pytest.raises(ValueError, match="no instance is called 'x'"):
        got.map("x")


def test_clip_lengths():
    full = torch.ones(13, 16, 16, dtype=torch.bool)
    grid = Grid.from_pixels(9, 16, 16)
    longer = MaskTracks.from_masks({"a": full}).to_grid(grid)
    assert longer.known == (True, True, True)
    assert "13 frames" in longer.notes[0]
    assert MaskTracks.from_masks({"a": full[:6]}).to_grid(grid).maps[0].flatten().tolist() == [1, 1, 1]
    first = MaskTracks.from_masks({"a": full[0]}).to_grid(grid)
    assert first.known == (True, False, False)
    assert first.maps[0].flatten().tolist() == [1, 0, 0]
    assert first.missing == {"a": ()}
    with pytest.raises(ValueError, match="5 frames, but the video has 9"):
        MaskTracks.from_masks({"a": full[:5]}).to_grid(grid)


def test_framing_is_checked_and_defaults_to_the_hosts_crop():
    clip = torch.zeros(1, 100, 200, dtype=torch.bool)
    clip[:, :, 50:150] = True  # what a centre crop to a square keeps
    tracks = MaskTracks.from_masks({"a": clip})
    grid = Grid.from_pixels(1, 64, 64)
    assert tracks.to_grid(grid, "area").maps.min() == 1
    assert tracks.to_grid(grid, "area", Framing((100, 200), (64, 64), "stretch")).maps.mean() == pytest.approx(0.5)
    with pytest.raises(ValueError, match=r"framing is for frames of \(99, 200\)"):
        tracks.to_grid(grid, framing=Framing((99, 200), (64, 64)))
    with pytest.raises(ValueError, match="5x4 tokens, but the model's grid has 4x4"):
        tracks.to_grid(grid, framing=Framing((100, 200), (65, 64)))
    with pytest.raises(ValueError, match="leaves no pixel"):
        MaskTracks.from_masks({"a": torch.ones(1, 1, 2)}).to_grid(Grid.from_pixels(1, 32, 16))
    with pytest.raises(ValueError, match="'nearest', 'nearest-exact' or 'area'"):
        tracks.to_grid(grid, "cubic")


@pytest.mark.parametrize(
    ("source", "latent", "stride"),
    [
        ((1080, 1920), (136, 240), 8),  # less than a token smaller than the model's 1088 rows
        ((480, 854), (60, 108), 8),
        ((480, 854), (60, 107), 8),  # an odd latent: the last tokens reach over the edge
        ((1080, 1920), (68, 120), 16),
        ((720, 1280), (90, 160), 8),
        ((135, 240), (136, 240), 1),
    ],
)
@pytest.mark.parametrize("patch", [(1, 2, 2), (1, 1, 1)])
def test_a_clip_less_than_a_token_smaller_is_resized_like_any_other(source, latent, stride, patch):
    """The pixels of the latent frame the tracks, for guidance and maps as for the first frame."""
    rows, columns = source
    box = {0: (columns - columns // 7, rows - rows // 5, columns, rows)}  # in the far corner
    tracks = MaskTracks.from_boxes({"a": box}, 1, rows, columns)
    grid = Grid.from_latent((1, *latent), patch, 4, stride)
    pixels = latent[0] * stride, latent[1] * stride
    got = tracks.to_grid(grid, "area").maps[0, 0]
    framing = Framing(source, pixels)
    top, left, height, width = framing.box()
    seen = tracks.mask("a", 0)[top : top + height, left : left + width].double()
    ph, pw = grid.token_pixels

    def cover(length, target, step, tokens):
        """(tokens, length): the share of each source pixel in each token, of the token's own part of the frame."""
        edges = torch.arange(tokens + 1, dtype=torch.float64).mul(step).clamp(max=target) * (length / target)
        at = torch.arange(length, dtype=torch.float64)
        part = torch.minimum(edges[1:, None], at + 1) - torch.maximum(edges[:-1, None], at)
        return part.clamp(min=0) / (edges[1:] - edges[:-1])[:, None]

    want = cover(height, pixels[0], ph, grid.height) @ seen @ cover(width, pixels[1], pw, grid.width).T
    torch.testing.assert_close(got.double(), want, atol=1e-5, rtol=0)
    assert torch.equal(got, tracks.to_grid(grid, "area", framing).maps[0, 0])


@quick
@given(clips(most=24), sizes, st.sampled_from(["center", "stretch"]))
def test_framed_tracks_are_framed_masks(clip, target, crop):
    framing = framing_of(clip, target, crop)
    tracks = tracks_of(a=clip)
    framed = tracks.framed(framing)
    assert (framed.height, framed.width) == target
    assert torch.equal(framed.masks("a"), framing.apply(torch.from_numpy(clip), "nearest"))


def test_maps_may_be_saved_for_backward_even_when_made_in_inference_mode():
    with torch.inference_mode():
        maps = MaskTracks.from_masks({"a": torch.ones(1, 16, 16)}).to_grid(Grid.from_pixels(1, 16, 16)).maps
    x = torch.ones_like(maps, requires_grad=True)
    (x * maps).sum().backward()
    assert x.grad is not None


# ---------------------------------------------------------------------------------------------------- boxes, palette


def test_boxes_move_linearly_and_are_absent_outside_their_keys():
    tracks = MaskTracks.from_boxes({"car": {2: (0, 0, 4, 4), 6: (8, 4, 12, 8)}}, 9, 20, 20)
    boxes = tracks.boxes("car")
    assert boxes[:2].isnan().all()
    assert boxes[7:].isnan().all()
    assert boxes[2:7].tolist() == [[2 * i, i, 2 * i + 4, i + 4] for i in range(5)]
    assert tracks.areas("car").tolist() == [0, 0, 16, 16, 16, 16, 16, 0, 0]
    assert tracks.visible == {"car": (2, 3, 4, 5, 6)}
    assert "appears in frame 2" in tracks.notes[0]


def test_boxes_can_leave_return_and_hold():
    box = (1, 1, 3, 3)
    gone = MaskTracks.from_boxes({"a": {0: box, 2: None, 5: box, 6: box}}, 8, 4, 4)
    assert gone.visible["a"] == (0, 1, 5, 6)
    assert MaskTracks.from_boxes({"a": {3: box}}, 8, 4, 4).visible["a"] == (3,)
    assert MaskTracks.from_boxes({"a": {3: box}}, 8, 4, 4, hold=True).visible["a"] == tuple(range(8))
    thin = MaskTracks.from_boxes({"a": {0: (1.2, 1.2, 1.3, 9.0)}}, 1, 4, 4)
    assert thin.boxes("a").tolist() == [[1, 1, 2, 4]]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({}, "has no box"),
        ({0: None}, "has no box"),
        ({9: (0, 0, 1, 1)}, "frame 9, but the clip has frames 0 to 3"),
        ({0: (2, 0, 1, 1)}, "x1 > x0"),
        ({0: (0, 0, float("nan"), 1)}, "x1 > x0"),
        ({0: (0, 0, 1)}, "x1 > x0"),
        ({0: (30, 0, 40, 8)}, "outside the 20x10 frame"),
    ],
)
def test_bad_boxes(keys, words):
    with pytest.raises(ValueError, match=words):
        MaskTracks.from_boxes({"a": keys}, 4, 10, 20)


def test_palette():
    many = distinct_colours(40)
    assert many[:5] == FIXED
    assert len(set(many)) == 40
    assert (0, 0, 0) not in many
    assert distinct_colours(2, [FIXED[0]]) == FIXED[1:3]
    tracks = tracks_of(a=np.ones((1, 4, 6), bool), b=np.eye(4, 6, dtype=bool)[None])
    picture = tracks.id_map()
    assert picture.shape == (4, 6, 3)
    assert picture[0, 0].tolist() == list(FIXED[1])
    assert picture[0, 5].tolist() == list(FIXED[0])
    assert tracks.with_palette([(1, 2, 3), (4, 5, 6)]).id_map()[3, 0].tolist() == [1, 2, 3]
    assert tracks.id_map(framing=Framing((4, 6), (8, 8))).shape == (8, 8, 3)
    for bad in (
        [(1, 2, 3)],
        [(1, 2, 3), (1, 2, 3)],
        [(0, 0, 0), (1, 1, 1)],
        [(1, 2), (3, 4)],
        [(1, 2, 256), (0, 1, 0)],
    ):
        with pytest.raises(ValueError, match="colours"):
            tracks.with_palette(bad)


# ---------------------------------------------------------------------------------------------------- making, changing


def test_masks_of_every_kind_mean_the_same():
    dense = torch.rand(3, 5, 7, generator=torch.Generator().manual_seed(1))
    inside = dense > 0.5
    expected = MaskTracks.from_masks({"a": inside})
    for masks in (dense, dense.half().float(), (dense * 255).round().to(torch.uint8), list(inside), iter(dense)):
        assert MaskTracks.from_masks({"a": masks}) == expected
    assert MaskTracks.from_masks([("a", inside)]) == expected
    assert MaskTracks.from_masks({"a": inside[0]}).frames == 1
    assert MaskTracks.from_masks({"a": dense}, threshold=0.9) != expected


@pytest.mark.parametrize(
    ("masks", "words"),
    [
        ({}, "1 to 1024 instances; got 0"),
        ({"a": torch.zeros(2, 4, 4)}, "'a' is empty in all 2 frames"),
        ({"a": torch.ones(2, 4, 4), "b": torch.ones(3, 4, 4)}, "'a' has 2, 'b' has 3"),
        ({"a": torch.ones(2, 4, 4), "b": torch.ones(2, 4, 5)}, "4x5 pixels .* but 4x4 came before"),
        ([("a", torch.ones(1, 4, 4)), ("a", torch.ones(1, 4, 4))], "two instances are called 'a'"),
        ({"a": torch.ones(1, 2, 4, 4)}, r"\(frames, height, width\)"),
        ({"a": torch.full((1, 4, 4), 255.0)}, "values of 0 to 1; 'a' has 255"),
        ({"a": torch.full((1, 4, 4), float("nan"))}, "values of 0 to 1; 'a' has nan"),
        ({"a": torch.ones(1, 4, 4, dtype=torch.int64)}, "bool, uint8"),
        ({"a": []}, "has no frames"),
        ({" a": torch.ones(1, 4, 4)}, "without blanks"),
        ({"": torch.ones(1, 4, 4)}, "needs a name"),
        ({"a\n": torch.ones(1, 4, 4)}, "printable"),
        ({"a" * 300: torch.ones(1, 4, 4)}, "at most 200"),
        ({3: torch.ones(1, 4, 4)}, "needs a name"),
    ],
)
def test_bad_masks(masks, words):
    with pytest.raises(ValueError, match=words):
        MaskTracks.from_masks(masks)


def test_bad_roles_sizes_and_rates():
    good = {"a": torch.ones(1, 4, 4)}
    with pytest.raises(ValueError, match="role for 'b'"):
        MaskTracks.from_masks(good, roles={"b": "subject"})
    with pytest.raises(ValueError, match="subject, object, instance; got 'hero'"):
        MaskTracks.from_masks(good, roles={"a": "hero"})
    for fps in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="frames per second"):
            MaskTracks.from_masks(good, fps=fps)
    with pytest.raises(ValueError, match="cannot have"):
        MaskTracks.from_boxes({"a": {0: (0, 0, 1, 1)}}, 1, 70_000, 70_000)


def test_select_rename_roles_merge_take():
    rng = np.random.default_rng(2)
    clip = {name: rng.random((4, 6, 8)) < 0.5 for name in "abc"}
    tracks = tracks_of(**clip).with_roles({"a": "subject", "c": "object"})
    picked = tracks.select(["c", "a"])
    assert picked.names == ("c", "a")
    assert picked.palette == (tracks.palette[2], tracks.palette[0])
    assert picked.roles == {"c": "object", "a": "subject"}
    assert tracks.rename({"a": "b", "b": "a"}).names == ("b", "a", "c")
    with pytest.raises(ValueError, match="two instances are called 'b'"):
        tracks.rename({"a": "b"})
    both = tracks.select(["a"]).merge(tracks_of(d=clip["b"]))
    assert both.names == ("a", "d")
    assert len(set(both.palette)) == 2
    assert torch.equal(both.masks("d"), tracks.masks("b"))
    with pytest.raises(ValueError, match="two instances are called 'a'"):
        tracks.merge(tracks_of(a=clip["a"]))
    with pytest.raises(ValueError, match="one size"):
        tracks.merge(tracks_of(d=clip["a"][:2]))
    assert torch.equal(tracks.take([3, 0, 0]).masks("a"), tracks.masks("a")[[3, 0, 0]])
    with pytest.raises(ValueError, match="numbered 0 to 3"):
        tracks.take([4])
    with pytest.raises(ValueError, match="no instance is called 'x'"):
        tracks.select(["x"])


def test_immutable_and_hashable():
    tracks = tracks_of(a=np.eye(4, dtype=bool)[None])
    with pytest.raises(ValueError, match="read-only"):
        tracks.tracks[0].edges[0] = 3
    assert hash(tracks) == hash(tracks_of(a=np.eye(4, dtype=bool)[None]))
    assert tracks.digest != tracks.rename({"a": "b"}).digest
    assert tracks.digest != tracks.with_roles({"a": "object"}).digest
    assert tracks != 3
    assert "a (instance)" in repr(tracks)


def test_names_of_every_language_and_none_that_hide():
    joined = "\U0001f469\u200d\U0001f680", "\u0646\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645"  # emoji, Persian
    assert tracks_of(**{name: np.ones((1, 4, 4), bool) for name in joined}).names == joined
    for wrong in ("a\0b", "\u202eabc", "\u200d", " a", "a\u200d ", "x" * 100_000):
        with pytest.raises(ValueError, match="^.{,300}$"):
            tracks_of(**{wrong: np.ones((1, 4, 4), bool)})


def test_many_keys_take_no_time_for_each_frame():
    keys = {i: (i % 7, 0, i % 7 + 2, 3) for i in range(0, 20_000, 2)}
    tracks = MaskTracks.from_boxes({"a": keys}, 20_000, 4, 12)  # one search through all keys a frame took half a minute
    assert tracks.boxes("a")[10].tolist() == [3, 0, 5, 3]
    assert tracks.boxes("a")[11].tolist() == [4, 0, 6, 3]


def test_progress_may_interrupt_every_loop():
    class Stop(BaseException):
        pass

    def stop() -> None:
        raise Stop

    tracks = tracks_of(a=np.ones((2, 16, 16), bool))
    for work in (
        lambda: MaskTracks.from_masks({"a": torch.ones(2, 4, 4)}, progress=stop),
        lambda: MaskTracks.from_boxes({"a": {0: (0, 0, 2, 2)}}, 100_000, 4, 4, progress=stop),
        lambda: tracks.framed(Framing((16, 16), (8, 8)), progress=stop),
        lambda: tracks.to_grid(Grid.from_pixels(5, 16, 16), progress=stop),
    ):
        with pytest.raises(Stop):
            work()


# ---------------------------------------------------------------------------------------------------- memory and time


def natural(seed: int, frames: int) -> Iterator[torch.Tensor]:
    """A drifting blob of 1080p with a ragged border, like hair and leaves. One frame at a time; 8 shapes repeat."""
    y, x = np.mgrid[0:1080, 0:1920].astype(np.float32)
    ripple = np.sin(x / 9.1) * np.sin(y / 7.7)
    distance = np.hypot((x - 400 - 110 * seed) / 1.4, y - 540) / (180 + 12 * seed) + 0.05 * ripple
    shapes = [torch.from_numpy(np.roll(distance < 1 + 0.004 * i, 3 * i, axis=1)) for i in range(8)]
    del x, y, ripple, distance
    for i in range(frames):
        yield shapes[i % 8]


@pytest.mark.soak
def test_a_thousand_frames_of_1080p_stay_small():
    """10 natural masks, 7,000 runs a frame: 0.3 MB a frame held, and to the grid without a float copy (83 MB a frame)
    of it. A quarter of the frames in `make test`.

    numpy tells tracemalloc about every array, and every array here is numpy's."""
    frames = 1000 if SOAK else 249
    tracemalloc.start()
    try:
        tracks = MaskTracks.from_masks({f"id{i}": natural(i, frames) for i in range(10)})
        held, packing = (n / 1e6 for n in tracemalloc.get_traced_memory())
        per_frame = sum(len(track.edges) for track in tracks.tracks) / 2 / tracks.frames
        grid, framing = Grid.from_pixels(997 if SOAK else 249, 480, 832), Framing((1080, 1920), (480, 832))
        report = f"{per_frame:.0f} runs a frame, {held:.0f} MB held, {packing:.0f} MB at most while packing"
        for mode in ("nearest", "area"):
            tracemalloc.reset_peak()
            start = time.perf_counter()
            maps = tracks.to_grid(grid, mode, framing).maps
            seconds, peak = time.perf_counter() - start, tracemalloc.get_traced_memory()[1] / 1e6
            report += f"; {mode} {seconds:.1f} s and {peak:.0f} MB at most, {maps.nbytes / 1e6:.0f} MB of them maps"
            assert peak < held + maps.nbytes / 1e6 + 100, report
    finally:
        tracemalloc.stop()
    print(report)
    assert 6000 < per_frame < 9000, report
    assert tracks.nbytes / 1e6 <= held < 0.3 * frames, report
    assert packing < 0.3 * frames, report
