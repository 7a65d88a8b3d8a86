"""CogVideoX as it was trained, in pieces that a native MODEL takes as object patches and wrappers.

`cogvideox.py` decides which of them a model needs. B batch, T latent frames, N text tokens, D width.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Literal

import comfy.model_sampling
import torch
from torch import Tensor, nn

from ....backbones.positions import add_sincos, axis_positions, rotary_table
from ..run import PREFIX_FRAMES
from ..warn import warn

__all__ = [
    "Checkpoint",
    "DynamicCFG",
    "InvertedImage",
    "PositionTable",
    "PrefixFrames",
    "RotaryPositions",
    "Sampling",
    "prefix_noise",
]


@dataclass(frozen=True)
class Checkpoint:
    """What a CogVideoX checkpoint was trained with.

    Args:
        rotary: rotary positions (all but 2B). learned: a learned position table as well (5B-I2V 1.0).
        temporal_patch: latent frames per token, 2 for 1.5.
        base: (frames, rows, columns) of the token grid that positions refer to.
        snr_shift: shift of the noise schedule, 3 for 2B.
        inverted_image: image latents are divided by the VAE's scale instead of multiplied (1.5 I2V).
        spatial_scale, temporal_scale: units of the sincos table.
    """

    rotary: bool = True
    learned: bool = False
    temporal_patch: int = 1
    base: tuple[int, int, int] = (13, 30, 45)
    snr_shift: float = 1.0
    inverted_image: bool = False
    spatial_scale: float = 1.875
    temporal_scale: float = 1.0

    @classmethod
    def from_configs(
        cls, transformer: Mapping[str, Any], scheduler: Mapping[str, Any], vae: Mapping[str, Any]
    ) -> Checkpoint:
        """Reads the three `config.json` of a diffusers folder; keys that are not there take diffusers' defaults."""
        patch = transformer.get("patch_size", 2)
        stride = transformer.get("temporal_compression_ratio", 4)
        rotary = transformer.get("use_rotary_positional_embeddings", False)
        return cls(
            rotary=rotary,
            learned=transformer.get("use_learned_positional_embeddings", False),
            temporal_patch=transformer.get("patch_size_t") or 1,
            base=(
                (transformer.get("sample_frames", 49) - 1) // stride + 1,
                transformer.get("sample_height", 60) // patch,
                transformer.get("sample_width", 90) // patch,
            ),
            snr_shift=scheduler.get("snr_shift_scale", 1.0 if rotary else 3.0),
            inverted_image=vae.get("invert_scale_latents", False),
            spatial_scale=transformer.get("spatial_interpolation_scale", 1.875),
            temporal_scale=transformer.get("temporal_interpolation_scale", 1.0),
        )


class Sampling(comfy.model_sampling.ModelSamplingDiscrete, comfy.model_sampling.V_PREDICTION):
    """v-prediction on CogVideoX's schedule: scaled-linear betas, the shift, then zero terminal SNR, in that order."""

    def __init__(self, snr_shift: float = 1.0) -> None:
        settings = {"linear_start": 0.00085, "linear_end": 0.012, "beta_schedule": "linear", "zsnr": False}
        super().__init__(SimpleNamespace(sampling_settings=settings))
        alphas = 1.0 / (self.sigmas.double() ** 2 + 1.0)
        alphas = alphas / (snr_shift + (1.0 - snr_shift) * alphas)
        self.set_sigmas(comfy.model_sampling.rescale_zero_terminal_snr_sigmas(((1.0 - alphas) / alphas).sqrt()))
        self.zsnr = True


class RotaryPositions:
    """Takes the place of the host's `_get_rotary_emb` for CogVideoX 1.0."""

    def __init__(self, base: tuple[int, int], head_dim: int) -> None:
        self.base = base
        self.head_dim = head_dim

    def __call__(self, h: int, w: int, t: int, device: Any = None) -> tuple[Tensor, Tensor]:
        return rotary_table(t, *axis_positions((h, w), self.base), self.head_dim, device)


class PositionTable:
    """DIFFUSION_MODEL wrapper: adds the checkpoint's position table to what `patch_embed` puts out, by a hook that
    lives for one forward. The host's own addition has to be switched off.

    The learned table, text rows included, belongs to the base grid alone; every other grid gets the sincos table that
    diffusers computes for it.
    """

    def __init__(self, checkpoint: Checkpoint) -> None:
        self.checkpoint = checkpoint
        self._told: set[tuple[int, ...]] = set()

    def __call__(self, executor: Any, *args: Any, **kwargs: Any) -> Any:
        handle = executor.class_obj.patch_embed.register_forward_hook(self._add)
        try:
            return executor(*args, **kwargs)
        finally:
            handle.remove()

    def _add(self, module: nn.Module, args: tuple[Tensor, ...], embeds: Tensor) -> Tensor:
        """`args` (B, N, text width) and (B, T, channels, H, W); `embeds` (B, N + tokens, D)."""
        text, video = args
        words, checkpoint = text.shape[1], self.checkpoint
        frames, height, width = video.shape[1], video.shape[3] // module.patch_size, video.shape[4] // module.patch_size
        grid = (frames // checkpoint.temporal_patch, height, width)
        if checkpoint.learned and grid == checkpoint.base:
            return embeds + _learned(module, words).to(embeds)
        self._tell(grid)
        tokens = embeds[:, words:].unflatten(1, grid)
        tokens = add_sincos(tokens, checkpoint.spatial_scale, checkpoint.temporal_scale)
        return torch.cat([embeds[:, :words], tokens.flatten(1, 3)], dim=1)

    def _tell(self, grid: tuple[int, ...]) -> None:
        base = self.checkpoint.base
        if self.checkpoint.learned and grid[1:] != base[1:] and grid not in self._told:
            self._told.add(grid)
            learned, now = (f"{size[1] * 16}x{size[2] * 16}" for size in (base, grid))
            warn(f"this CogVideoX learned its positions at {learned} pixels; at {now} it gets computed ones")


def _learned(module: nn.Module, words: int) -> Tensor:
    """Learned rows (1, words + tokens, D): `words` rows of text, zero beyond the trained length, then the video's."""
    table, limit = module.pos_embedding, module.max_text_seq_length
    text = torch.nn.functional.pad(table[:, : min(words, limit)], (0, 0, 0, max(words - limit, 0)))
    return torch.cat([text, table[:, limit:]], dim=1)


class InvertedImage:
    """Takes the place of `concat_cond`: the host multiplies image latents by its scale, the checkpoint divides them."""

    def __init__(self, concat: Callable[..., Any], scale: float) -> None:
        self.concat = concat
        self.scale = scale

    def __call__(self, **kwargs: Any) -> Any:
        image = kwargs.get("concat_latent_image")
        if image is not None:
            kwargs["concat_latent_image"] = image / self.scale**2
        return self.concat(**kwargs)


def prefix_noise(noise: Tensor, frames: int, seed: int | None) -> Tensor:
    """Noise of the frames in front of `noise` (B, C, T, H, W): its own draw of `seed`; none where there is none."""
    shape = (noise.shape[0], noise.shape[1], frames, *noise.shape[3:])
    if torch.count_nonzero(noise) == 0:
        return noise.new_zeros(shape)
    generator = torch.Generator().manual_seed(((seed or 0) + 0x9E3779B9) % 2**63)
    return torch.randn(shape, generator=generator, dtype=torch.float32).to(noise)


class PrefixFrames:
    """OUTER_SAMPLE wrapper: fills an odd clip to whole temporal patches in front, as CogVideoX 1.5's pipelines do, and
    takes the frames out of the result and of every preview."""

    def __init__(self, temporal_patch: int = 2) -> None:
        self.temporal_patch = temporal_patch

    def __call__(
        self,
        executor: Any,
        noise: Tensor,
        latent_image: Tensor,
        sampler: Any,
        sigmas: Tensor,
        denoise_mask: Tensor | None = None,
        callback: Callable[..., None] | None = None,
        disable_pbar: bool = False,
        seed: int | None = None,
        **kwargs: Any,
    ) -> Tensor:
        prefix_frames = -noise.shape[2] % self.temporal_patch if noise.ndim == 5 else 0
        if prefix_frames:
            noise = torch.cat([prefix_noise(noise, prefix_frames, seed), noise], dim=2)
            latent_image = _repeat_first(latent_image, prefix_frames)
            denoise_mask = _repeat_first(denoise_mask, prefix_frames)
            callback = _without_prefix(callback, prefix_frames)
            if kwargs.get("latent_shapes"):
                kwargs["latent_shapes"] = [latent_image.shape]
            executor.class_obj.model_options.setdefault("transformer_options", {})[PREFIX_FRAMES] = prefix_frames
        out = executor(noise, latent_image, sampler, sigmas, denoise_mask, callback, disable_pbar, seed, **kwargs)
        return out[:, :, prefix_frames:] if prefix_frames else out


def _repeat_first(frames: Any, prefix_frames: int) -> Any:
    """`prefix_frames` copies of the first frame in front; a mask of a single frame is for all frames and stays."""
    if frames is None or frames.ndim != 5 or frames.shape[2] == 1:
        return frames
    return torch.cat([frames[:, :, :1].expand(-1, -1, prefix_frames, -1, -1), frames], dim=2)


def _without_prefix(callback: Callable[..., None] | None, prefix_frames: int) -> Callable[..., None] | None:
    if callback is None:
        return None

    def call(step: int, x0: Tensor, x: Tensor, steps: int) -> None:
        callback(step, x0[:, :, prefix_frames:], x[:, :, prefix_frames:], steps)

    return call


class DynamicCFG:
    """Guidance that grows over a run: 1 + scale (1 - cos(pi p^5)) / 2.

    "steps": p runs from 0 to 1 over the steps, as CogVideoX was published. "diffusers": what its pipelines do with
    `use_dynamic_cfg` (and TAViD with them), where p = (steps - timestep) / steps leaves that range and the factor
    oscillates until the last timesteps.
    """

    def __init__(self, mode: Literal["steps", "diffusers"]) -> None:
        self.mode = mode

    def scale(self, guidance: float, sigma: Tensor, sigmas: Tensor, sampling: Any) -> float:
        steps = max(len(sigmas) - 1, 1)
        if self.mode == "diffusers":
            progress = (steps - float(sampling.timestep(sigma))) / steps
        else:
            progress = float((sigmas.to(sigma) - sigma).abs().argmin()) / steps
        return 1.0 + guidance * (1.0 - math.cos(math.pi * progress**5.0)) / 2.0

    def __call__(self, args: dict[str, Any]) -> Tensor:
        if math.isclose(args["cond_scale"], 1.0):
            return args["cond"]
        sigmas = args["model_options"]["transformer_options"]["sample_sigmas"]
        sampling = args["model"].model_sampling
        scale = self.scale(args["cond_scale"], args["sigma"].flatten()[0], sigmas, sampling)
        return args["uncond"] + scale * (args["cond"] - args["uncond"])
