"""Gradient guidance in diffusers' own pipelines, on tiny random transformers."""

import pytest
import torch
from support_attention import make_binding
from support_pipelines import FRAMES, TRACKS, H, W, cog, text_to_video

from matrix_lib.core.guidance.gradient import GradientGuidance
from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.guidance.perturbation import Perturbation
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.guidance.schedule import Schedule
from matrix_lib.core.layers import Layers
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers import steps
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.steer import steer

__all__ = ["cog"]  # a fixture

RUNS = [("wan", "unipc", 6.0), ("wan", "flow", 1.0), ("hunyuan", "flow", 6.0), ("cogvideox", "ddim", 6.0)]
RUNS += [("ltx", "flow", 6.0), ("ltx2", "flow", 1.0), ("hunyuan15", "flow", 6.0), ("kandinsky5", "flow", 6.0)]
RUNS += [("cosmos2", "karras", 6.0), ("mochi", "inverted", 6.0), ("hunyuan_skyreels", "flow", 6.0)]


def words(pipe):
    return make_binding(binding_module, pipe.words.shape[1])


@pytest.mark.parametrize(("family", "scheduler", "cfg"), RUNS)
def test_it_runs_in_every_pipeline(cog, family, scheduler, cfg):
    pipe = text_to_video(family, scheduler, cfg)
    plain, binding = pipe(), words(pipe)
    off = [
        GradientGuidance(0.0), GradientGuidance(iterations=0), GradientGuidance(sga=0.0, spa=0.0),
        GradientGuidance(schedule=Schedule(((0.0, 0.0),))),
    ]  # fmt: skip
    with steer(pipe.pipe, off, binding, TRACKS):
        assert torch.equal(pipe(), plain)
    outs = []
    for again in (True, False):
        with steer(pipe.pipe, GradientGuidance(checkpoint=again), binding, TRACKS) as (losses,):
            outs.append(pipe())
        assert [step for step, _ in losses.losses] == [0, 1, 2]
    assert outs[0].isfinite().all()
    assert not torch.equal(outs[0], plain)
    torch.testing.assert_close(outs[0], outs[1], rtol=1e-3, atol=1e-3 * float(plain.abs().max()))
    assert torch.equal(pipe(), plain)
    assert not pipe.transformer.is_gradient_checkpointing
    assert all(weight.requires_grad for weight in pipe.transformer.parameters())


@pytest.mark.parametrize("family", ["wan", "cogvideox"])
def test_the_gradient_is_that_of_finite_differences(cog, family, monkeypatch):
    pipe = text_to_video(family, "flow" if family == "wan" else "ddim")
    make, found = steps._Step.gradient, []

    def probe(self, hook, x):
        gradient = make(self, hook, x)
        way = torch.randn(x.shape, generator=torch.Generator().manual_seed(1))
        way = way / way.norm() * float(x.norm()) * 2e-3
        for sign in (1, -1):
            make(self, hook, x + sign * way)
        high, low = (loss for _, loss in hook.losses[-2:])
        found.append(((high - low) / 2, float((gradient * way).sum())))
        return gradient

    monkeypatch.setattr(steps._Step, "gradient", probe)
    for scores in ("probabilities", "logits"):
        with steer(pipe.pipe, GradientGuidance(scores=scores), words(pipe), TRACKS):
            pipe(1)
    for by_difference, by_gradient in found:
        assert by_gradient == pytest.approx(by_difference, rel=0.05, abs=2e-5)


def test_with_everything_else(cog):
    pipe = text_to_video("wan", "flow")
    binding = words(pipe)
    every = [RegionBias(), GradientGuidance(), IntrinsicDenoising(1), Perturbation("words", 1.0)]
    with steer(pipe.pipe, every, binding, TRACKS) as acting, watch(pipe.pipe, binding, TRACKS) as seen:
        assert pipe(2).isfinite().all()
    assert [type(each).__name__ for each in acting] == [
        "AttentionGuidance",
        "GradientHook",
        "IntrinsicHook",
        "AttentionGuidance",
    ]
    assert len(acting[1].losses) == len(acting[2].taus()) == 2
    assert [step.calls for step in seen.capture().steps] == [1, 1], "nobody else sees the passes with gradients"


def test_awkward_tracks_and_errors(cog):
    pipe = text_to_video("wan", "flow", 1.0)
    dot = torch.zeros(FRAMES, H, W)
    dot[:, 30, 40] = 1
    leaves, over = torch.zeros_like(dot), torch.zeros_like(dot)
    leaves[0, :, :20] = 1
    over[:, :, :50] = 1
    make = tracks_module.MaskTracks.from_masks
    for tracks in (
        make({"cyclist": dot, "van": over}),
        make({"cyclist": leaves, "van": torch.ones_like(dot)}),
        make({"cyclist": torch.zeros_like(dot), "van": dot}, allow_empty=True),
        make({"cyclist": torch.zeros_like(dot), "van": torch.zeros_like(dot)}, allow_empty=True),
        make({"cyclist": over[:1], "van": dot[:1]}),
    ):
        with steer(pipe.pipe, [GradientGuidance(), IntrinsicDenoising(1)], words(pipe), tracks):
            assert pipe(1).isfinite().all()
    with pytest.raises(ValueError, match="pass `binding`"), steer(pipe.pipe, GradientGuidance(), None, TRACKS):
        pass
    with pytest.raises(ValueError, match=r"layers \[9\]"):
        with steer(pipe.pipe, GradientGuidance(layers=Layers.only([9])), words(pipe), TRACKS):
            pass
