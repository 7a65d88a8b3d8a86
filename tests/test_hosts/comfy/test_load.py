"""Tiny diffusers folders, loaded natively and sampled by the host, against the pipelines of the same folders."""

from __future__ import annotations

import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from support_models import make_cogvideox, make_hunyuan, make_wan, randomize
from support_sampling import (
    CFG,
    SEED,
    STEPS,
    Seen,
    cogvideox_pipeline,
    experts,
    hunyuan_sample,
    noise_like,
    relative,
    sample,
    words,
)

pytestmark = pytest.mark.usefixtures("one_thread")


# ---- CogVideoX


COGVIDEOX = {
    "2b": ({"size": "2b", "i2v": False}, [(9, 128, 192), (5, 128, 128), (13, 96, 224)]),
    "5b": ({"size": "5b", "i2v": False}, [(9, 128, 192), (5, 128, 128), (13, 96, 224)]),
    # diffusers refuses other heights and widths here: its learned positions have one size
    "5b-i2v": ({"size": "5b", "i2v": True}, [(9, 128, 192), (5, 128, 192), (13, 128, 192)]),
    "1.5": ({"version": "1.5", "i2v": False}, [(13, 128, 192), (9, 128, 128), (17, 96, 160)]),
    "1.5-i2v": ({"version": "1.5", "i2v": True}, [(13, 128, 192), (9, 128, 128), (17, 96, 160)]),
}


@pytest.fixture(scope="module", params=COGVIDEOX)
def cogvideox(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Any:
    options, grids = COGVIDEOX[request.param]
    folder = make_cogvideox(tmp_path_factory.mktemp("cogvideox"), text_encoder=False, **options)
    from matrix_lib.hosts.comfy.load import load_folder

    loaded = load_folder(folder, text_encoder=False, vae=False)
    return loaded.model, cogvideox_pipeline(folder, options["i2v"]), options["i2v"], grids


def test_cogvideox_latents_are_the_pipelines(cogvideox: Any) -> None:
    from matrix_lib.hosts.comfy.families.cogvideox_parts import prefix_noise

    model, pipe, i2v, grids = cogvideox
    scale = pipe.vae.config.scaling_factor
    positive, negative = words(64)
    for frames, height, width in grids:
        noise = noise_like(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, seed=frames)
        prefix_frames = -noise.shape[2] % (pipe.transformer.config.patch_size_t or 1)
        full = torch.cat([prefix_noise(noise, prefix_frames, SEED), noise], dim=2)
        call = dict(height=height, width=width, num_frames=frames, num_inference_steps=STEPS, guidance_scale=CFG)
        extra: dict[str, Any] = {}
        if i2v:
            image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
            call |= dict(image=image, generator=torch.Generator().manual_seed(4))
            with torch.no_grad():
                dist = pipe.vae.encode(2 * image[:, :, None] - 1).latent_dist
            first = dist.sample(torch.Generator().manual_seed(4))
            extra["concat_latent_image"] = torch.cat([first, torch.zeros_like(noise[:, :, 1:])], dim=2)
        wanted = pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            latents=full.transpose(1, 2).clone(),
            output_type="latent",
            **call,
        ).frames.transpose(1, 2)[:, :, prefix_frames:]
        got = sample(model, [[positive, dict(extra)]], [[negative, dict(extra)]], noise) * scale
        assert relative(got, wanted) < 1e-3, (frames, height, width)


# ---- Wan


GRIDS = [(9, 64, 96), (5, 64, 64), (13, 96, 48)]


@pytest.fixture(scope="module", params=["t2v", "i2v", "2.2-i2v"])
def wan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Any:
    import diffusers

    from matrix_lib.hosts.comfy.load import load_folder

    i2v, version = request.param != "t2v", "2.2" if request.param.startswith("2.2") else "2.1"
    folder = make_wan(tmp_path_factory.mktemp("wan"), i2v=i2v, version=version, text_encoder=False)
    parts: dict[str, Any] = {
        "vae": diffusers.AutoencoderKLWan.from_pretrained(folder / "vae"),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        "transformer": diffusers.WanTransformer3DModel.from_pretrained(folder / "transformer"),
    }
    if version == "2.2":
        parts["transformer_2"] = diffusers.WanTransformer3DModel.from_pretrained(folder / "transformer_2")
        parts["boundary_ratio"] = 0.9
    kind = diffusers.WanImageToVideoPipeline if i2v else diffusers.WanPipeline
    extra = {"image_encoder": None, "image_processor": None} if i2v else {}
    pipe = kind(tokenizer=None, text_encoder=None, **parts, **extra)
    pipe.set_progress_bar_config(disable=True)
    return load_folder(folder, text_encoder=False), pipe, i2v


def test_wan_latents_are_the_pipelines(wan: Any) -> None:
    """The pipeline's own sigmas go to the host's sampler: the two make their schedules in different ways."""
    from matrix_lib.hosts.comfy.first_frame import image_condition

    loaded, pipe, i2v = wan
    positive, negative = words(4096, 512)  # the pipeline counts on 512 words to tell picture from text
    seen = noise_like(1, 257, 1280, seed=9)
    clip_words = i2v and pipe.transformer.config.image_dim is not None
    for frames, height, width in GRIDS:
        noise = noise_like(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, seed=frames)
        call: dict[str, Any] = {"height": height, "width": width, "num_frames": frames, "num_inference_steps": STEPS}
        values: dict[str, Any] = {}
        if i2v:
            image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
            call["image"] = image
            if clip_words:
                pipe.encode_image = lambda *_: seen
            condition = image_condition(
                loaded.model,
                loaded.vae,
                image.movedim(1, -1),
                width,
                height,
                frames,
                clip_vision_output=Seen(seen) if clip_words else None,
            )
            values = condition.values
        wanted = pipe(
            prompt_embeds=positive,
            negative_prompt_embeds=negative,
            latents=noise.clone(),
            output_type="latent",
            guidance_scale=CFG,
            **call,
        ).frames
        sigmas = pipe.scheduler.sigmas.clone()
        conds = [[positive, dict(values)]], [[negative, dict(values)]]
        got = experts(loaded, *conds, noise, sigmas, pipe.config.get("boundary_ratio"))
        got = loaded.model.get_model_object("latent_format").process_in(got)
        assert relative(got, wanted) < 1e-4, (frames, height, width)


# ---- HunyuanVideo


@pytest.fixture(scope="module", params=["", "latent_concat", "token_replace"])
def hunyuan(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Any:
    import diffusers

    from matrix_lib.hosts.comfy.load import load_folder

    folder = make_hunyuan(tmp_path_factory.mktemp("hunyuan"), i2v=request.param)
    loaded = load_folder(folder, text_encoder=False, vae=False)
    parts = {
        "vae": diffusers.AutoencoderKLHunyuanVideo.from_pretrained(folder / "vae"),
        "scheduler": diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
        "transformer": diffusers.HunyuanVideoTransformer3DModel.from_pretrained(folder / "transformer"),
    }
    kind = diffusers.HunyuanVideoImageToVideoPipeline if request.param else diffusers.HunyuanVideoPipeline
    extra = {"image_processor": None} if request.param else {}
    pipe = kind(text_encoder=None, tokenizer=None, text_encoder_2=None, tokenizer_2=None, **parts, **extra)
    pipe.set_progress_bar_config(disable=True)
    return loaded.model, pipe, request.param


def test_hunyuan_latents_are_the_pipelines(hunyuan: Any) -> None:
    """T2V and both kinds of I2V, on the pipeline's own sigmas.

    The I2V pipelines blend a thousandth of the picture into the noise, and the one with concatenated latents drops the
    first frame; both is done here by hand, as no sampler of the host does it.
    """
    model, pipe, i2v = hunyuan
    positive = noise_like(1, 24, 64, seed=1)
    pooled = noise_like(1, 768, seed=2)
    for frames, height, width in GRIDS:
        noise = noise_like(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, seed=frames)
        call: dict[str, Any] = {"height": height, "width": width, "num_frames": frames, "num_inference_steps": STEPS}
        values: dict[str, Any] = {"pooled_output": pooled, "guidance": 6.0}
        start, mask = noise, None
        if i2v:
            image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(3))
            call["image"] = image
            with torch.no_grad():
                first = pipe.vae.encode(2 * image[:, :, None] - 1).latent_dist.mode()
            start = 0.999 * noise + 0.001 * first * pipe.vae.config.scaling_factor
            mask = torch.ones(1, 1, *noise.shape[2:])
            mask[:, :, :1] = 0
            if i2v == "latent_concat":
                values |= {"concat_latent_image": first, "concat_mask": mask}
            else:
                values |= {"guiding_frame_index": 0}
        wanted = pipe(
            prompt_embeds=positive,
            pooled_prompt_embeds=pooled,
            prompt_attention_mask=torch.ones(1, 24),
            latents=noise.clone(),
            output_type="latent",
            guidance_scale=6.0,
            **call,
        ).frames
        got = hunyuan_sample(model, [[positive, values]], start, first if i2v == "token_replace" else None, mask, pipe)
        got = model.get_model_object("latent_format").process_in(got)
        got = got[:, :, 1:] if i2v == "latent_concat" else got
        assert relative(got, wanted) < 1e-4, (frames, height, width)


# ---- the other parts of a folder


def test_skyreels_v2_says_what_it_is(tmp_path: Path, comfy: ModuleType, caplog: pytest.LogCaptureFixture) -> None:
    """ComfyUI takes it for Wan 2.1: its frame rate is known of a folder and of a file with parts for it, and diffusion
    forcing, which only diffusers does, is said or refused."""
    from diffusers import SkyReelsV2Transformer3DModel
    from safetensors.torch import save_file

    from matrix_lib.backbones.weight_names import FAMILIES, to_native
    from matrix_lib.hosts.comfy.load import load_folder, load_native
    from matrix_lib.hosts.comfy.model import rate_doubt, rate_of

    sizes = dict(num_attention_heads=2, attention_head_dim=128, in_channels=16, out_channels=16, text_dim=4096)
    net = randomize(SkyReelsV2Transformer3DModel(ffn_dim=64, num_layers=2, **sizes))
    net.save_pretrained(tmp_path / "transformer")
    (tmp_path / "model_index.json").write_text('{"_class_name": "SkyReelsV2DiffusionForcingPipeline"}')
    loaded = load_folder(tmp_path, torch.float32, text_encoder=False, vae=False).model
    assert (rate_of(loaded.clone()), rate_doubt(loaded)) == (24, "")
    assert "denoises all frames at once, as that does with ar_step=0" in caplog.text
    x, text = noise_like(1, 16, 3, 8, 12), noise_like(1, 512, 4096)
    with torch.no_grad():
        wanted = net(x, torch.tensor([500.0]), text, return_dict=False)[0]
        got = loaded.model.diffusion_model(x, torch.tensor([500.0]), text)
    assert relative(got, wanted) < 1e-4
    native = dict(to_native(net.state_dict(), FAMILIES["wan"]))
    save_file(native, tmp_path / "plain.safetensors")
    save_file(native | {"fps_embedding.weight": torch.zeros(2, 256)}, tmp_path / "forcing.safetensors")
    plain, forcing = (load_native(str(tmp_path / f"{name}.safetensors")).model for name in ("plain", "forcing"))
    assert (rate_of(plain), rate_of(forcing), bool(rate_doubt(plain)), rate_doubt(forcing)) == (16, 24, True, "")
    assert "ComfyUI takes it for Wan 2.1, leaves that part out" in caplog.text
    path = tmp_path / "transformer" / "config.json"
    for odd in ({"num_frame_per_block": 5}, {"inject_sample_info": True}):
        path.write_text(json.dumps(json.loads(path.read_text()) | odd))
        refuses(tmp_path, f"{next(iter(odd))}.*diffusion forcing")


def test_wan_vae_is_diffusers(tmp_path: Path, comfy: ModuleType) -> None:
    import diffusers

    from matrix_lib.hosts.comfy.load import load_vae

    folder = make_wan(tmp_path / "wan", text_encoder=False)
    theirs, ours = diffusers.AutoencoderKLWan.from_pretrained(folder / "vae"), load_vae(folder)
    clip = torch.rand(9, 32, 48, 3, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        wanted = theirs.encode(2 * clip.movedim(-1, 0)[None] - 1).latent_dist.mode()
        latent = ours.encode(clip)
        frames = ours.decode(wanted)
        decoded = (theirs.decode(wanted).sample[0].movedim(0, -1) / 2 + 0.5).clamp(0, 1)
    assert relative(latent, wanted) < 1e-4
    assert relative(frames[0], decoded) < 1e-4


def test_cogvideox_vae_is_diffusers(tmp_path: Path, comfy: ModuleType) -> None:
    """The host builds this VAE in one size only; its class at a small size stands for it.

    Clips of one chunk: beyond, the two sides cut time into other chunks, and norms see other frames.
    """
    import diffusers
    from comfy.ldm.cogvideo.vae import AutoencoderKLCogVideoX

    from matrix_lib.hosts.comfy.weights import read_weights

    folder = make_cogvideox(tmp_path / "cog", text_encoder=False)
    theirs = diffusers.AutoencoderKLCogVideoX.from_pretrained(folder / "vae")
    ours = AutoencoderKLCogVideoX(block_out_channels=(8, 8, 8, 8), layers_per_block=1, groups=2).eval()
    ours.load_state_dict(read_weights(folder / "vae", "diffusion_pytorch_model"))
    with torch.inference_mode():
        for frames in (1, 5, 8):
            clip = noise_like(1, 3, frames, 32, 48)
            assert relative(ours.encode(clip), theirs.encode(clip).latent_dist.mode()) < 1e-4
        latent = noise_like(1, 16, 1, 4, 6)
        assert relative(ours.decode(latent), theirs.decode(latent).sample) < 1e-4


def test_hunyuan_vae_is_diffusers(comfy: ModuleType) -> None:
    """As above; for one frame, as the host's middle attention sees all frames and diffusers' only earlier ones."""
    import diffusers
    from comfy.ldm.models.autoencoder import AutoencoderKL

    from matrix_lib.backbones.weight_names import VAES, to_native

    theirs = diffusers.AutoencoderKLHunyuanVideo(block_out_channels=(32, 32, 64, 64), layers_per_block=2)
    randomize(theirs, 1, 0.05)
    config = {"double_z": True, "z_channels": 16, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 32}
    config |= {"ch_mult": [1, 1, 2, 2], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0}
    ours = AutoencoderKL(ddconfig=config | {"conv3d": True, "time_compress": 4}, embed_dim=16).eval()
    ours.load_state_dict(to_native(theirs.state_dict(), VAES["hunyuan_video"]))
    with torch.inference_mode():
        clip, latent = noise_like(1, 3, 1, 32, 48), noise_like(1, 16, 1, 4, 6)
        assert relative(ours.encode(clip), theirs.encode(clip).latent_dist.mode()) < 1e-4
        assert relative(ours.decode(latent), theirs.decode(latent).sample) < 1e-4


@pytest.mark.parametrize("family", ["cogvideox", "wan"])
def test_text_encoder_is_transformers(tmp_path: Path, comfy: ModuleType, family: str) -> None:
    from transformers import T5EncoderModel, UMT5EncoderModel

    from matrix_lib.hosts.comfy.load import load_text_encoder

    make = make_wan if family == "wan" else make_cogvideox
    folder = make(tmp_path / family, vae=False)
    clip = load_text_encoder(folder, family)
    kind = UMT5EncoderModel if family == "wan" else T5EncoderModel
    theirs = kind.from_pretrained(folder / "text_encoder").eval()
    tokens = clip.tokenize("a woman hands the paper cup to the old man")
    ids = torch.tensor([[token for token, _ in next(iter(tokens.values()))[0]]])
    words = int((ids != 0).sum())
    assert ids.shape[1] == (512 if family == "wan" else 226)
    assert 5 < words < 60
    # Wan's encoder does not see the padding and its rows are zero; CogVideoX's sees it
    mask = (ids != 0).long() if family == "wan" else torch.ones_like(ids)
    with torch.inference_mode():
        wanted = theirs(ids, attention_mask=mask).last_hidden_state
        got = clip.encode_from_tokens_scheduled(tokens)[0][0]
    if family == "wan":
        assert not got[:, words:].any()
        got, wanted = got[:, :words], wanted[:, :words]
    assert relative(got, wanted) < 1e-3


def test_llama_names_come_out_the_same_from_every_wrapping() -> None:
    from matrix_lib.backbones.weight_names import llama_to_native

    inner = ["layers.0.self_attn.q_proj.weight", "embed_tokens.weight", "norm.weight"]
    for head, extra in (("", []), ("model.", ["lm_head.weight"]), ("language_model.model.", ["vision_tower.a.weight"])):
        state = {name: torch.zeros(1) for name in [head + name for name in inner] + extra}
        assert set(llama_to_native(state)) == {"model." + name for name in inner}


# ---- folders that are not right


@pytest.fixture
def broken(tmp_path: Path, comfy: ModuleType) -> Path:
    return make_wan(tmp_path / "wan", text_encoder=False, vae=False)


def refuses(folder: Path, message: str, **options: Any) -> None:
    from matrix_lib.hosts.comfy.load import load_folder

    with pytest.raises(ValueError, match=message):
        load_folder(folder, **{"text_encoder": False, "vae": False, **options})


def test_missing_parts_are_named(broken: Path) -> None:
    refuses(broken, r"text_encoder is missing", text_encoder=True)
    refuses(broken, r"vae.config\.json is missing", vae=True)
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    weights.rename(weights.with_suffix(".bin"))
    refuses(broken, r"a pickle, which is not read")
    (broken / "transformer" / "config.json").unlink()
    refuses(broken, r"config\.json is missing: is the folder a complete diffusers download")


def test_truncated_and_hostile_files_are_refused(broken: Path) -> None:
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"\xff" * 64, (2**62).to_bytes(8, "little") + b"{}"):
        weights.write_bytes(content)
        refuses(broken, "no complete safetensors file")
    config = broken / "transformer" / "config.json"
    config.write_text("[1, 2")
    refuses(broken, "is no JSON")
    config.write_text("[1, 2]")
    refuses(broken, "holds a list")


_PLACES = {
    "transformer": "transformer/config.json",
    "scheduler": "scheduler/scheduler_config.json",
    "index": "transformer/diffusion_pytorch_model.safetensors.index.json",
}


@pytest.mark.parametrize(
    ("place", "change", "message"),
    [
        ("transformer", '{"a":' * 100_000, "is no JSON"),
        ("transformer", {"_class_name": ["x"]}, "Accepted: CogVideoX"),
        ("transformer", {"attention_head_dim": "64"}, "heads of size '64'"),
        ("transformer", {"sample_frames": "x"}, "do not fit together"),
        ("scheduler", {"snr_shift_scale": "x"}, "do not fit together"),
        ("scheduler", "[" * 100_000, "is no JSON"),
        ("index", '{"weight_map": []}', "does not name one file"),
        ("index", '{"weight_map": {"a": 5}}', "does not name one file"),
        ("index", '{"weight_map": null}', "does not name one file"),
        ("index", '{"weight_map": {"a": "C:\\\\x.safetensors"}}', "beside the index"),
    ],
)
def test_configs_that_lie(tmp_path: Path, comfy: ModuleType, place: str, change: Any, message: str) -> None:
    """Texts for numbers, lists for names, bombs: one ValueError, whatever the host trips over."""
    folder = make_cogvideox(tmp_path / "cog", text_encoder=False, vae=False, layers=1)
    path = folder / _PLACES[place]
    if place == "index":
        (folder / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    path.write_text(change if isinstance(change, str) else json.dumps(json.loads(path.read_text()) | change))
    refuses(folder, message)


def test_weights_of_another_shape_are_refused(broken: Path) -> None:
    weights = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(weights)
    save_file({name: value.flatten()[:1].clone() for name, value in state.items()}, weights)
    refuses(broken, "do not fit together|does not recognise")


def test_other_architectures_are_refused(broken: Path) -> None:
    config = broken / "transformer" / "config.json"
    content = config.read_text()
    config.write_text(content.replace("WanTransformer3DModel", "FluxTransformer2DModel"))
    refuses(broken, "holds a FluxTransformer2DModel. Accepted: CogVideoXTransformer3DModel")
    config.write_text(content.replace('"in_channels": 16', '"in_channels": 56'))
    refuses(broken, "takes 56 input channels.*widened")
    config.write_text(content.replace('"attention_head_dim": 128', '"attention_head_dim": 64'))
    refuses(broken, "heads of size 64; ComfyUI's wan has heads of 128")


def test_a_model_with_holes_is_refused(broken: Path) -> None:
    from safetensors.torch import load_file, save_file

    path = broken / "transformer" / "diffusion_pytorch_model.safetensors"
    state = load_file(path)
    save_file({k: v for k, v in state.items() if k != "blocks.1.attn2.to_v.weight"}, path)
    refuses(broken, r"lacks weights.*blocks\.1\.cross_attn\.v\.weight")
    save_file({**state, "blocks.1.extra.weight": torch.zeros(1)}, path)
    refuses(broken, r"no native name.*blocks\.1\.extra")


def test_a_small_cogvideox_vae_is_refused_with_a_way_out(tmp_path: Path, comfy: ModuleType) -> None:
    folder = make_cogvideox(tmp_path / "cog", text_encoder=False)
    refuses(folder, "block_out_channels is .*Load the folder without its VAE", vae=True)


def test_shards(broken: Path) -> None:
    import json

    from safetensors.torch import load_file, save_file

    from matrix_lib.hosts.comfy.load import load_folder

    part = broken / "transformer"
    whole = part / "diffusion_pytorch_model.safetensors"
    state = load_file(whole)
    before = load_folder(broken, text_encoder=False, vae=False).model.model.state_dict()
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    keys = sorted(state)
    for name, half in zip(names, (keys[::2], keys[1::2]), strict=True):
        save_file({key: state[key] for key in half}, part / name)
    whole.unlink()
    index = part / "diffusion_pytorch_model.safetensors.index.json"
    placed = {key: names[i % 2] for i, key in enumerate(keys)}
    index.write_text(json.dumps({"metadata": {}, "weight_map": placed}))
    done: list[float] = []
    after = load_folder(broken, text_encoder=False, vae=False, progress=done.append).model.model.state_dict()
    assert all(torch.equal(after[key], value) for key, value in before.items())
    assert done == sorted(done)
    assert done[-1] == pytest.approx(1.0)
    (part / names[1]).rename(broken / names[1])
    refuses(broken, "lacks 1 of 2 shards: diffusion_pytorch_model-00002")
    for name in (f"../{names[1]}", str(broken / names[1]), "weights.bin"):
        index.write_text(json.dumps({"weight_map": {**placed, keys[0]: name}}))
        refuses(broken, "shards are .safetensors files beside the index")


def test_folders_are_found_by_their_place(tmp_path: Path, comfy: ModuleType) -> None:
    from matrix_lib.hosts.comfy.load import find_folders

    for place in ("one", "authors/two", "authors/three/deep", "too/far/down/here", "no-model"):
        (tmp_path / place / "transformer").mkdir(parents=True)
        if place != "no-model":
            (tmp_path / place / "transformer" / "config.json").write_text("{}")
    assert list(find_folders([str(tmp_path)])) == ["authors/three/deep", "authors/two", "one"]
    assert find_folders([str(tmp_path / "absent")]) == {}
