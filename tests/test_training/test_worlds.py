"""Worlds with room as training sees them: what a setting makes, and what attention is told of two interactions."""

import pytest
import torch

from matrix_lib.mini.mask_noise import with_mask_noise
from matrix_lib.mini.world import WorldConfig, make_clips
from training.data.alignment_clips import condition_of, others, targeted, targets_of
from training.data.world import world_of
from training.models.mini_encoders import MiniEncoders
from training.reproduction.sets import held_out
from training.run.presets import PRESETS

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
