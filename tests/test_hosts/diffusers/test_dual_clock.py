"""Dual-clock denoising in diffusers' own pipelines, on tiny random transformers, and the latents of clips."""

import diffusers
import pytest
import torch
from support_pipelines import FRAMES, TRACKS, H, W, cog, text_to_video

from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.dual_clock import DualClockDenoising
from matrix_lib.core.guidance.gradient import GradientGuidance
from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.guidance.partition import Partition
from matrix_lib.hosts.diffusers import mini
from matrix_lib.hosts.diffusers.latents import encode_clip, scaled, unscaled
from matrix_lib.hosts.diffusers.schedules import noise_at
from matrix_lib.hosts.diffusers.steer import steer

__all__ = ["cog"]  # a fixture

RUNS = [
    ("wan", "unipc", 6.0), ("wan", "flow", 1.0), ("wan", "dpm++", 6.0), ("hunyuan", "flow", 6.0),
    ("cogvideox", "euler", 6.0), ("cogvideox", "heun", 1.0), ("cogvideox", "ddim", 6.0), ("cogvideox", "dpm", 6.0),
]  # fmt: skip
RUNS += [("cosmos2", "karras", 6.0), ("hunyuan_skyreels", "flow", 6.0)]
LONG = [pytest.param("kandinsky5", "flow", 6.0, marks=pytest.mark.soak)]
LATENT = torch.randn(16, 3, H // 8, W // 8, generator=torch.Generator().manual_seed(8))


@pytest.mark.parametrize(("family", "scheduler", "cfg"), RUNS + LONG)
def test_every_pipeline_is_held_for_nothing(cog, family, scheduler, cfg):
    """Of four steps, step 1 is held everywhere and step 2 inside, with the same noise; step 3 is free."""
    pipe = text_to_video(family, scheduler, cfg)
    plain, calls = pipe(4), pipe.calls
    with steer(pipe.pipe, DualClockDenoising(0, 0), None, TRACKS):
        assert torch.equal(pipe(4), plain)
    seen, steps = [], pipe.pipe.scheduler

    def note(_, args, given):
        at = float(given["timestep"].max())
        first = getattr(steps, "state_in_first_order", True)
        seen.append((given["hidden_states"].clone(), at, noise_at(steps, at, family == "cosmos2"), first))

    hook = pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    pipe.calls = 0
    with steer(pipe.pipe, DualClockDenoising(0.5, 0.25), None, TRACKS, reference=LATENT) as (clocks,):
        out = pipe(4)
        pipe.calls = 0
        assert torch.equal(pipe(4), out), "the same seed gives the same noise"
    hook.remove()
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    branches = 2 if cfg != 1.0 and family != "cogvideox" else 1
    assert pipe.calls <= calls + branches, "at most the first step, whose latent the pipeline made, is predicted again"
    assert clocks.notes == []
    shown = int(family == "cosmos2")  # frames that are fed clean, whatever is held
    inside = (TRACKS.to_grid(Grid.from_latent(LATENT.shape[1:], (1, 1, 1)), "area").maps > 0).any(0)[shown:]
    starts = {at: (x, noise) for x, at, noise, first in seen if first}  # of the second branch, of the second run
    noises = []
    for x, noise in list(starts.values())[1:3]:
        x = x[..., :16].movedim(-1, 1) if x.shape[-1] == 33 else x
        x = x[-1:].transpose(1, 2) if family == "cogvideox" else x[:, :16]
        alpha, sigma = noise.level.alpha * noise.scale, noise.level.sigma * noise.scale
        noises.append(((x.float() - alpha * LATENT) / sigma)[:, :, shown:])
    e = noises[0]
    assert 0.8 < float(e.std()) < 1.2
    torch.testing.assert_close(noises[1][:, :, inside], e[:, :, inside], rtol=5e-3, atol=5e-3)
    assert (noises[1] - e)[:, :, ~inside].abs().max() > 0.05
    assert torch.equal(pipe(4), plain)
    assert "step" not in vars(pipe.pipe.scheduler)


@pytest.mark.parametrize(("family", "scheduler"), [(family, scheduler) for family, scheduler, _ in RUNS])
def test_the_start_does_not_matter_where_all_is_held(cog, family, scheduler):
    """Held everywhere up to a step and no further, every scheduler forgets the noise that it began from. UniPC's
    corrector goes back to the step before, which has to be moved, too."""
    pipe = text_to_video(family, scheduler, 1.0)

    def run(seed, held=True):
        start = torch.randn(1, 16, *LATENT.shape[1:], generator=torch.Generator().manual_seed(seed))
        start = start.transpose(1, 2) if family == "cogvideox" else start
        if not held:
            return pipe(8, latents=start)
        with steer(pipe.pipe, DualClockDenoising(0.5, 0.5), None, TRACKS, reference=LATENT):
            return pipe(8, latents=start)

    far, near = (run(1, False) - run(2, False)).abs().max(), (run(1) - run(2)).abs().max()
    assert near < 0.05 * far


def test_an_interrupt_between_two_predictions_leaves_nothing(cog):
    pipe = text_to_video("wan", "flow")
    with steer(pipe.pipe, DualClockDenoising(0.5, 0.25), None, TRACKS, reference=LATENT):
        want = pipe(4)
        count = [0]

        def stop(*_):
            count[0] += 1
            if count[0] == 4:
                raise KeyboardInterrupt

        hook = pipe.transformer.register_forward_pre_hook(stop)
        with pytest.raises(KeyboardInterrupt):
            pipe(4)
        hook.remove()
        assert torch.equal(pipe(4), want)
    assert "set_timesteps" not in vars(pipe.pipe.scheduler)


def test_with_the_others(cog):
    """Held first, then refined; masked attention beside it. Each prompt is held to its own clip."""
    pipe = text_to_video("wan", "flow", 1.0)
    guide = [Partition(1), DualClockDenoising(0.5, 0.25), IntrinsicDenoising(1)]
    with steer(pipe.pipe, guide, None, TRACKS, reference=LATENT) as acting:
        assert pipe(3).isfinite().all()
    assert [type(each).__name__ for each in acting] == ["AttentionGuidance", "DualClockHook", "IntrinsicHook"]
    assert [at.step for at in acting[2].taus()] == [0, 1, 2]
    words, noise = pipe.words[[1, 1]], torch.randn(2, 16, 3, H // 8, W // 8)

    def run(places, clips):
        with steer(pipe.pipe, DualClockDenoising(1, 1), None, [TRACKS] * len(places), reference=clips, seed=places[0]):
            return pipe.pipe(
                prompt_embeds=words[: len(places)], height=H, width=W, num_frames=FRAMES, num_inference_steps=3,
                guidance_scale=1.0, latents=noise[places], output_type="latent",
            ).frames  # fmt: skip

    both = run([0, 1], [LATENT, -LATENT])
    torch.testing.assert_close(both[:1], run([0], LATENT), rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(both[1:], run([1], [-LATENT]), rtol=1e-4, atol=1e-4)


def test_what_cannot_be_is_said(cog):
    pipe = text_to_video("wan", "flow", 1.0)
    clock = DualClockDenoising(0.5, 0.25)
    with pytest.raises(ValueError, match="pass its latent as `reference`"), steer(pipe.pipe, clock, None, TRACKS):
        pass
    with pytest.raises(ValueError, match="pass `tracks`"), steer(pipe.pipe, clock, reference=LATENT):
        pass
    with pytest.raises(ValueError, match="one DualClockDenoising"):
        with steer(pipe.pipe, [clock, clock], None, TRACKS, reference=LATENT):
            pass
    for name in ("SASolverScheduler", "IPNDMScheduler"):
        own = text_to_video("wan", "flow", 1.0)
        own.pipe.scheduler = getattr(diffusers, name)()
        with pytest.raises(ValueError, match=f"{name} keeps states"):
            with steer(own.pipe, clock, None, TRACKS, reference=LATENT):
                pass
    with pytest.raises(ValueError, match="one for each of 1 prompts; got 2"):
        with steer(pipe.pipe, clock, None, TRACKS, reference=[LATENT, LATENT]):
            pass
    with pytest.raises(ValueError, match="has none. Pass the pipeline"):
        with steer(pipe.transformer, clock, None, TRACKS, reference=LATENT):
            pass
    with pytest.raises(ValueError, match="encode a clip of as many frames"):
        with steer(pipe.pipe, clock, None, TRACKS, reference=LATENT[:, :2]):
            pipe(2)
    with pytest.raises(ValueError, match="GradientGuidance acts on words"):
        with steer(pipe.pipe, [clock, GradientGuidance()], None, TRACKS, reference=LATENT):
            pass


def test_a_clips_latents_are_what_its_transformer_sees():
    sizes = mini.Sizes(2, 2, 32, 1, 64, 226, codec_base=4, frames=9, height=32, width=32)
    torch.manual_seed(0)
    codec = mini.make_codec(sizes).eval()
    pipe = diffusers.CogVideoXImageToVideoPipeline(
        tokenizer=None, text_encoder=None, vae=codec, transformer=mini.make_transformer(sizes).eval(),
        scheduler=mini.make_scheduler(),
    )  # fmt: skip
    clip = torch.randint(0, 256, (9, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    z = encode_clip(pipe, clip)
    assert z.shape == (16, 3, 4, 4)
    with torch.no_grad():
        want = codec.encode(clip.permute(3, 0, 1, 2)[None].div(127.5).sub(1)).latent_dist.mode()[0] * mini.LATENT_SCALE
    torch.testing.assert_close(z, want)
    torch.testing.assert_close(unscaled(codec, z[None], "cogvideox")[0], want / mini.LATENT_SCALE)
    wan = diffusers.AutoencoderKLWan(base_dim=4, z_dim=4, latents_mean=[1.0] * 4, latents_std=[2.0] * 4)
    y = torch.randn(1, 4, 2, 3, 3)
    torch.testing.assert_close(scaled(wan, y, "wan"), (y - 1) / 2)
    torch.testing.assert_close(unscaled(wan, scaled(wan, y, "wan"), "wan"), y)
    for bad in (clip[0], clip.float(), clip[..., :1]):
        with pytest.raises(ValueError, match="frames, height, width, 3"):
            encode_clip(pipe, bad)
    pipe.vae = None
    with pytest.raises(ValueError, match="has no VAE"):
        encode_clip(pipe, clip)
