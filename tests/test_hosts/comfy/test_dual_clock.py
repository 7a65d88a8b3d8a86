"""Dual-clock denoising of tiny random native models inside the real host."""

import pytest
import torch
from support_native import channels, clip_of, conditioning, latent, sample, strides
from support_steering import ROUNDS, inputs, lib, models, pixels, size_of, windowed

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")
ROUND = [(*pair, (1.0, 6.0)[i % 2]) for i, pair in enumerate(ROUNDS)]


def reference(family, size=None, batch=1, seed=5):
    shape = (batch, channels(family), *(size or size_of(family)))
    return {"samples": torch.randn(shape, generator=torch.Generator().manual_seed(seed))}


def watched(model):
    """(clone, list of (x, sigma) of every prediction)."""
    from comfy.patcher_extension import WrappersMP

    calls = []

    def note(executor, x, timestep, *args, **kwargs):
        calls.append((x.clone(), float(timestep.flatten()[0])))
        return executor(x, timestep, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "note", note)
    return clone, calls


@pytest.mark.soak
@pytest.mark.parametrize(("family", "sampler", "cfg"), ROUND)
def test_every_family_is_held_under_every_sampler(lib, models, family, sampler, cfg):
    """Of four steps, steps 0 and 1 are held everywhere and step 2 inside, with the same noise; step 3 is free."""
    given, z = inputs(lib, family), reference(family)
    model, calls = watched(models(family))
    options = dict(sampler=sampler, cfg=cfg, steps=4)
    plain = sample(model, *given, **options)
    sigmas = list(dict.fromkeys(sigma for _, sigma in calls))
    once = len(calls)
    assert torch.equal(sample(lib.hold(model, lib.Clock(0, 0), z), *given, **options), plain)
    assert torch.equal(sample(lib.hold(model, lib.Clock(0.1, 0), z), *given, **options), plain), "less than half a step"
    calls.clear()
    out = sample(lib.hold(model, lib.Clock(0.5, 0.25), z), *given, **options)
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    assert len(calls) == once + (3 if sampler == "uni_pc" else 0), "holding costs nothing but under UniPC"
    clean = model.model.process_latent_in(z["samples"])
    flow = not family.startswith("cogvideox")
    noise, tracks = {}, given[0][0][1][lib.TRACKS]
    for step in (0, 1, 2):
        x, sigma = [call for call in calls if call[1] == sigmas[step]][-1 if sampler == "uni_pc" else 0]
        if sampler == "heun" and step:  # its second call of the step before has the same sigma
            x, sigma = [call for call in calls if call[1] == sigmas[step]][1]
        x = clip_of(family, x, size_of(family))
        noise[step] = (x - (1 - sigma if flow else 1.0) * clean[:, :, -x.shape[2] :]) / sigma
    grid = lib.grid_of(model, (1, 1, 1)).from_latent(size_of(family), (1, 1, 1), *strides(family))
    inside = tracks.to_grid(grid, "area").maps
    inside = (inside > 0).any(0)
    e = noise[0]
    assert 0.8 < float(e.std()) < 1.2
    torch.testing.assert_close(noise[1], e, rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(noise[2][:, :, inside], e[:, :, inside], rtol=1e-3, atol=1e-3)
    assert (noise[2] - e)[:, :, ~inside].abs().max() > 0.05
    assert torch.equal(sample(models(family), *given, **options), plain)


def test_the_start_does_not_matter_where_all_is_held(lib, models, comfy):
    """Held everywhere up to a step and no further, every sampler forgets the noise that it began from: what is done to
    its state is neither undone by a corrector nor kept from the steps before."""
    import comfy.sample
    import comfy.samplers

    family, refused = "wan_t2v", set()
    pos, neg, z = inputs(lib, family)
    held = lib.hold(models(family), lib.Clock(0.5, 0.5), reference(family))

    def run(name, seed):
        noise = comfy.sample.prepare_noise(z, seed)
        with torch.inference_mode():
            return comfy.sample.sample(
                held, noise, 4, 1.0, name, "simple", pos, neg, z, disable_pbar=True, seed=1
            )  # fmt: skip

    for name in comfy.samplers.SAMPLER_NAMES:
        try:
            one, two = run(name, 1), run(name, 2)
        except ValueError as error:
            refused.add(name if "does not show where its steps begin" in str(error) else str(error))
            continue
        # what multi-step samplers remember of the steps before is worth a little
        assert (one - two).abs().max() < 0.1 * (one - z).abs().max(), name
    assert refused == {"dpm_fast", "dpm_adaptive"}


def test_a_run_in_two_parts_and_the_largest_seed(lib, models, comfy):
    """The second sampler adds no noise and goes on with the first one's latent: it is left alone behind the clocks."""
    import comfy.sample

    family = "wan_t2v"
    pos, neg, z = inputs(lib, family)
    held = lib.hold(models(family), lib.Clock(0.34, 0.34), reference(family))

    def run(model, latent, noise, **more):
        with torch.inference_mode():
            return comfy.sample.sample(
                model, noise, 6, 1.0, "euler", "simple", pos, neg, latent, disable_pbar=True, **more
            )  # fmt: skip

    half = run(held, z, comfy.sample.prepare_noise(z, 1), last_step=3, seed=1)
    assert not torch.equal(half, run(models(family), z, comfy.sample.prepare_noise(z, 1), last_step=3, seed=1))
    rest = {"start_step": 3, "force_full_denoise": True, "seed": 0}
    assert torch.equal(
        run(held, half, torch.zeros_like(z), **rest), run(models(family), half, torch.zeros_like(z), **rest)
    )
    two = latent(family, 2, size_of(family))
    assert run(held, two, comfy.sample.prepare_noise(two, 1), seed=2**64 - 1).isfinite().all()


def test_lead_frames_are_no_part_of_the_clip(lib, models, comfy):
    """CogVideoX 1.5 puts a frame in front of an odd number of them: the reference has the clip's own."""
    from matrix_lib.hosts.comfy.repair import repair

    family, size = "cogvideox15", (3, 6, 8)
    pos, neg, z = inputs(lib, family, size)
    repaired = repair(models(family))
    model, calls = watched(repaired[0] if isinstance(repaired, tuple) else repaired)
    held = lib.hold(model, lib.Clock(0.5, 0.5), reference(family, size))
    assert sample(held, pos, neg, z, steps=4, cfg=1.0).isfinite().all()
    (a, sa), (b, sb) = calls[0], calls[1]
    clean = model.model.process_latent_in(reference(family, size)["samples"])
    assert a.shape[2] == 4, "three frames and one in front"
    whole = torch.cat([clean[:, :, :1], clean], 2)
    torch.testing.assert_close((a - whole) / sa, (b - whole) / sb, rtol=1e-3, atol=1e-3)


def test_held_to_the_end_the_reference_comes_out(lib, models):
    """At the last of many steps the latent is the reference but for a little noise, whatever the model says."""
    family = "wan_t2v"
    given, z = inputs(lib, family), reference(family)
    out = sample(lib.hold(models(family), lib.Clock(1, 1), z), *given, steps=20, cfg=1.0, sampler="euler")
    near = (out - z["samples"]).std() / z["samples"].std()
    far = (sample(models(family), *given, steps=20, cfg=1.0) - z["samples"]).std() / z["samples"].std()
    assert near < 0.35 * far


def test_with_everything_else(lib, models, comfy):
    """Steering, intrinsic denoising, two positives, a batch, tracks of its own, a mask, context windows."""
    import comfy.sample

    family, size = "wan_t2v", size_of("wan_t2v")
    given, z = inputs(lib, family), reference(family)
    held = lib.hold(models(family), lib.Clock(0.5, 0.2), z)
    want = sample(held, *given)
    bare = conditioning(family, 1, size)
    mine = given[0][0][1][lib.TRACKS]
    model = lib.hold(models(family), lib.Clock(0.5, 0.2), z, mine)
    assert torch.equal(sample(model, bare, *given[1:]), want)
    steered = lib.steer(lib.refine(held, lib.Intrinsic(1)), lib.Partition(1))
    other = sample(steered, given[0] + inputs(lib, family, seed=5)[0], *given[1:])
    assert other.isfinite().all()
    assert not torch.equal(other, want)
    batch = latent(family, 2, size)
    assert sample(held, given[0], given[1], batch).isfinite().all()
    assert sample(lib.hold(models(family), lib.Clock(), reference(family, batch=2)), *given[:2], batch).isfinite().all()

    mask = torch.zeros(1, 1, *size)
    mask[..., :4] = 1
    start = torch.randn(given[2].shape, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        out = comfy.sample.sample(
            lib.hold(models(family), lib.Clock(1, 1), z), comfy.sample.prepare_noise(start, 1), 3, 1.0, "euler",
            "simple", given[0], given[1], start, noise_mask=mask, disable_pbar=True, seed=1,
        )  # fmt: skip
    torch.testing.assert_close(out[..., 4:], start[..., 4:], rtol=1e-3, atol=1e-3)

    long = (7, 4, 4)
    model = windowed(models(family))
    whole = lib.hold(model, lib.Clock(), reference(family, long))
    assert sample(whole, *inputs(lib, family, long), steps=2).isfinite().all()


class Stop(BaseException):
    """Like the host's interrupt: no Exception."""


def test_an_interrupt_leaves_nothing(lib, models):
    family = "wan_t2v"
    given, z = inputs(lib, family), reference(family)
    plain = sample(models(family), *given, steps=3)
    held = lib.hold(models(family), lib.Clock(1, 1), z)

    def stop(step, *_):
        if step == 1:
            raise Stop

    with pytest.raises(Stop):
        sample(held, *given, steps=3, callback=stop)
    assert torch.equal(sample(models(family), *given, steps=3), plain)


def test_awkward_tracks_neither_crash_nor_give_nan(lib, models):
    family = "wan_t2v"
    frames, height, width = pixels(size_of(family))
    dot = torch.zeros(frames, height, width)
    dot[:, height // 2, width // 2] = 1
    half, gone = torch.zeros_like(dot), torch.zeros_like(dot)
    half[:, :, : width // 2] = 1
    make = lib.tracks.MaskTracks.from_masks
    for tracks in (
        make({"a": dot, "b": half}), make({"a": gone, "b": dot}, allow_empty=True),
        make({"a": half, "b": torch.ones_like(dot)}),
    ):  # fmt: skip
        held = lib.hold(models(family), lib.Clock(0.7, 0.3), reference(family))
        assert sample(held, *inputs(lib, family, tracks=tracks)).isfinite().all()


def test_what_cannot_be_is_said(lib, models):
    family = "wan_t2v"
    pos, neg, z = inputs(lib, family)
    held = lib.hold(models(family), lib.Clock(), reference(family))
    with pytest.raises(ValueError, match="no mask tracks.*MATRIX Bind Prompt"):
        sample(held, conditioning(family, 1, size_of(family)), neg, z, steps=10)
    with pytest.raises(ValueError, match="already"):
        lib.hold(held, lib.Clock(), reference(family))
    with pytest.raises(ValueError, match=r"video LATENT.*got \[1, 16, 6, 8\]"):
        lib.hold(models(family), lib.Clock(), {"samples": torch.zeros(1, 16, 6, 8)})
    with pytest.raises(ValueError, match="video LATENT.*got NoneType"):
        lib.hold(models(family), lib.Clock(), {})
    other = {"samples": torch.zeros(1, 48, 2, 3, 4)}
    with pytest.raises(ValueError, match="48 latent channels, but this model's latents have 16"):
        sample(lib.hold(models(family), lib.Clock(), other), pos, neg, z, steps=10)
    with pytest.raises(ValueError, match=r"got \[0, 16, 2, 6, 8\]"):
        lib.hold(models(family), lib.Clock(), {"samples": torch.zeros(0, 16, 2, 6, 8)})
    wrong = lib.hold(models(family), lib.Clock(), reference(family, (3, 6, 8)))
    with pytest.raises(ValueError, match="encode a clip of as many frames and pixels"):
        sample(wrong, pos, neg, z, steps=10)
    with pytest.raises(ValueError, match="does not show"):
        sample(held, pos, neg, z, steps=2, sampler="dpm_adaptive")
