"""The judge on clips whose answer is known: true, swapped, erased, doubled, frozen, blurred."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from support_counts import SOAK
from torch import Tensor
from torch.nn import functional

from matrix_lib.evaluation.mini.judges import QUESTIONS, breakdown, judge, longest_run, semantic_preservation
from matrix_lib.evaluation.mini.object_tracking import look
from matrix_lib.mini.shapes import MAX_REACH
from matrix_lib.mini.verbs import act, verb_named
from matrix_lib.mini.world import Clips, WorldConfig, make_clips

pytestmark = pytest.mark.soak
HALF = 1 if SOAK else 2  # half of the clips in `make test`


@pytest.fixture(scope="module")
def clips() -> Clips:
    return make_clips(21, 96 // HALF, WorldConfig(split="all"))


@pytest.fixture(scope="module")
def couples() -> Clips:
    """Interactions only, without doubles."""
    return make_clips(22, 48 // HALF, WorldConfig(split="all", single_motion_share=0, distractor_share=0))


def blurred(video: Tensor, sigma: float, noise: float, jitter: float) -> Tensor:
    """What a lossy codec and an imperfect model do: soft edges, noise, other gains and offsets per clip and channel."""
    chance = torch.Generator().manual_seed(0)
    reach = int(3 * sigma) + 1
    kernel = torch.exp(-torch.arange(-reach, reach + 1).float().square() / (2 * sigma * sigma))
    kernel = (kernel / kernel.sum()).view(1, 1, 1, -1)
    flat = functional.pad(video.float().flatten(0, 2).unsqueeze(1) / 255, (reach,) * 4, mode="replicate")
    soft = functional.conv2d(functional.conv2d(flat, kernel), kernel.transpose(2, 3)).view(video.shape)
    per_clip = (len(video), 1, 3, 1, 1)
    gain = 1 + (2 * torch.rand(per_clip, generator=chance) - 1) * jitter
    offset = (torch.rand(per_clip, generator=chance) - 0.5) * jitter
    return (soft * gain + offset + torch.randn(soft.shape, generator=chance) * noise).clamp(0, 1)


# --- true clips


@pytest.mark.parametrize("camera", [False, True])
def test_true_clips_are_judged_true(clips, camera):
    some = make_clips(23, 48 // HALF, WorldConfig(split="all", camera=True)) if camera else clips
    verdict = judge(some.video, some)
    for name, score in verdict.summary().items():
        assert score.mean >= 0.99, name
    assert verdict.questions.float().mean(dim=0).min() >= 0.98
    assert verdict.questions.shape[1] == len(QUESTIONS)
    assert verdict.error[some.present].max() < 1.5


def test_other_sizes_are_judged_true():
    some = make_clips(24, 8, WorldConfig(height=96, width=128, frames=9))
    for name, score in judge(some.video, some).summary().items():
        assert score.mean >= 0.98, name


def test_floats_and_bytes_are_judged_alike(couples):
    few = couples.select(slice(0, 8))
    one, other = judge(few.video, few), judge(few.video.double() / 255, few)
    assert torch.equal(one.questions, other.questions)
    torch.testing.assert_close(one.iou, other.iou, equal_nan=True, atol=0.01, rtol=0)


@pytest.mark.parametrize(("sigma", "noise", "jitter"), [(0.8, 0.02, 0.06), (1.2, 0.05, 0.1)])
def test_blur_noise_and_other_colours_do_not_fool_it(clips, sigma, noise, jitter):
    some = clips.select(slice(0, 64 // HALF))
    scores = judge(blurred(some.video, sigma, noise, jitter), some).summary()
    for name in ("right_path", "right_roles", "intact", "sgi", "spi", "kisa"):
        assert scores[name].mean >= 0.97, name
    assert scores["trajectory_iou"].mean > 0.8
    assert scores["contact_share"].mean > 0.9


# --- who


def test_swapped_roles_lose_their_grounding(couples):
    paths = couples.trajectories.clone()
    paths[:, :2] = couples.swapped
    verdict = judge(couples.repaint(paths), couples)
    assert verdict.sgi.mean() <= 0.05
    assert verdict.right_roles.float().mean() <= 0.05
    assert verdict.right_path.float().mean() <= 0.05


def test_swapped_looks_lose_their_grounding(couples):
    paths = couples.trajectories.clone()
    paths[:, [0, 1]] = paths[:, [1, 0]]
    verdict = judge(couples.repaint(paths), couples)
    assert verdict.sgi.mean() <= 0.05
    assert verdict.spi.mean() > 0.95


def test_a_bystander_that_moves_is_seen(couples):
    crowd = couples.select(couples.present.sum(dim=1) > couples.parts)
    who = (torch.arange(len(crowd)), crowd.parts)
    start = crowd.trajectories[who][:, 0]
    centre = torch.tensor([32.0, 32.0])
    step = (centre - start) / (centre - start).norm(dim=-1, keepdim=True) * 10
    paths = crowd.trajectories.clone()
    paths[who] = start[:, None] + step[:, None] * torch.linspace(0, 1, 17)[None, :, None]
    verdict = judge(crowd.repaint(paths), crowd)
    assert verdict.questions[:, 9].float().mean() < 0.1
    assert verdict.right_roles.float().mean() < 0.1
    assert verdict.questions[:, 6].float().mean() > 0.9


def test_the_double_that_acts_instead_is_seen():
    config = WorldConfig(verbs=("move_left", "move_right"), single_motion_share=1, distractor_share=1, split="all")
    some = make_clips(25, 24, config)
    some = some.select(some.ambiguous)
    twin = 1  # with one named instance, the double takes the next slot
    paths = some.trajectories.clone()
    paths[:, 0] = some.trajectories[:, 0, :1]
    step = some.trajectories[:, 0] - some.trajectories[:, 0, :1]
    paths[:, twin] = paths[:, twin] + step
    inside = ((paths[:, twin, -1, 0] > 11) & (paths[:, twin, -1, 0] < 53)).nonzero().flatten()
    verdict = judge(some.repaint(paths)[inside], some.select(inside))
    assert len(inside) > 4
    assert not verdict.right_path.any()
    assert not verdict.right_roles.any()
    assert judge(some.video, some).right_path.float().mean() > 0.95


# --- what happens


@pytest.mark.parametrize(("said", "shown"), [("push", "pull"), ("push", "hit"), ("pull", "bounce"), ("lift", "join")])
def test_another_verb_is_not_the_right_one(said, shown):
    some = make_clips(26, 8, WorldConfig(verbs=(said,), single_motion_share=0, split="all", max_instances=3))
    paths = some.trajectories.clone()
    two = act(verb_named(shown), some.trajectories[:, :, 0].double(), some.shape, some.radius.double(), 17)
    paths[:, :2] = two[:, :2].float()
    verdict = judge(some.repaint(paths), some)
    assert not verdict.right_roles.any()
    assert verdict.kisa.mean() < 0.85
    assert verdict.interaction_fidelity.mean() < 0.7


def test_a_frozen_video_does_nothing(couples):
    still = couples.video[:, :1].expand_as(couples.video)
    verdict = judge(still, couples)
    assert not verdict.right_path.any()
    assert not verdict.right_roles.any()
    assert (verdict.spi == 1).all()
    assert (verdict.sgi == 0).all()
    assert verdict.kisa.mean() < 0.5


def test_contact_is_measured_in_frames_and_seconds(couples):
    verdict = judge(couples.video, couples)
    pushes = torch.tensor([verb == "push" for verb in couples.verb])
    hits = torch.tensor([verb == "hit" for verb in couples.verb])
    chases = torch.tensor([verb == "chase" for verb in couples.verb])
    assert (verdict.contact_share[pushes] == 1).all()
    assert (verdict.sustained_contact[pushes] >= 9 / 8).all()
    assert (verdict.sustained_contact[hits] <= 6 / 8).all()
    assert (verdict.sustained_contact[chases] == 0).all()
    assert verdict.contact_share[chases].isnan().all()


def test_longest_run():
    flags = torch.tensor([[0, 1, 1, 0, 1], [0, 0, 0, 0, 0], [1, 1, 1, 1, 1]], dtype=torch.bool)
    assert longest_run(flags).tolist() == [2, 0, 5]


# --- nothing lost, nothing new


@pytest.mark.parametrize("frames", [1, 2, 17 - 1])
def test_an_erased_instance_costs_what_the_formula_says(couples, frames):
    there = couples.present.clone()
    there[:, 1] = False
    video = couples.video.clone()
    video[:, -frames:] = couples.repaint(present=there)[:, -frames:]
    verdict = judge(video, couples)
    expected = 0.5 * (1 + max(0.0, 1 - 5 * frames / 16))
    assert (verdict.disappearance == frames / 16).float().mean() > 0.95
    assert (verdict.emergence == 0).all()
    assert (verdict.spi - expected).abs().median() < 1e-6
    assert verdict.intact.float().mean() == (1 if frames == 1 else 0)  # one frame may flicker


def with_double(clips: Clips, slot_colour: Tensor) -> tuple[Tensor, Clips]:
    """Videos in which an instance of a colour stands in the free slot 4, and the clips (without it) that have room."""
    room = []
    spots = torch.cartesian_prod(torch.arange(11.0, 54, 3), torch.arange(11.0, 54, 3))
    paths = clips.trajectories.clone()
    for index in range(len(clips)):
        others = clips.trajectories[index, clips.present[index]].flatten(0, 1)
        gap = (spots[:, None] - others).norm(dim=-1).amin(dim=1)
        paths[index, 4] = spots[gap.argmax()]
        if gap.max() > 2.2 * 7.5 * MAX_REACH and not clips.present[index, 4]:
            room.append(index)
    colour = clips.colour.clone()
    colour[:, 4] = slot_colour
    there = clips.present.clone()
    there[:, 4] = True
    crowded = dataclasses.replace(clips, colour=colour)
    return crowded.repaint(paths, there)[room], clips.select(room)


def test_a_double_out_of_nothing_costs_what_the_formula_says(couples):
    video, some = with_double(couples, couples.colour[:, 0])
    assert len(some) > 5
    for frames in (2, 16):
        late = some.video.clone()
        late[:, -frames:] = video[:, -frames:]
        verdict = judge(late, some)
        assert (verdict.emergence == frames / 16).all()
        assert (verdict.disappearance == 0).all()
        torch.testing.assert_close(verdict.spi, torch.full_like(verdict.spi, (1 + max(0, 1 - 5 * frames / 16)) / 2))
        assert not verdict.intact.any()


def test_a_stranger_of_a_new_colour_is_seen(couples):
    free = torch.stack([torch.tensor(sorted(set(range(8)) - set(row.tolist()))[0]) for row in couples.colour])
    video, some = with_double(couples, free)
    assert (judge(video, some).emergence == 1).all()


def test_a_changed_colour_is_a_loss_and_something_new(couples):
    free = torch.stack([torch.tensor(sorted(set(range(8)) - set(row.tolist()))[0]) for row in couples.colour])
    colour = couples.colour.clone()
    colour[:, 0] = free
    video = couples.video.clone()
    video[:, 9:] = dataclasses.replace(couples, colour=colour).repaint()[:, 9:]
    verdict = judge(video, couples)
    assert (verdict.spi == 0).float().mean() > 0.95
    assert not verdict.intact.any()


def test_semantic_preservation():
    rates = torch.tensor([0.0, 0.1, 0.2, 1.0])
    torch.testing.assert_close(semantic_preservation(rates, torch.zeros(4)), torch.tensor([1.0, 0.75, 0.5, 0.5]))
    torch.testing.assert_close(semantic_preservation(rates, rates), torch.tensor([1.0, 0.5, 0.0, 0.0]))


# --- reading it


def test_verdicts_can_be_picked_apart(clips):
    verdict = judge(clips.video[:6], clips.select(slice(0, 6)))
    assert len(verdict) == 6
    part = verdict.select(torch.tensor([True, False, True, False, False, False]))
    assert torch.equal(part.kisa, verdict.kisa[[0, 2]])
    assert part.summary()["right_path"].count == 2
    torch.testing.assert_close(verdict.interaction_fidelity, (verdict.kisa + verdict.sgi) / 2)


def test_breakdown_by_clear_and_ambiguous_and_verb(clips):
    some = clips.select(slice(0, 32))
    groups = breakdown(judge(some.video, some), some)
    doubled = int(some.ambiguous.sum())
    assert groups["clear"]["right_path"].count == 32 - doubled
    assert groups["ambiguous"]["right_path"].count == doubled > 0
    assert sum(groups[verb]["sgi"].count for verb in set(some.verb) & set(groups)) == 32 - doubled


def test_sight_follows_the_centres(couples):
    few = couples.select(slice(0, 8))
    seen = look(few.video, few)
    assert seen.masks.shape == few.masks.shape
    assert not seen.lost.any()
    assert not seen.new.any()
    assert not seen.masks[~few.present].any()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda video: video[:, :5], "has shape"),
        (lambda video: video.transpose(1, 2), "has shape"),
        (lambda video: video.int(), "uint8, or floats"),
        (lambda video: video.float(), r"floats in \[0, 1\]"),
        (lambda video: video / 127.5 - 1, r"floats in \[0, 1\]"),
        (lambda video: torch.full_like(video, float("nan"), dtype=torch.float32), "finite"),
    ],
)
def test_videos_that_cannot_be_judged(couples, spoil, message):
    few = couples.select(slice(0, 2))
    with pytest.raises(ValueError, match=message):
        judge(spoil(few.video), few)


def test_spi_as_its_authors_released_it(couples):
    """Nothing stops it at 0: a clip that loses everybody in every frame after the first has -1.5, and .5 by ours."""
    few = couples.select(slice(0, 3))
    empty = few.video.clone()
    empty[0, 1:] = few.repaint(present=torch.zeros_like(few.present))[0, 1:]
    found = judge(empty, few)
    e, d = found.emergence.double(), found.disappearance.double()
    torch.testing.assert_close(found.spi_released.double(), ((1 - 5 * e) + (1 - 5 * d)) / 2, rtol=0, atol=1e-6)
    assert float(found.disappearance[0]) == 1.0
    assert float(found.spi_released[0]) == -1.5
    assert float(found.spi[0]) == 0.5
    assert torch.equal(found.spi_released[1:], found.spi[1:])
    raw = (found.kisa_raw + found.sgi_raw) / 2
    torch.testing.assert_close(found.fidelity_released, raw * found.spi_released)
