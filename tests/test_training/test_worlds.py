"""Worlds with room as training sees them: what a setting makes, and what attention is told of two interactions."""

import pytest
import torch

from matrix_lib.backbones.lora import AlignmentLoRA, Info
from matrix_lib.hosts.diffusers.lora_channels import condition_of as lora_condition
from matrix_lib.mini.mask_noise import with_mask_noise
from matrix_lib.mini.verbs import act, verb_named
from matrix_lib.mini.world import WorldConfig, make_clips
from training.data.alignment_clips import condition_of, others, targeted, targets_of, triggered
from training.data.world import clip_makers, world_of
from training.models.mini_encoders import MiniEncoders
from training.reproduction.sets import held_out
from training.run.presets import PRESETS
from training.run.task_settings import AlignTask

pytestmark = pytest.mark.usefixtures("one_thread")


def test_two_interactions_are_both_told():
    """Words and masks of all four instances and of both verbs; wrong masks are of a clip that names as many, under the
    clip's own words and query tokens."""
    encoders = MiniEncoders("", torch.device("cpu"))
    world = WorldConfig(
        height=128, width=128, pair_share=0.9, size=0.7, max_instances=6, single_motion_share=0.0, distractor_share=0.5
    )
    clips = with_mask_noise(make_clips(3, 16, world), 1, shift=3, lost=0.2)
    named = clips.named.sum(1).tolist()
    assert {2, 4} <= set(named)
    for at, shown in enumerate(others(clips)):
        own, wrong = (targets_of(clips, at, encoders, place) for place in (at, shown))
        verbs = 2 if clips.second[at] else 1
        assert len(own.words.names) == named[at] + verbs
        assert wrong.words.names == own.words.names
        assert own.queries.names == tuple(clips.names[at][: named[at]])
        assert torch.equal(wrong.queries.indices, own.queries.indices)
        assert not torch.equal(wrong.token_masks(own.words.names), own.token_masks(own.words.names))
    both = [at for at, name in enumerate(clips.second) if name][:1]
    assert condition_of("id_map", clips.select(both), encoders).shape == (1, 16, 16, 16)
    with pytest.raises(ValueError, match="clips of two interactions have two"):
        targeted(clips)


def test_even_twins_could_be_acted_on_just_as_well():
    """The same verb on the double is a clip of the same world: inside the frame, clear of the one who is meant."""
    world = WorldConfig(
        height=48, width=48, frames=5, distractor_share=1.0, single_motion_share=0.0, even_twins=True,
        verbs=("join", "pull", "lift", "hit", "orbit", "give"),
    )  # fmt: skip
    clips = make_clips(5, 240, world)
    assert set(clips.select(clips.ambiguous).verb) == {"join", "pull", "lift", "hit"}, "of two parts, where both fit"
    clips = clips.select(clips.ambiguous)
    nearer = []
    for at in range(len(clips)):
        alike = (clips.shape[at] == clips.shape[at, 1]) & (clips.colour[at] == clips.colour[at, 1]) & clips.present[at]
        [twin] = [slot for slot in alike.nonzero()[:, 0].tolist() if slot != 1]
        order = [0, twin, 0]
        start, shapes, radii = (value[at][order] for value in (clips.trajectories[:, :, 0], clips.shape, clips.radius))
        assert float(radii[1]) == float(clips.radius[at, 1])
        verb = verb_named(clips.verb[at])
        play = act(verb, start.double(), shapes, radii.double(), world.frames, world.unit)[:2]
        assert 1 <= float(play.min()) < float(play.max()) <= 47
        apart = (play - clips.trajectories[at, 1, 0]).norm(dim=-1)
        assert float((apart / (2 * radii[1])).min()) > 0.9
        gaps = (clips.trajectories[at, :, 0] - clips.trajectories[at, 0, 0]).norm(dim=-1)
        nearer.append(bool(gaps[1] < gaps[twin]))
    assert abs(sum(nearer) / len(nearer) - 0.5) < 0.15
    with pytest.raises(ValueError, match="third slot"):
        WorldConfig(even_twins=True, pair_share=0.5)


def test_source_and_target_have_words_masks_and_rows():
    encoders = MiniEncoders("", torch.device("cpu"))
    plain = held_out("told", (5, 128, 128), 4, torch.device("cpu"))
    clips = targeted(plain, source=True)
    for prompt, phrases, names in zip(clips.prompts, clips.phrases, clips.names):
        assert f"the source {names[0]}" in prompt
        assert f"the target {names[1]}" in prompt
        assert f"the target {names[1]} [object]" in phrases
    masks = condition_of("source_target", clips, encoders)
    assert masks.shape == (4, 2, 16, 16)
    assert torch.equal(masks[:, 1:], condition_of("target_mask", clips, encoders))
    lora = AlignmentLoRA("cogvideox", {}, {}, {}, Info(condition="source_target"), "matrix")
    with pytest.raises(ValueError, match="masks of source and target, a research setting"):
        lora_condition(lora, 2)
    with pytest.raises(ValueError, match=r"task\.trigger=true"):
        AlignTask(learn_trigger=True)
    marks = triggered(clips.prompts, encoders)
    assert marks.sum(1).tolist() == [[1.0, 1.0]] * 4
    assert float(triggered(plain.prompts, encoders).sum()) == 0


def test_what_weak_bases_were_not_shown():
    unseen = world_of(PRESETS["weak_verbs"]().data)
    assert not {"pull", "lift"} & set(unseen.verbs)
    assert set(make_clips(0, 40, unseen).verb).isdisjoint({"pull", "lift"})
    size, device = (5, 64, 64), torch.device("cpu")
    assert set(held_out("unseen verbs", size, 12, device).verb) == {"pull", "lift"}
    assert all(held_out("two at once", size, 6, device).second)
    cluttered = held_out("cluttered", size, 6, device)
    assert cluttered.backdrop.shape == (6, 10 + 4 * 24)
    assert world_of(PRESETS["weak_pairs"]().data).max_instances == 6


@pytest.mark.parametrize(("given", "taken"), [(1, 1), (3, 2)])
def test_makers_of_clips_take_no_core_that_the_process_has_not(given: int, taken: int) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(given)
    try:
        with clip_makers(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == taken
    finally:
        torch.set_num_threads(before)
