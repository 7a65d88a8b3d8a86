"""Recording under the host's own samplers, and handing out afterwards: the right run, or a word about why not."""

from pathlib import Path

import pytest
import torch
from support_native import conditioning, latent, native_model
from support_runs import DEFAULTS, bound, parts

FAMILY = "wan_t2v"


@pytest.fixture(scope="module")
def models():
    return native_model(FAMILY), native_model(FAMILY, seed=5)


@pytest.fixture
def runs(pack):
    """The store of finished runs, empty and of its usual size."""
    store = pack.lib("hosts.comfy.watching").RUNS
    store.clear()
    most = store.most, store.most_bytes
    yield store
    store.clear()
    store.most, store.most_bytes = most


def watched(pack, model, **options):
    made = pack.run("MatrixWatchAttention", model=model, **{**DEFAULTS, **options})
    return made.result


def collect(pack, out, watch):
    return pack.run("MatrixCollectCapture", latent=out, watch=watch).result[0]


def ksampler(model, positive, negative, z, seed=7, steps=4):
    import nodes

    with torch.inference_mode():
        return nodes.KSampler().sample(model, seed, steps, 4.0, "euler", "simple", positive, negative, z)[0]


def part(model, positive, negative, z, first, last, seed=7, add_noise="enable", steps=4, leftover="enable"):
    """KSamplerAdvanced from step `first` to step `last`."""
    import nodes

    with torch.inference_mode():
        return nodes.KSamplerAdvanced().sample(
            model, add_noise, seed, steps, 4.0, "euler", "simple", positive, negative, z, first, last, leftover
        )[0]


@pytest.fixture
def prompts(pack):
    return bound(pack, FAMILY, 1), conditioning(FAMILY, 2)


def test_a_watched_ksampler_makes_the_same_latent_and_the_same_capture(pack, models, runs, prompts):
    model, z = models[0], {"samples": latent(FAMILY)}
    live, watch = watched(pack, model)
    out = ksampler(live, *prompts, z)
    assert torch.equal(out["samples"], ksampler(model, *prompts, z)["samples"])
    capture = collect(pack, out, watch)
    want = pack.run(
        "MatrixSampleAttention", **parts(model, *prompts, steps=4, cfg=4.0), latent_image=z, **DEFAULTS
    ).result[2]
    assert [(s.index, s.sigma, s.calls) for s in capture.steps] == [(s.index, s.sigma, s.calls) for s in want.steps]
    for kind in ("v2t", "v2v"):
        assert torch.equal(capture.streams[0].get(kind).values, want.streams[0].get(kind).values)


def test_split_runs_and_two_experts_come_as_one(pack, models, runs, prompts):
    """Two KSamplerAdvanced of one model; then the second of another model, as Wan 2.2 has it."""
    z = {"samples": latent(FAMILY)}
    whole, watch = watched(pack, models[0])
    full = collect(pack, ksampler(whole, *prompts, z), watch)
    half = part(whole, *prompts, z, 0, 2)
    end = part(whole, *prompts, half, 2, 4, add_noise="disable", leftover="disable")
    split = collect(pack, end, watch)
    # the host scales the latent between two samplers and back, which may round; maps are kept in half precision
    torch.testing.assert_close(split.streams[0].v2t, full.streams[0].v2t, rtol=2e-3, atol=1e-5)
    assert list(split.experts) == ["expert 1"], "one model is one expert"
    assert [s.index for s in collect(pack, half, watch).steps] == [0, 1], "the first half alone has a capture, too"
    low, other = watched(pack, models[1], expert="low noise")
    both = collect(pack, part(low, *prompts, half, 2, 4, add_noise="disable", leftover="disable"), other)
    assert both.experts == {"expert 1": (0, 1), "low noise": (2, 3)}
    assert [round(s.sigma, 5) for s in both.steps] == [round(s.sigma, 5) for s in full.steps]
    torch.testing.assert_close(both.streams[0].v2t[:, :2], full.streams[0].v2t[:, :2], rtol=2e-3, atol=1e-5)
    assert (both.streams[0].v2t[:, 2:] - full.streams[0].v2t[:, 2:]).abs().max() > 1e-4
    tracks = prompts[0][0][1][pack.lib("hosts.comfy.run").TRACKS]
    run = dict(capture=both, tracks=tracks, keep=1, prompt=0)
    report = pack.run("MatrixAnalyseLayers", **run).result[2]
    assert "## expert 1: steps 0-1" in report
    assert "## low noise: steps 2-3" in report
    own = pack.run("MatrixAnalyseLayers", **run, expert="Low noise").result
    assert (
        own[0].scores
        == pack.lib("instrument.readings.ranking").rank_layers(both.of_expert("low noise"), tracks, 1).scores
    )
    assert own[0].scores != pack.run("MatrixAnalyseLayers", **run).result[0].scores
    with pytest.raises(ValueError, match="no expert is called 'high'.*expert 1, low noise"):
        pack.run("MatrixAnalyseLayers", **run, expert="high")
    shown = [
        pack.lib("draw.capture").attention_pictures(both, pack.lib("draw.capture").Choice(steps=steps))[2]
        for steps in ("low noise", "2-3", "all")
    ]
    first = [next(iter(pictures)).tobytes() for pictures in shown]
    assert first[0] == first[1]
    assert first[0] != first[2]


def test_a_second_pass_over_a_finished_latent_is_a_run_of_its_own(pack, models, runs, prompts):
    import nodes

    live, watch = watched(pack, models[0])
    out = ksampler(live, *prompts, {"samples": latent(FAMILY)})
    with torch.inference_mode():
        again = nodes.KSampler().sample(live, 8, 4, 4.0, "euler", "simple", *prompts, out, denoise=0.5)[0]
    assert len(collect(pack, again, watch).steps) == 4
    assert collect(pack, again, watch).steps[0].sigma < collect(pack, out, watch).steps[0].sigma


def test_cached_nodes_cannot_mix_runs(pack, models, runs, prompts):
    """What the host caches: the sampler, the watch, or both. The latent says which run is meant."""
    z = {"samples": latent(FAMILY)}
    live, watch = watched(pack, models[0])
    one, two = ksampler(live, *prompts, z, seed=1), ksampler(live, *prompts, z, seed=2)
    first, second = collect(pack, one, watch), collect(pack, two, watch)
    assert not torch.equal(first.streams[0].v2t, second.streams[0].v2t)
    assert torch.equal(collect(pack, one, watch).streams[0].v2t, first.streams[0].v2t), "the older run, asked again"
    _, again = watched(pack, models[0])  # the watch runs anew, the sampler is cached
    assert torch.equal(collect(pack, two, again).streams[0].v2t, second.streams[0].v2t)
    _, other = watched(pack, models[0], layers="0")
    with pytest.raises(ValueError, match="not with the MODEL of this watch"):
        collect(pack, two, other)
    unwatched = ksampler(models[0], *prompts, z, seed=3)
    with pytest.raises(ValueError, match="not sampled anew"):
        collect(pack, unwatched, watch)
    with pytest.raises(ValueError, match="the LATENT of the sampler itself"):
        collect(pack, {"samples": one["samples"] * 0.5}, watch)


def test_old_runs_are_forgotten_by_name(pack, models, runs, prompts):
    live, watch = watched(pack, models[0])
    outs = []
    for seed in range(3):
        outs.append(ksampler(live, *prompts, {"samples": latent(FAMILY)}, seed=seed, steps=1))
        runs.most = 2
    assert len(runs) == 2
    collect(pack, outs[2], watch)
    with pytest.raises(ValueError, match="not kept any more"):
        collect(pack, outs[0], watch)
    runs.most_bytes = 1
    ksampler(live, *prompts, {"samples": latent(FAMILY)}, seed=9, steps=1)
    assert len(runs) == 1, "the newest run stays, whatever it takes"


def test_a_run_without_words_samples_and_says_so(pack, models, runs, prompts):
    live, watch = watched(pack, models[0])
    out = ksampler(live, conditioning(FAMILY, 1), prompts[1], {"samples": latent(FAMILY)}, steps=1)
    with pytest.raises(ValueError, match="no conditioning carried a binding"):
        collect(pack, out, watch)


def test_a_run_that_breaks_off_keeps_its_steps_and_hands_out_nothing(pack, models, runs, prompts, monkeypatch):
    import comfy.model_management as management
    import folder_paths

    live, watch = watched(pack, models[0], keep_as="watch/run", storage="uint8")
    recorder = pack.lib("instrument.recorder").Recorder

    def interrupted(self, step, denoised):
        if step == 2:
            management.interrupt_current_processing(True)
            management.throw_exception_if_processing_interrupted()

    with monkeypatch.context() as patch:
        patch.setattr(recorder, "step_done", interrupted)
        with pytest.raises(management.InterruptProcessingException):
            ksampler(live, *prompts, {"samples": latent(FAMILY)})
    management.interrupt_current_processing(False)
    assert len(runs) == 0
    out = folder_paths.get_output_directory()
    folders = sorted(path.name for path in Path(out, "watch").iterdir())
    assert folders == ["run_00001_.parts"]
    found = pack.lib("io.captures").load_capture(f"{out}/watch/{folders[0]}")
    assert [(s.index, s.calls) for s in found.steps] == [(0, 1), (1, 1)]
    assert found.streams[0].get("v2t").storage == "uint8"
    made = ksampler(live, *prompts, {"samples": latent(FAMILY)})
    text = pack.run("MatrixCollectCapture", latent=made, watch=watch).result[1]
    assert "note: kept in" in text
    assert "run_00002_.safetensors" in text
    load = pack.classes["MatrixLoadCapture"]
    assert load.validate_inputs(file="watch/run_00001_.parts [output]") is True
    summary = pack.run("MatrixLoadCapture", file="watch/run_00001_.parts [output]").result[1]
    assert "2 step bins" in summary
    files = load.define_schema().inputs[0].options
    assert {"watch/run_00001_.parts [output]", "watch/run_00002_.safetensors [output]"} <= set(files)
    assert not any("parts/" in file for file in files)
    with pytest.raises(ValueError, match="outside of the folders"):
        watched(pack, models[0], keep_as="../x")


@pytest.mark.parametrize("name", ["EasyCache", "LazyCache"])
def test_steps_that_a_cache_skips_are_absent_and_named(pack, models, runs, prompts, name):
    """The host's own caches: a skipped step runs no attention, so it is in no map, mean or score."""
    from comfy_extras import nodes_easycache

    with torch.inference_mode():
        cached = getattr(nodes_easycache, f"{name}Node").execute(models[0], 3.0, 0.0, 1.0, False).result[0]
    live, watch = watched(pack, cached)
    ran = []
    net = models[0].model.diffusion_model
    handle = net.blocks[0].register_forward_pre_hook(lambda *_: ran.append(1))
    try:
        out = ksampler(live, *prompts, {"samples": latent(FAMILY)}, steps=10)
    finally:
        handle.remove()
    capture = collect(pack, out, watch)
    assert torch.equal(out["samples"], ksampler(cached, *prompts, {"samples": latent(FAMILY)}, steps=10)["samples"])
    skipped = capture.skipped
    assert 0 < len(skipped) < 10
    assert len(ran) == 10 - len(skipped), "the steps that are named are those that did not run"
    maps = capture.streams[0].get("v2t")
    assert [i for i in range(10) if not maps.counts[:, i].any()] == list(skipped)
    text = pack.lib("instrument.readings.ranking").describe(capture)
    assert f"steps {pack.lib('core.ranges').ranges(skipped)} were skipped" in text
    assert "cache" in text
    seen = [i for i in range(10) if i not in skipped]
    want = maps.dense()[:, seen, 0].float().mean((0, 1))
    torch.testing.assert_close(capture.maps(entity=maps.entities[0]), want, rtol=1e-4, atol=1e-7)
    tracks = prompts[0][0][1][pack.lib("hosts.comfy.run").TRACKS].to_grid(capture.streams[0].grid)
    found = capture.aas(tracks)
    torch.testing.assert_close(found.over_steps(), found.share[:, seen].mean(1))
    assert found.share[:, list(skipped)].isnan().all()
    scores = pack.lib("draw.capture").scores_of(capture, pack.lib("draw.capture").Choice())
    assert (scores.weights[:, list(skipped)] == 0).all()
    with pytest.raises(ValueError, match="nothing was captured.*skipped by a cache"):
        capture.maps(entity=maps.entities[0], step=skipped[0])


def test_prompts_of_timestep_ranges_are_absent_where_they_are_not_active(pack, models, runs, prompts):
    """Two bound prompts, one for each half of the run: no zeros in the means of either, as if each ran alone."""
    import nodes

    first = nodes.ConditioningSetTimestepRange().set_range(bound(pack, FAMILY, 1), 0.0, 0.4)[0]
    second = nodes.ConditioningSetTimestepRange().set_range(bound(pack, FAMILY, 3), 0.4, 1.0)[0]
    live, watch = watched(pack, models[0])
    out = ksampler(live, first + second, prompts[1], {"samples": latent(FAMILY)}, steps=4)
    capture = collect(pack, out, watch)
    active = [[i for i in range(4) if stream.calls(i)] for stream in capture.streams]
    assert active[0]
    assert active[1]
    assert sorted(active[0] + active[1]) == [0, 1, 2, 3]
    assert capture.skipped == ()
    tracks = first[0][1][pack.lib("hosts.comfy.run").TRACKS].to_grid(capture.streams[0].grid)
    for i, steps in enumerate(active):
        found = capture.aas(tracks, stream=i)
        torch.testing.assert_close(found.over_steps(), found.share[:, steps].mean(1))
        maps = capture.streams[i].get("v2t").dense().float()
        torch.testing.assert_close(
            maps[:, steps, 0].mean((0, 1)), capture.maps(entity="cyclist", stream=i), rtol=1e-4, atol=1e-7
        )
    assert "was not active in steps" in pack.lib("instrument.readings.ranking").describe(capture)
