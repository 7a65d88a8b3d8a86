"""The mini world: what it promises about its clips, their words and their files."""

from __future__ import annotations

import csv
import json
import math
import re
from dataclasses import fields

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from support_counts import count

from matrix_lib.core.words.binding import locate
from matrix_lib.evaluation.mini.judges import judge
from matrix_lib.io.video import read_video
from matrix_lib.mini.captions import FORMS
from matrix_lib.mini.export import export_clips, mask_tracks
from matrix_lib.mini.mask_noise import with_mask_noise
from matrix_lib.mini.shapes import COLOURS, MAX_REACH, PALETTE, SHAPES, reach, signed_distance
from matrix_lib.mini.sheet import contact_sheet
from matrix_lib.mini.verbs import VERB_NAMES, VERBS, act, reserved_shape, verb_named
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

MIDDLE = 8  # of 17 frames


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips(3, 120, WorldConfig(split="all", distractor_share=0.3))


@pytest.fixture(scope="module")
def panned() -> Clips:
    return make_clips(4, 24, WorldConfig(split="all", camera=True))


def of_verb(clips: Clips, name: str) -> Clips:
    return clips.select([index for index, verb in enumerate(clips.verb) if verb == name])


# --- what a clip is


def test_clips_hold_what_they_say(clips):
    n, k, f, h, w = 120, 5, 17, 64, 64
    assert clips.video.shape == (n, f, 3, h, w)
    assert clips.video.dtype == torch.uint8
    assert clips.masks.shape == (n, k, f, h, w)
    assert clips.masks.dtype == torch.bool
    assert clips.trajectories.shape == (n, k, f, 2)
    assert clips.contact.shape == (n, f)
    assert clips.touch.shape == (n, k, k, f)
    assert len(clips) == n == len(clips.prompts) == len(clips.tagged) == len(clips.names) == len(clips.phrases)
    assert set(clips.verb) == set(VERB_NAMES)
    assert clips.split == "all"


def test_two_to_five_instances_without_holes(clips):
    count = clips.present.sum(dim=1)
    assert count.min() >= 2
    assert count.max() == 5
    assert (clips.present == (torch.arange(5) < count[:, None])).all()
    assert [len(names) for names in clips.names] == count.tolist()


def test_the_same_seed_gives_the_same_clips_whatever_the_count():
    few, many = make_clips(7, 3), make_clips(7, 9)
    for field in fields(Clips):
        one, other = getattr(few, field.name), getattr(many, field.name)
        if isinstance(one, torch.Tensor):
            assert torch.equal(one, other[:3]), field.name
        elif isinstance(one, list):
            assert one == other[:3]
    assert not torch.equal(few.video, make_clips(8, 3).video)


def test_the_first_frame_shows_everybody_whole(clips):
    assert clips.masks[:, :, 0].sum(dim=(-2, -1))[clips.present].min() >= 70
    apart = ~clips.touch[..., 0]
    apart[:, 0, 1] = apart[:, 1, 0] = True  # who is carried is held from the start
    assert apart.all()


def test_everybody_stays_in_the_frame(clips, panned):
    for some in (clips, panned):
        far = some.radius[..., None, None] * MAX_REACH
        inside = ((some.trajectories - far >= 0) & (some.trajectories + far <= 64)).flatten(2).all(dim=2)
        assert inside[some.present].all()


def test_somebody_covers_somebody_but_never_wholly():
    crossing = make_clips(0, 100, WorldConfig(occlusion_share=1.0, frames=9))
    area = crossing.masks.sum(dim=(-2, -1)).float()
    share = (area.amin(dim=2) / area[:, :, 0])[crossing.present]
    assert 0.2 < share.min() < 0.8


def test_masks_show_their_own_colour_and_never_overlap(clips, panned):
    paints = torch.tensor(list(PALETTE.values()), dtype=torch.float32)
    for some in (clips, panned):
        assert some.masks.sum(dim=1).max() == 1
        assert not some.masks[~some.present].any()
        for slot in range(2):
            mask = some.masks[:, slot].unsqueeze(2)
            mean = (some.video * mask).sum(dim=(1, 3, 4)) / mask.sum(dim=(1, 3, 4))
            assert (mean - paints[some.colour[:, slot]]).abs().max() < 30


def test_centres_are_where_the_masks_are(clips):
    alone = clips.masks.sum(dim=(-2, -1)) == clips.masks[:, :, :1].sum(dim=(-2, -1))
    y, x = (torch.arange(64) + 0.5 for _ in range(2))
    down, across = clips.masks.sum(dim=-1), clips.masks.sum(dim=-2)
    mass = clips.masks.sum(dim=(-2, -1)).clamp_min(1)
    seen = torch.stack([(across * x).sum(-1) / mass, (down * y).sum(-1) / mass], dim=-1)
    off = (seen - clips.trajectories).norm(dim=-1)
    round_ones = clips.shape != SHAPES.index("triangle")  # a triangle's mean is not its centre
    assert off[alone & (clips.present & round_ones).unsqueeze(-1)].max() < 1


def test_a_background_of_grey_that_is_not_flat(clips):
    rim = clips.video[:, :, :, 0]  # nobody comes this near to the edge
    assert torch.equal(rim.amin(dim=2), rim.amax(dim=2))
    assert clips.video[:, 0].float().flatten(2).std(dim=2).min() > 5


def test_a_camera_moves_everything_and_the_background_by_half(panned):
    assert {"still", "left", "up"} <= set(panned.camera_move)
    for index, move in enumerate(panned.camera_move):
        assert ("the camera" in panned.prompts[index]) is (move != "still")
        bystanders = panned.present[index] & ~panned.moving[index]
        drift = panned.trajectories[index, bystanders] - panned.trajectories[index, bystanders, :1]
        torch.testing.assert_close(drift, panned.camera[index].expand_as(drift), atol=1e-4, rtol=0)
    index = panned.camera_move.index("left")
    assert panned.camera[index, -1].tolist() == [8, 0]
    first, last = panned.video[index, 0, 0, 0].float(), panned.video[index, -1, 0, 0].float()
    assert (first[:-4] - last[4:]).abs().mean() < 1.5  # the empty top row, 4 of the 8 pixels along


def test_sizes_scale():
    wide = make_clips(1, 8, WorldConfig(height=96, width=160, frames=9))
    assert wide.video.shape == (8, 9, 3, 96, 160)
    assert wide.masks[:, :, 0].sum(dim=(-2, -1))[wide.present].min() > 70 * 1.5**2


def test_select_and_repaint(clips):
    part = clips.select(slice(2, 5))
    assert part.prompts == clips.prompts[2:5]
    assert torch.equal(part.repaint(), clips.video[2:5])
    mask = torch.zeros(len(clips), dtype=torch.bool)
    mask[[1, 7]] = True
    assert clips.select(mask).names == [clips.names[1], clips.names[7]]
    assert torch.equal(clips.select([7]).to("cpu").masks, clips.masks[7:8])


# --- verbs


def test_paths_follow_from_the_first_frame_and_the_verb_alone(clips):
    for index in range(40):
        verb = verb_named(clips.verb[index])
        if verb.parts == 1:
            continue
        slots = [0, 1, min(2, int(clips.present[index].sum()) - 1)]
        again = act(
            verb,
            clips.trajectories[index, slots, 0].double(),
            clips.shape[index, slots],
            clips.radius[index, slots].double(),
            17,
        )
        torch.testing.assert_close(
            again[: verb.parts].float(), clips.trajectories[index, : verb.parts], atol=1e-3, rtol=0
        )


@pytest.mark.parametrize(
    ("name", "movers", "contact"),
    [
        ("push", (0, 1), (False, True, True)),
        ("pull", (0, 1), (False, True, True)),
        ("chase", (0, 1), (False, False, False)),
        ("lift", (0, 1), (False, True, True)),
        ("hit", (0, 1), (False, True, False)),
        ("bounce", (0,), (False, True, False)),
        ("join", (0,), (False, False, True)),
        ("orbit", (0,), (False, False, False)),
        ("carry", (0, 1), (True, True, True)),
        ("give", (0, 1), (True, True, False)),
        ("move_up", (0,), (False, False, False)),
    ],
)
def test_who_moves_and_when_they_touch(name, movers, contact):
    verb = verb_named(name)
    share = 1.0 if verb.parts == 1 else 0.0
    clips = make_clips(5, 8, WorldConfig(verbs=(name,), split="all", single_motion_share=share))
    expected = torch.tensor([slot in movers for slot in range(5)])
    assert (clips.moving == expected).all()
    assert clips.contact[:, [0, MIDDLE, -1]].tolist() == [list(contact)] * 8


def test_verbs_differ_in_what_stays():
    clips = make_clips(6, 100, WorldConfig(split="all", single_motion_share=0, frames=9))
    path = clips.trajectories
    moved = (path[:, :, -1] - path[:, :, 0]).norm(dim=-1)
    for index, verb in enumerate(clips.verb):
        if verb in ("bounce", "give"):
            assert moved[index, 0] < 0.01
        if verb in ("carry", "give"):
            assert bool(clips.touch[index, 1, 2, -1])  # the gift ends with the third
        if verb in ("push", "lift", "hit", "pull"):
            assert moved[index, 1] > 9
        if verb == "orbit":
            middle = (path[index, 0, 0] + path[index, 0, -1]) / 2
            assert (middle - path[index, 1, 0]).norm() < 0.01


def test_swapped_roles_start_in_the_same_first_frame(clips):
    two = clips.parts > 1
    torch.testing.assert_close(clips.swapped[two][:, :, 0], clips.trajectories[two][:, :2, 0], atol=1e-4, rtol=0)
    agents = (clips.swapped[two] - clips.trajectories[two][:, :2]).norm(dim=-1).amax(dim=(1, 2))
    assert agents.min() > 5


@pytest.mark.parametrize("split", ["train", "heldout_pairs"])
def test_reserved_pairs_are_kept_out_of_training(split):
    clips = make_clips(9, 150, WorldConfig(split=split, height=48, width=48, frames=5))
    for index, name in enumerate(clips.verb):
        verb = verb_named(name)
        thing = int(clips.shape[index, 1 if verb.interaction else 0])
        assert (thing == reserved_shape(verb)) is (split == "heldout_pairs")


# --- words


def test_captions_say_who_does_what(clips):
    for index, prompt in enumerate(clips.prompts):
        verb = verb_named(clips.verb[index])
        looks = [f"{COLOURS[c]} {SHAPES[s]}" for c, s in zip(clips.colour[index], clips.shape[index])]
        assert prompt.startswith(f"the {looks[0]} {verb.words}")
        if verb.parts == 2:
            assert prompt == f"the {looks[0]} {verb.words} the {looks[1]}"
        if verb.parts == 3:
            assert prompt == f"the {looks[0]} {verb.words} the {looks[1]} to the {looks[2]}"
        assert re.sub(r"<id\d> ", "", clips.tagged[index]) == prompt
        assert re.findall(r"<id(\d)>", clips.tagged[index]) == [str(slot + 1) for slot in range(verb.parts)]


def test_phrases_bind_to_the_prompt(clips, panned):
    for some in (clips, panned):
        for index, prompt in enumerate(some.prompts):
            verb = verb_named(some.verb[index])
            phrases, notes = locate(prompt, some.phrases[index])
            assert not notes
            assert [phrase.name for phrase in phrases[:-1]] == list(some.names[index][: verb.parts])
            action = phrases[-1]
            assert action.role == "verb"
            assert prompt[action.start : action.end] == verb.words
            assert action.subject == some.names[index][0]
            assert action.object == (some.names[index][1] if verb.interaction else None)
            assert all(some.roles[index][phrase.name] == phrase.role for phrase in phrases[:-1])


def test_ambiguous_means_that_a_named_thing_has_a_double(clips):
    for index, names in enumerate(clips.names):
        assert len(set(names)) == len(names)
        named = names[: int(clips.parts[index])]
        assert bool(clips.ambiguous[index]) is any(f"{name} 2" in names for name in named)
    assert 0.1 < clips.ambiguous.float().mean() < 0.4
    assert not make_clips(1, 60, WorldConfig(distractor_share=0, frames=5)).ambiguous.any()


# --- shapes


@settings(max_examples=count(60, soak=1200))
@given(
    shape=st.integers(0, len(SHAPES) - 1),
    angle=st.floats(0, 2 * math.pi),
    radius=st.floats(3, 40),
)
def test_reach_ends_on_the_outline(shape, angle, radius):
    line = torch.tensor((math.cos(angle), math.sin(angle)), dtype=torch.float64)
    length = reach(torch.tensor(shape), torch.tensor(radius, dtype=torch.float64), line)
    assert 0.4 * radius < length <= MAX_REACH * radius * 1.001
    edge = signed_distance(shape, *(line * length).unbind(), torch.tensor(radius))
    assert abs(float(edge)) < 1e-4 * radius
    assert signed_distance(shape, *(line * length * 0.9).unbind(), torch.tensor(radius)) < 0
    assert signed_distance(shape, *(line * length * 1.1).unbind(), torch.tensor(radius)) > 0


# --- out of the world: tracks, files, pictures


def test_tracks_are_the_masks(clips):
    tracks = mask_tracks(clips, 2)
    assert tracks.names == clips.names[2]
    assert tracks.roles == clips.roles[2]
    assert tracks.fps == 8
    for slot, name in enumerate(tracks.names):
        assert torch.equal(tracks.masks(name), clips.masks[2, slot])
    with pytest.raises(ValueError, match="no clip 120"):
        mask_tracks(clips, 120)


def test_export_in_the_format_of_matrix_11k(clips, tmp_path):
    some = clips.select([0, 1])
    assert export_clips(some, tmp_path) == ["mini_00000", "mini_00001"]
    assert export_clips(clips.select([5]), tmp_path, start=2) == ["mini_00002"]
    rows = [json.loads(line) for line in (tmp_path / "metadata.jsonl").read_text().splitlines()]
    assert rows == json.loads((tmp_path / "metadata.json").read_text())
    with open(tmp_path / "metadata.csv", newline="") as sheet:
        table = list(csv.DictReader(sheet))
    assert [row["video"] for row in table] == ["mini_00000.mp4", "mini_00001.mp4", "mini_00002.mp4"]
    assert [row["prompt"] for row in rows] == [*some.tagged, clips.tagged[5]]

    film = read_video(tmp_path / "videos" / "mini_00000.mp4")
    assert film.frames.shape == (17, 64, 64, 3)
    assert film.fps == 8
    assert (film.frames.float() - some.video[0].permute(0, 2, 3, 1)).abs().mean() < 4
    folder = tmp_path / "mask_annotation" / "mini_00001"
    assert sorted(p.name for p in folder.iterdir()) == ["<id1>", "<id2>", "<id3>", "<id4>", "<id5>", "merged"]
    for slot in range(5):
        files = sorted((folder / f"<id{slot + 1}>").iterdir())
        assert [p.name for p in files] == [f"{f:03d}.png" for f in range(17)] * bool(some.present[1, slot])
        for frame, file in enumerate(files):
            assert np.array_equal(np.asarray(Image.open(file)) > 127, some.masks[1, slot, frame].numpy())
    merged = np.asarray(Image.open(folder / "merged" / "000.png"))
    assert np.array_equal(merged, mask_tracks(some, 1).id_map(0).numpy())


def test_export_takes_a_palette_and_refuses_to_overwrite(clips, tmp_path):
    colours = [(10, 20, 30), (40, 50, 60), (70, 80, 90), (100, 110, 120), (130, 140, 150)]
    export_clips(clips.select([0]), tmp_path, palette=colours)
    merged = np.asarray(Image.open(tmp_path / "mask_annotation" / "mini_00000" / "merged" / "000.png"))
    assert {tuple(c) for c in merged.reshape(-1, 3)} <= {(0, 0, 0), *colours}
    with pytest.raises(ValueError, match="already has a clip mini_00000"):
        export_clips(clips.select([1]), tmp_path)
    with pytest.raises(ValueError, match="letters, digits"):
        export_clips(clips.select([1]), tmp_path, prefix="../up")


def test_a_contact_sheet_shows_frames_and_contact(clips):
    push = of_verb(clips, "push").select([0])
    sheet = np.asarray(contact_sheet(push, columns=3))
    accent = (sheet == (255, 184, 92)).all(axis=-1)
    assert accent[:, : sheet.shape[1] // 3].sum() == 0
    assert accent[:, 2 * sheet.shape[1] // 3 :].any()
    taller = contact_sheet(push, columns=3, versions={"truth": push.video, "model": push.video.float() / 255})
    assert taller.height > sheet.shape[0]
    with pytest.raises(ValueError, match="version 'model' has shape"):
        contact_sheet(push, versions={"model": push.video[:, :5]})
    with pytest.raises(ValueError, match="choose clips from 0 to 0"):
        contact_sheet(push, [1])
    with pytest.raises(ValueError, match="first and the last"):
        contact_sheet(push, columns=1)


# --- bad input


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"height": 40}, "multiples of 8 from 48"),
        ({"width": 68}, "width is 68"),
        ({"height": 48, "width": 128}, "at most twice"),
        ({"frames": 16}, r"4 n \+ 1"),
        ({"frames": 1}, r"4 n \+ 1"),
        ({"fps": 0.0}, "above 0"),
        ({"max_instances": 6}, "2 to 5 instances"),
        ({"max_instances": 1}, "2 to 5 instances"),
        ({"max_instances": 2}, "'carry' names 3 instances"),
        ({"verbs": ("push", "explode")}, "unknown verb 'explode'; the mini world knows push, pull"),
        ({"verbs": ()}, "choose from push"),
        ({"verbs": ("push",)}, "no single motion"),
        ({"verbs": ("move_left",)}, "no interaction"),
        ({"distractor_share": 1.5}, "share between 0 and 1"),
        ({"split": "test"}, "'heldout_pairs'"),
    ],
)
def test_impossible_worlds_are_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        WorldConfig(**wrong)


def test_no_clips_are_refused():
    with pytest.raises(ValueError, match="at least one clip"):
        make_clips(0, 0)


def test_two_instances_are_possible():
    verbs = tuple(verb.name for verb in VERBS if verb.parts < 3)
    clips = make_clips(0, 20, WorldConfig(max_instances=2, verbs=verbs))
    assert clips.masks.shape[1] == 2
    assert clips.present.all()
    assert not clips.ambiguous.any() or clips.config.distractor_share > 0


# --- worlds with room


SAID = [form if form in ("full", "passive") else pytest.param(form, marks=pytest.mark.soak) for form in FORMS]


@pytest.mark.parametrize("form", SAID)
def test_two_interactions_at_once(form):
    """Both are what their verbs say, nobody is in anybody's way, words name all four, and a judge can ask about either;
    clips without a second one are as they are without the setting."""
    settings = dict(size=0.7, max_instances=6, single_motion_share=0.0, split="all", captions=form)
    settings["distractor_share"] = 0.2
    some = make_clips(5, 40, WorldConfig(**settings, pair_share=1.0))
    plain = make_clips(5, 40, WorldConfig(**settings, pair_share=1e-9))
    chosen = [i for i, name in enumerate(some.second) if name]
    assert len(chosen) > 20
    rest = [i for i in range(40) if i not in chosen]
    assert torch.equal(some.video[rest], plain.video[rest])
    assert [some.prompts[i] for i in rest] == [plain.prompts[i] for i in rest]
    assert set(plain.second) == {""}
    two = some.select(chosen)
    assert int(two.present.sum(1).min()) >= 4
    assert int(two.present.sum(1).max()) == 6
    assert bool((two.named.sum(1) == 4).all())
    apart = (two.trajectories[:, :2, None] - two.trajectories[:, None, 2:4]).norm(dim=-1)
    assert bool((apart > (two.radius[:, :2, None] + two.radius[:, None, 2:4])[..., None]).all())
    other = two.exchanged()
    assert other.verb == two.second
    for at in range(len(two)):
        verb = verb_named(two.second[at])
        starts = other.trajectories[at, :3, 0].double()
        path = act(verb, starts, other.shape[at, :3], other.radius[at, :3].double(), 17)
        torch.testing.assert_close(path[:2].float(), other.trajectories[at, :2], atol=1e-3, rtol=0)
        found, notes = locate(two.prompts[at], two.phrases[at])
        who = {phrase.name: phrase for phrase in found}
        verbs = [phrase for phrase in found if phrase.role == "verb"]
        assert {(v.subject, v.object) for v in verbs} == {tuple(two.names[at][:2]), tuple(two.names[at][2:4])}
        assert len({who[name].start for name in two.names[at][:4]}) == 4, "twins are told apart by their place"
        first = who[two.names[at][0]].start < who[two.names[at][2]].start
        assert first, "the first interaction is said first"
    assert torch.equal(other.exchanged().masks, two.masks)
    few, again = two.select(slice(0, 8)), other.select(slice(0, 8))
    for clips in (few, again):
        assert bool(judge(clips.video, clips).right_roles.all())
    swapped = few.repaint(trajectories=torch.cat([few.trajectories[:, :2], again.swapped, few.trajectories[:, 4:]], 1))
    assert not bool(judge(swapped, again).right_roles.any())
    with pytest.raises(ValueError, match="no second interaction"):
        some.exchanged() if rest else plain.exchanged()


def test_clutter_is_grey_and_nobody_s():
    some, plain = (make_clips(6, 12, WorldConfig(clutter=n, camera=True)) for n in (24, 0))
    assert torch.equal(some.masks, plain.masks)
    assert some.prompts == plain.prompts
    ground = ~some.masks.any(1)
    colour = some.video.float().amax(2) - some.video.float().amin(2)
    assert float(colour[ground & ~_near(some.masks.any(1))].max()) <= 1, "it has no colour"
    changed = (some.video != plain.video).any(2)[ground].float().mean()
    assert 0.05 < float(changed) < 0.7
    assert float(judge(some.video, some).right_path.float().mean()) == 1.0


def _near(masks):
    """Within two pixels of an instance, where its outline is blended with the ground."""
    return torch.nn.functional.max_pool2d(masks.float(), 5, 1, 2) > 0


@pytest.mark.parametrize("frames", [33, 49])
def test_longer_clips_show_the_same(frames):
    long, short = (make_clips(7, 8, WorldConfig(frames=n)) for n in (frames, 17))
    assert long.video.shape[1] == frames
    assert long.verb == short.verb
    torch.testing.assert_close(long.trajectories[:, :, :: (frames - 1) // 16], short.trajectories, atol=1e-3, rtol=0)
    assert float(judge(long.video, long).right_roles.float().mean()) == 1.0


def test_masks_as_a_segmenter_gives_them():
    clips = make_clips(8, 6)
    same = with_mask_noise(clips, 0)
    assert torch.equal(same.masks, clips.masks)
    off = with_mask_noise(clips, 1, shift=3, lost=0.3)
    again = with_mask_noise(clips, 1, shift=3, lost=0.3)
    assert torch.equal(off.masks, again.masks)
    assert torch.equal(off.video, clips.video)
    empty = ~off.masks.flatten(3).any(3) & clips.masks.flatten(3).any(3)
    assert not bool(empty[:, :, 0].any())
    assert 0.15 < float(empty[:, :, 1:][clips.present].float().mean()) < 0.45
    grown = torch.nn.functional.max_pool2d(clips.masks.flatten(0, 2).float()[:, None], 7, 1, 3)[:, 0] > 0
    assert not bool((off.masks.flatten(0, 2) & ~grown).any()), "nowhere more than three pixels off"
    boxes = with_mask_noise(clips, 0, boxes=True).masks
    y, x = boxes[0, 0, 0].any(1).sum(), boxes[0, 0, 0].any(0).sum()
    assert int(boxes[0, 0, 0].sum()) == int(y * x)
    assert int(boxes.sum()) > 1.1 * int(clips.masks.sum())
    with pytest.raises(ValueError, match="got -1 and 0"):
        with_mask_noise(clips, 0, shift=-1)
