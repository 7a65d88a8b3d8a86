"""Steering through the nodes, in the real host."""

import pytest
import torch
from support_attention import make_binding, make_tracks
from support_native import conditioning, latent, native_model, sample, text_rows

SIZE = (2, 6, 8)
BIAS = {
    "mode": "region bias", "words_up": 2.0, "words_down": 2.0, "track_up": 1.0, "track_down": 1.0, "layers": "all",
    "soft_edges": False, "weights": "", "predictions": "with the prompt only",
}  # fmt: skip
MASKED = {
    "mode": "masked attention (IVG-DA)", "frozen_steps": 1, "normalisation": "per channel", "words": True,
    "layers": "all", "predictions": "with and without the prompt",
}  # fmt: skip
GRADIENT = {
    "mode": "gradient (SGA, SPA)", "strength": 0.1, "iterations": 1, "grounding": 1.0, "propagation": 1.0,
    "maps": "probabilities", "layers": "all", "save_memory": True,
}  # fmt: skip
TIMED = {
    "mode": "timed words", "time_down": 10.0, "time_up": 1.0, "fade": 0.25, "frame_rate": 0.0, "layers": "all",
}  # fmt: skip
PERTURB = {"mode": "perturbation (CMG, CAG)", "target": "both", "scale": 1.0, "only_bound": False, "layers": "1"}


@pytest.fixture(scope="module")
def scene(pack):
    """(model, positive, negative, latent) of a tiny Wan with two tracked instances."""
    family, host = "wan_t2v", pack.lib("hosts.comfy.run")
    keys = {
        host.BINDING: make_binding(
            pack.lib("core.words.binding"),
            text_rows(family),
            {"cyclist": (1, 2), "van": (6,), "passes": (9,)},
            (0.15, None),
        ),
        host.TRACKS: make_tracks(pack.lib("core.tracks.tracks"), 5, 48, 64),
    }
    given = conditioning(family, 1, SIZE, **keys), conditioning(family, 2, SIZE), latent(family, 1, SIZE)
    return native_model(family), *given


def sampling_parts(model, positive, negative, steps=2, seed=7, cfg=6.0):
    """The inputs of SamplerCustomAdvanced, made as the host's own nodes make them."""
    import comfy.samplers
    from comfy_extras.nodes_custom_sampler import Noise_RandomNoise

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", steps)
    sampler = comfy.samplers.sampler_object("euler")
    return dict(noise=Noise_RandomNoise(seed), guider=guider, sampler=sampler, sigmas=sigmas)


def steer(pack, model, mode, **more):
    return pack.run("MatrixAttentionGuidance", model=model, mode=mode, **more).result[0]


def test_every_mode_steers_and_off_is_bit_identical(pack, scene):
    model, *given = scene
    plain = sample(model, *given)
    modes = (BIAS, {**BIAS, "soft_edges": True}, MASKED, PERTURB, TIMED, GRADIENT, {**GRADIENT, "maps": "logits"})
    outs = [sample(steer(pack, model, mode), *given) for mode in modes]
    for out in outs:
        assert out.isfinite().all()
        assert not torch.equal(out, plain)
    off = (
        {**BIAS, "words_up": 0, "words_down": 0, "track_up": 0, "track_down": 0},
        {**MASKED, "frozen_steps": 0},
        {**PERTURB, "scale": 0.0},
        {**TIMED, "time_down": 0.0, "time_up": 0.0},
        {**GRADIENT, "strength": 0.0},
    )
    for mode in off:
        assert torch.equal(sample(steer(pack, model, mode), *given), plain), mode
    for menu in ("all values together", "off"):
        assert sample(steer(pack, model, {**MASKED, "normalisation": menu}), *given, steps=1).isfinite().all()
    assert torch.equal(sample(model, *given), plain)


def test_it_stacks_and_the_capture_shows_it(pack, scene):
    model, positive, negative, z = scene
    stacked = model
    for mode in (BIAS, MASKED, PERTURB, TIMED, GRADIENT):
        stacked = steer(pack, stacked, mode)
    want = sample(stacked, positive, negative, z, cfg=6.0)
    inputs = sampling_parts(stacked, positive, negative)
    options = dict(layers="all", step_bins=0, budget_mb=64.0, words=True, instances=True)
    result = pack.run("MatrixSampleAttention", **inputs, latent_image={"samples": z}, **options).result
    assert torch.allclose(result[0]["samples"], want, atol=1e-5)
    assert "guidance steered" in result[3]
    assert [step.calls for step in result[2].steps] == [1, 1], "second predictions are not captured"
    maps = result[2].streams[0].v2t.float()
    assert maps.isfinite().all()
    tracks = positive[0][1][pack.lib("hosts.comfy.run").TRACKS]
    cyclist, van = pack.lib("core.guidance.scene").GridScene(result[2].streams[0].grid, tracks, None).inside
    van = van & ~cyclist
    assert van.any()
    assert (maps[:, 0, 0][:, van] == 0).all(), "masked attention: the van's places see none of the cyclist's words"
    assert (maps[:, 1, 0][:, van] > 0).all(), "after the frozen steps they do"


def test_schedules(pack, scene):
    model, *given = scene

    def curve(shape, start=0.0, end=1.0):
        out = pack.run("MatrixScheduleCurve", shape=shape, start=start, end=end)
        assert "0 %" in str(out.ui)
        return out.result[0]

    ramp = curve({"shape": "ramp", "first": 1.0, "last": 0.0, "easing": "smooth"}, 0.25, 0.75)
    assert [round(ramp.at(i, 5), 3) for i in range(5)] == [0, 1, 0.5, 0, 0]
    points = curve({"shape": "key points", "points": "0: 1, 1: 3", "easing": "step"})
    assert [points.at(i, 3) for i in range(3)] == [1, 1, 3]
    assert curve({"shape": "ramp", "first": 1.0, "last": 0.0, "easing": "linear"}, 0.5, 0.5).at(1, 3) == 0
    plain = sample(model, *given)
    none = curve({"shape": "constant", "strength": 0.0})
    assert torch.equal(sample(steer(pack, model, BIAS, schedule=none), *given), plain)
    half = curve({"shape": "constant", "strength": 0.5})
    weak = {**BIAS, "words_up": 1.0, "words_down": 1.0, "track_up": 0.5, "track_down": 0.5}
    out = sample(steer(pack, model, BIAS, schedule=half), *given)
    assert torch.equal(out, sample(steer(pack, model, weak), *given))
    for shape, match in (
        ({"shape": "key points", "points": "1: 1, 0: 1", "easing": "linear"}, "ascend"),
        ({"shape": "key points", "points": "start", "easing": "linear"}, "position: strength"),
    ):
        with pytest.raises(ValueError, match=match):
            curve(shape)
    with pytest.raises(ValueError, match="start <= end"):
        curve({"shape": "ramp", "first": 1.0, "last": 0.0, "easing": "linear"}, 0.7, 0.3)


def test_layers(pack, scene):
    model, *given = scene
    module, layer_set = pack.lib("core.layers"), pack.lib("core.layers").LayerSet
    import importlib

    nodes = importlib.import_module(f"{pack.module.__name__}.nodes.guidance")
    assert nodes.steered_layers("all", model) == module.Layers()
    assert nodes.steered_layers("1", model) == module.Layers((1,), (1,))
    found = layer_set("wan", (1,), (0,), "test")
    assert nodes.steered_layers("dominant", model, found) == module.Layers((1,), (0,))
    with pytest.raises(ValueError, match="no interaction-dominant layers are published"):
        steer(pack, model, {**BIAS, "layers": "dominant"})
    with pytest.raises(ValueError, match=r"layers \[9\] do not exist"):
        steer(pack, model, {**BIAS, "layers": "9"})
    with pytest.raises(ValueError, match=r"layers \[7\] do not exist"):
        steer(pack, model, BIAS, found_layers=layer_set("wan", (7,), (), "test"))


def test_weights_and_missing_tracks(pack, scene):
    model, positive, negative, z = scene
    heavy = sample(steer(pack, model, {**BIAS, "weights": "van: 3"}), positive, negative, z, steps=1)
    assert not torch.equal(heavy, sample(steer(pack, model, BIAS), positive, negative, z, steps=1))
    with pytest.raises(ValueError, match="'bus', but the tracks are named"):
        sample(steer(pack, model, {**BIAS, "weights": "bus: 3"}), positive, negative, z, steps=1)
    fast = {**TIMED, "frame_rate": 100.0}
    with pytest.raises(ValueError, match=r"'passes' holds @0.15s-, but the clip ends after 0.05 s"):
        sample(steer(pack, model, fast), positive, negative, z, steps=1)
    with pytest.raises(ValueError, match="no bound words to act on"):
        sample(steer(pack, model, TIMED), negative, negative, z, steps=1)
    with pytest.raises(ValueError, match="connect|Connect"):
        sample(steer(pack, model, MASKED), negative, negative, z, steps=1)
