"""Steering tiny random native models of every family inside the real host."""

import pytest
import torch
from support_attention import Explicit, make_tracks
from support_native import FAMILIES, REFERENCES, SKYREELS, conditioning, latent, sample
from support_steering import ROUNDS, bound, inputs, lib, models, pixels, recording, size_of, windowed
from support_tracks import awkward

__all__ = ["lib", "models"]  # fixtures

pytestmark = pytest.mark.usefixtures("comfy")
SIZE = (2, 6, 8)


def modes(lib):
    return {
        "bias": lib.RegionBias(),
        "soft bias, both": lib.RegionBias(soft=True, branches="both"),
        "partition": lib.Partition(1),
        "partition, global": lib.Partition(1, match="global", branches="cond"),
        "perturbation": lib.Perturbation("both", 1.5),
        "perturbation, bound": lib.Perturbation("words", 1.5, bound=True),
        "timed words": lib.TimedWords(up=1.0),
    }


def clean(model):
    module = model.model.diffusion_model
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in module.modules())
    options = model.model_options.get("transformer_options", {})
    return hooks == 0 and "optimized_attention_override" not in options and "matrix" not in options


PLAIN: dict = {}


def plain_sample(models, family, given, **options):
    key = (family, *sorted(options.items()))
    if key not in PLAIN:
        PLAIN[key] = sample(models(family), *given, **options)
    return PLAIN[key]


# every mode under several samplers, at CFG 1 and 6
ROUND = [(*pair, i % 7, (1.0, 6.0)[i // 7 % 2]) for i, pair in enumerate(ROUNDS)]


@pytest.mark.soak
@pytest.mark.parametrize(("family", "sampler", "mode", "cfg"), ROUND)
def test_modes_run_in_every_family_under_every_sampler(lib, models, family, sampler, mode, cfg):
    given, name = inputs(lib, family), list(modes(lib))[mode]
    steered = lib.steer(models(family), modes(lib)[name])
    out = sample(steered, *given, sampler=sampler, cfg=cfg)
    assert out.isfinite().all()
    plain = plain_sample(models, family, given, sampler=sampler, cfg=cfg)
    assert not torch.equal(out, plain), name
    assert clean(models(family))
    assert torch.equal(sample(models(family), *given, sampler=sampler, cfg=cfg), plain)


@pytest.mark.parametrize("family", [*FAMILIES, REFERENCES, SKYREELS])
def test_every_edited_call_equals_the_dense_reference(lib, models, family, monkeypatch):
    """Whatever the host hands over: spans, padding masks, batches of both branches, one layout per row."""
    errors, run = [], lib.host.EditRunner.run

    def checked(self, call, edits, host_rows):
        edited = run(self, call, edits, host_rows)
        logits = call.q.double() @ call.k.double().transpose(-1, -2) * call.scale
        if call.mask is not None:
            mask = call.mask if call.mask.ndim == 4 else call.mask.unsqueeze(1)
            logits = logits + mask.double()
        zeroed = torch.zeros_like(logits, dtype=torch.bool)
        for given in edits:
            for row, edit in enumerate(given):
                if edit is not None and edit.layout is not None:
                    at = edit.layout
                    logits[row] += at.bias[at.query][:, at.key]
                    if at.zeroed is not None:
                        zeroed[row] |= at.zeroed[at.query][:, at.key]
                if edit is not None and edit.columns is not None:
                    logits[row] += edit.columns.query @ edit.columns.key.T
        want = logits.softmax(-1).masked_fill(zeroed, 0.0) @ call.v.double()
        errors.append(float((edited.out - want).abs().max() / want.abs().max()))
        return edited

    monkeypatch.setattr(lib.host.EditRunner, "run", checked)
    more = {}
    if family == "hunyuan":
        more["attention_mask"] = torch.ones(1, 40, dtype=torch.long)
        more["attention_mask"][:, 30:] = 0
    given = inputs(lib, family, **more)
    model = models(family)
    for guide in (
        lib.RegionBias(),
        lib.RegionBias(soft=True, branches="both"),
        lib.Partition(match=None),
        lib.Perturbation("both"),
        lib.TimedWords(),
    ):
        model = lib.steer(model, guide)  # they stack: biases add
        sample(model, *given, steps=1)
    assert len(errors) >= 4
    assert max(errors) <= 1e-5


@pytest.mark.parametrize("family", ["cogvideox", "wan_i2v"])
def test_what_changes_nothing_is_bit_identical(lib, models, family):
    given = inputs(lib, family)
    plain = plain_sample(models, family, given)
    off = lib.Schedule(((0.0, 0.0),))
    for guide in (
        lib.RegionBias(0, 0, 0, 0),
        lib.RegionBias(schedule=off),
        lib.RegionBias(soft=True, weights=(("cyclist", 0.0), ("van", 0.0))),
        lib.RegionBias(layers=lib.Layers((), ())),
        lib.Partition(0),
        lib.Partition(schedule=off),
        lib.Perturbation(scale=0.0),
        lib.Perturbation(schedule=off),
        lib.TimedWords(down=0.0),
        lib.TimedWords(schedule=off),
    ):
        assert torch.equal(sample(lib.steer(models(family), guide), *given), plain), guide


def test_schedules_and_frozen_steps_pick_steps(lib, models):
    family = "wan_t2v"
    given = inputs(lib, family)
    seen = []
    run = lib.host.EditRunner.run

    def noted(self, call, edits, host_rows):
        seen.append((call.step, call.site.layer, call.site.kind))
        return run(self, call, edits, host_rows)

    lib.host.EditRunner.run = noted
    try:
        sample(lib.steer(models(family), lib.Partition(2, layers=lib.Layers((1,), (0,)))), *given, steps=4)
        assert set(seen) == {(s, 1, "cross") for s in (0, 1)} | {(s, 0, "self") for s in (0, 1)}
        seen.clear()
        curve = lib.Schedule(start=0.6)
        sample(lib.steer(models(family), lib.RegionBias(schedule=curve)), *given, steps=4)
        assert {step for step, *_ in seen} == {2, 3}
    finally:
        lib.host.EditRunner.run = run


@pytest.mark.parametrize("family", FAMILIES)
def test_a_capture_shows_the_edited_attention(lib, models, family):
    """Maps equal the explicit softmax of the biased logits, whichever node comes first; latents do not change."""
    given = inputs(lib, family)
    binding, tracks = (given[0][0][1][key] for key in (lib.BINDING, lib.TRACKS))
    guide = lib.RegionBias(3.0, 2.0, 2.0, 1.0)
    want = sample(lib.steer(models(family), guide), *given, steps=1)
    runs: list = []
    assert torch.equal(sample(recording(lib, lib.steer(models(family), guide), runs), *given, steps=1), want)
    assert torch.equal(sample(lib.steer(recording(lib, models(family), runs), guide), *given, steps=1), want)
    streams = [run.result().streams[0] for run in runs]
    on_grid = tracks.to_grid(streams[0].grid, "nearest")
    query = {name: on_grid.query(name) for name in on_grid.names}
    query["passes"] = torch.cat(list(query.values())).unique()
    explicit = Explicit({p.name: p.rows for p in binding.phrases}, query)
    watched = lib.attach(lib.steer(models(family), guide), lambda info: lib.Session([explicit]))
    sample(watched, *given, steps=1)
    plain_runs: list = []
    sample(recording(lib, models(family), plain_runs), *given, steps=1)
    plain = plain_runs[0].result().streams[0]
    for kind in ("v2t", "v2v"):
        first, second = (stream.get(kind).values.double() for stream in streams)
        assert torch.equal(first, second)
        assert not torch.equal(first, plain.get(kind).values.double())
        for place, layer in enumerate(streams[0].get(kind).layers):
            rows = [
                out[i]
                for call, out in explicit.seen[kind, layer]
                for i, row in enumerate(call.rows)
                if row.branch == "cond"
            ]
            assert (first[place, 0] - torch.stack(rows).mean(0)).abs().max() <= 6e-4 * rows[0].max()
    inside = on_grid.map("cyclist") > 0
    share = [s.v2t[:, 0, 0].float()[:, inside].sum() / s.v2t[:, 0, 0].float().sum() for s in (streams[0], plain)]
    assert share[0] > share[1], "the word is looked at more where its instance is"


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v"])
def test_two_positives_never_mix(lib, models, family):
    """Each with its own words and tracks, in one batch: every map is what it is when the prompt is alone."""
    swapped = lib.tracks.MaskTracks.from_boxes(
        {"cyclist": {0: (32, 0, 64, 48)}, "van": {0: (0, 0, 16, 16)}}, *pixels(size_of(family))
    )
    a, neg, z = inputs(lib, family)
    b = bound(lib, family, 5, swapped, {"cyclist": (20, 21), "van": (30,), "passes": (11, 12)})
    z = latent(family, 2, size_of(family))
    guide = lib.RegionBias(4.0, 4.0, 2.0, 2.0)

    def maps(positive):
        runs: list = []
        sample(recording(lib, lib.steer(models(family), guide), runs), positive, neg, z, steps=1)
        return {stream.key: stream for stream in runs[0].result().streams}

    together = maps(a + b)
    assert set(together) == {(0, 0), (0, 1), (1, 0), (1, 1)}
    for ordinal, alone in enumerate((maps(a), maps(b))):
        for (_, sample_), stream in alone.items():
            want, got = stream.v2t.float(), together[ordinal, sample_].v2t.float()
            assert (got - want).abs().max() <= 2e-3 * want.max()
    with pytest.raises(ValueError, match="different tracks"):
        sample(lib.steer(models(family), lib.Partition()), a + b, neg, z, steps=1)
    assert sample(lib.steer(models(family), lib.Partition(branches="cond")), a + b, neg, z, steps=1).isfinite().all()


def test_context_windows(lib, models, comfy):
    family, size = "wan_t2v", (7, 4, 4)
    model = windowed(models(family))
    pos, neg, z = bound(lib, family, 1, size=size), conditioning(family, 2, size), latent(family, 1, size)
    plain = sample(model, pos, neg, z, steps=1)
    for guide in modes(lib).values():
        out = sample(lib.steer(model, guide), pos, neg, z, steps=1)
        assert out.isfinite().all()
        assert not torch.equal(out, plain)


class Stop(BaseException):
    """Like the host's interrupt: no Exception."""


@pytest.mark.parametrize("family", ["cogvideox", "wan_i2v", "hunyuan"])
def test_an_interrupt_at_any_step_leaves_nothing(lib, models, family):
    given = inputs(lib, family)
    plain, names = plain_sample(models, family, given), modes(lib)
    for at, (name, guide) in enumerate(names.items()):
        ended = []
        steered = lib.steer(models(family), guide, done=ended.append)

        def stop(step, *_):
            if step == at % 2:
                raise Stop

        with pytest.raises(Stop):
            sample(steered, *given, callback=stop)
        assert clean(models(family)), name
        assert len(ended) == 1
        assert not ended[0]._scenes
    assert torch.equal(sample(models(family), *given), plain)


@pytest.mark.parametrize("family", ["cogvideox", "wan_t2v", "hunyuan"])
def test_awkward_tracks_neither_crash_nor_give_nan(lib, models, family):
    size = size_of(family)
    neg, z = conditioning(family, 2, size), latent(family, 1, size)
    steered = models(family)
    for guide in modes(lib).values():
        steered = lib.steer(steered, guide)
    for name, tracks in awkward(lib.tracks.MaskTracks.from_masks, *pixels(size)).items():
        assert sample(steered, bound(lib, family, 1, tracks), neg, z, steps=1).isfinite().all(), name


def test_perturbation_is_a_step_away_from_the_second_prediction(lib, models):
    """One Euler step is affine in the denoised estimate, so results are affine in the scale; nobody watches the second
    prediction, and stacked perturbations add."""
    family = "wan_t2v"
    given = inputs(lib, family)

    def at(*guides, cfg=6.0):
        model, runs = models(family), []
        for guide in guides:
            model = lib.steer(model, guide)
        out = sample(recording(lib, model, runs), *given, steps=1, cfg=cfg)
        assert runs[0].result().steps[0].calls == 1
        return out

    for cfg in (1.0, 6.0):
        zero, one, two = (
            at(cfg=cfg),
            at(lib.Perturbation("words", 1.0), cfg=cfg),
            at(lib.Perturbation("words", 2.0), cfg=cfg),
        )
        torch.testing.assert_close(two - zero, 2 * (one - zero), rtol=1e-3, atol=1e-4 * float(two.abs().max()))
    other = at(lib.Perturbation("tracks", 1.0))
    both = at(lib.Perturbation("words", 1.0), lib.Perturbation("tracks", 1.0))
    close = 1e-4 * float(both.abs().max())
    torch.testing.assert_close(both - zero, (one - zero) + (other - zero), rtol=1e-3, atol=close)
    assert not torch.equal(one, other)


def test_mask_normalisation_says_what_it_did(lib, models):
    family, ended = "cogvideox", []
    steered = lib.steer(models(family), lib.Partition(2), done=ended.append)
    sample(steered, *inputs(lib, family), steps=3)
    found = ended[0].variances()
    assert [at.step for at in found] == [0, 1]
    for at in found:
        assert at.calls == 4, "two layers, two branches"
        assert at.masked > 0
        assert at.matched == pytest.approx(at.unmasked, rel=1e-5), "same values, same variance"
        assert at.masked != pytest.approx(at.unmasked, rel=1e-5)


def test_steering_acts_behind_another_packs_override(lib, models):
    """It is asked for every row, and what it does to q and k counts; unsteered rows run on the host's kernel."""
    family, rows = "wan_t2v", []

    def other(func, q, *args, **kwargs):
        rows.append(q.shape[0])
        return func(q, *args, **kwargs)

    theirs = models(family).clone()
    theirs.model_options["transformer_options"]["optimized_attention_override"] = other
    given = inputs(lib, family)
    out = sample(lib.steer(theirs, lib.RegionBias()), *given, steps=1)
    assert rows == [2, 2, 2, 2], "two layers, self and cross, both halves of the batch"
    assert torch.equal(out, sample(lib.steer(models(family), lib.RegionBias()), *given, steps=1))


def test_what_cannot_be_steered_is_said(lib, models):
    family = "wan_t2v"
    given = inputs(lib, family)
    bare = conditioning(family, 1, size_of(family))
    for guide in (lib.RegionBias(), lib.Partition(), lib.Perturbation(bound=True)):
        with pytest.raises(ValueError, match="no mask tracks.*MATRIX Bind Prompt"):
            sample(lib.steer(models(family), guide), bare, *given[1:], steps=1)
    assert sample(lib.steer(models(family), lib.Perturbation()), bare, *given[1:], steps=1).isfinite().all()
    with pytest.raises(ValueError, match=r"layers \[9\] do not exist"):
        lib.steer(models(family), lib.RegionBias(layers=lib.Layers.only([9])))
    with pytest.raises(ValueError, match="weights are given to 'bus', but the tracks are named 'cyclist', 'van'"):
        sample(lib.steer(models(family), lib.RegionBias(weights=(("bus", 2.0),))), *given, steps=1)
    size, short = (3, *SIZE[1:]), make_tracks(lib.tracks, 3, 48, 64)
    given = bound(lib, family, 1, short, size=size), conditioning(family, 2, size), latent(family, 1, size)
    with pytest.raises(ValueError, match="the tracks have 3 frames, but the video has 9"):
        sample(lib.steer(models(family), lib.RegionBias()), *given, steps=1)
    assert clean(models(family))
