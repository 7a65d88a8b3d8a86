"""A long clip of Wan Animate, sampled segment by segment in the host: one capture of the clip, from the captures of its
segments."""

from dataclasses import replace

import pytest
import torch
from support_attention import make_binding, make_tracks
from support_native import conditioning, latent, native_model
from support_runs import DEFAULTS, bound, parts
from support_wan import RECIPES, SIZE, setup

WORDS = {"cyclist": (1, 2, 4), "van": (4, 6), "passes": (9,)}
LONG, SHARED = 17, 5  # segments of 9 frames, which begin with 0, 4 and 8


@pytest.fixture(scope="module")
def made(pack):
    """The captures of three segments, and the tracks of the clip. Offsets are those that the host's node gives."""
    import nodes

    run, tracks_of = pack.lib("hosts.comfy.run"), pack.lib("core.tracks.tracks")
    whole = make_tracks(tracks_of, LONG, SIZE["height"], SIZE["width"])
    first = next(each for each in RECIPES["WAN22_Animate"] if each.label == "pose")
    later = next(each for each in RECIPES["WAN22_Animate"] if each.label == "further")
    captures, offset = [], 0
    for segment in range(3):
        recipe = later if segment else first
        recipe = replace(recipe, given={**recipe.given, "pose_video": LONG, "video_frame_offset": offset})
        start = max(offset - SHARED, 0)
        tracks = whole
        if start:
            cut = {"how": "cut", "start": start}
            tracks = pack.run("MatrixRetimeTracks", tracks=whole, **cut).result[0]
        keys = {run.BINDING: make_binding(pack.lib("core.words.binding"), 24, WORDS), run.TRACKS: tracks}
        g = torch.Generator().manual_seed(1)
        positive = [[torch.randn(1, 24, 4096, generator=g), dict(keys)]]
        ready = setup("WAN22_Animate", recipe, positive, [[torch.randn(1, 24, 4096, generator=g), {}]])
        model, watch = pack.run("MatrixWatchAttention", model=ready.model, **DEFAULTS).result
        latent = {"samples": ready.latent}
        with torch.inference_mode():
            out = nodes.KSampler().sample(
                model, segment, 2, 4.0, "euler", "simple", ready.positive, ready.negative, latent
            )[0]
        captures.append(pack.run("MatrixCollectCapture", latent=out, watch=watch).result[0])
        offset = start + SIZE["length"]
    return captures, whole


def join(pack, captures, shared=SHARED):
    parts = {f"capture{place}": capture for place, capture in enumerate(captures)}
    return pack.run("MatrixJoinSegments", parts=parts, shared_frames=shared).result


def test_segments_become_one_capture_of_the_clip(pack, made):
    """Frames in their order, those that two segments have once, as the first of them made them."""
    captures, tracks = made
    assert [each.stream().grid.pixel_frames for each in captures] == [9] * 3
    joined, report = join(pack, captures)
    stream = joined.stream()
    assert (stream.grid.shape, stream.grid.pixel_frames, stream.grid.start) == ((5, 2, 3), LONG, None)
    assert stream.grid.fps == 30
    assert joined.meta["segments"] == [0, 4, 8]
    assert "this clip was made in 3 segments, which begin with frames 0, 4, 8" in report
    assert [step.calls for step in joined.steps] == [1, 1]
    for kind in ("v2t", "v2v"):
        own = [each.stream().get(kind).values for each in captures]
        want = torch.cat([own[0], own[1][..., 2:, :, :], own[2][..., 2:, :, :]], -3)
        assert torch.equal(stream.get(kind).values, want)
        assert not torch.equal(own[0][..., 1:, :, :], own[1][..., :2, :, :])
        assert (stream.get(kind).counts == 1).all()
    # its maps lie under the clip's frames and tracks
    on_grid = tracks.to_grid(stream.grid, "area")
    third = captures[2].stream()
    later = pack.run("MatrixRetimeTracks", tracks=tracks, how="cut", start=8).result[0].to_grid(third.grid, "area")
    assert torch.equal(on_grid.maps[:, -1], later.maps[:, -1])
    assert not torch.equal(on_grid.maps[:, 2], on_grid.maps[:, -1])
    # joined by and by it is the same
    by_and_by, told = join(pack, [join(pack, captures[:2])[0], captures[2]])
    assert torch.equal(by_and_by.stream().get("v2t").values, stream.get("v2t").values)
    assert (by_and_by.meta["segments"], told.count("this clip was made in")) == ([0, 4, 8], 1)


def test_what_is_no_clip_is_refused(pack, made):
    captures, _ = made
    with pytest.raises(ValueError, match=r"segment 2 has 9 frames, and 4 of them .* end behind 1, 5 of them"):
        join(pack, captures, 4)
    with pytest.raises(ValueError, match="and 9 of them are to be those of the segment before"):
        join(pack, captures[:2], 9)
    with pytest.raises(ValueError, match=r"the steps differ.*\[0, 1\] and \[0\]"):
        join(pack, [captures[0], captures[1].take([0])])
    grid = replace(captures[0].stream().grid, cycle=5)  # MiniMax H3's frames: 1, 4, 4, 4, 4, 1, ...
    cycled = [replace(each, streams=[replace(one, grid=grid) for one in each.streams]) for each in captures]
    assert join(pack, cycled)[0].stream().grid.pixel_frames == LONG
    with pytest.raises(ValueError, match="rounds of 5, which 1 shared frames break: .* the last 5 frames"):
        join(pack, cycled, 1)


def test_points_are_those_of_the_clip_and_what_has_no_place_there_is_named(pack, tmp_path):
    """The same text pins another frame of the clip in each segment."""
    model, family, captures = native_model("cogvideox"), "cogvideox", []
    for seed, pinned in enumerate(("10,10@0", "10,10@0; 50%,40@5")):
        run = parts(model, bound(pack, family, 1), conditioning(family, 2), steps=1, seed=seed, cfg=1.0)
        options = {**DEFAULTS, "words_look": True, "points": pinned}
        out = pack.run("MatrixSampleAttention", **run, latent_image={"samples": latent(family)}, **options)
        captures.append(out.result[2])
    joined, report = join(pack, captures, 1)
    maps = joined.stream().get("v2v")
    assert maps.points == {"point 10 10 @0": (0, 0, 0), "point 10 10 @8": (2, 0, 0), "point 50% 40 @13": (4, 2, 3)}
    seen = {name: maps.counts[:, 0, maps.entities.index(name)].tolist()[0] for name in maps.points}
    assert list(seen.values()) == [[1, 1, 1, 0, 0], [0, 0, 0, 1, 1], [0, 0, 0, 1, 1]]
    assert set(joined.stream().maps) == {"v2t", "v2v", "t2v"}
    assert "t2t maps are of each segment alone, and left out" in report
    files = pack.lib("io.captures")
    files.save_capture(joined, tmp_path / "joined.safetensors")
    assert files.load_capture(tmp_path / "joined.safetensors").stream().get("v2v").points == maps.points
    found = pack.lib("instrument.readings.point_tracks").follow_points(joined)
    assert torch.equal(found.xy[1, 8].round(), torch.tensor([10.0, 10.0]))
    with pytest.raises(ValueError, match="two segments or more are joined; got 1"):
        join(pack, captures[:1])
    with pytest.raises(ValueError, match="backbone differ.*'cogvideox' and 'wan'"):
        join(pack, [captures[0], replace(captures[1], backbone="wan")], 1)
