"""Heads that carry motion: against explicit references, on maps that are made to say it, and on mini's own."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from support_capture import make_binding, make_capture

from matrix_lib.core.grid import Grid
from matrix_lib.core.words.phrases import parse_phrases
from matrix_lib.evaluation.layers.probe import Recipe, probe
from matrix_lib.hosts.diffusers.load import open_model
from matrix_lib.instrument.capture import Capture, StepInfo, Stream
from matrix_lib.instrument.maps import Maps
from matrix_lib.instrument.readings.contacts import ContactLine, bend, find_meetings, meeting, overlap, parse_contact
from matrix_lib.instrument.readings.motion_heads import find_motion, separation, two_groups
from matrix_lib.instrument.readings.point_tracks import follow_points
from matrix_lib.instrument.readings.reading import read_capture
from matrix_lib.instrument.readings.seed_rule import LABEL_FREE, seed_features
from scripts.motion_truth import given_tracks, make, moves, paths, pinned, retimed

GRID = Grid(5, 6, 8)
MOVING = {"cyclist": (1, 2, 3, 4), "van": (3, 4)}
NAMES = ("cyclist", "van", "waits behind")


def capture_of(heads: int = 2, moving: dict[str, tuple[int, ...]] | None = None) -> Capture:
    """Two layers and two steps. In the last head of layer 7 an instance's map has a high peak while it moves; elsewhere
    peaks are alike."""
    values = torch.rand(2, 2, 3, heads, *GRID.shape, generator=torch.Generator().manual_seed(1)) * 0.002 + 0.001
    values[..., 2, 3] = 0.01
    for e, name in enumerate(NAMES[:2]):
        for frame in (moving or MOVING)[name]:
            values[1, :, e, heads - 1, frame, 2, 3] = 0.4
    counts = torch.ones(2, 2, 3, GRID.frames, dtype=torch.int32)
    maps = Maps(values.half(), (3, 7), NAMES, counts, heads=tuple(range(heads)))
    stream = Stream("a", make_binding(), GRID, {"v2t": maps})
    return Capture([stream], "wan", (StepInfo(0, 1.0), StepInfo(1, 0.5)))


def test_two_groups_are_the_split_with_the_least_squares_within() -> None:
    generator = torch.Generator().manual_seed(0)
    for count in (2, 3, 9, 30):
        values = torch.randn(count, generator=generator) + 3 * (torch.rand(count, generator=generator) < 0.4)
        threshold, gap = two_groups(values)
        ordered = np.sort(values.double().numpy())
        cost = [ordered[:i].var() * i + ordered[i:].var() * (count - i) for i in range(1, count)]
        cut = int(np.argmin(cost)) + 1
        assert threshold == pytest.approx((ordered[cut - 1] + ordered[cut]) / 2)
        assert gap == pytest.approx(ordered[cut:].mean() - ordered[:cut].mean())
    assert two_groups(torch.tensor([1.0]))[1] == 0.0


def test_how_far_maps_stand_out_and_which_head_separates() -> None:
    capture = capture_of()
    found, maps = find_motion(capture), capture.streams[0].maps["v2t"]
    assert found.reader == (7, 1)
    for e, name in enumerate(NAMES[:2]):
        for frame in range(GRID.frames):
            mean = maps.values[1, :, e, 1, frame].float().mean(0).flatten()
            want = float((mean.max() / mean.sort().values[(len(mean) - 1) // 2]).log())
            assert float(found.stands_out[e, frame]) == pytest.approx(want, abs=1e-3)
        assert found.moving[e].nonzero()[:, 0].tolist() == list(MOVING[name])
    scores = separation(capture)
    assert set(scores) == {(layer, head) for layer in (3, 7) for head in (None, 0, 1)}
    assert max(scores, key=lambda reader: scores[reader]) == (7, 1)
    assert scores[7, 1] == pytest.approx(found.gap)
    (contact,) = found.contacts
    assert (contact.verb, contact.object, contact.begins, contact.frames) == ("waits behind", "van", 3, (9, 13))
    assert "'van' begins to move in frames 9-12 (token frame 3)" in read_capture(capture).report()
    told = read_capture(capture, motion_reader=(7, 1)).as_json()["motion"]
    assert told["moving"]["van"] == list(range(9, 17))
    assert any("keep heads apart" in note for note in find_motion(capture, reader=(7, None)).notes)


def test_who_acts_leads_and_exchanged_roles_are_told() -> None:
    """The cyclist waits behind the van. The lead is that of the first half: token frames 1 and 2 of 5."""
    for moving, turned in ((MOVING, False), ({"cyclist": (3, 4), "van": (1, 2, 3, 4)}, True)):
        found = find_motion(capture_of(moving=moving))
        cyclist, van = (found.stands_out[found.entities.index(name), 1:3] for name in ("cyclist", "van"))
        named = find_motion(capture_of(moving=moving), reader=found.reader)
        assert named.leads == {"waits behind": pytest.approx(float((cyclist - van).mean()))}
        weight = {r[0]: gap for r, gap in separation(capture_of(moving=moving)).items() if r[1] is None}
        each = {n: find_motion(capture_of(moving=moving), reader=(n, None)).leads["waits behind"] for n in weight}
        mean = sum(weight[n] * each[n] for n in weight) / sum(weight.values())
        assert found.leads == {"waits behind": pytest.approx(mean)}
        assert (found.leads["waits behind"] < 0) == turned
        assert any("the roles may be exchanged" in note for note in found.notes) == turned
        acts = seed_features(capture_of(moving=moving))["acts"]
        assert acts == pytest.approx(1 / (1 + math.exp(-found.leads["waits behind"])))
        assert LABEL_FREE.weights["acts"] > 0
    alike = find_motion(capture_of(moving={"cyclist": (), "van": ()}))
    assert abs(alike.leads["waits behind"]) < 0.75, "nothing moves: nobody leads"
    assert not any("exchanged" in note for note in alike.notes)


def test_what_cannot_be_told_is_told() -> None:
    alike = find_motion(capture_of(moving={"cyclist": (), "van": ()}))
    assert not bool(alike.moving.any())
    assert not alike.contacts
    assert any("motion cannot be told" in note for note in alike.notes)
    capture = capture_of()
    maps = capture.streams[0].maps["v2t"]
    counts = maps.counts.clone()
    counts[1, :, 1, 2] = 0
    gone = replace(capture.streams[0], maps={"v2t": replace(maps, counts=counts)})
    found = find_motion(replace(capture, streams=[gone]))
    assert any("'van' was not recorded in token frames 2: no motion" in note for note in found.notes)
    assert not bool(found.moving[1, 2])
    assert not found.contacts  # it may have begun in the frame that was not recorded
    with pytest.raises(ValueError, match="layer 5 was to be read and was not captured: this capture has layers 3, 7"):
        find_motion(capture, reader=(5, None))
    assert find_motion(make_capture()).reader[1] is None


def test_maps_that_run_into_each_other_tell_when_two_meet() -> None:
    """A bend to a quarter of a frame, the overlap by its formula, and a line from one to the other."""
    spans = GRID.pixel_spans()
    frames = torch.arange(17.0)
    for at in (3.0, 6.5, 8.25, 12.0):
        level = 0.9 - 0.05 * (at - frames).clamp_min(0)
        means = torch.stack([level[slice(*span)].mean() for span in spans])
        assert bend(means, spans) == at
    values = torch.rand(2, 2, 2, *GRID.shape, generator=torch.Generator().manual_seed(2)) * 0.01
    maps = Maps.whole(values.half(), (3, 7), NAMES[:2], (1, 1))
    capture = Capture([Stream("a", make_binding(), GRID, {"v2v": maps})], "wan", (StepInfo(0, 1.0), StepInfo(1, 0.5)))
    one, other = maps.values[1, 1].double().flatten(2)
    wanted = ((one / one.sum(1, keepdim=True)) * (other / other.sum(1, keepdim=True))).sqrt().sum(1)
    found = overlap(capture, ("cyclist", "van"), 7, steps=[1])
    torch.testing.assert_close(found, wanted.float(), rtol=1e-3, atol=1e-3)
    raw = bend(found, spans)
    assert meeting(capture, ("cyclist", "van"), 7, steps=[1], line=(1.0, 0.5)) == 1.0 + 0.5 * raw
    assert meeting(capture, ("cyclist", "van"), 7, steps=[1], line=(99.0, 1.0)) == 16
    with pytest.raises(ValueError, match="'bus' has no maps; there are cyclist, van"):
        overlap(capture, ("cyclist", "bus"), 7)
    line = parse_contact(" 7, 1, .5")
    assert line == ContactLine(7, 1.0, 0.5, "the line that was given")
    assert parse_contact("auto") is None
    told = read_capture(replace(capture, steps=capture.steps), kind="v2v", contact=line)
    (met,) = told.meetings
    late = bend(overlap(capture, ("cyclist", "van"), 7), spans)  # of both steps: the last two of all
    assert (met.verb, met.names, met.bend, met.frame) == ("waits behind", ("cyclist", "van"), late, 1 + late / 2)
    assert f"'waits behind': 'cyclist' and 'van' meet about frame {met.frame:.1f}, if they touch" in told.report()
    assert told.as_json()["meetings"][0]["frame"] == round(met.frame, 2)
    assert "waits behind: cyclist and van may meet here" in str(told.by_frame()[round(met.frame)])
    (alone,), _ = find_meetings(capture, parse_contact("7"))
    assert alone.frame is None
    assert "which is later than they meet" in alone.text()
    assert find_meetings(capture) == ((), ()), "every model has a line of its own"
    one_gone = replace(capture, streams=[replace(capture.streams[0], maps={"v2v": maps.only(0)})])
    assert "takes maps of both in four" in find_meetings(one_gone, line)[1][0]
    for wrong in ("5, 1", "x", "5, 1, 0", "5, nan, 1", "-1", "5.2"):
        with pytest.raises(ValueError, match="contact is 'auto', or a layer"):
            parse_contact(wrong)
    with pytest.raises(ValueError, match="layer 5 was to be read"):
        find_meetings(capture, parse_contact("5"))
    with pytest.raises(ValueError, match="four token frames"):
        bend(torch.tensor([0.1, float("nan"), 0.2, 0.3, 0.3]), spans)


def test_what_mini_looks_at_follows_points_and_tells_who_moves() -> None:
    """One clip of the mini world at one noise level: errors and motion are against its exact paths."""
    clip = make(101, 1)
    assert clip.verb == ["push"]
    model = open_model("mini", torch.device("cpu"), torch.float32)
    points = "; ".join(f"{x:.1f},{y:.1f}" for x, y in pinned(clip))
    binding = model.bind(clip.prompts[0], parse_phrases(clip.phrases[0]))
    recipe = Recipe("noise", 17, 128, 128, timesteps=(300,))
    frames, asked = clip.video[0].permute(0, 2, 3, 1), {"maps": True, "heads": "all", "points": points}
    capture = probe(model, recipe, binding, given_tracks(clip), frames, seed=0, **asked).capture
    assert capture is not None
    truth, found = paths(clip), follow_points(capture)
    off = (found.xy - truth).norm(dim=-1)[:, 1:].mean(-1)
    stays = (truth - truth[:, :1]).norm(dim=-1)[:, 1:].mean(-1)
    assert off[:2].mean() < 0.7 * stays[:2].mean()
    motion, names = find_motion(capture), clip.names[0][:2]
    told = torch.stack([motion.moving[motion.entities.index(name)] for name in names])
    assert int((told == moves(clip, capture.stream().grid))[:, 1:].sum()) >= 7
    (contact,) = motion.contacts
    assert abs(contact.frames[0] - 1 - int(clip.contact[0].int().argmax())) <= 1
    later = retimed(clip, 13)
    assert int(later.contact[0].int().argmax()) in (12, 13)
    assert torch.allclose(later.trajectories[0, :, -1], clip.trajectories[0, :, -1].float(), atol=1e-3)
