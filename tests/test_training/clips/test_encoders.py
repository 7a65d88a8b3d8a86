"""Latents and conditions as the pipelines themselves make them, of every family, on tiny random models."""

import json
import shutil

import diffusers
import pytest
import torch
from PIL import Image
from support_hunyuan import hunyuan_text
from support_models import make_cogvideox, make_hunyuan, make_wan, randomize

from matrix_lib.hosts.diffusers.families import family
from matrix_lib.hosts.diffusers.model_shape import ModelShape
from matrix_lib.hosts.diffusers.prompts import bind_prompt
from training.clips import encoders
from training.clips.encoders import ModelFiles, PipelineEncoders
from training.run.record import data_differences

MAKERS = {
    "cogvideox": lambda folder: make_cogvideox(folder, sample=(9, 8, 12)),
    "cogvideox 1.5": lambda folder: make_cogvideox(folder, version="1.5", sample=(9, 8, 12)),
    "wan": lambda folder: make_wan(folder, i2v=True, version="2.2"),
    "hunyuan concat": lambda folder: make_hunyuan(folder, i2v="latent_concat"),
    "hunyuan replace": lambda folder: make_hunyuan(folder, i2v="token_replace"),
    "hunyuan skyreels": lambda folder: make_hunyuan(folder, i2v="skyreels"),
}
CHANNELS = {"cogvideox": 16, "cogvideox 1.5": 16, "wan": 20, "hunyuan concat": 17, "hunyuan replace": 0}
CHANNELS["hunyuan skyreels"] = 16


@pytest.fixture(scope="module")
def frames():
    return torch.randint(0, 255, (9, 64, 96, 3), generator=torch.Generator().manual_seed(4), dtype=torch.uint8)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    home = tmp_path_factory.mktemp("models")
    return {name: make(home / name) for name, make in MAKERS.items()}


def load(folder):
    """The pipeline of a folder; HunyuanVideo's come without text encoders."""
    name = json.loads((folder / "model_index.json").read_text())["_class_name"]
    absent = {}
    if name.startswith("Hunyuan"):
        parts = ("text_encoder", "tokenizer", "text_encoder_2", "tokenizer_2", "image_processor")
        absent = dict.fromkeys(parts[:-1] if "Skyreels" in name else parts)
        modules = {
            "transformer": diffusers.HunyuanVideoTransformer3DModel,
            "vae": diffusers.AutoencoderKLHunyuanVideo,
            "scheduler": diffusers.FlowMatchEulerDiscreteScheduler,
        }
        made = {part: kind.from_pretrained(folder / part) for part, kind in modules.items()}
        pipe = getattr(diffusers, name)(**absent, **made)
    else:
        pipe = diffusers.DiffusionPipeline.from_pretrained(folder)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def input_of(pipe, image, **prompt):
    """What the pipeline itself hands to its transformer in its first step, with the mode of the VAE's distribution."""
    seen, encode = {}, pipe.vae.encode

    def mode(*given, **named):
        out = encode(*given, **named)
        dist = out.latent_dist
        dist.sample = lambda generator=None: dist.mode()
        return out

    pipe.vae.encode = mode
    hook = pipe.transformer.register_forward_pre_hook(lambda m, given, named: seen.update(named), with_kwargs=True)
    try:
        size = dict(height=image.shape[0], width=image.shape[1], num_frames=9, num_inference_steps=1)
        pipe(image=Image.fromarray(image.numpy()), **size, output_type="latent", guidance_scale=1.0, **prompt)
    finally:
        hook.remove()
        pipe.vae.encode = encode
    return seen


@pytest.mark.parametrize("name", MAKERS)
def test_the_first_frame_goes_in_as_the_pipeline_puts_it(name, folders, frames):
    pipe, files = load(folders[name]), ModelFiles(str(folders[name]))
    encoders = PipelineEncoders(pipe)
    assert encoders.shape == files.shape
    made = encoders.video(frames)
    assert made["image"].shape[1] == encoders.shape.image_channels == CHANNELS[name]
    grid = files.shape.grid(9, 64, 96)
    assert len(made["latents"]) == grid.frames * grid.patch[0]
    prompt = {"prompt": "a man pushes a cart"}
    if name.startswith("hunyuan"):
        prompt = {
            "prompt_embeds": torch.zeros(1, 10, 64),
            "pooled_prompt_embeds": torch.zeros(1, 768),
            "prompt_attention_mask": torch.ones(1, 10),
        }
    seen = input_of(pipe, frames[0], **prompt)
    inputs = seen["hidden_states"][-1]
    inputs = inputs if name.startswith("cog") else inputs.transpose(0, 1)
    assert inputs.shape[0] == len(made["latents"])
    if name == "hunyuan replace":
        torch.testing.assert_close(inputs[0], made["latents"][0])
    else:
        torch.testing.assert_close(inputs[:, 16:], made["image"])
    if "prompt" in prompt:
        rows = encoders.text(prompt["prompt"], frames[0])["rows"]
        torch.testing.assert_close(seen["encoder_hidden_states"][-1], rows)


@pytest.mark.parametrize("name", MAKERS)
def test_the_id_map_is_encoded_as_the_first_frame_is(name, folders, frames):
    encoders = PipelineEncoders(load(folders[name]))
    made = encoders.id_map(frames[0], 9)
    assert made.shape[1] == encoders.shape.extra_channels("id_map") == (20 if name == "wan" else 16)
    assert len(made) == len(encoders.video(frames)["latents"])
    if name in ("cogvideox", "wan"):
        torch.testing.assert_close(made, encoders.video(frames)["image"])
    assert encoders.shape.extra_channels("target_mask") == 1


def test_latents_come_back_as_the_clip(folders, frames):
    """Latents at the transformer's scale, decoded as the pipeline decodes its own, are those of the plain VAE."""
    pipe = load(folders["cogvideox"])
    made = PipelineEncoders(pipe).video(frames)["latents"]
    pixels = frames.permute(3, 0, 1, 2)[None].div(127.5).sub(1.0)
    with torch.no_grad():
        plain = pipe.vae.decode(pipe.vae.encode(pixels).latent_dist.mode()).sample
        torch.testing.assert_close(pipe.decode_latents(made[None]), plain, rtol=1e-3, atol=1e-4)


def test_words_are_bound_by_the_tokenizer_alone(folders):
    prompt, phrases = "he picks up the target mug", "he: he\nmug: the target mug\npicks up = verb(he -> mug)"
    for name in ("cogvideox", "wan"):
        files = ModelFiles(str(folders[name]))
        assert files.bind(prompt, phrases) == bind_prompt(load(folders[name]), prompt, phrases)
        assert PipelineEncoders(load(folders[name])).bind(prompt, phrases) == files.bind(prompt, phrases)


@pytest.mark.parametrize("large", [False, True])
def test_a_model_is_known_by_the_weights_of_both_experts(tmp_path, large, monkeypatch):
    """Of files of one size, too, and where nobody trains the second one. Files of older versions know sizes alone."""
    if large:
        monkeypatch.setattr(encoders, "_SHORT", 1000)
    for seed in (0, 1):
        make_wan(tmp_path / str(seed), version="2.2", text_encoder=False, seed=2 * seed)
    path = "transformer_2/diffusion_pytorch_model.safetensors"
    was = ModelFiles(str(tmp_path / "0")).fingerprint()
    assert path in was
    shutil.copy(tmp_path / "1" / path, tmp_path / "0" / path)
    now = ModelFiles(str(tmp_path / "0")).fingerprint()
    assert data_differences({"model": was}, {"model": now}) == [f"model: 1 changed: {path}"]
    if large:
        older = {**now, path: now[path].split(",")[0]}
        assert data_differences({"model": older}, {"model": now}) == []


def test_encoders_are_known_by_their_weights(folders, tmp_path):
    one, two = (PipelineEncoders(load(folders["cogvideox"])) for _ in range(2))
    assert one.video_id == two.video_id
    assert one.text_id == two.text_id
    with torch.no_grad():
        next(two.pipeline.vae.parameters()).add_(1e-3)
    assert PipelineEncoders(two.pipeline).video_id != one.video_id
    files = [ModelFiles(str(folders["cogvideox"]), dtype=dtype) for dtype in (torch.float32, torch.bfloat16)]
    assert files[0].video_id != files[1].video_id, "the number format changes the latents"
    assert ModelFiles("mini").video_id != files[0].video_id
    with pytest.raises(ValueError, match="no model at"):
        ModelFiles(str(tmp_path))


def test_wan_21_looks_at_the_first_frame_through_clip(folders, frames):
    import transformers

    config = transformers.CLIPVisionConfig(
        hidden_size=48, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14
    )
    pipe = load(folders["wan"])
    parts = {**pipe.components, "image_encoder": randomize(transformers.CLIPVisionModel(config))}
    parts["image_processor"] = transformers.CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=28)
    parts["transformer"] = diffusers.WanTransformer3DModel(
        num_attention_heads=2, attention_head_dim=32, in_channels=36, out_channels=16, text_dim=64, freq_dim=32,
        ffn_dim=64, num_layers=1, image_dim=48, added_kv_proj_dim=64,
    )  # fmt: skip
    encoders = PipelineEncoders(diffusers.WanImageToVideoPipeline(**{**parts, "transformer_2": None}))
    assert encoders.shape.image_words
    made = encoders.video(frames)
    picture = Image.fromarray(frames[0].numpy())
    torch.testing.assert_close(made["image_rows"], encoders.pipeline.encode_image(picture)[0])
    encoders.pipeline.image_encoder = None
    with pytest.raises(ValueError, match="without image_encoder"):
        encoders.video(frames)


def test_sizes_that_a_model_cannot_take():
    config = {"_class_name": "CogVideoXTransformer3DModel", "patch_size": 2}
    shape = ModelShape.of("CogVideoXPipeline", config, {})
    assert shape.multiple == 16
    shape.check_size(49, 480, 720)
    with pytest.raises(ValueError, match="multiples of 16"):
        shape.check_size(49, 488, 720)
    fixed = {"use_learned_positional_embeddings": True, "sample_height": 60, "sample_width": 90, "sample_frames": 49}
    with pytest.raises(ValueError, match="49 frames of 480x720"):
        ModelShape.of("CogVideoXImageToVideoPipeline", {**config, **fixed}, {}).check_size(25, 480, 720)


def test_a_picture_that_has_no_channels_is_told():
    config = {"_class_name": "HunyuanVideoTransformer3DModel", "patch_size": 2, "patch_size_t": 1, "out_channels": 16}
    assert ModelShape.of("HunyuanSkyreelsImageToVideoPipeline", {**config, "in_channels": 32}, {}).image == "padded"
    with pytest.raises(ValueError, match="32 channels in all, and this HunyuanVideo takes 16"):
        ModelShape.of("HunyuanVideoImageToVideoPipeline", {**config, "in_channels": 16}, {})


@pytest.mark.parametrize("kind", ["", "latent_concat", "token_replace"])
def test_hunyuan_reads_the_prompt_and_the_first_frame(kind, comfy, frames, tmp_path):
    folder = make_hunyuan(tmp_path / "model", i2v=kind, text_dim=16)
    pipe = hunyuan_text(folder, comfy, bool(kind))
    pipe.set_progress_bar_config(disable=True)
    encoders = PipelineEncoders(pipe)
    prompt, phrases = "a man pushes a cart", "man: a man\ncart: a cart\npushes = verb(man -> cart)"
    made = encoders.text(prompt, frames[0])
    binding = encoders.bind(prompt, phrases)
    assert made["rows"].shape == (binding.length, 16)
    assert made["mask"].shape == (binding.length,)
    assert made["pooled"].shape == (16,)
    assert all(made["mask"][row] == 1 for phrase in binding.phrases for row in phrase.rows)
    other = encoders.text(prompt, frames[5])
    assert torch.equal(made["rows"], other["rows"]) == (not kind), "its text encoder looks at the first frame"


def test_minis_latents_are_those_it_was_trained_on():
    """Its codec as diffusers knows it, at the transformer's scale, against the codec that training ran."""
    from matrix_lib.hosts import bundle
    from matrix_lib.hosts.diffusers.mini import LATENT_SCALE
    from matrix_lib.mini.codec import Codec, CodecConfig
    from training.data.world import as_input

    found = bundle.load()
    codec = Codec(CodecConfig(base=found.sizes["codec_base"]))
    codec.load_state_dict({name: value.float() for name, value in found.weights("codec").items()})
    frames = torch.randint(0, 255, (5, 32, 32, 3), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    with torch.no_grad():
        wanted = codec.eval().encode(as_input(frames.permute(0, 3, 1, 2)[None])).transpose(1, 2)[0] * LATENT_SCALE
    model = ModelFiles("mini")
    with model.open() as encoders:
        made = encoders.video(frames)
        rows = encoders.text("the red circle pushes the blue square", frames[0])["rows"]
    torch.testing.assert_close(made["latents"], wanted, rtol=1e-3, atol=1e-4)
    torch.testing.assert_close(made["image"][0], made["latents"][0], rtol=1e-3, atol=1e-4)
    assert rows.shape == (model.shape.text_rows, found.sizes["text_dim"])


@pytest.mark.parametrize("name", ["cogvideox 1.5", "wan"])
def test_files_are_opened_without_their_transformer(name, folders, frames):
    whole = PipelineEncoders(load(folders[name]))
    with ModelFiles(str(folders[name])).open() as encoders:
        assert encoders.pipeline.transformer is None
        one, two = whole.video(frames), encoders.video(frames)
        assert all(torch.equal(one[key], two[key]) for key in one)
        assert torch.equal(encoders.text("a man", frames[0])["rows"], whole.text("a man", frames[0])["rows"])


def test_folders_that_are_not_whole(folders, tmp_path):
    with (
        pytest.raises(ValueError, match="has no text_encoder, tokenizer"),
        ModelFiles(str(folders["hunyuan concat"])).open(),
    ):
        pass
    broken = make_cogvideox(tmp_path / "model", sample=(9, 8, 8))
    (broken / "vae" / "diffusion_pytorch_model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ValueError, match="has a vae that cannot be loaded"), ModelFiles(str(broken)).open():
        pass


@pytest.mark.parametrize("transformer", [["diffusers", "WanVACETransformer3DModel"], (None, None)])
def test_what_cannot_be_trained_is_told_with_its_transformer_and_without(transformer):
    wan = family("wan")
    with pytest.raises(ValueError, match="VACE"):
        wan.check_trainable({"_class_name": "WanVACEPipeline", "transformer": transformer})
    wan.check_trainable({"_class_name": "WanImageToVideoPipeline", "transformer": (None, None)})
