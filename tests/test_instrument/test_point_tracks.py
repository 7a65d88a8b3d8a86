"""Points followed through a clip: against an explicit softmax of queries and keys, and on maps made to say it."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support_attention import make_binding, make_tracks
from support_capture import make_binding as words_binding
from support_capture import make_capture

from matrix_lib.core.grid import Grid
from matrix_lib.core.points import Point, parse_points, point_named
from matrix_lib.core.sites import AttentionCall, AttentionSite, BatchRow
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.instrument.capture import Capture, StepInfo, Stream
from matrix_lib.instrument.maps import Maps
from matrix_lib.instrument.readings.point_tracks import follow_points
from matrix_lib.instrument.readings.readers import parse_readers, readers_text
from matrix_lib.instrument.readings.reading import read_capture
from matrix_lib.instrument.recorder import Recorder, RecorderConfig

GRID, TEXT, HEADS = Grid(3, 8, 10), 20, 2
SITES = tuple(AttentionSite(i, "joint", f"blocks.{i}") for i in range(2))


def q_and_k(layer: int, step: int) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(10 * step + layer)
    q, k = (torch.randn(1, HEADS, TEXT + GRID.size, 8, generator=generator) * 1.5 for _ in range(2))
    return q, k


def recorded(text: str) -> Capture:
    """Two layers, two steps, heads apart, of queries and keys at random."""
    tracks = make_tracks(tracks_module, GRID.pixel_frames, 128, 160)
    row = BatchRow("cond", 0, make_binding(binding_module, TEXT), tracks)
    recorder = Recorder(RecorderConfig(heads="all", points=parse_points(text)), "wan", SITES, GRID, (1.0, 0.5))
    span = (TEXT, GRID.size)
    for step in (0, 1):
        for site in SITES:
            q, k = q_and_k(site.layer, step)
            call = AttentionCall(site, q, k, k, 0.3, GRID, (row,), None, span, span, (0, TEXT), step, 1.0 - step / 2)
            recorder.observe(call, None)
            recorder.settle(site, True)
    return recorder.result()


def by_hand(token: tuple[int, int, int], readers: list[tuple[int, int]]) -> np.ndarray:
    """(F, 2) pixels: softmax over the keys of one frame alone, mean over steps and heads, the middle of the 5x5 tokens
    around the highest one."""
    query = TEXT + (token[0] * GRID.height + token[1]) * GRID.width + token[2]
    places = np.zeros((GRID.frames, 2))
    for frame in range(GRID.frames):
        keys = range(TEXT + frame * GRID.frame_size, TEXT + (frame + 1) * GRID.frame_size)
        mean = np.zeros(GRID.frame_size)
        for layer, head in readers:
            for step in (0, 1):
                q, k = q_and_k(layer, step)
                logits = [0.3 * float(q[0, head, query].double() @ k[0, head, key].double()) for key in keys]
                total = sum(math.exp(value) for value in logits)
                mean += [math.exp(value) / total for value in logits]
        top = int(mean.argmax())
        near = [
            (r, c, mean[r * GRID.width + c])
            for r in range(GRID.height)
            for c in range(GRID.width)
            if max(abs(r - top // GRID.width), abs(c - top % GRID.width)) <= 2
        ]
        mass = sum(p for _, _, p in near)
        places[frame] = [16 * sum((c + 0.5) * p for _, c, p in near) / mass,
                         16 * sum((r + 0.5) * p for r, _, p in near) / mass]  # fmt: skip
    return places


def test_it_is_the_softmax_of_queries_and_keys_within_each_frame() -> None:
    capture = recorded("33%,50%; 50,20@5")
    for readers in ([(1, 0)], [(0, 1), (1, 0)]):
        found = follow_points(capture, readers=readers)
        assert found.names == ("point 33% 50% @0", "point 50 20 @5")
        for place, (token, pin, frame) in enumerate((((0, 4, 3), (52.8, 64.0), 0), ((2, 1, 3), (50.0, 20.0), 5))):
            own, knots = by_hand(token, readers), {float(frame): pin}
            knots |= {time: tuple(own[f]) for f, time in enumerate((0.0, 2.5, 6.5)) if f != token[0]}
            times = sorted(knots)
            for axis in (0, 1):
                want = np.interp(np.arange(9), times, [knots[time][axis] for time in times])
                np.testing.assert_allclose(found.xy[place, :, axis].numpy(), want, atol=0.15)  # maps are float16


# ---- maps that are made to say it

SMALL = Grid(4, 6, 8, patch=(1, 1, 1), spatial_stride=16)
WAY = [(1, 1), (1, 3), (3, 3), (3, 5)]  # row and column of the cyclist in each token frame
PIN = "point 24 24 @0"


def bump(row: int, column: int) -> torch.Tensor:
    """(h, w): a peak with a soft foot that has its middle in the token's."""
    y, x = torch.arange(SMALL.height)[:, None] - row, torch.arange(SMALL.width)[None] - column
    return 0.001 + 0.2 * torch.exp(-2.0 * (y.square() + x.square()))


def followed_capture() -> Capture:
    """Words that move along `WAY`; head 0 of layer 3 looks at the pinned place in every frame, head 1 along the way."""
    words = torch.stack([bump(*place) for place in WAY])
    values = torch.full((1, 2, 1, 2, *SMALL.shape), 0.001)
    values[0, :, 0, 0] = bump(*WAY[0]).expand(SMALL.frames, -1, -1) * 2  # the sharper one
    values[0, :, 0, 1] = words
    counts = torch.ones(1, 2, 1, SMALL.frames, dtype=torch.int32)
    maps = {
        "v2t": Maps.whole(words.expand(1, 2, 1, *SMALL.shape).half(), (3,), ("cyclist",), [1, 1]),
        "v2v": Maps(values.half(), (3,), (PIN,), counts, heads=(0, 1), points={PIN: (0, 1, 1)}),
    }
    return Capture([Stream("a", words_binding(), SMALL, maps)], "wan", (StepInfo(0, 1.0), StepInfo(1, 0.5)))


def test_heads_are_those_whose_points_stay_on_their_word() -> None:
    capture = followed_capture()
    found = follow_points(capture)
    assert (found.on, found.readers) == (("cyclist",), ((3, 1), (3, 0)))  # best first; there are no three
    alone = follow_points(capture, readers=[(3, 1)])
    want = torch.tensor([(16 * c + 8.0, 16 * r + 8.0) for r, c in WAY])
    for axis in (0, 1):
        path = np.interp(np.arange(13), [0, 2.5, 6.5, 10.5], want[:, axis].numpy())
        np.testing.assert_allclose(alone.xy[0, :, axis].numpy(), path, atol=2.0)  # bumps at the edge are cut off
    assert bool(alone.seen.all())
    assert not alone.notes
    report = read_capture(capture, point_readers=[(3, 1)])
    assert "points followed by layer 3 head 1" in report.report()
    assert report.as_json()["points"][0]["on"] == "cyclist"
    with pytest.raises(ValueError, match="layer 3 head 2 was to be read and was not captured: .* heads 0-1 apart"):
        follow_points(capture, readers=[(3, 2)])


def test_a_point_on_a_thing_at_rest_stays_unless_it_is_seen_far_away() -> None:
    """The cyclist's map is faint in token frame 1, and its point is looked for a token too far to the right."""
    for column, held in ((2, True), (5, False)):
        capture = followed_capture()
        v2t, v2v = (capture.streams[0].maps[kind] for kind in ("v2t", "v2v"))
        words, values = v2t.values.clone(), v2v.values.clone()
        words[..., 1, :, :] = 0.001 + 0.003 * (words[..., 1, :, :] > 0.1)
        values[0, :, 0, 1, 1] = bump(1, column).half()
        maps = {"v2t": replace(v2t, values=words), "v2v": replace(v2v, values=values)}
        found = follow_points(replace(capture, streams=[replace(capture.streams[0], maps=maps)]), readers=[(3, 1)])
        at_rest = found.xy[0, [0, 1, 2]]  # token frame 1 has its middle at 2.5
        assert bool((at_rest == 24.0).all()) == held
        assert ("held in token frames 0-1, where 'cyclist' rests" in " ".join(found.notes)) == held
        assert float(found.xy[0, 7, 1]) > 40.0, "it moves on from there"


def test_frames_in_which_a_point_was_not_found_are_told_and_guessed_between() -> None:
    capture = followed_capture()
    maps = capture.streams[0].maps["v2v"]
    values, counts = maps.values.clone(), maps.counts.clone()
    values[..., 1, 1, :, :] = 0.01  # head 1 looks everywhere alike in token frame 1
    counts[..., 3] = 0
    own = {**capture.streams[0].maps, "v2v": replace(maps, values=values, counts=counts)}
    lost = replace(capture, streams=[replace(capture.streams[0], maps=own)])
    found = follow_points(lost, readers=[(3, 1)])
    assert found.seen[0].tolist() == [True] + [False] * 4 + [True] * 4 + [False] * 4
    start, stop = torch.tensor([24.0, 24.0]), found.xy[0, 8]  # the last place that was found holds to the end
    torch.testing.assert_close(found.xy[0, 2], start + (stop - start) * (2 / 6.5), atol=0.6, rtol=0)
    torch.testing.assert_close(found.xy[0, 12], stop)
    assert any("looks nowhere in particular in token frames 1" in note for note in found.notes)
    assert any("was not recorded in token frames 3" in note for note in found.notes)


def test_points_off_every_word_and_captures_without_points_are_told() -> None:
    capture = followed_capture()
    stream = capture.streams[0]
    off = replace(stream.maps["v2v"], points={PIN: (0, 5, 7)})
    loose = follow_points(replace(capture, streams=[replace(stream, maps={**stream.maps, "v2v": off})]))
    assert loose.on == ("",)
    assert len(loose.readers) == 2
    assert any("neither a point nor a masked instance is on a bound word" in note for note in loose.notes)
    with pytest.raises(ValueError, match="no point was pinned in this capture"):
        follow_points(make_capture())
    assert read_capture(make_capture()).points is None


def test_names_of_points_and_heads_are_read_back() -> None:
    for point in parse_points("60,90@8; 50%,25%; .5,12.125%@3"):
        assert point_named(point.name) == point
    assert point_named("cyclist") is None
    assert Point(50, 25, 0, (True, True)).pixels(GRID) == (80.0, 32.0)
    assert parse_readers("8.0, 10.2,7, 8.0") == ((8, 0), (10, 2), (7, None))
    assert readers_text(parse_readers("8.0, 7")) == "layer 8 head 0, layer 7"
    with pytest.raises(ValueError, match="heads are written as layer.head, such as '8.0, 10.2'"):
        parse_readers("8:0")
