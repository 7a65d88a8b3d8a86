"""Cosmos Predict 2 natively: a diffusers folder with its pipeline's latents, from a picture; one LoRA in both hosts;
its text encoder; what tells it from networks that make pictures."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from support_agreement import check_lora
from support_cosmos import cosmos_pipeline
from support_models import make_cosmos2
from support_sampling import CFG, SEED, STEPS, noise_like, relative, sample
from torch import Tensor

pytestmark = pytest.mark.usefixtures("comfy", "one_thread")
GRIDS = [(9, 64, 96), (5, 96, 64), (17, 32, 48)]


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
        from matrix_lib.hosts.comfy.families import family

        vae = SimpleNamespace(encode=lambda _: model.model.process_latent_out(first))
        length, picture = (start.shape[2] - 1) * 4 + 1, torch.zeros(1, 8, 8, 3)
        values, latent = family("cosmos_predict2").first_frame(model, vae, picture, torch.zeros_like(start), length)
        assert values == {}
        made = sample(model, positive, negative, start, self.sigmas, latent=latent)
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
    check_lora("cosmos_predict2", pair.pipe, pair.model, pair, GRIDS[2], tmp_path)


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
    known = dict(pair.pipe.transformer.config)
    for other, said in (({"num_attention_heads": 8}, "8 heads; ComfyUI"), ({"in_channels": 16}, "in_channels=16")):
        with pytest.raises(ValueError, match=said):
            family("cosmos_predict2").adapt(pair.model, tmp_path, {**known, **other}, None)
