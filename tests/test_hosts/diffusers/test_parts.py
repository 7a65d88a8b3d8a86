"""Pipelines that begin from a clip, late in their schedule: its steps keep the places that they have in the whole."""

import diffusers
import pytest
import torch
from support_pipelines import SCHEDULERS, TRACKS, H, W, text_to_video

from matrix_lib.core.guidance.dual_clock import DualClockDenoising
from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.guidance.perturbation import Perturbation
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.hosts.diffusers.schedules import noise_at
from matrix_lib.hosts.diffusers.steer import steer

SHAPE = (1, 16, 3, H // 8, W // 8)
ROUGH, CLIP, NOISE = (torch.randn(SHAPE, generator=torch.Generator().manual_seed(seed)) for seed in (8, 9, 10))


@pytest.fixture(scope="module", params=["flow", "unipc"])
def refine(request):
    """refine(clip): the last two of four steps, from a clip with noise; and its pipeline."""
    plain = text_to_video("wan", request.param, 1.0)
    pipe = diffusers.WanVideoToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=None, transformer=plain.transformer,
        scheduler=SCHEDULERS[request.param](),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)

    def run(clip=CLIP, strength=0.5):
        pipe.scheduler.set_timesteps(4)
        place = 4 - int(4 * strength)
        level = noise_at(pipe.scheduler, pipe.scheduler.timesteps[place]).level
        noisy = level.alpha * clip + level.sigma * NOISE
        return pipe(
            latents=noisy, prompt_embeds=plain.words[1:], strength=strength,
            negative_prompt_embeds=plain.words[:1], guidance_scale=1.0, num_inference_steps=4, height=H, width=W,
            output_type="latent", generator=torch.Generator().manual_seed(3),
        ).frames  # fmt: skip

    run.pipe = pipe
    return run


def test_attention_is_steered_by_the_places_of_the_whole(refine):
    plain = refine()
    for guidance, acts in (
        (Partition(2), False), (Partition(3), True), (Perturbation(schedule=Schedule(end=0.5)), False),
        (Perturbation(), True),
    ):  # fmt: skip
        with steer(refine.pipe, guidance, None, TRACKS) as (actor,):
            assert torch.equal(refine(), plain) != acts, guidance
        assert any("a refining pass, steps 3 to 4 of 4" in note for note in actor.notes)


def test_hooks_act_by_the_places_of_the_whole_and_begin_with_every_run(refine):
    plain = refine()
    for schedule, acts in ((Schedule(end=0.5), False), (Schedule(start=0.5), True)):
        with steer(refine.pipe, IntrinsicDenoising(1, schedule=schedule), None, TRACKS) as (actor,):
            out = refine()
            assert torch.equal(out, plain) != acts
            assert torch.equal(refine(), out), "the same seed gives the same noise"
        assert len(actor.figures()) == (2 if acts else 0)


def test_another_clip_than_the_animation_is_not_held(refine):
    clock = DualClockDenoising(0.75, 0.5)
    with steer(refine.pipe, clock, None, TRACKS, reference=ROUGH[0]) as (actor,):
        out = refine(CLIP)
    assert torch.equal(out, refine(CLIP))
    assert any("refines a clip that is not the reference" in note for note in actor.notes)
    with steer(refine.pipe, clock, None, TRACKS, reference=ROUGH[0]) as (actor,):
        out = refine(ROUGH)
    assert not torch.equal(out, refine(ROUGH))
    assert not any("not the reference" in note for note in actor.notes)
