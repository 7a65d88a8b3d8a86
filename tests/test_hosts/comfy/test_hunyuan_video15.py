"""HunyuanVideo 1.5 natively: a diffusers folder with its pipeline's latents, with and without glyphs and a picture; its
text encoders; one LoRA in both hosts; what tells it from HunyuanVideo."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from support_attention import Watcher
from support_hunyuan import hunyuan15_text
from support_loras import noise
from support_models import make_hunyuan15, randomize
from support_native import native_model
from support_sampling import CFG, STEPS, noise_like, relative, sample
from torch import Tensor

from matrix_lib.backbones import lora as lora_module
from matrix_lib.backbones.weight_names import VAES, to_native

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
GRIDS = [(9, 64, 96), (5, 96, 64), (13, 32, 64)]
MODULES = ("attn.to_q", "attn.to_k", "attn.to_v", "attn.to_out.0", "attn.add_k_proj", "ff.net.0.proj")


class Seen:
    """What CLIP Vision Encode makes with a SigLIP."""

    def __init__(self, rows: Tensor) -> None:
        self.last_hidden_state = rows


class Pair:
    """One folder in both hosts."""

    def __init__(self, folder: Path) -> None:
        import diffusers
        from support_models import hunyuan15_vae

        from matrix_lib.hosts.comfy.load import load_folder

        make_hunyuan15(folder)
        self.model = load_folder(folder, torch.float32, text_encoder=False, vae=False).model
        vae: Any = hunyuan15_vae()
        vae.config.scaling_factor = 1.03682
        self.pipe = diffusers.HunyuanVideo15Pipeline(
            tokenizer=None, text_encoder=None, tokenizer_2=None, text_encoder_2=None, vae=vae,
            transformer=diffusers.HunyuanVideo15Transformer3DModel.from_pretrained(folder / "transformer"),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
            guider=diffusers.ClassifierFreeGuidance(guidance_scale=CFG),
        )  # fmt: skip
        self.pipe.set_progress_bar_config(disable=True)

    def words(self, seed: int, glyphs: int) -> tuple[list, dict[str, Tensor]]:
        """A prompt as the host has it, and padded as the pipeline has it."""
        count, wide = 20 + seed, 30
        rows, spelled = noise_like(1, count, 64, seed=seed), noise_like(1, glyphs, 1472, seed=10 + seed)
        more: dict[str, Any] = {"pooled_output": None}
        more |= {"conditioning_byt5small": spelled} if glyphs else {}
        given = {
            "prompt_embeds": torch.nn.functional.pad(rows, (0, 0, 0, wide - count)),
            "prompt_embeds_mask": (torch.arange(wide) < count).float()[None],
            "prompt_embeds_2": torch.nn.functional.pad(spelled, (0, 0, 0, 8 - glyphs)),
            "prompt_embeds_mask_2": (torch.arange(8) < glyphs).float()[None],
        }
        return [[rows, more]], given

    def both(self, frames: int, height: int, width: int, glyphs: tuple[int, int], picture: bool) -> tuple[Any, ...]:
        """(latents of the pipeline, positive, negative, noise)."""
        made, (positive, given), (negative, without) = self.pipe, self.words(1, glyphs[0]), self.words(2, glyphs[1])
        start = noise_like(1, 32, (frames - 1) // 4 + 1, height // 16, width // 16, seed=frames)
        first, rows = noise_like(1, 32, 1, *start.shape[3:], seed=4), noise_like(1, 6, 1152, seed=5)
        given |= {f"negative_{name}": value for name, value in without.items()}
        hook = made.transformer.register_forward_pre_hook(
            (lambda _, args, kwargs: (args, _with_picture(kwargs, first, rows))) if picture else _as_it_is,
            with_kwargs=True,
        )
        try:
            out = made(
                height=height, width=width, num_frames=frames, num_inference_steps=STEPS, latents=start,
                output_type="latent", **given,
            ).frames  # fmt: skip
        finally:
            hook.remove()
        if picture:
            latents = self.model.model.process_latent_out(first)
            frames_of = torch.cat([latents, torch.zeros_like(start[:, :, 1:])], 2)
            mask = torch.ones(1, 1, *start.shape[2:])
            mask[:, :, :1] = 0.0
            seen = {"concat_latent_image": frames_of, "concat_mask": mask, "clip_vision_output": Seen(rows)}
            positive, negative = ([[text, {**more, **seen}] for text, more in each] for each in (positive, negative))
        return out, positive, negative, start


def _as_it_is(_: Any, args: Any, kwargs: Any) -> Any:
    return args, kwargs


def _with_picture(kwargs: dict[str, Any], first: Tensor, rows: Tensor) -> dict[str, Any]:
    """What the image-to-video pipeline shows its transformer beside the noisy latents."""
    hidden = kwargs["hidden_states"].clone()
    hidden[:, 32:64, :1], hidden[:, 64, 0] = first, 1.0
    return {**kwargs, "hidden_states": hidden, "image_embeds": rows}


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Pair:
    return Pair(tmp_path_factory.mktemp("hunyuan15"))


@pytest.mark.parametrize(("glyphs", "picture"), [((0, 0), False), ((5, 0), False), ((5, 3), True)])
def test_latents_are_the_pipelines(pair: Pair, glyphs: tuple[int, int], picture: bool) -> None:
    for grid in GRIDS:
        wanted, positive, negative, start = pair.both(*grid, glyphs, picture)
        got = sample(pair.model, positive, negative, start, pair.pipe.scheduler.sigmas.clone())
        assert relative(pair.model.model.process_latent_in(got), wanted) < 1e-3, grid


def test_words_stand_behind_picture_and_glyphs(pair: Pair) -> None:
    """In the first block the keys of the words are the same, whatever stands in front of them."""
    from matrix_lib.hosts.comfy.attach import attach
    from matrix_lib.instrument.session import Session

    kept: list[Any] = []

    class Keeps(Watcher):
        def observe(self, call: Any, lse: Any) -> None:
            kept.append(call)

    model = attach(pair.model, lambda info: Session([Keeps()]))
    (rows, _), *_ = pair.words(1, 0)[0]
    start, sigmas, words = noise_like(1, 32, 2, 4, 6), torch.tensor([1.0, 0.0]), []
    for glyphs, picture in ((0, 0), (5, 0), (0, 6), (5, 6)):
        more: dict[str, Any] = {"pooled_output": None}
        more |= {"conditioning_byt5small": noise_like(1, glyphs, 1472)} if glyphs else {}
        more |= {"clip_vision_output": Seen(noise_like(1, picture, 1152))} if picture else {}
        kept.clear()
        sample(model, [[rows, more]], [[rows, more]], start, sigmas, cfg=1.0)
        call = next(each for each in kept if each.site.layer == 0)
        (first, count), (clip, size) = call.text_k, call.video_k
        assert (first, count, clip, size) == (glyphs + picture, rows.shape[1], glyphs + picture + rows.shape[1], 48)
        words.append(call.k[:, :, first : first + count])
    for each in words[1:]:
        torch.testing.assert_close(each, words[0])


def test_a_lora_does_the_same_in_both_hosts(pair: Pair, tmp_path: Path) -> None:
    """In every format, found by its widths where nobody names the family; its widened input reads what stands behind
    the room for a picture."""
    from matrix_lib.hosts.comfy.lora import add_extra, apply_lora
    from matrix_lib.io.lora.read import FORMATS, load_lora, save_lora

    net, factors = pair.pipe.transformer, {}
    for at, name in enumerate(f"transformer_blocks.{i}.{n}" for i in (0, 1) for n in MODULES):
        rows, columns = net.get_submodule(name).weight.shape
        factors[name] = lora_module.Factors(noise((4, columns), at), noise((rows, 4), 100 + at), 8.0)
    lora = lora_module.AlignmentLoRA("hunyuan_video15", factors)
    save_lora(lora, tmp_path / "x.safetensors", "diffusers")
    plain, positive, negative, start = pair.both(*GRIDS[0], (5, 0), False)
    net.load_lora_adapter(str(tmp_path), weight_name="x.safetensors", adapter_name="x")
    try:
        wanted = pair.both(*GRIDS[0], (5, 0), False)[0]
    finally:
        net.unload_lora()
    assert relative(wanted, plain) > 1e-2
    sigmas = pair.pipe.scheduler.sigmas.clone()
    for form in (form for form in FORMATS if form != "tavid"):
        save_lora(lora, tmp_path / form, form)
        read = load_lora(tmp_path / form, family="hunyuan_video15")
        model = apply_lora(pair.model, read.with_scale(2.0) if not read.stored_scale else read)[0]
        got = sample(model, positive, negative, start, sigmas)
        assert relative(pair.model.model.process_latent_in(got), wanted) < 1e-3, form

    # a widened input, whose channels come behind all others
    place = net.x_embedder.proj
    wide = torch.cat([place.weight.detach(), noise((place.weight.shape[0], 2, 1, 1, 1), 7)], 1)
    lora = lora_module.AlignmentLoRA("hunyuan_video15", factors, {"weight": wide, "bias": place.bias.detach() + 0.1})
    extra = noise((1, 2, *start.shape[2:]), 8, 1.0)
    model = apply_lora(pair.model, lora)[0]
    got = sample(model, add_extra(positive, extra), add_extra(negative, extra), start, sigmas)
    old = net.x_embedder.proj
    net.load_lora_adapter(str(tmp_path), weight_name="x.safetensors", adapter_name="x")
    net.x_embedder.proj = torch.nn.Conv3d(67, wide.shape[0], 1)
    net.x_embedder.proj.load_state_dict({"weight": wide, "bias": place.bias.detach() + 0.1})
    beside = net.register_forward_pre_hook(
        lambda _, args, given: (args, {**given, "hidden_states": torch.cat([given["hidden_states"], extra], 1)}),
        with_kwargs=True,
    )
    try:
        wanted = pair.both(*GRIDS[0], (5, 0), False)[0]
    finally:
        beside.remove()
        net.x_embedder.proj = old
        net.unload_lora()
    assert relative(pair.model.model.process_latent_in(got), wanted) < 1e-3


def test_text_encoders_of_a_folder(comfy: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both give what transformers' own give, for the same tokens."""
    from comfy.text_encoders import qwen_vl

    from matrix_lib.hosts.comfy.load import load_text_encoder

    # a tower that looks at pictures, of 600 million weights, which a folder has none for
    monkeypatch.setattr(qwen_vl, "Qwen2VLVisionTransformer", lambda **given: torch.nn.Identity())
    make_hunyuan15(tmp_path / "parts", text_dim=128)
    pipe = hunyuan15_text(tmp_path / "parts", comfy, False)
    for name in ("text_encoder", "text_encoder_2"):
        randomize(getattr(pipe, name), 3, 0.05).save_pretrained(tmp_path / name)
    clip = load_text_encoder(tmp_path, "hunyuan_video15")
    tokens = clip.tokenize('a sign says "go"')
    with torch.inference_mode():
        ((rows, more),) = clip.encode_from_tokens_scheduled(tokens)
        ids = torch.tensor([[token for token, _ in tokens["qwen25_7b"][0]]])
        hidden = pipe.text_encoder(input_ids=ids, output_hidden_states=True).hidden_states[-3]
        spelled = torch.tensor([[token for token, _ in tokens["byt5"][0]]])
        glyphs = pipe.text_encoder_2(input_ids=spelled)[0]
    assert relative(rows, hidden[:, -rows.shape[1] :]) < 1e-3
    assert relative(more["conditioning_byt5small"], glyphs) < 1e-3
    (tmp_path / "text_encoder" / "model.safetensors").unlink()
    with pytest.raises(ValueError, match=r"model\.safetensors"):
        load_text_encoder(tmp_path, "hunyuan_video15")


def test_vaes_of_both_hosts_make_the_same_first_frame(comfy: ModuleType) -> None:
    """By the names of the rules, at a size that the host's own loader has not."""
    from comfy.ldm.hunyuan_video.vae_refiner import Encoder
    from support_models import hunyuan15_vae

    theirs: Any = hunyuan15_vae()
    state = to_native(theirs.state_dict(), VAES["hunyuan_video15"])
    ours = Encoder(3, 32, [16, 16, 32, 64, 64], 1, 16, 4)
    left = ours.load_state_dict(
        {name.removeprefix("encoder."): value for name, value in state.items() if name.startswith("encoder.")}, False
    )
    assert not left.unexpected_keys
    assert all(".temb_proj." in name for name in left.missing_keys)
    picture = noise_like(1, 3, 1, 64, 96, seed=1).clamp(-1, 1)
    ours.regul.sample = False
    with torch.inference_mode():
        assert relative(ours(picture), theirs.encode(picture).latent_dist.mode()) < 1e-3


def test_it_is_told_from_hunyuan_video(comfy: ModuleType) -> None:
    from matrix_lib.hosts.comfy.families import family
    from matrix_lib.hosts.comfy.model import backbone_of, diffusion_model, grid_of
    from matrix_lib.hosts.comfy.repair import needs_repair

    new, old = native_model("hunyuan15"), native_model("hunyuan")
    assert type(diffusion_model(new.model)) is type(diffusion_model(old.model))
    assert (backbone_of(new).name, backbone_of(old).name) == ("hunyuan_video15", "hunyuan_video")
    assert needs_repair(new, first_frame=True) == []
    assert needs_repair(old, first_frame=True)
    grid = grid_of(new, (3, 4, 6))
    assert (grid.shape, grid.frame_pixels, grid.pixel_frames, grid.fps) == ((3, 4, 6), (64, 96), 9, 24)
    family("hunyuan_video15").check(diffusion_model(new.model))
    wrong = SimpleNamespace(model=SimpleNamespace(diffusion_model=SimpleNamespace(in_channels=98)))
    with pytest.raises(ValueError, match="no input channels for a first frame"):
        family("hunyuan_video15").first_frame(wrong, None, torch.zeros(1), torch.zeros(1, 32, 2, 2, 2), 5)
