"""Mochi 1 in diffusers: attention row by row over the words alone, time that runs from noise to clip."""

import pytest
import torch
from support_attention import make_binding, make_tracks
from support_diffusers import build, forward
from support_models import make_mochi

from matrix_lib.core.guidance.dual_clock import DualClockDenoising
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.losses.config import AlignmentConfig, LayerDraw
from matrix_lib.core.losses.targets import Targets
from matrix_lib.core.tracks import tracks as tracks_module
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words import binding as binding_module
from matrix_lib.evaluation.layers.probe import Recipe, fit_clip, probe
from matrix_lib.hosts.diffusers.attach import attach, watch
from matrix_lib.hosts.diffusers.captions import encode_captions
from matrix_lib.hosts.diffusers.families import family
from matrix_lib.hosts.diffusers.latents import encode_clip
from matrix_lib.hosts.diffusers.load import Model, ModelSource, open_model
from matrix_lib.hosts.diffusers.prompts import bind_prompt
from matrix_lib.hosts.diffusers.schedules import noise_at
from matrix_lib.hosts.diffusers.steer import steer
from matrix_lib.instrument.session import Session
from matrix_lib.instrument.supervision import AlignmentMaps

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT, PHRASES = "a woman hands the red cup to the old man", "d: a woman\nv: the red cup\nhands = verb(d -> v)"
OTHER, ITS = "the cup stands here", "d: stands\nv: the cup"
FRAMES, H, W = 13, 32, 64
BOXES = {"d": {0: (0, 0, 32, 32)}, "v": {0: (32, 0, 64, 32)}}
TRACKS = MaskTracks.from_boxes(BOXES, FRAMES, H, W, hold=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_mochi(tmp_path_factory.mktemp("mochi"), text=True)


@pytest.fixture(scope="module")
def pipe(folder):
    return open_model(str(folder), torch.device("cpu"), torch.float32).pipeline


def run(pipe, steps=2, **more):
    given = dict(prompt=PROMPT, negative_prompt="bad", generator=torch.Generator().manual_seed(0)) | more
    return pipe(
        height=H, width=W, num_frames=FRAMES, num_inference_steps=steps, output_type="latent", **given
    ).frames  # fmt: skip


def test_two_prompts_of_one_batch(pipe, folder):
    """Each row of the batch has calls of its own, and as many words as it has: maps and steering of one prompt are
    those that it has alone."""
    words = [bind_prompt(pipe, *each) for each in ((PROMPT, PHRASES), (OTHER, ITS))]
    assert words[0] == ModelSource(str(folder)).bind(PROMPT, PHRASES)
    assert words[0].length == pipe.encode_prompt(PROMPT)[0].shape[1] == 256
    start = torch.randn(2, 12, 3, 4, 8, generator=torch.Generator().manual_seed(1))
    alone = dict(negative_prompt="bad", guidance_scale=3.0)
    both = alone | dict(prompt=[PROMPT, OTHER], negative_prompt=["bad", "bad"], latents=start)
    for guidance in (None, RegionBias()):
        found = []
        for place, bound in ((slice(0, 1), words[:1]), (slice(1, 2), words[1:]), (slice(0, 2), words)):
            given = both if len(bound) == 2 else alone | dict(prompt=bound[0].prompt, latents=start[place])
            tracks = [TRACKS] * len(bound)
            plain = run(pipe, **given)
            with watch(pipe, bound, tracks, t2v=True, t2t=True) as seen:
                if guidance is None:
                    assert torch.equal(run(pipe, **given), plain)
                    out = plain
                else:
                    with steer(pipe, guidance, bound, tracks):
                        out = run(pipe, **given)
                    assert (out - plain).abs().max() > 1e-3
            found.append((out, seen.capture().streams))
            assert torch.equal(run(pipe, **given), plain)
        (first, one), (second, two), (out, together) = found
        torch.testing.assert_close(out, torch.cat([first, second]), rtol=1e-4, atol=1e-4)
        for single, stream in zip((*one, *two), together, strict=True):
            assert stream.grid.shape == (3, 2, 4)
            assert set(stream.maps) == {"v2t", "v2v", "t2v", "t2t"}
            for kind in stream.maps:
                torch.testing.assert_close(stream.get(kind).values, single.get(kind).values, rtol=1e-2, atol=1e-4)


@pytest.mark.parametrize("family", ["mochi"])
def test_a_run_is_held_to_a_clip(pipe, family):
    """Of four steps the clip stands in the second and third, under the noise that the time says."""
    clip, calls = torch.randn(12, 3, 4, 8, generator=torch.Generator().manual_seed(8)), []
    plain = run(pipe, 4)
    with steer(pipe, DualClockDenoising(0, 0), None, TRACKS):
        assert torch.equal(run(pipe, 4), plain)
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, args, given: calls.append((given["hidden_states"][:1].clone(), float(given["timestep"][0]))),
        with_kwargs=True,
    )
    with steer(pipe, DualClockDenoising(0.75, 0.75), None, TRACKS, reference=clip):
        out = run(pipe, 4)
    hook.remove()
    assert out.isfinite().all()
    assert not torch.equal(out, plain)
    assert [at for _, at in calls] == [float(t) for t in pipe.scheduler.timesteps]
    assert calls[0][1] == 0.0
    noises = [(x - at / 1000 * clip) / (1 - at / 1000) for x, at in calls[1:3]]
    torch.testing.assert_close(noises[0], noises[1], rtol=1e-3, atol=1e-3)
    assert 0.8 < float(noises[0].std()) < 1.2


def test_training_calls_it_as_the_pipeline_does(pipe):
    """And what its output means at the last step is what the pipeline ends with."""
    calls, of = [], family("mochi")
    hook = pipe.transformer.register_forward_hook(
        lambda _, args, given, made: calls.append((given, made[0])), with_kwargs=True
    )
    end = run(pipe, guidance_scale=1.0)
    hook.remove()
    (theirs, made), text = calls[1], of.text(pipe, PROMPT, 256, "", torch.zeros(H, W, 3, dtype=torch.uint8))
    noisiest = 1000.0 - theirs["timestep"]
    hidden, batch = theirs["hidden_states"].transpose(1, 2), {name: value[None] for name, value in text.items()}
    ours = of.inputs(pipe.transformer.config, hidden, noisiest, batch)
    for name in ("hidden_states", "encoder_hidden_states", "encoder_attention_mask", "timestep"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-5, atol=1e-4)
    assert torch.equal(of.output(made, hidden), -made.transpose(1, 2))
    pipe.scheduler._step_index = 1
    noise = noise_at(pipe.scheduler, theirs["timestep"])
    torch.testing.assert_close(noise.clean(theirs["hidden_states"], made), end, rtol=1e-4, atol=1e-4)


def test_a_real_clip_under_noise(pipe):
    """Mode "noise" of the layer analysis: what the transformer sees is the clip under the noise that was asked for."""
    model, fed = Model(pipe, "mochi", (FRAMES, H, W), 256), []
    recipe = Recipe("noise", FRAMES, H, W, timesteps=(900, 100))
    frames = torch.randint(0, 256, (FRAMES, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    frames, tracks = fit_clip(frames, TRACKS, recipe)
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, args, given: fed.append((given["hidden_states"].clone(), float(given["timestep"].max()))),
        with_kwargs=True,
    )
    made = probe(model, recipe, bind_prompt(pipe, PROMPT, PHRASES), tracks, frames, seed=3)
    hook.remove()
    assert set(made.kinds) == {"v2t", "v2v"}
    (first, early), (second, late) = fed
    assert (early, late) == (100.0, 900.0)  # of the clip
    clean = (second * 0.9 - first * 0.1) / 0.8
    torch.testing.assert_close(clean, encode_clip(pipe, frames)[None], rtol=1e-3, atol=1e-3)


def test_what_cannot_be_followed_is_refused(pipe):
    model, args, *_ = build("mochi")
    keep = args["encoder_attention_mask"].clone()
    keep[0, 3] = False
    with pytest.raises(ValueError, match="mask of the prompt has gaps"), watch(model, make_binding(binding_module, 40)):
        forward(model, {**args, "encoder_attention_mask": keep})
    with pytest.raises(ValueError, match="its pooling of the text mixes the rows of all texts"):
        encode_captions(pipe, PROMPT, {"d": "a woman waves"})
    keep = torch.arange(40)[None] < torch.tensor([[25], [4]])  # words of another prompt than the bound one
    with pytest.raises(ValueError, match="sees 4: bind the prompt"), watch(model, make_binding(binding_module, 40)):
        forward(model, {**args, "encoder_attention_mask": keep})


@pytest.mark.parametrize("again", [False, True])
def test_alignment_of_a_batch_is_the_mean_of_its_rows(again):
    """Gradients, too, where blocks run again in the backward pass."""
    model, args, grid, length = build("mochi")
    rows, columns = grid.token_pixels
    tracks = make_tracks(tracks_module, grid.pixel_frames, grid.height * rows, grid.width * columns)
    target = Targets.of(make_binding(binding_module, length), tracks, grid)
    config = AlignmentConfig(sga=1.0, spa=1.0, v2t=LayerDraw((0, 1)), v2v=LayerDraw((1, 2)))
    model.train()
    (model.enable_gradient_checkpointing if again else model.disable_gradient_checkpointing)()
    found = []
    for part in (slice(0, 1), slice(1, 2), slice(0, 2)):
        given = {name: value[part] for name, value in args.items()}
        maps = AlignmentMaps(config, [target] * len(given["timestep"]))
        model.zero_grad()
        with attach(model, Session([maps]), lambda forward: None):
            model(**given)
            loss = maps.alignment().total
            loss.backward()
        found.append((loss.detach(), model.transformer_blocks[0].attn1.to_q.weight.grad.clone()))
    assert found[0][0] != found[1][0]
    for first, second, both in zip(*found, strict=True):
        torch.testing.assert_close(both, (first + second) / 2, rtol=1e-4, atol=1e-6)
