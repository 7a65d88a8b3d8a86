"""Other paths for the same first frame, and what is measured against them."""

import pytest
import torch

from matrix_lib.evaluation.steering.measures import MEASURES, measure
from matrix_lib.mini.paths import PATHS, given
from matrix_lib.mini.verbs import VERBS
from matrix_lib.mini.world import WorldConfig, make_clips

TWO = tuple(verb.name for verb in VERBS if verb.parts == 2)
WORLD = WorldConfig(single_motion_share=0.0, distractor_share=0.0, occlusion_share=0.0, verbs=TWO)


pytestmark = pytest.mark.usefixtures("one_thread")


@pytest.fixture(scope="module")
def clips():
    return make_clips(11, 48, WORLD)


@pytest.mark.parametrize("kind", PATHS)
def test_other_paths_keep_the_first_frame_and_stay_inside(clips, kind):
    told = given(kind, clips)
    assert torch.equal(told.video[:, 0], clips.video[:, 0])
    assert told.prompts == clips.prompts
    named = told.masks[:, :2].flatten(3).any(-1)
    assert named.all(), "everybody named shows in every frame"
    margin = told.radius[:, :2, None, None]
    inside = (told.trajectories[:, :2] >= margin) & (told.trajectories[:, :2] <= 64 - margin)
    assert inside.all()
    assert torch.equal(told.trajectories[:, 2:], clips.trajectories[:, 2:]), "bystanders keep to their places"
    if kind == "own":
        assert told is clips


def test_kinds_of_paths_are_what_they_are_called(clips):
    def steps(kind):
        return given(kind, clips).trajectories[:, 0].diff(dim=1).norm(dim=-1)

    assert steps("static").max() == 0
    assert steps("slow").max() <= 0.51
    assert steps("slow").sum(1).median() == pytest.approx(8, abs=0.01)
    assert steps("fast").sum(1).min() > 30
    assert ((steps("jumping") > 0).sum(1) == 2).all()
    assert steps("jumping").amax(1).min() >= 18
    moves = clips.trajectories[:, 0] - clips.trajectories[:, 0, :1]
    slow = given("slow", clips).trajectories[:, 0, -1] - clips.trajectories[:, 0, 0]
    far = moves[torch.arange(len(clips)), moves.norm(dim=-1).argmax(1)]
    assert torch.nn.functional.cosine_similarity(slow, far, dim=-1).max() <= 0.51, "away from the prompt's way"
    swapped = given("swapped", clips)
    assert swapped.moving[:, 1].all(), "the recipient acts"
    assert swapped.contact.any(1).float().mean() > 0.8, "and on the agent"


def test_paths_that_cannot_be_are_refused(clips):
    with pytest.raises(ValueError, match="own, swapped"):
        given("sideways", clips)
    with pytest.raises(ValueError, match="two instances"):
        given("static", make_clips(3, 4, WorldConfig(verbs=("carry",), single_motion_share=0.0)))
    with pytest.raises(ValueError, match="begin where"):
        clips.restage(clips.trajectories + 3)
    with pytest.raises(ValueError, match="got"):
        clips.restage(clips.trajectories[:, :, :4])


def test_restaged_on_its_own_paths_a_clip_is_what_it_was(clips):
    again = clips.restage(clips.trajectories)
    assert torch.equal(again.video, clips.video)
    assert torch.equal(again.masks, clips.masks)
    assert torch.equal(again.moving, clips.moving)
    assert (again.touch == clips.touch).float().mean() > 0.999  # float32 against float64 at the very limit


@pytest.mark.parametrize("kind", ["swapped", "jumping"])
def test_following_the_tracks_and_the_habit_are_told_apart(clips, kind):
    some = clips.select(slice(0, 12))
    told = given(kind, some)
    follows, habit = measure(told.video, told, some), measure(some.video, told, some)
    assert set(follows) == set(MEASURES)
    assert follows["iou"].min() > 0.9
    assert follows["follows"].all()
    assert follows["fidelity"].mean() > 0.95
    assert habit["iou"].mean() < 0.35
    assert habit["iou_habit"].min() > 0.95
    assert not habit["follows"].any()
    assert habit["error"].mean() > 6
    for found in (follows, habit):
        assert found["spi"].mean() == 1
        assert found["colour"].max() < 0.02
        assert found["background"].min() > 45
        assert found["sharpness"].sub(1).abs().max() < 0.15


def test_quality_falls_with_what_it_is_called(clips):
    some = clips.select(slice(0, 8))
    plain = measure(some.video, some, some)
    blurred = some.video.float()
    blurred = torch.nn.functional.avg_pool2d(blurred.flatten(0, 1), 5, 1, 2).view(blurred.shape)
    soft = measure(torch.cat([some.video[:, :1], blurred[:, 1:].round().to(torch.uint8)], 1), some, some)
    assert (soft["sharpness"] < 0.7 * plain["sharpness"]).all()
    tinted = measure((some.video.float() * 0.8).round().to(torch.uint8), some, some)
    assert (tinted["colour"] > plain["colour"] + 0.05).all()
    assert (tinted["background"] < 40).all()
    empty = measure(some.repaint(present=torch.zeros_like(some.present)), some, some)
    assert (empty["spi"] == 0.5).all()
    assert (empty["iou"] == 0).all()
    with pytest.raises(ValueError, match="same clips"):
        measure(some.video, some.select(slice(0, 4)), some)
