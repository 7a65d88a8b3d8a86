"""Temporal intrinsic denoising against float64 autograd through explicit loops."""

import itertools
import math

import pytest
import torch

from matrix_lib.core.grid import Grid
from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising, TemporalPrior, by_row, latent_boxes, refine
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.core.noise import NoiseLevel
from matrix_lib.core.tracks.tracks import MaskTracks

FRAMES, H, W = 5, 12, 16
GRID = Grid(FRAMES, H, W, (1, 1, 1), temporal_stride=1, spatial_stride=8)  # ZeroScope's: no compression of time


def boxes(**keys):
    return MaskTracks.from_boxes(keys, FRAMES, H * 8, W * 8)


MOVING = {
    "still": boxes(dog={0: (16, 16, 56, 64), 4: (16, 16, 56, 64)}),
    "moves": boxes(dog={0: (0, 0, 40, 40), 4: (80, 48, 120, 88)}, cat={0: (64, 8, 120, 40), 4: (8, 8, 64, 40)}),
    "grows": boxes(dog={0: (16, 16, 40, 40), 4: (16, 8, 112, 88)}),
}


def noise(*shape, seed=0, dtype=torch.float64):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def latent(batch=2, dtype=torch.float64):
    return noise(batch, 4, FRAMES, H, W, dtype=dtype)


def explicit(z, tracks, channels="joint"):
    """tau as the paper says it, in loops."""
    tau = z.new_zeros(len(z))
    for at in latent_boxes(tracks, GRID).values():
        size = (at[:, 2:] - at[:, :2]).amax(0).flip(0).tolist()
        cut = [
            torch.nn.functional.interpolate(z[:, :, f, y0:y1, x0:x1], size, mode="bilinear") if x0 >= 0 else None
            for f, (x0, y0, x1, y1) in enumerate(at.tolist())
        ]
        for a, b in itertools.pairwise(cut):
            if a is None or b is None:
                continue
            for row in range(len(z)):
                rows = [a[row].flatten()], [b[row].flatten()]
                if channels == "each":
                    rows = a[row].flatten(1), b[row].flatten(1)
                r = [torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(*rows)]
                tau[row] = tau[row] + torch.stack(r).mean()
    return tau


@pytest.mark.parametrize("channels", ["joint", "each"])
@pytest.mark.parametrize("name", MOVING)
def test_tau_and_its_gradient_equal_autograd(name, channels):
    prior = TemporalPrior(MOVING[name], GRID, channels=channels)
    z = latent().requires_grad_()
    want = explicit(z, MOVING[name], channels)
    (slope,) = torch.autograd.grad(want.sum(), z)
    tau, grad = prior(z.detach())
    torch.testing.assert_close(tau, want.detach(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(grad, slope, rtol=1e-9, atol=1e-12)
    single = prior.gradient(z.detach().float())
    assert (single.double() - slope).abs().max() <= 1e-5 * slope.abs().max()


def test_masks_weigh_the_correlation():
    """Only where the mask is in both frames; over a full box it is the box's."""
    full = MOVING["still"]
    z = latent()
    torch.testing.assert_close(TemporalPrior(full, GRID, "mask")(z), TemporalPrior(full, GRID)(z))
    disc = torch.zeros(FRAMES, H * 8, W * 8)
    y, x = torch.meshgrid(torch.arange(H * 8), torch.arange(W * 8), indexing="ij")
    for f in range(FRAMES):
        disc[f][(y - 40) ** 2 + (x - 40 - 8 * f) ** 2 < 28**2] = 1
    tracks = MaskTracks.from_masks({"disc": disc})
    tau, grad = TemporalPrior(tracks, GRID, "mask")(z)
    cover = tracks.to_grid(GRID, "area").maps[0].double()
    want = z.new_zeros(2)
    z = z.clone().requires_grad_()
    at = latent_boxes(tracks, GRID)["disc"].tolist()
    for f in range(FRAMES - 1):
        (x0, y0, x1, y1), (u0, v0, u1, v1) = at[f], at[f + 1]
        a, b = z[:, :, f, y0:y1, x0:x1], z[:, :, f + 1, v0:v1, u0:u1]
        w = torch.minimum(cover[f, y0:y1, x0:x1], cover[f + 1, v0:v1, u0:u1]).expand_as(a)
        mean = [(w * t).sum((1, 2, 3), keepdim=True) / w[:1].sum() for t in (a, b)]
        a, b = a - mean[0], b - mean[1]
        top = (w * a * b).sum((1, 2, 3))
        want = want + top / ((w * a * a).sum((1, 2, 3)) * (w * b * b).sum((1, 2, 3))).sqrt()
    torch.testing.assert_close(tau, want.detach(), rtol=1e-6, atol=1e-8)
    torch.testing.assert_close(grad, torch.autograd.grad(want.sum(), z)[0], rtol=1e-5, atol=1e-7)
    assert (grad[:, :, cover == 0] == 0).all(), "the corners of the disc's box are not the disc"


def test_boxes_on_the_latent():
    at = latent_boxes(MOVING["moves"], GRID)["dog"]
    assert ((at[:, 2:] - at[:, :2]) == 5).all(), "of constant size whatever is rounded"
    assert at[0].tolist() == [0, 0, 5, 5]
    assert at[4].tolist() == [10, 6, 15, 11]
    causal = Grid.from_latent((2, H, W), (1, 1, 1), 4, 8)
    at = latent_boxes(MOVING["moves"], causal)["dog"]
    assert at[0].tolist() == [0, 0, 5, 5]
    assert at[1].tolist() == [6, 4, 11, 9], "the mean of frames 1 to 4"
    wide = latent_boxes(MOVING["moves"], Grid(FRAMES, H, H, (1, 1, 1), 1, 8))["dog"]
    assert wide[4].tolist() == [8, 6, 12, 11], "the host's centre crop cuts it"
    first = MOVING["moves"].take([0])
    assert (latent_boxes(first, GRID)["dog"][1:] == -1).all()
    with pytest.raises(ValueError, match="patch"):
        latent_boxes(first, Grid(FRAMES, H, W))


AWKWARD = {
    "single pixel": {"dog": {0: (40, 40, 41, 41), 4: (40, 40, 41, 41)}},
    "leaves the frame": {"dog": {0: (0, 0, 48, 48), 2: (0, 0, 8, 48), 3: None}},
    "vanishes": {"dog": {0: (0, 0, 48, 48), 1: None, 3: (0, 0, 48, 48), 4: (8, 0, 56, 48)}},
    "is seen once": {"dog": {2: (0, 0, 48, 48), 3: None}},
    "overlaps": {"dog": {0: (0, 0, 80, 80), 4: (0, 0, 80, 80)}, "cat": {0: (40, 40, 99, 90), 4: (40, 40, 99, 90)}},
    "jumps": {"dog": {0: (0, 0, 24, 24), 1: (96, 64, 128, 96), 4: (0, 64, 24, 96)}},
}


@pytest.mark.parametrize("name", AWKWARD)
@pytest.mark.parametrize("channels", ["joint", "each"])
@pytest.mark.parametrize("region", ["box", "mask"])
def test_awkward_tracks_give_no_nan(name, channels, region):
    tracks = boxes(**AWKWARD[name])
    prior = TemporalPrior(tracks, GRID, region, channels, normalise=True)
    flat = torch.zeros(1, 4, FRAMES, H, W)
    for z in (latent(1, torch.float32), flat, flat + 3, 1e4 * latent(1, torch.float32), latent(1, torch.float16)):
        tau, grad = prior(z)
        assert tau.isfinite().all()
        assert grad.isfinite().all()
    assert (prior.gradient(flat + 3) == 0).all(), "what does not vary has no correlation"
    assert bool(prior.notes) == (name == "is seen once")
    for share in (None, 0.5):
        config = IntrinsicDenoising(region=region, channels=channels, share=share)
        x = latent(1, torch.float32)
        out, _ = refine(x, x * 0.5, lambda x: x * 0.5, prior.gradient, config, NoiseLevel(0.5, 0.8))
        assert out.isfinite().all()


def test_an_iteration_is_the_papers():
    """In the paper's own symbols, for the DDPM family: score = -eps / sigma."""
    prior, config = TemporalPrior(MOVING["moves"], GRID), IntrinsicDenoising(1, 300.0, 0.05)
    alpha, sigma = math.sqrt(0.3), math.sqrt(0.7)
    z, eps, fresh = latent(), noise(2, 4, FRAMES, H, W, seed=1), noise(2, 4, FRAMES, H, W, seed=2)
    denoised = (z - sigma * eps) / alpha
    moving = z.clone().requires_grad_()
    (slope,) = torch.autograd.grad(explicit(moving, MOVING["moves"]).sum(), moving)
    want = z + 0.05 * sigma**2 * (-eps / sigma + 300.0 * slope) + math.sqrt(0.1) * sigma * fresh
    asked = []
    got, after = refine(
        z,
        denoised,
        lambda x: asked.append(x) or x * 2,
        prior.gradient,
        config,
        NoiseLevel(alpha, sigma),
        draw=lambda x: fresh,
    )
    torch.testing.assert_close(got, want)
    assert len(asked) == 1
    assert torch.equal(after, got * 2)


def test_families_of_models_say_the_same():
    """The EDM latent is the DDPM one over alpha, and so is what becomes of it; and a flow model's at the same level."""
    prior, config = TemporalPrior(MOVING["grows"], GRID), IntrinsicDenoising(2, 500.0)
    fresh = iter(noise(4, 2, 4, FRAMES, H, W, seed=5))
    draws = [next(fresh), next(fresh)]
    net = noise(4, 4, seed=6) * 0.2

    def clean(vp):  # any network: of the DDPM latent
        return torch.einsum("cd,bdthw->bcthw", net, vp)

    def run(alpha, sigma, factor, **more):
        given = iter(draws)
        z = latent() * factor
        vp = math.hypot(alpha, sigma)
        return refine(
            z, clean(z / vp), lambda x: clean(x / vp), prior.gradient,
            IntrinsicDenoising(config.iterations, config.strength, **more), NoiseLevel(alpha, sigma),
            draw=lambda x: next(given),
        )[0] / factor  # fmt: skip

    for more in ({}, {"on": "clean"}, {"share": 0.3}):
        ddpm = run(0.6, 0.8, 1.0, **more)
        torch.testing.assert_close(run(1.0, 0.8 / 0.6, 1 / 0.6, **more), ddpm)
        flow = 1 / (0.6 + 0.8)
        torch.testing.assert_close(run(0.6 * flow, 0.8 * flow, flow, **more), ddpm)


def test_options():
    z, tracks = latent(), MOVING["moves"]
    prior = TemporalPrior(tracks, GRID)
    level, half = NoiseLevel(0.6, 0.8), z * 0.5
    score = (0.6 * half - z) / 0.64

    def moved(factor=1.0, gradient=prior.gradient, **more):
        config = IntrinsicDenoising(1, noise=0.0, **more)
        return refine(z, half, lambda x: x, gradient, config, level, factor)[0] - z - 0.05 * 0.64 * score

    torch.testing.assert_close(moved(strength=0.0), torch.zeros_like(z), atol=1e-12, rtol=0)
    torch.testing.assert_close(moved(0.5), moved(strength=5000.0))
    assert torch.equal(refine(z, half, lambda x: 1 / 0, prior.gradient, IntrinsicDenoising(), level, 0.0)[0], z)
    pushed = moved(share=0.25) / (0.05 * 0.64)
    at = prior.gradient(z) != 0
    for row in range(2):
        want = 0.25 * (score * at)[row].norm()
        torch.testing.assert_close(pushed[row].norm(), want)
    points = 25 * 4  # the dog's box
    alone = tracks.select(["dog"])
    plain, sized = TemporalPrior(alone, GRID).gradient(z), TemporalPrior(alone, GRID, normalise=True).gradient(z)
    torch.testing.assert_close(sized, plain * points / 2880)
    others = [TemporalPrior(tracks.select([name]), GRID) for name in tracks.names]
    torch.testing.assert_close(by_row([others, others])(z), prior.gradient(z))
    torch.testing.assert_close(by_row([[prior], others[:1]])(z)[1], others[0].gradient(z)[1])
    torch.testing.assert_close(by_row([[], [prior]])(z)[0], torch.zeros_like(z[0]))
    with pytest.raises(ValueError, match="tracks for 1 latents"):
        by_row([[prior]])(z)
    with pytest.raises(ValueError, match="laid out for"):
        prior(z[:, :, :2])


def test_it_raises_tau():
    """What it is for: frames that do not move as one do so after some iterations."""
    prior = TemporalPrior(MOVING["moves"], GRID)
    x = latent()
    config = IntrinsicDenoising(40, noise=0.0, share=1.0)
    after, _ = refine(x, x * 0.9, lambda x: x * 0.9, prior.gradient, config, NoiseLevel(0.6, 0.8))
    assert (prior.value(x).abs() < 1).all()
    assert (prior.value(after) > 4).all(), "of 8 pairs"


def test_settings():
    for bad in (
        dict(iterations=-1), dict(iterations=101), dict(strength=-1.0), dict(strength=math.nan), dict(rate=0.0),
        dict(rate=1.5), dict(noise=-1.0), dict(share=-0.1), dict(on="both"), dict(region="disc"), dict(channels="all"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match="got"):
            IntrinsicDenoising(**bad)
    assert IntrinsicDenoising() == IntrinsicDenoising(2, 10000.0, 0.05)
    assert IntrinsicDenoising(0).idle
    late = IntrinsicDenoising(schedule=Schedule(start=0.5))
    assert [late.at(i, 3) for i in range(3)] == [0, 1, 1]
