"""Temporal intrinsic denoising of tiny random native models inside the real host."""

import itertools
from types import SimpleNamespace

import pytest
import torch
from support_attention import make_tracks
from support_native import conditioning, sample
from support_steering import ROUNDS, SAMPLERS, inputs, lib, models, pixels, size_of, windowed
from support_tracks import awkward

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")


def counted(model):
    """(clone, list of the sigma of each prediction)."""
    from comfy.patcher_extension import WrappersMP

    calls = []

    def note(executor, x, timestep, *args, **kwargs):
        calls.append(round(float(timestep.flatten()[0]), 4))
        return executor(x, timestep, *args, **kwargs)

    clone = model.clone()
    clone.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "count", note)
    return clone, calls


ROUND = [(*pair, (1.0, 6.0)[i % 2]) for i, pair in enumerate(ROUNDS)]
ROUND += [("wan_t2v", sampler, cfg) for sampler, cfg in (("euler", 1.0), ("uni_pc", 1.0), ("dpmpp_2m", 1.0))]


@pytest.mark.soak
@pytest.mark.parametrize(("family", "sampler", "cfg"), ROUND)
def test_it_runs_in_every_family_under_every_sampler(lib, models, family, sampler, cfg):
    given, ended = inputs(lib, family), []
    model, calls = counted(models(family))
    options = dict(sampler=sampler, cfg=cfg, steps=3)
    plain = sample(model, *given, **options)
    once = len(calls)
    assert torch.equal(sample(lib.refine(model, lib.Intrinsic(0)), *given, **options), plain)
    off = lib.Intrinsic(schedule=lib.Schedule(((0.0, 0.0),)))
    assert torch.equal(sample(lib.refine(model, off), *given, **options), plain)
    calls.clear()
    out = sample(lib.refine(model, lib.Intrinsic(2), done=ended.append), *given, **options)
    steps = 2 if sampler == "uni_pc" else 3
    assert len(calls) == once + 2 * steps
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    assert [at.step for at in ended[0].taus()] == list(range(steps))
    assert torch.equal(sample(models(family), *given, **options), plain)


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v"])
@pytest.mark.parametrize("sampler", ["euler", "heun", "dpmpp_2m"])
def test_a_step_is_the_iteration_by_hand(lib, models, family, sampler):
    """The first step, from the host's own predictions on: epsilon and flow."""
    from comfy.patcher_extension import WrappersMP

    pos, neg, z = inputs(lib, family)
    seen = []

    def note(executor, x, timestep, *args, **kwargs):
        out = executor(x, timestep, *args, **kwargs)
        seen.append((x.clone().double(), float(timestep.flatten()[0]), out.clone().double()))
        return out

    model = models(family).clone()
    model.add_wrapper_with_key(WrappersMP.PREDICT_NOISE, "note", note)
    sample(lib.refine(model, lib.Intrinsic(1, 400.0, noise=0.0)), pos, neg, z, steps=2, sampler=sampler)
    (x, sigma, denoised), (after, same, _) = seen[:2]
    assert sigma == same
    alpha = 1 - sigma if family == "wan_t2v" else 1.0
    tracks = pos[0][1][lib.TRACKS]
    slope = lib.Prior(tracks, lib.Grid.from_latent(size_of(family), (1, 1, 1))).gradient(x)
    want = x + 0.05 * (alpha * denoised - x) + 0.05 * sigma**2 * 400.0 * slope
    torch.testing.assert_close(after, want, rtol=1e-4, atol=1e-4 * float(x.abs().max()))


def linear(x, sigma):
    return x * 0.3 + 1


class Host:
    """A sampler's view of a model: D(x) = 0.3 x + 1, flow or not."""

    def __init__(self, sampling):
        patcher = SimpleNamespace(get_model_object=lambda name: sampling)
        self.inner_model = SimpleNamespace(
            inner_model=SimpleNamespace(model_sampling=sampling, scale_latent_inpaint=None), model_patcher=patcher
        )

    def __call__(self, x, sigma, **_):
        return linear(x, sigma)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "uni_pc", "dpm_2", "res_multistep"])
def test_the_samplers_state_is_what_moves(lib, comfy, name):
    """A refiner that adds 1 before one step: with the sampler linear, its end moves by what the step and those behind
    it make of 1, whichever step it is."""
    import comfy.model_sampling
    import comfy.samplers

    function = comfy.samplers.sampler_object(name).sampler_function
    sigmas = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.5, 0.0])
    host, x = Host(comfy.model_sampling.EPS()), torch.randn(1, 2, 3, 2, 2, generator=torch.Generator().manual_seed(0))

    class Adds:
        def __init__(self, at):
            self.at = at

        def begin(self, x, part):
            assert (x.shape, part.steps, part.whole) == ((1, 2, 3, 2, 2), 5, True)

        def acts(self, step, steps):
            return step == self.at

        def __call__(self, at):
            assert at.level.sigma == sigmas[at.step]
            return at.x + 1

    def run(at):
        actor, sampler = Adds(at), SimpleNamespace(sampler_function=function)
        step = lib.steps.stepped(sampler, [actor]).sampler_function
        return step(host, x, sigmas.clone(), extra_args={"model_options": {}, "seed": 0}, callback=None, disable=True)

    plain = run(None)
    assert torch.allclose(plain, function(host, x.clone(), sigmas.clone(), extra_args={}, disable=True))
    moved = [run(at) - plain for at in range(4)]
    for move in moved:
        assert (move - move.mean()).abs().max() <= 1e-3, "the same everywhere: the sampler is linear in x"
        assert move.mean() > 0.01
    if name == "euler":  # each step takes x to x + (x - D) (s' / s - 1), and only that much of the 1 is left
        left = 1.0
        for a, b in itertools.pairwise(sigmas[2:]):
            left *= float(1 + 0.7 * (b / a - 1))
        assert float(moved[2].mean()) == pytest.approx(left, rel=1e-4)


def test_which_samplers_show_their_state(lib, comfy):
    import comfy.model_sampling
    import comfy.samplers

    from matrix_lib.hosts.comfy.dry_run import find_steps

    class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.EPS):
        pass

    sigmas, host = torch.tensor([8.0, 4.0, 2.0, 1.0, 0.0]), Host(Sampling())
    for name in comfy.samplers.SAMPLER_NAMES:
        found = comfy.samplers.sampler_object(name)
        if found.sampler_function in lib.steps.UNI_PC:
            continue
        given = found.sampler_function, host, torch.randn(1, 2, 3, 4, 4), sigmas, found.extra_options, 3
        if name in ("dpm_fast", "dpm_adaptive"):  # steps of their own
            with pytest.raises(ValueError, match="does not show where its steps begin"):
                find_steps(*given)
            continue
        state = torch.get_rng_state()
        begins, gains = find_steps(*given)
        assert torch.equal(torch.get_rng_state(), state)
        assert (gains is None) == (name not in ("sa_solver", "sa_solver_pece")), "these go back to a state of theirs"
        assert sorted(begins.values()) == [0, 1, 2, 3], name
        if name == "heun":
            assert begins == {0: 0, 2: 1, 4: 2, 6: 3}


def test_extra_predictions_are_steered_and_not_captured(lib, models):
    family = "wan_t2v"
    given, runs = inputs(lib, family), []

    def start(info):
        runs.append(lib.Recorder(lib.RecorderConfig(), info.spec.name, info.sites, info.grid, info.sigmas, 1))
        return lib.Session([runs[-1]])

    seen, run = [], lib.host.EditRunner.run

    def noted(self, call, edits, host_rows):
        seen.append(call.step)
        return run(self, call, edits, host_rows)

    lib.host.EditRunner.run = noted
    try:
        model = lib.steer(lib.steer(models(family), lib.RegionBias()), lib.Perturbation("words", 1.0))
        model = lib.attach(lib.refine(model, lib.Intrinsic(1)), start)
        for sampler in SAMPLERS:
            seen.clear()
            assert sample(model, *given, steps=3, sampler=sampler).isfinite().all()
            calls = [step.calls for step in runs[-1].result().steps]
            assert calls == ([1, 2, 2] if sampler == "heun" else [1, 1, 1])
            extra = 2 if sampler == "uni_pc" else 3
            assert len(seen) == (sum(calls) + extra) * 4 * 2, "two layers, self and cross, and the second prediction"
    finally:
        lib.host.EditRunner.run = run


def test_two_positives_and_tracks_of_the_nodes_own(lib, models):
    family, size = "wan_t2v", size_of("wan_t2v")
    other = lib.tracks.MaskTracks.from_boxes({"bus": {0: (32, 0, 64, 48), 4: (0, 0, 32, 48)}}, *pixels(size))
    a, neg, z = inputs(lib, family)
    b, *_ = inputs(lib, family, tracks=other, seed=5)
    bare = conditioning(family, 1, size)
    mine = a[0][1][lib.TRACKS]
    config = lib.Intrinsic(1, noise=0.0)
    refined = lib.refine(models(family), config)
    same = sample(lib.refine(models(family), config, tracks=mine), bare, neg, z)
    assert torch.equal(sample(refined, a, neg, z), same)
    assert torch.equal(sample(lib.refine(models(family), config, tracks=other), a, neg, z, steps=1).isfinite(), z == 0)
    ended = []
    both = lib.refine(models(family), config, done=ended.append)
    assert sample(both, a + b, neg, z).isfinite().all()
    assert ended[0].tracks == ([mine, other],)
    assert sample(both, a + a, neg, z).isfinite().all()
    assert ended[1].tracks == ([mine],), "the same tracks count once"


def test_context_windows_and_inpainting(lib, models, comfy):
    import comfy.sample

    family, size = "wan_t2v", (7, 4, 4)
    model = windowed(models(family))
    given = inputs(lib, family, size)
    assert sample(lib.refine(model, lib.Intrinsic()), *given, steps=1).isfinite().all()
    pos, neg, z = inputs(lib, family)
    mask = torch.zeros(1, 1, *size_of(family))
    mask[..., :4] = 1
    start = torch.randn(z.shape, generator=torch.Generator().manual_seed(4))
    with torch.inference_mode():
        out = comfy.sample.sample(
            lib.refine(models(family), lib.Intrinsic()), comfy.sample.prepare_noise(start, 1), 2, 1.0, "euler",
            "simple", pos, neg, start, noise_mask=mask, disable_pbar=True, seed=1,
        )  # fmt: skip
    torch.testing.assert_close(out[..., 4:], start[..., 4:], rtol=1e-3, atol=1e-3)


class Stop(BaseException):
    """Like the host's interrupt: no Exception."""


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_an_interrupt_at_any_step_leaves_nothing(lib, models, comfy, sampler, monkeypatch):
    import comfy.model_management as management

    given = inputs(lib, "wan_t2v")
    plain = sample(models("wan_t2v"), *given, sampler=sampler, steps=3)
    for at in range(4):
        left, ended = [at], []

        def stop(left=left):
            left[0] -= 1
            if left[0] < 0:
                raise Stop

        monkeypatch.setattr(management, "throw_exception_if_processing_interrupted", stop)
        with pytest.raises(Stop):
            sample(lib.refine(models("wan_t2v"), lib.Intrinsic(), done=ended.append), *given, sampler=sampler, steps=3)
        monkeypatch.undo()
        assert len(ended) == 1
    assert torch.equal(sample(models("wan_t2v"), *given, sampler=sampler, steps=3), plain)


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v"])
def test_awkward_tracks_neither_crash_nor_give_nan(lib, models, family):
    found = awkward(lib.tracks.MaskTracks.from_masks, *pixels(size_of(family)))
    for more in ({}, {"region": "mask", "channels": "each", "share": 0.5, "on": "clean"}):
        model = lib.refine(lib.steer(models(family), lib.Partition(1)), lib.Intrinsic(1, **more))
        for name, tracks in found.items():
            assert sample(model, *inputs(lib, family, tracks=tracks), steps=1).isfinite().all(), name


def test_what_cannot_be_is_said(lib, models, comfy):
    family = "wan_t2v"
    pos, neg, z = inputs(lib, family)
    refined = lib.refine(models(family), lib.Intrinsic())
    with pytest.raises(ValueError, match="no mask tracks.*MATRIX Bind Prompt"):
        sample(refined, conditioning(family, 1, size_of(family)), neg, z, steps=1)
    with pytest.raises(ValueError, match="already"):
        lib.refine(refined, lib.Intrinsic())
    with pytest.raises(ValueError, match="'dpm_adaptive_function' does not show"):
        sample(refined, pos, neg, z, steps=2, sampler="dpm_adaptive")
    short = make_tracks(lib.tracks, 3, 48, 64)
    with pytest.raises(ValueError, match="the tracks have 3 frames, but the video has 9"):
        sample(refined, *inputs(lib, family, (3, 6, 8), short), steps=1)
