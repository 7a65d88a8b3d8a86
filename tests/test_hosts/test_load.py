"""Tiny diffusers folders, loaded natively and sampled by the host, against the pipelines of the same folders."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from support_models import make_cogvideox
from torch import Tensor

STEPS, SEED, CFG = 4, 7, 6.0
WORDS = 226


@pytest.fixture(scope="module", autouse=True)
def _few_threads() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def noise_like(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sample(
    model: Any, positive: Any, negative: Any, noise: Tensor, sigmas: Tensor | None = None, cfg: float = CFG
) -> Tensor:
    """The host's own sampler, euler; its own "simple" sigmas where none are given."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    with torch.inference_mode():
        out = guider.sample(noise, torch.zeros_like(noise), comfy.samplers.ksampler("euler"), sigmas, seed=SEED)
    return out


def relative(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    assert torch.isfinite(wanted).all()
    return float((got - wanted).abs().max() / wanted.abs().max())


def words(width: int, length: int = WORDS) -> tuple[Tensor, Tensor]:
    return noise_like(1, length, width, seed=1), noise_like(1, length, width, seed=2)


# ---- CogVideoX


def cogvideox_pipeline(folder: Path, i2v: bool) -> Any:
    import diffusers

    parts = {
        "transformer": diffusers.CogVideoXTransformer3DModel.from_pretrained(folder / "transformer"),
        "vae": diffusers.AutoencoderKLCogVideoX.from_pretrained(folder / "vae"),
        "scheduler": diffusers.CogVideoXDDIMScheduler.from_pretrained(folder / "scheduler"),
    }
    kind = diffusers.CogVideoXImageToVideoPipeline if i2v else diffusers.CogVideoXPipeline
    pipe = kind(tokenizer=None, text_encoder=None, **parts)
    pipe.set_progress_bar_config(disable=True)
    return pipe


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
    from matrix_lib.hosts.comfy.cogvideox import lead_noise

    model, pipe, i2v, grids = cogvideox
    scale = pipe.vae.config.scaling_factor
    positive, negative = words(64)
    for frames, height, width in grids:
        noise = noise_like(1, 16, (frames - 1) // 4 + 1, height // 8, width // 8, seed=frames)
        lead = -noise.shape[2] % (pipe.transformer.config.patch_size_t or 1)
        full = torch.cat([lead_noise(noise, lead, SEED), noise], dim=2)
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
        ).frames.transpose(1, 2)[:, :, lead:]
        got = sample(model, [[positive, dict(extra)]], [[negative, dict(extra)]], noise) * scale
        assert relative(got, wanted) < 1e-3, (frames, height, width)
