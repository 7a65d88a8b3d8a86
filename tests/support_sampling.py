"""Tiny diffusers folders sampled by the host and by their pipelines, to be compared."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

STEPS, SEED, CFG = 4, 7, 6.0
WORDS = 226


def noise_like(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def sample(
    model: Any, positive: Any, negative: Any, noise: Tensor, sigmas: Tensor | None = None, cfg: float = CFG,
    latent: Any = None,
) -> Tensor:  # fmt: skip
    """The host's own sampler, euler; its own "simple" sigmas where none are given. latent: what `first_frame` gives."""
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, negative)
    guider.set_cfg(cfg)
    if sigmas is None:
        sigmas = comfy.samplers.calculate_sigmas(model.get_model_object("model_sampling"), "simple", STEPS)
    with torch.inference_mode():
        latent = latent or {"samples": torch.zeros_like(noise)}
        given = {"denoise_mask": latent.get("noise_mask"), "seed": SEED}
        out = guider.sample(noise, latent["samples"], comfy.samplers.ksampler("euler"), sigmas, **given)
    return out


def relative(got: Tensor, wanted: Tensor) -> float:
    assert got.shape == wanted.shape
    assert torch.isfinite(wanted).all()
    return float((got - wanted).abs().max() / wanted.abs().max())


def words(width: int, length: int = WORDS) -> tuple[Tensor, Tensor]:
    return noise_like(1, length, width, seed=1), noise_like(1, length, width, seed=2)


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


class Seen:
    """What CLIP Vision Encode hands to Wan."""

    def __init__(self, embeds: Tensor) -> None:
        self.penultimate_hidden_states = embeds


def experts(loaded: Any, positive: Any, negative: Any, noise: Tensor, sigmas: Tensor, boundary: float | None) -> Tensor:
    """One sampler, or one for each of Wan 2.2's experts: high noise down to the boundary, then low noise."""
    import comfy.samplers

    if boundary is None:
        return sample(loaded.model, positive, negative, noise, sigmas)
    cut = int((sigmas[:-1] >= boundary).sum())
    assert 0 < cut < STEPS
    x = noise
    for model, part in ((loaded.model, sigmas[: cut + 1]), (loaded.low_noise, sigmas[cut:])):
        guider = comfy.samplers.CFGGuider(model)
        guider.set_conds(positive, negative)
        guider.set_cfg(CFG)
        first = model is loaded.model
        latent = torch.zeros_like(noise) if first else x
        with torch.inference_mode():
            x = guider.sample(
                noise if first else torch.zeros_like(noise), latent, comfy.samplers.ksampler("euler"), part, seed=SEED
            )
    return x


def hunyuan_sample(model: Any, positive: Any, noise: Tensor, first: Tensor | None, mask: Any, pipe: Any) -> Tensor:
    import comfy.samplers

    guider = comfy.samplers.CFGGuider(model)
    guider.set_conds(positive, positive)
    guider.set_cfg(1.0)
    latent = torch.zeros_like(noise)
    if first is not None:
        latent[:, :, :1] = first
    with torch.inference_mode():
        return guider.sample(
            noise,
            latent,
            comfy.samplers.ksampler("euler"),
            pipe.scheduler.sigmas.clone(),
            denoise_mask=None if first is None else mask,
            seed=SEED,
        )
