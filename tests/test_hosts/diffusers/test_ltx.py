"""LTX-Video and LTX-2 in diffusers: guidance of their own, pictures, sound, conditions in front of the clip."""

from pathlib import Path

import pytest
import torch
from support_attention import make_binding
from support_diffusers import build, forward
from support_ltx import gemma_tokenizer, ltx_pipeline
from support_pipelines import TRACKS, text_to_video

from matrix_lib.core.guidance.dual_clock import DualClockDenoising
from matrix_lib.core.guidance.region_bias import RegionBias
from matrix_lib.core.words import binding as binding_module
from matrix_lib.hosts.diffusers.attach import watch
from matrix_lib.hosts.diffusers.prompts import bind_prompt
from matrix_lib.hosts.diffusers.steer import steer


def test_the_guidance_that_leaves_attention_out_is_watched_and_steered():
    """LTX-2's own pipeline disturbs a block, and cuts the towers apart: four predictions a step, the first is shown."""
    made = text_to_video("ltx2", "flow", 3.0)
    words = make_binding(binding_module, made.words.shape[1])
    usual = dict(
        stg_scale=1.0, audio_stg_scale=1.0, modality_scale=3.0, audio_modality_scale=3.0, guidance_rescale=0.7,
        audio_guidance_rescale=0.7, spatio_temporal_guidance_blocks=[1],
    )  # fmt: skip
    plain = made(2, usual)
    with watch(made.pipe, words, TRACKS) as seen:
        assert torch.equal(made(2, usual), plain)
    assert seen.capture().streams[0].grid.shape == (2, 2, 3)
    assert [step.calls for step in seen.capture().steps] == [1, 1]
    with steer(made.pipe, RegionBias(), words, TRACKS):
        assert not torch.equal(made(2, usual), plain)
    longer = made(4, usual)
    with steer(made.pipe, DualClockDenoising(0.5, 0.5), None, TRACKS, reference=torch.zeros(128, 2, 2, 3)) as (held,):
        assert not torch.equal(made(4, usual), longer)
    assert not held.notes


@pytest.mark.parametrize("family", ["ltx", "ltx2"])
def test_a_run_is_held_to_a_clip(family):
    made = text_to_video(family, "flow", 1.0)
    clip = torch.randn(128, 2, 2, 3, generator=torch.Generator().manual_seed(8))
    plain = made(4)
    with steer(made.pipe, DualClockDenoising(0, 0), None, TRACKS):
        assert torch.equal(made(4), plain)
    with steer(made.pipe, DualClockDenoising(1.0, 1.0), None, TRACKS, reference=clip):
        out = made(4)
    assert out.isfinite().all()
    assert not torch.equal(out, plain)


def test_tokens_of_conditions_in_front_are_refused():
    model, args, _, length = build("ltx")
    args = {**args, "num_frames": None, "video_coords": torch.zeros(2, 3, 72)}
    words = make_binding(binding_module, length)
    with pytest.raises(ValueError, match="LTXConditionPipeline"), watch(model, words):
        forward(model, args)


@pytest.mark.parametrize("family", ["ltx", "ltx2"])
def test_a_picture_is_given_at_a_time_of_its_own(family, comfy, tmp_path):
    """Tokens of the first frame have timestep 0; the step is that of the rest. Words are where the pipeline has
    them."""
    from PIL import Image

    pipe = ltx_pipeline(tmp_path, family, Path(comfy.__path__[0]) / "text_encoders" / "t5_tokenizer")
    pipe.set_progress_bar_config(disable=True)
    prompt = " a red dog rides the van "
    words = bind_prompt(pipe, prompt, "d: a red dog\nv: the van\nrides = verb(d -> v)")
    assert words.length == (128 if family == "ltx" else 1024)
    spelled = pipe.tokenizer.decode([token.id for token in words.tokens if token.row in words.phrase("v").rows])
    assert "".join(spelled.split()) == "thevan"
    times = []
    note = lambda _, args, given: times.append(given["timestep"])  # noqa: E731
    pipe.transformer.register_forward_pre_hook(note, with_kwargs=True)
    picture, size = Image.new("RGB", (96, 64), (200, 30, 60)), dict(height=64, width=96, num_frames=9)
    more = dict(guidance_scale=1.0, output_type="latent", num_inference_steps=2)
    if family == "ltx2":
        more |= dict(audio_guidance_scale=1.0, stg_scale=0.0, audio_stg_scale=0.0, modality_scale=1.0)
        more |= dict(audio_modality_scale=1.0, output_type="latent")
    with watch(pipe, words, branches=["cond"]) as seen:
        pipe(image=picture, prompt=prompt, generator=torch.Generator().manual_seed(0), **size, **more)
    capture = seen.capture()
    assert capture.streams[0].entities == ("d", "v", "rides")
    assert times[0].max() > 0
    assert times[0].reshape(-1)[0] == 0
    assert capture.meta["timesteps"] == sorted({float(each.max()) for each in times}, reverse=True)


def test_gemmas_words_are_packed_to_the_front(tmp_path):
    """With characters that its vocabulary has no piece for, and cut at the length that the pipeline is called with."""
    tokenizer = gemma_tokenizer(tmp_path)
    prompt = "  a café ☃ and the van"
    words = bind_prompt(tokenizer, prompt, "c: a café\nv: the van", family="gemma3")
    ids = tokenizer(prompt.strip())["input_ids"]
    for token in words.tokens:
        assert ids[token.row] == token.id
    with pytest.raises(ValueError, match="is cut off"):
        bind_prompt(tokenizer, prompt, "v: the van", family="gemma3", max_sequence_length=8)
