"""Sampling and watching through the nodes, in the real host."""

import dataclasses

import pytest
import torch
from support_attention import make_binding
from support_native import conditioning, latent, native_model, sample
from support_runs import DEFAULTS, bound, parts


@pytest.fixture(scope="module")
def models(pack):
    made = {}

    def get(family, **options):
        key = (family, *options.items())
        if key not in made:
            made[key] = native_model(family, **options)
        return made[key]

    return get


@pytest.mark.parametrize("family", ["cogvideox", "wan_i2v", "hunyuan"])
def test_sampling_is_the_hosts_own_and_the_capture_is_whole(pack, models, family):
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    model, z = models(family), {"samples": latent(family)}
    inputs = parts(model, bound(pack, family, 1), conditioning(family, 2))
    with torch.inference_mode():
        want = SamplerCustomAdvanced.execute(**inputs, latent_image=z).result
    output, denoised, capture, report = pack.run("MatrixSampleAttention", **inputs, latent_image=z, **DEFAULTS).result
    assert torch.equal(output["samples"], want[0]["samples"])
    assert torch.equal(denoised["samples"], want[1]["samples"])
    stream = capture.streams[0]
    assert stream.v2t.shape == (2, 2, 3, *stream.grid.shape)
    assert stream.v2v.shape == (2, 2, 3, *stream.grid.shape)
    assert not stream.v2t.is_inference(), "whoever works on a capture later may write to it"
    assert "cyclist, van, passes" in report
    told = "the sampler's input is not scaled" in report
    assert told == (family == "cogvideox"), "an unrepaired CogVideoX is told"


def test_layers_bins_and_budget(pack, models):
    family = "wan_t2v"
    inputs = parts(models(family), bound(pack, family, 1), conditioning(family, 2), steps=4)
    z = {"samples": latent(family)}

    def run(**options):
        return pack.run("MatrixSampleAttention", **inputs, latent_image=z, **{**DEFAULTS, **options}).result[2]

    capture = run(layers="1", step_bins=2, instances=False)
    assert capture.streams[0].layers_v2t == (1,)
    assert capture.streams[0].layers_v2v == ()
    assert [(s.index, s.calls) for s in capture.steps] == [(0, 2), (2, 2)]
    tight = run(budget_mb=72 * 2 * 12 * 1.5e-6)
    assert len(tight.steps) == 1
    assert "do not fit the budget" in tight.meta["notes"][0]
    for bad, message in (("7", r"\[7\] do not exist.*0\.\.1"), ("dominant", "no dominant"), ("x", "written as")):
        with pytest.raises(ValueError, match=message):
            run(layers=bad)


def test_heads_and_pinned_points(pack, models):
    family = "wan_t2v"
    inputs = parts(models(family), bound(pack, family, 1), conditioning(family, 2))
    z = {"samples": latent(family)}

    def run(**options):
        return pack.run("MatrixSampleAttention", **inputs, latent_image=z, **{**DEFAULTS, **options}).result

    plain, (output, _, capture, report) = run(), run(heads="1, 0", points="50%,50%; 0,0@4", instances=False)
    assert torch.equal(output["samples"], plain[0]["samples"])
    stream = capture.streams[0]
    assert stream.get("v2v").heads == stream.get("v2t").heads == (0, 1)
    assert stream.entities_v2v == ("point 50% 50% @0", "point 0 0 @4")
    assert "point 50% 50% @0, point 0 0 @4; heads 0-1" in report
    near = {"rtol": 0, "atol": 1e-3}
    torch.testing.assert_close(stream.v2t, plain[2].streams[0].v2t, **near)
    for options, message in (
        ({"heads": "0, 9"}, r"heads 0, 9 were to be kept apart, and .* has \d+ heads: choose numbers from 0 to"),
        ({"heads": "some"}, "heads are written as 'all'"),
        ({"points": "9999,0"}, "the point 9999 0 @0 lies outside of the clip"),
    ):
        with pytest.raises(ValueError, match=message):
            run(**options)
    schema = pack.classes["MatrixSampleAttention"]
    assert schema.validate_inputs(points="60,90@8") is True
    assert "points are written as 'x,y'" in schema.validate_inputs(points="60 90")


def test_two_experts_make_one_capture(pack, models):
    """Wan 2.2: the high-noise expert takes the first steps, the low-noise expert goes on; one binding, one capture."""
    family = "wan_t2v"
    high, low = models(family), models(family, seed=5)
    positive, negative = bound(pack, family, 1), conditioning(family, 2)
    first, second = parts(high, positive, negative, steps=4), parts(low, positive, negative, steps=4)
    sigmas = first["sigmas"]
    first["sigmas"], second["sigmas"] = sigmas[:3], sigmas[2:]
    from comfy_extras.nodes_custom_sampler import Noise_EmptyNoise

    second["noise"] = Noise_EmptyNoise()
    z = {"samples": latent(family)}
    half = pack.run("MatrixSampleAttention", **first, latent_image=z, **DEFAULTS).result
    out = pack.run("MatrixSampleAttention", **second, latent_image=half[0], **DEFAULTS, previous=half[2]).result
    capture = out[2]
    assert [round(s.sigma, 4) for s in capture.steps] == [round(float(s), 4) for s in sigmas[:4]]
    assert [s.index for s in capture.steps] == [0, 1, 2, 3]
    assert torch.equal(capture.streams[0].v2t[:, :2], half[2].streams[0].v2t)
    assert capture.streams[0].v2t[:, 2:].float().sum() > 0


def test_words_that_nobody_bound_are_told_before_sampling(pack, models):
    inputs = parts(models("cogvideox"), conditioning("cogvideox", 1), conditioning("cogvideox", 2))
    with pytest.raises(ValueError, match="MATRIX Bind Prompt"):
        pack.run("MatrixSampleAttention", **inputs, latent_image={"samples": latent("cogvideox")}, **DEFAULTS)


@pytest.mark.parametrize("kind", ["words (video to text)", "instances over time (video to video)"])
def test_live_preview_draws_every_step_and_changes_nothing(pack, models, kind, monkeypatch):
    import comfy.utils

    family, shown = "wan_t2v", []

    def hook(value, total, preview, node_id=None):
        if preview is not None:
            shown.append((value, total, preview))

    monkeypatch.setattr(comfy.utils, "PROGRESS_BAR_HOOK", hook)
    model, z = models(family), latent(family)
    positive, negative = bound(pack, family, 1), conditioning(family, 2)
    live = pack.run("MatrixLivePreview", model=model, layers="", kind=kind, frames=3, width=512).result[0]
    assert torch.equal(sample(live, positive, negative, z, steps=3), sample(model, positive, negative, z, steps=3))
    assert [(value, total) for value, total, _ in shown] == [(1, 3), (2, 3), (3, 3)]
    kind_of, image, _ = shown[-1][2]
    assert kind_of == "JPEG"
    assert image.width == 512
    assert len(image.getcolors(1 << 24)) > 50, "the panel shows maps"


def test_both_nodes_on_one_model(pack, models):
    family = "cogvideox"
    model, z = models(family), {"samples": latent(family)}
    live = pack.run(
        "MatrixLivePreview", model=model, layers="0", kind="words (video to text)", frames=1, width=256
    ).result[0]
    positive, negative = bound(pack, family, 1), conditioning(family, 2)
    a = pack.run("MatrixSampleAttention", **parts(live, positive, negative), latent_image=z, **DEFAULTS).result
    b = pack.run("MatrixSampleAttention", **parts(model, positive, negative), latent_image=z, **DEFAULTS).result
    assert torch.equal(a[0]["samples"], b[0]["samples"])
    assert torch.equal(a[2].streams[0].v2t, b[2].streams[0].v2t)


def test_interrupt_in_mid_run_leaves_the_model_as_it_was(pack, models, monkeypatch):
    import comfy.model_management as management

    family = "wan_t2v"
    model, z = models(family), {"samples": latent(family)}
    positive, negative = bound(pack, family, 1), conditioning(family, 2)
    plain = sample(model, positive, negative, z["samples"], steps=2)
    inputs = parts(model, positive, negative, steps=5)
    step = [0]
    recorder = pack.lib("instrument.recorder").Recorder
    done = recorder.step_done

    def interrupted(self, number, denoised):
        step[0] = number
        if number == 2:
            management.interrupt_current_processing(True)
            management.throw_exception_if_processing_interrupted()
        return done(self, number, denoised)

    monkeypatch.setattr(recorder, "step_done", interrupted)
    with pytest.raises(management.InterruptProcessingException):
        pack.run("MatrixSampleAttention", **inputs, latent_image=z, **DEFAULTS)
    management.interrupt_current_processing(False)
    monkeypatch.undo()
    assert step[0] == 2
    module = model.model.diffusion_model
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in module.modules())
    assert torch.equal(sample(model, positive, negative, z["samples"], steps=2), plain)


def capture_of(pack, inputs, z, **options):
    return pack.run("MatrixSampleAttention", **inputs, latent_image=z, **{**DEFAULTS, **options})


def with_keys(conditioning_, **keys):
    return [[rows, {**told, **keys}] for rows, told in conditioning_]


def test_wrong_pairings_are_told_before_a_step_is_sampled(pack, models, monkeypatch):
    host, family = pack.lib("hosts.comfy.run"), "wan_t2v"
    model, z = models(family), {"samples": latent(family)}
    positive, negative = bound(pack, family, 1), conditioning(family, 2)
    other = models("cogvideox")
    first = capture_of(pack, parts(model, positive, negative), z).result[2]
    theirs = capture_of(
        pack, parts(other, bound(pack, "cogvideox", 1), conditioning("cogvideox", 2)), {"samples": latent("cogvideox")}
    ).result[2]
    steps = []
    monkeypatch.setattr(pack.lib("instrument.recorder").Recorder, "observe", lambda *_: steps.append(1))
    inputs, words = parts(model, positive, negative), positive[0][1][host.BINDING]
    of_t5 = with_keys(positive, **{host.BINDING: dataclasses.replace(words, model="t5")})
    long = with_keys(positive, **{host.BINDING: make_binding(pack.lib("core.words.binding"), 600)})
    untracked = [[rows, {k: v for k, v in told.items() if k != host.TRACKS}] for rows, told in positive]
    changed = parts(model, bound(pack, family, 1, (3, 6, 8)), negative)
    for wrong, options, message in (
        ({**inputs, "sigmas": torch.FloatTensor([])}, {}, "no step to sample: .* Is denoise 0"),
        ({**inputs, "sigmas": inputs["sigmas"][:1]}, {}, "no step to sample"),
        (parts(model, of_t5, negative), {}, r"CogVideoX's text encoder \(T5\).* MODEL is Wan.*UMT5"),
        (parts(model, long, negative), {}, "conditioning of 600 rows, but this one has 64"),
        (parts(model, untracked, negative), {"words": False}, "no mask tracks"),
        (inputs, {"previous": theirs}, "not of one run: backbone"),
        (inputs, {"previous": first, "layers": "0"}, "not of one run: layers_v2t"),
        (parts(model, positive + positive, negative), {"previous": first}, "number of prompts and samples"),
        (inputs, {"layers": "0-999999999999"}, "^.{,200}$"),
        (inputs, {"layers": "0-99999"}, "layers 2 to 99999 do not exist"),
        (inputs, {"layers": "9" * 5000}, "^.{,200}$"),
    ):
        with pytest.raises(ValueError, match=message):
            capture_of(pack, wrong, z, **options)
    with pytest.raises(ValueError, match="not of one run: grid"):
        capture_of(pack, changed, {"samples": latent(family, 1, (3, 6, 8))}, previous=first)
    assert not steps


def test_rows_of_a_second_text_are_not_taken_for_copies_of_the_first(pack, models):
    """Conditioning (Concat) puts rows behind ours; twice as many look like a prompt that the host repeated."""
    import nodes

    family = "cogvideox"
    model, z, negative = models(family), {"samples": latent(family)}, conditioning(family, 2)
    mine = bound(pack, family, 1)
    both = nodes.ConditioningConcat().concat(mine, conditioning(family, 5))[0]
    capture, report = capture_of(pack, parts(model, both, negative), z).result[2:4]
    assert "226 rows stand behind the bound prompt" in report
    rows = dict(make_binding(pack.lib("core.words.binding"), 452).phrases[0].__dict__)["rows"]
    assert capture.streams[0].binding.length == 452
    assert capture.streams[0].binding.phrases[0].rows == rows
    alone = capture_of(pack, parts(model, mine, negative), z).result[2]
    assert not torch.equal(capture.streams[0].v2t, alone.streams[0].v2t)


def test_a_prompt_without_words_beside_one_with_words_is_noted(pack, models):
    family = "wan_t2v"
    inputs = parts(models(family), bound(pack, family, 1) + conditioning(family, 4), conditioning(family, 2))
    _, _, capture, report = capture_of(pack, inputs, {"samples": latent(family)}).result
    assert len(capture.streams) == 1
    assert "1 of 2 positive prompts carry no binding" in report


def test_a_model_that_overflows_is_told_and_its_maps_are_numbers(pack, models):
    family = "wan_t2v"
    positive = [[rows * float("nan"), told] for rows, told in bound(pack, family, 1)]
    inputs = parts(models(family), positive, conditioning(family, 2))
    _, _, capture, report = capture_of(pack, inputs, {"samples": latent(family)}).result
    assert not capture.streams[0].v2t.isnan().any()
    assert not capture.streams[0].v2v.isnan().any()
    assert "not a number (NaN)" in report


def test_a_model_of_the_hosts_own_loader_with_a_sampling_patch(pack, tmp_path, monkeypatch):
    import folder_paths
    from comfy_extras.nodes_model_advanced import ModelSamplingSD3
    from safetensors.torch import save_file
    from support_native import native_state

    import nodes

    family = "wan_t2v"
    save_file({k: v.contiguous() for k, v in native_state(family).items()}, tmp_path / "tiny_wan.safetensors")
    monkeypatch.setattr(folder_paths, "get_full_path_or_raise", lambda kind, name: str(tmp_path / name))
    with torch.inference_mode():
        (loaded,) = nodes.UNETLoader().load_unet("tiny_wan.safetensors", "default")
        (model,) = ModelSamplingSD3().patch(loaded, 5.0)
    z = {"samples": latent(family)}
    positive, negative = bound(pack, family, 1), conditioning(family, 2)
    inputs = parts(model, positive, negative)
    output, _, capture, _ = pack.run("MatrixSampleAttention", **inputs, latent_image=z, **DEFAULTS).result
    from comfy_extras.nodes_custom_sampler import SamplerCustomAdvanced

    with torch.inference_mode():
        want = SamplerCustomAdvanced.execute(**parts(model, positive, negative), latent_image=z).result[0]
    assert torch.equal(output["samples"], want["samples"])
    assert capture.streams[0].v2t.float().sum() > 0
