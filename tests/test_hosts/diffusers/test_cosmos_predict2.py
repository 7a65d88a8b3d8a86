"""Cosmos Predict 2 in diffusers: a first frame that is fed clean, times that round to the same, other models of its
class."""

import pytest
import torch
from diffusers import CosmosTransformer3DModel
from PIL import Image
from support_attention import make_binding
from support_cosmos import cosmos_pipeline
from support_diffusers import build, forward
from support_models import make_cosmos2
from support_pipelines import SCHEDULERS

from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.core.words import binding as binding_module
from matrix_lib.evaluation.layers.probe import Recipe, fit_clip, probe
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.families import family
from matrix_lib.hosts.diffusers.framing import fit_of
from matrix_lib.hosts.diffusers.latents import encode_clip
from matrix_lib.hosts.diffusers.load import Model, ModelSource, open_model
from matrix_lib.hosts.diffusers.prompts import bind_prompt
from matrix_lib.hosts.diffusers.steer import steer

pytestmark = pytest.mark.usefixtures("one_thread")
PROMPT = "a woman hands the red cup to the old man"
PHRASES = "d: a woman\nv: the red cup\nhands = verb(d -> v)"
FRAMES, H, W = 9, 32, 64
BOXES = {"d": {0: (0, 0, 32, 32)}, "v": {0: (32, 0, 64, 32)}}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return make_cosmos2(tmp_path_factory.mktemp("cosmos2"), text_dim=64, text=True)


@pytest.fixture(scope="module")
def pipe(folder):
    with ModelSource(str(folder)).encoders(torch.device("cpu"), torch.float32) as parts:
        made = {name: getattr(parts, name) for name in ("tokenizer", "text_encoder", "vae")}
        with pytest.raises(ValueError, match="without its safety checker, and generates nothing"):
            parts(image=Image.new("RGB", (W, H)), prompt=PROMPT, height=H, width=W)
    return cosmos_pipeline(transformer=build("cosmos2")[0], scheduler=SCHEDULERS["karras"](), **made)


def run(pipe, steps=2, **more):
    given = dict(image=Image.new("RGB", (W, H), (200, 30, 60)), prompt=PROMPT, negative_prompt="bad") | more
    given |= dict(generator=torch.Generator().manual_seed(0), output_type="latent")
    return pipe(height=H, width=W, num_frames=FRAMES, num_inference_steps=steps, **given).frames


def test_a_run_with_a_picture(pipe, folder):
    """Its first latent frame is fed clean in the place of the sample's: maps have it, and steering leaves it alone."""
    words, calls = bind_prompt(pipe, PROMPT, PHRASES), []
    assert words == ModelSource(str(folder)).bind(PROMPT, PHRASES)
    assert words.length == pipe.encode_prompt(PROMPT)[0].shape[1] == 512
    tracks = MaskTracks.from_boxes(BOXES, FRAMES, H, W, hold=True)

    def called(_, args, given):
        calls.append({**given, "hidden_states": given["hidden_states"].clone()})

    hook = pipe.transformer.register_forward_pre_hook(called, with_kwargs=True)
    plain = run(pipe)
    assert fit_of(pipe) == "stretch"
    with watch(pipe, words, tracks) as seen:
        assert torch.equal(run(pipe), plain)
    capture = seen.capture()
    assert capture.streams[0].grid.shape == (3, 2, 4)
    assert capture.streams[0].grid.fps == 16
    assert [step.calls for step in capture.steps] == [1, 1]
    assert capture.meta["timesteps"] == [float(t) for t in pipe.scheduler.timesteps]
    for guide in (RegionBias(), IntrinsicDenoising(1)):
        with steer(pipe, guide, words if isinstance(guide, RegionBias) else None, tracks=tracks):
            out = run(pipe)
        assert out.isfinite().all()
        assert not torch.equal(out, plain)
    hook.remove()
    assert all(torch.equal(each["hidden_states"][:, :, 0], calls[0]["hidden_states"][:, :, 0]) for each in calls)
    assert torch.equal(run(pipe), plain)

    # and training calls the transformer as the pipeline does
    theirs, of = calls[0], family("cosmos_predict2")
    text = of.text(pipe, PROMPT, 512, "replace", torch.zeros(H, W, 3, dtype=torch.uint8))
    hidden, time = theirs["hidden_states"].transpose(1, 2), theirs["timestep"].max() * 1000.0
    ours = of.inputs(pipe.transformer.config, hidden, time[None], {"rows": text["rows"][None]}, given_frames=1)
    assert set(ours) == set(theirs)
    assert ours["fps"] == theirs["fps"]
    for name in ("hidden_states", "encoder_hidden_states", "condition_mask", "padding_mask", "timestep"):
        torch.testing.assert_close(ours[name], theirs[name], rtol=1e-4, atol=1e-5)


def test_steps_whose_times_round_to_the_same_are_told_apart(pipe):
    """Of 35 steps in bfloat16 some are told one and the same time. Predictions, which the pipeline rounds where
    little noise is left, can be repeated at every step."""
    words, told = bind_prompt(pipe, PROMPT, PHRASES), []
    parts = {"tokenizer": pipe.tokenizer, "text_encoder": pipe.text_encoder, "vae": pipe.vae}
    half = cosmos_pipeline(transformer=build("cosmos2")[0].bfloat16(), scheduler=SCHEDULERS["karras"](), **parts)
    half.transformer.register_forward_pre_hook(
        lambda _, args, given: told.append(float(given["timestep"].max())), with_kwargs=True
    )
    rows = [pipe.encode_prompt(each, do_classifier_free_guidance=False)[0].bfloat16() for each in (PROMPT, "bad")]
    given = {"prompt": None, "negative_prompt": None, "prompt_embeds": rows[0], "negative_prompt_embeds": rows[1]}
    with watch(half, words, bins=35, layers=[1]) as seen:
        plain = run(half, 35, **given)
    assert len(told) == 70
    assert len(set(told)) < 35
    assert [step.calls for step in seen.capture().steps] == [1] * 35
    tracks = MaskTracks.from_boxes(BOXES, FRAMES, H, W, hold=True)
    with steer(half, IntrinsicDenoising(1), None, tracks=tracks) as (hook,):
        assert not torch.equal(run(half, 35, **given), plain)
    assert len(hook.taus()) > 30


def test_a_real_clip_under_noise(pipe):
    """Mode "noise" of the layer analysis: what the transformer sees is the clip under the noise that was asked for."""
    model = Model(pipe, "cosmos_predict2", (FRAMES, H, W), 512)
    recipe = Recipe("noise", FRAMES, H, W, timesteps=(900, 100))
    frames = torch.randint(0, 256, (FRAMES, H, W, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    frames, tracks = fit_clip(frames, MaskTracks.from_boxes(BOXES, FRAMES, H, W, hold=True), recipe)
    fed = []
    hook = pipe.transformer.register_forward_pre_hook(
        lambda _, args, given: fed.append((given["hidden_states"].clone(), float(given["timestep"].max()))),
        with_kwargs=True,
    )
    made = probe(model, recipe, bind_prompt(pipe, PROMPT, PHRASES), tracks, frames, seed=3)
    hook.remove()
    assert set(made.kinds) == {"v2t", "v2v"}
    (first, early), (second, late) = fed[:2]
    assert (early, late) == pytest.approx((0.9, 0.1))
    clean = (second * 0.9 - first * 0.1) / 0.8  # of (1 - s) clean + s noise at .9 and .1
    wanted = encode_clip(pipe, frames)[None]
    torch.testing.assert_close(clean[:, :, 1:], wanted[:, :, 1:], rtol=1e-3, atol=1e-3)
    assert torch.equal(first[:, :, 0], second[:, :, 0])


def test_other_models_of_its_class_are_refused(folder):
    """Cosmos 1, models of pictures, Predict 2.5: by name, whole or as a folder. Loading tells what is not installed."""
    sizes = dict(num_attention_heads=2, attention_head_dim=16, num_layers=1, text_embed_dim=64, adaln_lora_dim=16)
    words = make_binding(binding_module, 512)
    for said, channels, kind in (("extra_pos_embed_type='learnable'", 17, "learnable"), ("in_channels=16", 16, None)):
        other = CosmosTransformer3DModel(in_channels=channels, extra_pos_embed_type=kind, **sizes)
        with pytest.raises(ValueError, match=said), watch(other, words):
            pass
    model, args, *_ = build("cosmos2")
    with pytest.raises(ValueError, match="attends to a picture beside the text"), watch(model, words):
        forward(model, {**args, "encoder_hidden_states": (args["encoder_hidden_states"], None)})
    with pytest.raises(ValueError, match="cosmos_guardrail"):
        open_model(str(folder), torch.device("cpu"), torch.float32)
