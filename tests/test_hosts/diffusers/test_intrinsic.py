"""Temporal intrinsic denoising in diffusers' own pipelines, on tiny random transformers."""

import contextlib
from types import SimpleNamespace

import diffusers
import pytest
import torch
from support_attention import make_binding
from support_pipelines import FRAMES, TRACKS, H, Pipe, W, cog, text_to_video

from matrix_lib.backbones import REGISTRY
from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising, TemporalPrior
from matrix_lib.core.guidance.partition import Partition
from matrix_lib.core.guidance.perturbation import Perturbation
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.core.noise import NoiseLevel
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.bundle import load
from matrix_lib.hosts.diffusers import mini
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.schedules import Noise, noise_at
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.hosts.diffusers.steps import Call, CfgReplay, OutputContext
from matrix_lib.instrument.intrinsic import IntrinsicHook

__all__ = ["cog"]  # a fixture


@contextlib.contextmanager
def refining(pipe, config, tracks):
    with steer(pipe, config, tracks=tracks) as acting:
        yield acting[0] if acting else None


RUNS = [
    ("wan", "unipc", 6.0), ("wan", "flow", 1.0), ("wan", "dpm++", 6.0), ("hunyuan", "flow", 6.0),
    ("hunyuan", "flow", 1.0), ("cogvideox", "euler", 6.0), ("cogvideox", "heun", 1.0), ("cogvideox", "ddim", 6.0),
    ("cogvideox", "dpm", 6.0), ("cogvideox", "ddim", 1.0), ("ltx", "flow", 6.0),
    ("ltx2", "flow", 6.0), ("hunyuan15", "flow", 6.0),
]  # fmt: skip
RUNS += [("cosmos2", "karras", 6.0), ("mochi", "inverted", 6.0), ("hunyuan_skyreels", "flow", 6.0)]
RUNS += [pytest.param("kandinsky5", "flow", 6.0, marks=pytest.mark.soak)]  # `test_kandinsky5.py` has it with a picture


@pytest.mark.parametrize(("family", "scheduler", "cfg"), RUNS)
def test_it_runs_in_every_pipeline_and_none_is_bit_identical(cog, family, scheduler, cfg):
    pipe = text_to_video(family, scheduler, cfg)
    plain = pipe()
    calls = pipe.calls
    with refining(pipe.pipe, IntrinsicDenoising(0), TRACKS):
        assert torch.equal(pipe(), plain)
    with refining(pipe.pipe, IntrinsicDenoising(schedule=Schedule(((0.0, 0.0),))), TRACKS):
        assert torch.equal(pipe(), plain)
    pipe.calls = 0
    with refining(pipe.pipe, IntrinsicDenoising(2), TRACKS) as seen:
        out = pipe()
        again = pipe()
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    assert torch.equal(again, out), "the same seed gives the same noise"
    steps = len(seen.taus())
    assert steps == 3
    assert pipe.calls == 2 * (
        calls + 2 * steps * (1 + (cfg != 1.0 and family not in ("cogvideox", "ltx", "ltx2", "mochi")))
    )
    assert all(at.after != at.before for at in seen.taus())
    assert torch.equal(pipe(), plain)
    assert "step" not in vars(pipe.pipe.scheduler)


def test_a_step_is_the_iteration_by_hand(cog):
    """One DDIM step of a DDPM model and one Euler step of a flow model, from the network on."""
    for family, scheduler, cfg in (("cogvideox", "ddim", 4.0), ("wan", "flow", 4.0)):
        pipe = text_to_video(family, scheduler, cfg)
        config, seen = IntrinsicDenoising(1, 400.0, noise=0.0), []
        hook = pipe.transformer.register_forward_hook(
            lambda module, args, given, out: seen.append((given["hidden_states"], out[0])), with_kwargs=True
        )
        with refining(pipe.pipe, config, TRACKS):
            got = pipe(1)
        hook.remove()
        swap = (lambda x: x.transpose(1, 2)) if family == "cogvideox" else (lambda x: x)
        halves = [seen[:1], seen[1:]] if family == "cogvideox" else [seen[:2], seen[2:]]
        mixed = []
        for half in halves:
            outs = half[0][1].chunk(2) if family == "cogvideox" else (half[1][1], half[0][1])
            mixed.append(swap(outs[0] + cfg * (outs[1] - outs[0])).double())
        z, after = (swap(half[0][0][:1]).double() for half in halves)
        scheduler = pipe.pipe.scheduler
        scheduler.set_timesteps(1)
        noise = noise_at(scheduler, scheduler.timesteps[0])
        alpha, sigma = noise.level.alpha, noise.level.sigma
        clean = alpha * z - sigma * mixed[0] if noise.kind == "v_prediction" else z - sigma * mixed[0]
        slope = TemporalPrior(TRACKS, Grid.from_latent(z.shape[2:], (1, 1, 1))).gradient(z)
        want = z + 0.05 * (alpha * clean - z) + 0.05 * sigma**2 * 400.0 * slope
        torch.testing.assert_close(after, want, rtol=1e-4, atol=1e-4)
        end = scheduler.step(swap(mixed[1]), scheduler.timesteps[0], swap(after), return_dict=False)[0]
        torch.testing.assert_close(swap(got).double(), swap(end), rtol=1e-3, atol=1e-3)


def test_unipc_keeps_what_moved():
    """Its corrector starts from the step before: with plain noise added at a step, the state is exactly moved on."""
    pipe = text_to_video("wan", "unipc", 1.0)
    scheduler = pipe.pipe.scheduler
    scheduler.set_timesteps(4)
    g = torch.Generator().manual_seed(1)
    x, d = (torch.randn(1, 4, 2, 4, 4, generator=g) for _ in range(2))

    def velocity(x, t):  # a network that always predicts d
        place = int((scheduler.timesteps == t).nonzero()[0])
        return (x - d) / scheduler.sigmas[place]

    def run(move):
        scheduler.set_timesteps(4)
        z, run = x.clone(), None
        for place, t in enumerate(scheduler.timesteps):
            if place == 2:
                moved = move * torch.ones_like(z)
                scheduler.last_sample = scheduler.last_sample + moved * scheduler.sigmas[1] / scheduler.sigmas[2]
                z = z + moved
            z = scheduler.step(velocity(z, t), t, z, return_dict=False)[0]
            if place == 2:
                run = z
        return run

    gain = float(scheduler.sigmas[3] / scheduler.sigmas[2])
    torch.testing.assert_close(run(1.0) - run(0.0), torch.full_like(x, gain), rtol=1e-4, atol=1e-4)


def test_with_steering_watching_and_perturbation(cog):
    """Repeated calls are steered like the first ones, in their branch, and recorded by nobody."""
    for family, scheduler in (("wan", "unipc"), ("cogvideox", "ddim")):
        pipe = text_to_video(family, scheduler)
        words = make_binding(binding_module, pipe.words.shape[1])
        guide = [RegionBias(), IntrinsicDenoising(1), Perturbation("words", 1.0), Partition(1)]
        with steer(pipe.pipe, guide, words, TRACKS) as acting, watch(pipe.pipe, words, TRACKS) as seen:
            out = pipe(2)
        assert out.isfinite().all()
        assert [type(each).__name__ for each in acting] == [
            "AttentionGuidance",
            "IntrinsicHook",
            "AttentionGuidance",
            "AttentionGuidance",
        ]
        assert [at.step for at in acting[1].taus()] == [0, 1]
        assert seen.forwards == 2 * (1 if family == "cogvideox" else 2)
        assert [step.calls for step in seen.capture().steps] == [1, 1]
        with steer(pipe.pipe, [RegionBias(), IntrinsicDenoising(0)], words, TRACKS):
            steered = pipe(2)
        with steer(pipe.pipe, RegionBias(), words, TRACKS):
            assert torch.equal(pipe(2), steered)


def test_the_scale_of_each_step_is_read_off(cog):
    """CogVideoX' dynamic CFG changes it in every step: repeated at the same sample, the same comes out."""
    pipe = text_to_video("cogvideox", "ddim")
    want = pipe(use_dynamic_cfg=True)
    assert not torch.equal(want, pipe())
    still = IntrinsicDenoising(1, strength=0.0, rate=1e-9, noise=0.0)
    with refining(pipe.pipe, still, TRACKS):
        torch.testing.assert_close(pipe(use_dynamic_cfg=True), want, rtol=1e-3, atol=1e-3)


def test_every_prompt_follows_its_own_tracks(cog):
    """In a batch of two, each latent becomes what it becomes alone."""
    other = tracks_module.MaskTracks.from_boxes({"van": {0: (0, 0, 48, 48), 8: (48, 0, 96, 48)}}, FRAMES, H, W)
    pipe = text_to_video("wan", "flow", 1.0)
    config = IntrinsicDenoising(1, noise=0.0)

    def run(tracks, place):
        words = pipe.words[[1] * len(tracks)]
        noise = torch.randn(2, 16, 3, 8, 12, generator=torch.Generator().manual_seed(1))[place]
        with refining(pipe.pipe, config, tracks):
            return pipe.pipe(
                prompt_embeds=words, height=H, width=W, num_frames=FRAMES, num_inference_steps=2, guidance_scale=1.0,
                latents=noise, output_type="latent",
            ).frames  # fmt: skip

    both = run([TRACKS, other], [0, 1])
    torch.testing.assert_close(both[:1], run([TRACKS], [0]), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1:], run([other], [1]), rtol=1e-4, atol=1e-4)
    assert (both[1:] - run([TRACKS], [1])).abs().max() > 0.01


def test_an_image_beside_the_latents_and_frames_in_front_of_them():
    """CogVideoX I2V: condition channels behind the latents, which are repeated as they were; and a pipeline that keeps
    a first latent frame to itself: it is part of the clip, but does not move."""
    sizes = mini.Sizes(2, 2, 32, 1, 64, 226, codec_base=4, frames=9, height=32, width=32)
    torch.manual_seed(0)
    pipe = diffusers.CogVideoXImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=mini.make_codec(sizes), transformer=mini.make_transformer(sizes).eval(),
        scheduler=mini.make_scheduler(),
    )  # fmt: skip
    pipe.set_progress_bar_config(disable=True)
    tracks = tracks_module.MaskTracks.from_boxes({"dog": {0: (0, 0, 16, 16), 8: (16, 16, 32, 32)}}, 9, 32, 32)
    words = torch.randn(2, 226, 64, generator=torch.Generator().manual_seed(1))
    seen = []
    pipe.transformer.register_forward_pre_hook(
        lambda _, args, given: seen.append(given["hidden_states"][:, :, 16:]), with_kwargs=True
    )

    def video():
        return pipe(
            torch.zeros(1, 3, 32, 32), prompt_embeds=words[:1], negative_prompt_embeds=words[1:], num_frames=9,
            height=32, width=32, num_inference_steps=2, output_type="latent",
            generator=torch.Generator().manual_seed(2),
        ).frames  # fmt: skip

    plain = video()
    with refining(pipe, IntrinsicDenoising(1), tracks) as refiner:
        assert not torch.equal(video(), plain)
    assert len(refiner.taus()) == 2
    assert len(seen) == 2 + 4
    assert all(torch.equal(condition, seen[0]) for condition in seen)

    class Net(torch.nn.Module):
        def forward(self, hidden_states):
            return (hidden_states * 0.5,)

    net, first, x = Net(), torch.randn(1, 4, 1, 4, 4), torch.randn(1, 4, 2, 4, 4)
    whole = torch.cat([first, x], 2)
    call = Call(net, (), {"hidden_states": whole}, net(whole)[0])
    noise = Noise(NoiseLevel(0.5, 0.5), "flow")
    mix = CfgReplay.of([call], x, x * 0.5, noise, REGISTRY["wan"])
    assert torch.equal(mix.given_frames, first)
    assert torch.equal(mix.evaluate(x + 1), (x + 1) * 0.5)
    refiner = IntrinsicHook(IntrinsicDenoising(1, noise=0.0), [[tracks]], (4, 8))
    at = OutputContext(x, x * 0.5, mix.evaluate, noise, 0, 1, mix.given_frames)
    at.x = refiner(at)
    moved, out = at.x, at.output()
    slope = TemporalPrior(tracks, Grid.from_latent((3, 4, 4), (1, 1, 1))).gradient(whole)[:, :, 1:]
    want = x + 0.05 * (0.5 * (x - 0.5 * (x * 0.5)) - x) + 0.05 * 0.25 * 10000 * slope
    torch.testing.assert_close(moved, want, rtol=1e-4, atol=1e-4)
    assert torch.equal(out, moved * 0.5)


def test_the_mini_models_own_sampler():
    sizes = mini.Sizes(2, 2, 32, 1, 64, 226, codec_base=4, frames=9, height=32, width=32)
    torch.manual_seed(0)
    parts = (mini.make_transformer(sizes), mini.make_text_encoder(sizes), mini.make_codec(sizes))
    pipe = SimpleNamespace(**dict(zip(("transformer", "text_encoder", "vae"), (part.eval() for part in parts))))
    pipe.tokenizer = mini.make_tokenizer(load().tokenizer)
    first = torch.randint(0, 255, (2, 3, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    prompts, sample = ["the red diamond pushes the blue circle"] * 2, mini.sample
    boxes = {"red diamond": {0: (0, 0, 16, 16), 8: (16, 16, 32, 32)}}
    tracks = [tracks_module.MaskTracks.from_boxes(boxes, 9, 32, 32)] * 2
    words = binding_module.PromptBinding(prompts[0], sizes.text_length, (), ())
    plain = sample(pipe, sizes, prompts, first, steps=2)
    off = sample(pipe, sizes, prompts, first, steps=2, intrinsic=IntrinsicDenoising(0), tracks=tracks)
    assert torch.equal(off, plain)
    told = []
    guide = [RegionBias(), Partition(1)]
    with steer(pipe.transformer, guide, [words] * 2, tracks, steps=2) as editors:
        out = sample(
            pipe, sizes, prompts, first, steps=2, intrinsic=IntrinsicDenoising(), tracks=tracks, done=told.append
        )
    assert not torch.equal(out, plain)
    assert [at.step for at in told[0].taus()] == [0, 1]
    assert editors[0].part.steps == 2
    assert {at.step for at in editors[1].variances()} == {0}
    with pytest.raises(ValueError, match="one tracks per clip: 1 for 2"):
        sample(pipe, sizes, prompts, first, steps=2, intrinsic=IntrinsicDenoising(), tracks=tracks[:1])


def test_an_interrupt_leaves_nothing(cog):
    pipe = text_to_video("cogvideox", "ddim")
    plain = pipe()

    def stop(_, step, *__):
        if step == 1:
            raise KeyboardInterrupt
        return {}

    with pytest.raises(KeyboardInterrupt), refining(pipe.pipe, IntrinsicDenoising(), TRACKS):
        pipe(callback_on_step_end=stop)
    assert not pipe.transformer._forward_hooks or len(pipe.transformer._forward_hooks) == 1
    assert torch.equal(pipe(), plain)


def test_what_cannot_be_is_said(cog):
    pipe = text_to_video("wan", "flow")
    with pytest.raises(ValueError, match="pass `tracks`"), steer(pipe.pipe, IntrinsicDenoising()):
        pass
    with pytest.raises(ValueError, match="one IntrinsicDenoising"):
        with steer(pipe.pipe, [IntrinsicDenoising()] * 2, None, TRACKS):
            pass
    with pytest.raises(ValueError, match="has none. Pass the pipeline"):
        with refining(pipe.transformer, IntrinsicDenoising(), TRACKS):
            pass
    handle = pipe.transformer.register_forward_pre_hook(
        lambda _, args, given: (args, {**given, "hidden_states": given["hidden_states"] + 1}), with_kwargs=True
    )
    with pytest.raises(ValueError, match="does not feed"), refining(pipe.pipe, IntrinsicDenoising(), TRACKS):
        pipe(1)
    handle.remove()
    handle = pipe.transformer.register_forward_hook(lambda _, args, out: (out[0] * 3 + 1,))
    with refining(pipe.pipe, IntrinsicDenoising(), TRACKS):
        assert pipe(1).isfinite().all(), "a hook from before is part of the model"
    handle.remove()
    with refining(pipe.pipe, IntrinsicDenoising(), TRACKS):
        handle = pipe.transformer.register_forward_hook(lambda _, args, out: (out[0] * 3 + 1,))
        with pytest.raises(ValueError, match="more than CFG"):
            pipe(1)
    handle.remove()
    two = Pipe("wan_t2v", "euler")
    with pytest.raises(ValueError, match="does not feed"), refining(two.pipe, IntrinsicDenoising(), TRACKS):
        two(2)  # this pipeline never scales what it feeds, as that scheduler would have it
