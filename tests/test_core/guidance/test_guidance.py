"""Schedules, settings, and the rules that turn tracks and words into regions, against loops over tokens."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support_counts import count

from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.partition import Partition, partition_layout
from matrix_lib.core.guidance.perturbation import Perturbation, perturbed_layout
from matrix_lib.core.guidance.region_bias import RegionBias, bias_columns, bias_layout, parse_weights
from matrix_lib.core.guidance.scene import GridScene, Spans
from matrix_lib.core.guidance.schedule import Schedule, parse_points
from matrix_lib.core.layers import Layers
from matrix_lib.core.sites import AttentionCall, AttentionSite
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words.binding import Phrase, PromptBinding

GRID = Grid.from_pixels(5, 64, 96)  # 2 x 4 x 6 tokens
TEXT = 9
ROWS = {"man": (1, 2), "dog": (2, 4), "walks": (5,), "sunny": (7,)}
JOINT = Spans(TEXT + 1 + GRID.size, TEXT + 1 + GRID.size, (TEXT + 1, GRID.size), (TEXT + 1, GRID.size), (0, TEXT))
CROSS = Spans(GRID.size, TEXT, (0, GRID.size), None, (0, TEXT))
SELF = Spans(GRID.size, GRID.size, (0, GRID.size), (0, GRID.size), None)


def binding(rows=ROWS, length=TEXT):
    role = {"man": "subject", "dog": "object", "walks": "verb", "sunny": "word"}
    phrases = [
        Phrase(name, name, role[name], 0, 1, at, "man" if name == "walks" else None, "dog" if name == "walks" else None)
        for name, at in rows.items()
    ]
    return PromptBinding("a man walks a dog", length, (), tuple(phrases), "t5")


def tracks(masks):
    return MaskTracks.from_masks(masks, allow_empty=True)


def boxes(frames=5):
    """The man on the left, the dog in the middle over part of him and gone from the later frames."""
    man, dog = torch.zeros(frames, 64, 96), torch.zeros(frames, 64, 96)
    man[:, :, :48] = 1
    dog[:1, 32:, 32:64] = 1
    return tracks({"man": man, "dog": dog})


def call(spans, frames=None, grid=GRID):
    kind = "joint" if spans is JOINT else "cross" if spans is CROSS else "self"
    q, k = torch.zeros(1, 1, spans.queries, 4), torch.zeros(1, 1, spans.keys, 4)
    return AttentionCall(
        AttentionSite(0, kind, "a"), q, k, k, 1.0, grid, (), None, spans.video_q, spans.video_k, spans.text_k,
        frame_index=frames,
    )  # fmt: skip


def dense(layout):
    return layout.bias[layout.query][:, layout.key]


def owners(row):
    found = set()
    for name, at in ROWS.items():
        if row in at:
            found |= {"man", "dog"} if name == "walks" else {name} & {"man", "dog"}
    return found


@pytest.mark.parametrize("spans", [JOINT, CROSS, SELF], ids=["joint", "cross", "self"])
def test_the_bias_is_what_a_loop_over_tokens_says(spans):
    grid_scene = GridScene(GRID, boxes(), binding())
    scene = grid_scene.scene(call(spans))
    guide = RegionBias(2.0, 1.5, 1.0, 0.5, weights=(("dog", 2.0),))
    got = dense(bias_layout(scene, spans, guide, 0.5, True, True))
    weight = {"man": 1.0, "dog": 2.0}
    holds = [{name for e, name in enumerate(scene.names) if scene.inside[e, i]} for i in range(GRID.size)]
    want = torch.zeros(spans.queries, spans.keys)
    for i, mine in enumerate(holds):
        for j, theirs in enumerate(holds if spans.video_k else []):
            both = mine & theirs
            up, down = max((weight[n] for n in both), default=0), max((weight[n] for n in mine), default=0)
            want[spans.video_q[0] + i, spans.video_k[0] + j] = 1.0 * up if both else -0.5 * down
        for row in range(TEXT if spans.text_k else 0):
            who = owners(row)
            up = max((weight[n] for n in who & mine), default=0)
            down = max((weight[n] for n in who), default=0)
            want[spans.video_q[0] + i, spans.text_k[0] + row] = 2.0 * up if up else -1.5 * down
    assert torch.equal(got, want * 0.5)


@pytest.mark.parametrize("spans", [JOINT, CROSS, SELF], ids=["joint", "cross", "self"])
def test_soft_edges_over_whole_tokens_are_the_hard_bias(spans):
    apart = torch.zeros(5, 64, 96)
    apart[:, :32, 64:] = 1
    grid_scene = GridScene(GRID, boxes().select(["man"]).merge(tracks({"dog": apart})), binding())
    scene, guide = grid_scene.scene(call(spans)), RegionBias(2.0, 1.5, 1.0, 0.5, weights=(("dog", 2.0),))
    columns = bias_columns(scene, spans, guide, 0.7, True, True)
    want = dense(bias_layout(scene, spans, guide, 0.7, True, True))
    got = columns.query @ columns.key.T
    keep = torch.ones(spans.keys, dtype=torch.bool)
    if spans.text_k:
        keep[[2, 5]] = False  # words of two instances of unequal weight: the soft rule takes the larger one
    torch.testing.assert_close(got[:, keep], want[:, keep], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("spans", [JOINT, CROSS, SELF], ids=["joint", "cross", "self"])
def test_the_partition_is_what_a_loop_over_tokens_says(spans):
    grid_scene = GridScene(GRID, boxes(), binding())
    scene = grid_scene.scene(call(spans))
    got = dense(partition_layout(scene, spans, Partition(), True, True))
    holds = [{name for e, name in enumerate(scene.names) if scene.inside[e, i]} for i in range(GRID.size)]
    want = torch.zeros(spans.queries, spans.keys)
    for i, mine in enumerate(holds):
        for j, theirs in enumerate(holds if spans.video_k else []):
            if not (mine & theirs or not mine | theirs):
                want[spans.video_q[0] + i, spans.video_k[0] + j] = -math.inf
        for row in range(TEXT if spans.text_k else 0):
            if not (owners(row) & mine or not owners(row) | mine):
                want[spans.video_q[0] + i, spans.text_k[0] + row] = -math.inf
    assert torch.equal(got, want)
    assert {frozenset(mine) for mine in holds} == {frozenset(x) for x in ((), ("man",), ("dog",), ("man", "dog"))}


def test_perturbed_columns():
    scene = GridScene(GRID, boxes(), binding()).scene(call(JOINT))
    first, size = JOINT.video_q
    for target, bound in (("words", False), ("tracks", False), ("both", True)):
        layout = perturbed_layout(scene, JOINT, Perturbation(target, bound=bound), True, True)
        gone = layout.zeroed[layout.query][:, layout.key]
        assert not gone[:first].any(), "text queries look as they did"
        want = torch.zeros(JOINT.keys, dtype=torch.bool)
        if target == "words":
            want[:TEXT] = True
        elif target == "tracks":
            want[first : first + size] = True
        else:
            want[[1, 2, 4, 5]] = True
            want[first : first + size] = scene.inside.any(0)
        assert torch.equal(gone[first : first + size], want.expand(size, -1))
        assert not layout.bias.any()


def test_first_frame_masks_leave_the_unknown_frames_alone():
    grid_scene = GridScene(GRID, boxes(1), binding())
    for layout in (
        bias_layout(grid_scene.scene(call(JOINT)), JOINT, RegionBias(), 1.0, True, True),
        partition_layout(grid_scene.scene(call(JOINT)), JOINT, Partition(), True, True),
    ):
        bias = dense(layout)
        later = JOINT.video_q[0] + GRID.frame_size
        assert not bias[later:].any()
        assert not bias[:, later:].any()
        assert bias[:later].any()
    columns = bias_columns(grid_scene.scene(call(JOINT)), JOINT, RegionBias(soft=True), 1.0, True, True)
    assert not (columns.query @ columns.key.T)[later:].any()
    assert not (columns.query @ columns.key.T)[:, later:].any()


def test_a_context_window_sees_its_own_frames():
    grid = Grid.from_pixels(17, 64, 96)
    grid_scene = GridScene(grid, boxes(17), binding())
    window = Grid.from_pixels(5, 64, 96)
    here = grid_scene.scene(call(SELF, (3, 1), window))
    assert torch.equal(here.cover, grid_scene.cover[:, [3, 1]].flatten(1))
    assert not here.inside[1].any(), "the dog is in the first frame only"
    with pytest.raises(ValueError, match="tracks cannot be laid over it"):
        grid_scene.scene(call(SELF, None, Grid.from_pixels(5, 64, 80)))


def test_awkward_tracks():
    """One pixel, nothing at all, out of the frame, a prompt whose every word is bound."""
    dot, none, half = torch.zeros(5, 64, 96), torch.zeros(5, 64, 96), torch.ones(5, 64, 96)
    dot[:, 40, 50] = 1
    half[1:] = 0
    grid_scene = GridScene(GRID, tracks({"man": dot, "dog": none}), binding())
    assert grid_scene.inside[0].flatten(1).sum(1).tolist() == [1, 1]
    assert "'dog' shows in no token frame" in grid_scene.notes[0]
    assert [rows for _, rows in grid_scene.words] == [(1, 2, 5)], "its words are left alone"
    grid_scene = GridScene(GRID, tracks({"man": half, "dog": dot}), binding({"man": tuple(range(TEXT)), "dog": (0,)}))
    for spans in (JOINT, CROSS, SELF):
        scene = grid_scene.scene(call(spans))
        for layout in (
            bias_layout(scene, spans, RegionBias(), 1.0, True, True),
            partition_layout(scene, spans, Partition(), True, True),
        ):
            bias = dense(layout)
            assert not bias.isnan().any()
            assert (bias > -math.inf).any(1).all(), "every token has something to look at"


def test_what_cannot_be_steered_is_said():
    with pytest.raises(ValueError, match="binds 'dog', but the tracks are named 'man'"):
        GridScene(GRID, boxes().select(["man"]), binding())
    with pytest.raises(ValueError, match="40 rows, but a sees 9"):
        GridScene(GRID, boxes(), binding(length=40)).scene(call(JOINT))


@given(st.floats(0, 1), st.floats(0, 1), st.integers(1, 30))
@settings(max_examples=count(40, soak=800))
def test_a_schedule_stays_between_its_points(low, high, steps):
    for easing in ("linear", "smooth", "step"):
        curve = Schedule(((0.0, low), (1.0, high)), easing)
        values = [curve.at(i, steps) for i in range(steps)]
        assert values[0] == low
        assert all(min(low, high) - 1e-12 <= value <= max(low, high) + 1e-12 for value in values)
        assert steps == 1 or values[-1] == pytest.approx(high)


def test_schedules_and_points():
    assert [Schedule(start=0.25, end=0.75).at(i, 5) for i in range(5)] == [0, 1, 1, 1, 0]
    curve = Schedule(parse_points("0: 1, 0.5: 0\n1: 2"))
    assert [curve.at(i, 5) for i in range(5)] == [1, 0.5, 0, 1, 2]
    assert Schedule(((0.5, 3.0),)).at(0, 5) == 3.0, "the first value holds to the start"
    for text, match in (
        ("0=1", "position: strength"),
        ("0: 1, 0: 2", "ascend"),
        ("0: -1", "0 to 1000|0 or more"),
        ("", "ascend"),
    ):
        with pytest.raises(ValueError, match=match):
            Schedule(parse_points(text))
    with pytest.raises(ValueError, match="start <= end"):
        Schedule(start=0.6, end=0.5)


def test_settings_are_checked_and_idle_ones_know_it():
    assert RegionBias(0, 0, 0, 0).idle
    assert Partition(0).idle
    assert Perturbation(scale=0).idle
    assert [Partition(2).at(i, 5) for i in range(4)] == [1, 1, 0, 0]
    for bad in (
        lambda: RegionBias(words_up=-1),
        lambda: RegionBias(track_up=math.nan),
        lambda: RegionBias(branches="uncond"),
        lambda: Partition(-1),
        lambda: Partition(match="token"),
        lambda: Perturbation("verbs"),
        lambda: Perturbation(scale=1000),
    ):
        with pytest.raises(ValueError, match="got"):
            bad()
    site = AttentionSite(3, "joint", "a")
    assert Layers((3,), ()).acts_on_text(site)
    assert not Layers((3,), ()).acts_on_video(site)
    with pytest.raises(ValueError, match=r"layers \[7\] do not exist.*0..5"):
        Layers.only([7, 3]).check(range(6))


def test_weights_belong_to_tracks():
    assert parse_weights("van: 0.5\n a man: 2 ;") == (("van", 0.5), ("a man", 2.0))
    assert parse_weights(" ") == ()
    with pytest.raises(ValueError, match="'NAME: factor', one a line; got 'van 2'"):
        parse_weights("van 2")
    RegionBias(weights=(("man", 2.0),)).check_names(["man", "dog"])
    with pytest.raises(ValueError, match="'cat', but the tracks are named 'man', 'dog'"):
        RegionBias(weights=(("cat", 2.0),)).check_names(["man", "dog"])
