"""Cosmos Predict 2 natively: a diffusers folder with its pipeline's latents, from a picture; one LoRA in both hosts;
its text encoder; what tells it from networks that make pictures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from support_cosmos import cosmos_pipeline
from support_loras import noise
from support_models import make_cosmos2
from support_sampling import CFG, SEED, STEPS, noise_like, relative
from torch import Tensor

from matrix_lib.backbones import lora as lora_module

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
GRIDS = [(9, 64, 96), (5, 96, 64), (17, 32, 48)]
MODULES = [f"{where}.{name}" for where in ("attn1", "attn2") for name in ("to_q", "to_k", "to_v", "to_out.0")]


class Pair:
    """One folder in both hosts."""

    def __init__(self, folder: Path) -> None:
        import diffusers

        from matrix_lib.hosts.comfy.load import load_folder

        make_cosmos2(folder)
        loaded = load_folder(folder, torch.float32, text_encoder=False)
        self.model, self.vae = loaded.model, loaded.vae
        self.pipe = cosmos_pipeline(
            transformer=diffusers.CosmosTransformer3DModel.from_pretrained(folder / "transformer"),
            scheduler=diffusers.FlowMatchEulerDiscreteScheduler.from_pretrained(folder / "scheduler"),
            vae=diffusers.AutoencoderKLWan.from_pretrained(folder / "vae"),
        )
        self.sigmas: Any = None

    def both(self, frames: int, height: int, width: int) -> tuple[Any, ...]:
        """(latents of the pipeline, positive, negative, noise, latents of the picture, which the pipeline draws)."""
        start = noise_like(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, seed=frames)
        picture = (noise_like(height, width, 3, seed=5).sigmoid() * 255).byte()
        shown: list[Tensor] = []
        hook = self.pipe.transformer.register_forward_pre_hook(
            lambda _, args, given: shown.append(given["hidden_states"][:, :, :1]), with_kwargs=True
        )
        rows = [noise_like(1, 64, 1024, seed=seed) for seed in (1, 2)]
        made = self.pipe(
            image=Image.fromarray(picture.numpy()), height=height, width=width, num_frames=frames,
            num_inference_steps=STEPS, guidance_scale=CFG - 1.0, fps=24, latents=start, output_type="latent",
            prompt_embeds=rows[0], negative_prompt_embeds=rows[1], sigma_conditioning=0.0,
            generator=torch.Generator().manual_seed(SEED),
        ).frames  # fmt: skip
        hook.remove()
        self.sigmas = self.pipe.scheduler.sigmas.clone()
        return made, *([[each, {}]] for each in rows), start, shown[0]

    def sampled(self, model: Any, positive: list, negative: list, start: Tensor, first: Tensor) -> Tensor:
        """What the host makes of it, scaled as the pipeline's."""
        import comfy.samplers

        from matrix_lib.hosts.comfy.families import family

        vae = SimpleNamespace(encode=lambda _: model.model.process_latent_out(first))
        length, picture = (start.shape[2] - 1) * 4 + 1, torch.zeros(1, 8, 8, 3)
        values, latent = family("cosmos_predict2").first_frame(model, vae, picture, torch.zeros_like(start), length)
        assert values == {}
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(CFG)
        with torch.inference_mode():
            made = guider.sample(
                start, latent["samples"], comfy.samplers.ksampler("euler"), self.sigmas,
                denoise_mask=latent["noise_mask"], seed=SEED,
            )  # fmt: skip
        made = self.model.model.process_latent_in(made)
        assert (made[:, :, :1] - first).abs().max() < 6 * self.sigmas[-1]  # the noise that the last step leaves
        return made  # type: ignore[no-any-return]


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory, comfy: ModuleType) -> Pair:
    return Pair(tmp_path_factory.mktemp("cosmos2"))


def test_latents_are_the_pipelines(pair: Pair) -> None:
    """Whose cfg is one less than the host's."""
    for grid in GRIDS:
        wanted, *given = pair.both(*grid)
        got = pair.sampled(pair.model, *given)
        assert relative(got, wanted) < 1e-3, grid


def test_a_first_frame_goes_in_as_the_pipeline_shows_it(pair: Pair) -> None:
    """Through the folder's own VAE, scaled; behind it nothing but the noise of the sampler."""
    from matrix_lib.hosts.comfy.first_frame import image_condition
    from matrix_lib.hosts.diffusers.latents import encode_clip

    picture = (noise_like(64, 96, 3, seed=5).sigmoid() * 255).byte()
    with torch.inference_mode():
        made = image_condition(pair.model, pair.vae, picture[None] / 255.0, 96, 64, 9, batch=2)
        wanted = encode_clip(pair.pipe, picture[None])
    latent, mask = pair.model.model.process_latent_in(made.latent["samples"]), made.latent["noise_mask"]
    assert latent.shape == (2, 16, 3, 8, 12)
    assert relative(latent[:, :, 0], wanted[:, 0].expand(2, -1, -1, -1)) < 1e-3
    assert latent[:, :, 1:].abs().max() < 1e-5
    assert (mask[:, :, 0] == 0).all()
    assert (mask[:, :, 1:] == 1).all()


def test_a_lora_does_the_same_in_both_hosts(pair: Pair, tmp_path: Path) -> None:
    """In every format, found by its names where nobody says the family. A widened one is refused by name."""
    from matrix_lib import apply_lora as apply_to_pipeline
    from matrix_lib.core.tracks.tracks import MaskTracks
    from matrix_lib.hosts.comfy.lora import apply_lora
    from matrix_lib.io.lora.read import FORMATS, load_lora, save_lora

    grid, net, factors = GRIDS[2], pair.pipe.transformer, {}
    for at, name in enumerate(f"transformer_blocks.{i}.{name}" for i in (0, 1) for name in MODULES):
        rows, columns = net.get_submodule(name).weight.shape
        factors[name] = lora_module.Factors(noise((4, columns), at), noise((rows, 4), 100 + at), 8.0)
    lora = lora_module.AlignmentLoRA("cosmos_predict2", factors)
    (file,) = save_lora(lora, tmp_path / "x.safetensors", "diffusers")
    plain, *given = pair.both(*grid)
    net.load_lora_adapter(str(tmp_path), weight_name="x.safetensors", adapter_name="x", prefix="transformer")
    try:
        wanted = pair.both(*grid)[0]
    finally:
        net.unload_lora()
    assert relative(wanted, plain) > 1e-2
    with apply_to_pipeline(pair.pipe, file):
        assert relative(pair.both(*grid)[0], wanted) < 1e-3
    for form in (form for form in FORMATS if form != "tavid"):
        save_lora(lora, tmp_path / form, form)
        read = load_lora(tmp_path / form)
        assert read.family == "cosmos_predict2"
        model = apply_lora(pair.model, read.with_scale(2.0) if not read.stored_scale else read)[0]
        assert relative(pair.sampled(model, *given), wanted) < 1e-3, form
    wide = torch.cat([net.patch_embed.proj.weight.detach(), torch.zeros(192, 4)], 1)
    lora = lora_module.AlignmentLoRA("cosmos_predict2", factors, {"weight": wide})
    tracks = MaskTracks.from_boxes({"a": {0: (8, 8, 24, 24)}}, *grid, hold=True)
    for refused in (lambda: apply_to_pipeline(pair.pipe, lora, tracks), lambda: apply_lora(pair.model, lora)):
        with pytest.raises(ValueError, match="input of Cosmos Predict 2 cannot be widened"):
            refused()


def test_the_text_encoder_of_a_folder(comfy: ModuleType, tmp_path: Path) -> None:
    """Gives what the pipeline has of it, with zeros behind the prompt's own rows."""
    import transformers

    from matrix_lib.hosts.comfy.load import load_text_encoder

    make_cosmos2(tmp_path, vae=False, text=True)
    clip = load_text_encoder(tmp_path, "cosmos_predict2")
    tokenizer = transformers.AutoTokenizer.from_pretrained(Path(comfy.__path__[0]) / "text_encoders" / "t5_tokenizer")
    pipe = cosmos_pipeline(
        tokenizer=tokenizer, text_encoder=transformers.T5EncoderModel.from_pretrained(tmp_path / "text_encoder"),
        transformer=None, vae=None, scheduler=None,
    )  # fmt: skip
    prompt = "a red dog rides the van"
    with torch.inference_mode():
        ((rows, _),) = clip.encode_from_tokens_scheduled(clip.tokenize(prompt))
        theirs = pipe.encode_prompt(prompt, do_classifier_free_guidance=False)[0]
    assert rows.shape == theirs.shape == (1, 512, 1024)
    assert relative(rows, theirs) < 1e-3
    assert not rows[:, 20:].any()


def test_models_of_pictures_and_of_other_kinds_are_refused(pair: Pair, tmp_path: Path) -> None:
    import comfy.ldm.anima.model
    import comfy.ops

    from matrix_lib.hosts.comfy.families import family

    sizes = dict(max_img_h=8, max_img_w=8, max_frames=8, out_channels=16, patch_spatial=2, patch_temporal=1)
    sizes |= dict(model_channels=192, num_blocks=1, num_heads=16, pos_emb_cls="rope3d")
    ops = {"device": "meta", "operations": comfy.ops.disable_weight_init}
    own, check = type(pair.model.model.diffusion_model), family("cosmos_predict2").check
    check(own(in_channels=17, **sizes, **ops))
    with pytest.raises(ValueError, match="16 input channels it makes pictures"):
        check(own(in_channels=16, **sizes, **ops))
    with pytest.raises(ValueError, match="Anima is a Cosmos Predict 2 network"):
        check(comfy.ldm.anima.model.Anima(in_channels=16, **sizes, **ops))
    config = {**pair.pipe.transformer.config, "num_attention_heads": 8}
    with pytest.raises(ValueError, match="has 8 heads; ComfyUI reads a Cosmos Predict 2 of this width with 16"):
        family("cosmos_predict2").adapt(pair.model, tmp_path, config, None)
    config = {**pair.pipe.transformer.config, "extra_pos_embed_type": "learnable"}
    with pytest.raises(ValueError, match="extra_pos_embed_type='learnable'"):
        family("cosmos_predict2").adapt(pair.model, tmp_path, config, None)
