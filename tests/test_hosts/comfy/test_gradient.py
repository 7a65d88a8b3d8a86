"""Gradient guidance of tiny random native models inside the real host, against finite differences."""

import gc
import itertools
import weakref

import pytest
import torch
from support_counts import SOAK
from support_native import FAMILIES, SKYREELS, sample
from support_steering import SAMPLERS, inputs, lib, models, pixels, size_of, windowed
from support_tracks import awkward

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")


def clean(model):
    module = model.model.diffusion_model
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
    return hooks == 0 and not any("forward" in vars(m) for m in module.modules())


ROUND = [(family, SAMPLERS[i % 4], (1.0, 6.0)[i % 2]) for i, family in enumerate(FAMILIES)]
ROUND += [("wan_t2v", sampler, cfg) for sampler in SAMPLERS for cfg in (1.0, 6.0)]
OFF = (
    lambda lib: lib.Gradient(0.0),
    lambda lib: lib.Gradient(iterations=0),
    lambda lib: lib.Gradient(sga=0.0, spa=0.0),
    lambda lib: lib.Gradient(schedule=lib.Schedule(((0.0, 0.0),))),
)
# One of these beside every family and every sampler, in turns; all of them in `make soak`.
OFF_IN_TURNS = [OFF if SOAK else (OFF[(i + i // 4) % 4],) for i in range(len(ROUND))]


@pytest.mark.soak
@pytest.mark.parametrize(("family", "sampler", "cfg", "off"), [(*each, off) for each, off in zip(ROUND, OFF_IN_TURNS)])
def test_it_runs_in_every_family_under_every_sampler(lib, models, family, sampler, cfg, off):
    given, ended = inputs(lib, family), []
    options = dict(sampler=sampler, cfg=cfg, steps=3)
    plain = sample(models(family), *given, **options)
    out = sample(lib.steer(models(family), lib.Gradient(), done=ended.append), *given, **options)
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    steps = 2 if sampler == "uni_pc" else 3
    assert [step for step, _ in ended[0].losses] == list(range(steps))
    assert clean(models(family))
    for make in off:
        assert torch.equal(sample(lib.steer(models(family), make(lib)), *given, **options), plain)
    assert torch.equal(sample(models(family), *given, **options), plain)


# Each family goes two of the three ways, in turns; in `make soak` all.
WAYS = [("probabilities", None), ("logits", None), ("probabilities", [0])]
WAYS_IN_TURNS = [
    (family, *way)
    for i, family in enumerate((*FAMILIES, SKYREELS))
    for j, way in enumerate(WAYS)
    if SOAK or (i + j) % 3 != 2
]


@pytest.mark.soak
@pytest.mark.parametrize(("family", "scores", "layers"), WAYS_IN_TURNS)
def test_the_gradient_is_that_of_finite_differences_and_checkpointing_changes_nothing(
    lib, models, family, scores, layers, monkeypatch
):
    given, kept, losses = inputs(lib, family), {}, []
    make = lib.steps._Step.gradient

    def probe(self, hook, x):
        found = make(self, hook, x)
        kept[hook.guidance.checkpoint] = found
        if not hook.guidance.checkpoint:
            return found
        way = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        way = way / way.norm() * float(x.norm()) * 2e-3
        for sign in (1, -1):
            make(self, hook, x + sign * way)
        high, low = (loss for _, loss in hook.losses[-2:])
        losses.append(((high - low) / 2, float((found * way).sum())))
        return found

    monkeypatch.setattr(lib.steps._Step, "gradient", probe)
    for again in (True, False):
        guide = lib.Gradient(scores=scores, checkpoint=again, sga=2.0, layers=lib.Layers.only(layers))
        sample(lib.steer(models(family), guide), *given, steps=1, cfg=1.0)
    ((by_difference, by_gradient),) = losses
    assert by_gradient == pytest.approx(by_difference, rel=0.05, abs=2e-5)
    close = 1e-4 * float(kept[False].abs().max())
    torch.testing.assert_close(kept[True], kept[False], rtol=1e-3, atol=close)


def test_layers_behind_the_last_that_counts_do_not_run(lib, models):
    model, ran = models("wan_t2v"), []
    handles = [
        block.register_forward_hook(lambda *_, place=place: ran.append(place))
        for place, block in enumerate(model.model.diffusion_model.blocks)
    ]
    sample(lib.steer(model, lib.Gradient(layers=lib.Layers.only([0]))), *inputs(lib, "wan_t2v"), steps=1, cfg=1.0)
    for handle in handles:
        handle.remove()
    assert ran == [0, 1], "the step's own prediction alone runs through"


def test_it_descends_the_loss(lib, models):
    given, ended = inputs(lib, "wan_t2v"), []
    guide = lib.Gradient(0.02, iterations=10, scores="logits", schedule=lib.Schedule(end=0.0))
    sample(lib.steer(models("wan_t2v"), guide, done=ended.append), *given, steps=2)
    losses = [loss for step, loss in ended[0].losses if step == 0]
    assert len(losses) == len(ended[0].losses) == 10
    assert losses[-1] < losses[0]
    assert sum(b < a for a, b in itertools.pairwise(losses)) >= 7


def test_together_with_steering_intrinsic_denoising_and_two_positives(lib, models):
    family = "wan_t2v"
    a, neg, z = inputs(lib, family)
    other = lib.tracks.MaskTracks.from_boxes(
        {"cyclist": {0: (32, 0, 64, 48)}, "van": {0: (0, 0, 16, 16)}}, *pixels(size_of(family))
    )
    b, *_ = inputs(lib, family, tracks=other, seed=5)
    model = lib.steer(lib.refine(lib.steer(models(family), lib.RegionBias()), lib.Intrinsic(1)), lib.Gradient())
    model = lib.steer(lib.steer(model, lib.Gradient(sga=0.0)), lib.Partition(1, branches="cond"))
    for positive in (a, a + b):
        assert sample(model, positive, neg, z, steps=2).isfinite().all()
    alone, ended = lib.steer(models(family), lib.Gradient(), done=lambda run: ended.append(run)), []
    for positive in (a, b, a + b):
        sample(alone, positive, neg, z, steps=1)
    first, second, both = (run.losses[0][1] for run in ended)
    assert both == pytest.approx(first + second, rel=1e-3), "a row of each prompt, with its own words and tracks"
    assert clean(models(family))


def test_nobody_else_sees_the_passes_with_gradients(lib, models):
    from matrix_lib.instrument.recorder import Recorder, RecorderConfig
    from matrix_lib.instrument.session import Session

    given = inputs(lib, "wan_t2v")
    for sampler, want in (("dpmpp_2m", [1, 1, 1]), ("heun", [1, 2, 2])):
        runs = []

        def start(info, runs=runs):
            runs.append(Recorder(RecorderConfig(), info.spec.name, info.sites, info.grid, info.sigmas, 1))
            return Session([runs[-1]])

        model = lib.refine(lib.steer(models("wan_t2v"), lib.Gradient(iterations=2)), lib.Intrinsic(1))
        alone = sample(model, *given, sampler=sampler, steps=3)
        assert torch.equal(sample(lib.attach(model, start), *given, sampler=sampler, steps=3), alone)
        assert [step.calls for step in runs[0].result().steps] == want


def test_context_windows(lib, models, comfy):
    family, size = "wan_t2v", (7, 4, 4)
    model = windowed(models(family))
    given, ended = inputs(lib, family, size), []
    outs = [
        sample(lib.steer(model, lib.Gradient(checkpoint=again), done=ended.append), *given, steps=1)
        for again in (True, False)
    ]
    assert outs[0].isfinite().all()
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-3, atol=1e-3 * float(outs[0].abs().max()))
    assert ended[0].losses == ended[1].losses, "each window counts once"


class Stop(BaseException):
    """Like the host's interrupt: no Exception."""


def test_an_interrupt_anywhere_leaves_nothing(lib, models, comfy, monkeypatch):
    import comfy.model_management as management

    for family in ("cogvideox", "hunyuan"):
        given = inputs(lib, family)
        plain = sample(models(family), *given)

        def stop(*_):
            raise Stop

        acted = []
        steered = lib.steer(
            models(family), lib.Gradient(), done=lambda actor, into=acted: into.append(weakref.ref(actor))
        )
        with monkeypatch.context() as patched:
            patched.setattr(management, "throw_exception_if_processing_interrupted", stop)
            with pytest.raises(Stop):
                sample(steered, *given)
        module = models(family).model.diffusion_model
        block = (module.blocks if family == "cogvideox" else module.single_blocks)[-1]
        handle = next(part for part in block.modules() if isinstance(part, torch.nn.Linear)).register_forward_hook(stop)
        with pytest.raises(Stop):
            sample(steered, *given)
        handle.remove()
        gc.collect()
        assert [actor() for actor in acted] == [None, None], "no graph holds who watched"
        assert clean(models(family))
        assert not management.in_training
        assert torch.equal(sample(models(family), *given), plain)


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v", "hunyuan"])
def test_awkward_tracks_neither_crash_nor_give_nan(lib, models, family):
    size, make = pixels(size_of(family)), lib.tracks.MaskTracks.from_masks
    nobody = make({"cyclist": torch.zeros(size), "van": torch.zeros(size)}, allow_empty=True)
    found = {**awkward(make, *size), "nobody there": nobody}
    for scores in ("probabilities", "logits"):
        model = lib.steer(models(family), lib.Gradient(scores=scores))
        for name, tracks in found.items():
            assert sample(model, *inputs(lib, family, tracks=tracks), steps=1).isfinite().all(), name


def test_what_cannot_be_is_said(lib, models):
    family = "wan_t2v"
    _, neg, z = inputs(lib, family)
    with pytest.raises(ValueError, match="no words and mask tracks.*MATRIX Bind Prompt"):
        sample(lib.steer(models(family), lib.Gradient()), neg, neg, z, steps=1)
    with pytest.raises(ValueError, match=r"layers \[9\] do not exist"):
        lib.steer(models(family), lib.Gradient(layers=lib.Layers.only([9])))
    for bad in (dict(strength=-1.0), dict(iterations=101), dict(sga=float("nan")), dict(scores="maps")):
        with pytest.raises(ValueError, match="got"):
            lib.Gradient(**bad)
