"""MATRIX Pick Seeds in the real host: what is continued is the plain run, bit for bit."""

from __future__ import annotations

import gc
import itertools
import json
from dataclasses import replace
from io import StringIO
from typing import Any

import pytest
import torch
from support_attention import make_binding
from support_native import conditioning, latent, native_model, text_rows
from support_runs import bound, parts

STEPS, TRIED, FIRST = 4, 2, 11
ASKED = {"seed": FIRST, "count": 2, "keep": 1, "steps": TRIED, "layers": "1", "rule": ""}


@pytest.fixture(scope="module")
def models(pack: Any) -> dict[str, Any]:
    return {family: native_model(family) for family in ("wan_t2v", "cogvideox")}


def given(pack: Any, models: dict[str, Any], family: str, sampler: str) -> dict[str, Any]:
    import comfy.samplers

    inputs = parts(models[family], bound(pack, family, 1), conditioning(family, 2), steps=STEPS)
    del inputs["noise"]
    return {**inputs, "sampler": comfy.samplers.sampler_object(sampler), "latent_image": {"samples": latent(family)}}


def plain(inputs: dict[str, Any], seed: int) -> torch.Tensor:
    from comfy_extras.nodes_custom_sampler import Noise_RandomNoise, SamplerCustomAdvanced

    with torch.inference_mode():
        out = SamplerCustomAdvanced.execute(noise=Noise_RandomNoise(seed), **inputs)
    return out.result[0]["samples"]


# With memory of earlier steps, with noise that is drawn on the way, with two predictions a step.
@pytest.mark.parametrize(
    ("family", "sampler", "calls"),
    [("wan_t2v", "dpmpp_2m", 1), ("wan_t2v", "euler_ancestral", 1), ("cogvideox", "heun", 2)],
)
def test_a_continued_seed_is_the_plain_run_bit_for_bit(
    pack: Any, models: dict[str, Any], family: str, sampler: str, calls: int
) -> None:
    inputs = given(pack, models, family, sampler)
    latents, best, report, capture, scores = pack.run("MatrixPickSeeds", **inputs, **ASKED).result
    told = json.loads(scores)
    assert [each["seed"] for each in told] == [FIRST, FIRST + 1]
    assert best == max(told, key=lambda each: each["score"])["seed"]
    assert torch.equal(latents["samples"], plain(inputs, best))
    assert [step.index for step in capture.steps] == [0, 1]
    assert all(step.calls for step in capture.steps)
    if calls == 1:
        assert f"{2 * TRIED + STEPS - TRIED} predictions" in report
        assert f"all 2 seeds to the end would have taken {2 * STEPS}" in report
    assert "its score orders seeds and promises no success" in report


def test_a_rule_is_read_and_held_to(pack: Any, models: dict[str, Any]) -> None:
    inputs = given(pack, models, "wan_t2v", "euler")
    rule = pack.lib("instrument.readings.seed_rule").SeedRule
    fitted = rule(3, {"words": 2.0}, -0.5, {"words": 0.1}, {"words": 0.2}, fitted=True, backbone="wan", source="a test")
    out = pack.run("MatrixPickSeeds", **inputs, **{**ASKED, "steps": 0, "rule": fitted.to_json()}).result
    assert len(out[3].steps) == 3  # as many as the rule was made for
    assert "success with probability" in out[2]
    assert "! nobody knows how good its probabilities are" in out[2]
    own = pack.lib("instrument.readings.seed_rule")
    tried = own.Tried(1, 0.0, 0.5, {"words": 0.1})
    checks = dict(auc=0.61, auc_low=0.44, auc_high=0.78, brier=0.222, brier_base=0.213, calibration=0.08, useful=0.0)
    told = own.seeds_report([tried], [tried], replace(fitted, checks=checks), 3, 24, 24)
    assert "! on clips that it was not fitted on: AUC 0.61 [0.44, 0.78], Brier 0.222 beside 0.213" in told
    assert "24 predictions of the model, as 1 plain runs take" in told
    first = json.loads(out[4])[0]
    assert first["score"] == pytest.approx(2 * (first["features"]["words"] - 0.1) / 0.2 - 0.5, abs=1e-4)
    for wrong, says in (
        ({"rule": "{}"}, "this is no seed rule of version 1"),
        ({"rule": rule(2, {"words": 1.0}, backbone="ltx").to_json()}, "fitted on ltx, and the model is wan"),
        ({"rule": "seed_rule.json"}, "the text inside of seed_rule.json .*; got 'seed_rule.json'"),
        ({"rule": rule(2, {"words": 1.0}, layers_v2t=(1, 9)).to_json()}, "reads layers 9, and recorded are 1: record"),
        ({"rule": rule(2, {"words": 1.0}, layers_v2v=(0,)).to_json()}, "reads layers 0, and recorded are 1: record"),
        ({"keep": 4}, "4 of 2 seeds cannot be kept"),
        ({"steps": STEPS}, "1 to 3 can be looked at first; got 4"),
        ({"sigmas": torch.tensor([])}, "the sigmas are of 0 steps"),
        ({"seed": 2**64 - 1}, "2 seeds from 18446744073709551615 on go beyond the last"),
    ):
        with pytest.raises(ValueError, match=says):
            pack.run("MatrixPickSeeds", **{**inputs, **ASKED, **wrong})
    checked = pack.classes["MatrixPickSeeds"].validate_inputs
    assert checked(rule="") is checked(rule=None) is checked(rule=fitted.to_json()) is True
    assert "no seed rule" in str(checked(rule="seed_rule.json"))
    with pytest.raises(ValueError, match="keep 0 keeps as many seeds as pay, and that takes"):
        pack.run("MatrixPickSeeds", **inputs, **{**ASKED, "keep": 0})
    scores = [each["score"] for each in json.loads(out[4])]
    for gap, many in ((1e-3, 2), (1e3, 1)):  # of two that are alike both go on, of a sure and a hopeless one the first
        sharp = replace(fitted, weights={"words": 2 * gap / abs(scores[0] - scores[1])}, bias=0.0)
        middle = sum(each["features"]["words"] for each in json.loads(out[4])) / 2
        sharp = replace(sharp, centre={"words": middle})
        pays = pack.run("MatrixPickSeeds", **inputs, **{**ASKED, "keep": 0, "steps": 3, "rule": sharp.to_json()}).result
        assert len(pays[0]["samples"]) == many
        assert f"of 2 that were tried for 3 of {STEPS} steps" in pays[2]
        assert "its probabilities are not of these" not in pays[2]
    other = pack.run("MatrixPickSeeds", **inputs, **{**ASKED, "rule": fitted.to_json()}).result[2]
    assert f"! the rule was fitted on 3 steps and saw {TRIED}" in other
    both = {**ASKED, "keep": 2, "steps": 1}
    latents, best = pack.run("MatrixPickSeeds", **inputs, **both).result[:2]
    order = [best, 2 * FIRST + 1 - best]
    assert torch.equal(latents["samples"], torch.cat([plain(inputs, seed) for seed in order]))
    two = {**inputs, "latent_image": {"samples": latent("wan_t2v", 2)}}
    with pytest.raises(ValueError, match="set batch_size 1"):
        pack.run("MatrixPickSeeds", **two, **ASKED)


@pytest.mark.parametrize("family", ["ltx2", "minimax_h3"])
def test_clips_with_sound_are_picked_too(pack: Any, family: str) -> None:
    """Two latents in one: of a clip that goes on both are those of the plain run; two clips make a batch."""
    inputs = given(pack, {family: native_model(family)}, family, "euler")
    host, words = pack.lib("hosts.comfy.run"), make_binding(pack.lib("core.words.binding"), text_rows(family))
    inputs["guider"].set_conds(conditioning(family, 1, **{host.BINDING: words}), conditioning(family, 2))
    latents, best = pack.run("MatrixPickSeeds", **inputs, **{**ASKED, "keep": 2, "layers": "all"}).result[:2]
    made = [plain(inputs, seed).unbind() for seed in (best, 2 * FIRST + 1 - best)]
    for found, *alone in zip(latents["samples"].unbind(), *made, strict=True):
        assert torch.equal(found, torch.cat(alone))


def test_seeds_that_are_dropped_take_no_memory(pack: Any, models: dict[str, Any]) -> None:
    """What was predicted is kept of the best so far, and of the seed at hand."""
    import comfy.samplers

    kind, alive = pack.lib("hosts.comfy.seeds").Begun, []

    def count() -> int:
        return sum(isinstance(each, kind) for each in gc.get_objects())

    def counting(model: Any, x: Any, sigmas: Any, extra_args: Any = None, **_: Any) -> Any:
        alive.append(count())
        for i in range(len(sigmas) - 1):
            x = model(x, sigmas[i] * x.new_ones([x.shape[0]]), **(extra_args or {}))
        return x

    inputs = {**given(pack, models, "wan_t2v", "euler"), "sampler": comfy.samplers.KSAMPLER(counting)}
    gc.collect()
    before = count()  # which errors of other tests still hold
    report = pack.run("MatrixPickSeeds", **inputs, **{**ASKED, "count": 4}).result[2]
    assert [each - before for each in alive] == [1, 2, 2, 2, 1]
    assert f"{4 * TRIED + STEPS - TRIED} predictions of the model" in report


def test_a_sampler_whose_noise_is_not_the_seeds_is_refused(pack: Any, models: dict[str, Any]) -> None:
    import comfy.samplers

    drawn = itertools.count()

    def restless(
        model: Any, x: Any, sigmas: Any, extra_args: Any = None, callback: Any = None, disable: Any = None
    ) -> Any:
        for i in range(len(sigmas) - 1):
            x = model(x + next(drawn) * 1e-3, sigmas[i] * x.new_ones([x.shape[0]]), **(extra_args or {}))
        return x

    inputs = {**given(pack, models, "wan_t2v", "euler"), "sampler": comfy.samplers.KSAMPLER(restless)}
    with pytest.raises(ValueError, match="draws noise that does not follow from the seed"):
        pack.run("MatrixPickSeeds", **inputs, **ASKED)


def test_the_template_runs_as_it_is(server: Any) -> None:
    """In two steps, of which one is looked at, with two of its seeds."""
    from matrix_lib.io.video import read_video
    from scripts.follow import follow
    from scripts.steering_workflows import saved_videos, shortened

    graph = shortened("13_pick_seeds", steps=2)
    (pick,) = (node for node in graph.values() if node["class_type"] == "MatrixPickSeeds")
    assert pick["inputs"]["steps"] == 0, "as many as the rule is made for"
    pick["inputs"].update(count=2, steps=1)
    outputs = follow(server, graph, sink=StringIO())
    (path,) = saved_videos(server, graph).values()
    assert tuple(read_video(path).frames.shape) == (17, 128, 128, 3)
    (told,) = {said for out in outputs.values() for said in out.get("text", ()) if said.startswith("kept ")}
    assert told.startswith(tuple(f"kept seed {seed}, of 2 that were tried for 1 of 2 steps" for seed in (7, 8)))
    assert "binding" in told
    assert "promises no success" in told
