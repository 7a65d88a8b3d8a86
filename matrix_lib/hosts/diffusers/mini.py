"""The mini model outside ComfyUI: its parts as diffusers and transformers modules, a pipeline, and a batched sampler.

B batch, F pixel frames, T latent frames, H x W pixels, h x w latents, D text rows.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import (
    AutoencoderKLWan,
    CogVideoXDDIMScheduler,
    CogVideoXImageToVideoPipeline,
    CogVideoXTransformer3DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed
from torch import Tensor
from transformers import PreTrainedTokenizerBase, T5Config, T5EncoderModel, T5TokenizerFast

from ...core.guidance.intrinsic import IntrinsicDenoising
from ...core.tracks.tracks import MaskTracks
from ...instrument.intrinsic import IntrinsicHook
from ..cpu_layers import use_onednn
from .attach import perturbed
from .batches import replaying
from .schedules import Noise, noise_at
from .steps import OutputContext

__all__ = [
    "LATENT_SCALE",
    "Sizes",
    "build_pipeline",
    "codec_names",
    "make_scheduler",
    "make_text_encoder",
    "make_tokenizer",
    "make_transformer",
    "move",
    "rotary",
    "sample",
    "text_rows",
    "token_ids",
]

# What ComfyUI's CogVideoX multiplies latents by when a model has fewer than 48 heads.
LATENT_SCALE = 1.15258426
HEAD_DIM = 64
STRIDE, TIME_STRIDE = 8, 4


@dataclass(frozen=True)
class Sizes:
    """Everything that fixes the shapes of the mini model's weights and of its clips."""

    layers: int = 12
    heads: int = 4
    time_dim: int = 64
    text_layers: int = 2
    text_dim: int = 128
    text_length: int = 226
    codec_base: int = 16
    latent: int = 16
    frames: int = 17
    height: int = 128
    width: int = 128

    @property
    def latent_shape(self) -> tuple[int, int, int]:
        """(T, h, w)."""
        return (self.frames - 1) // TIME_STRIDE + 1, self.height // STRIDE, self.width // STRIDE


def make_transformer(sizes: Sizes) -> CogVideoXTransformer3DModel:
    """CogVideoX with image condition (latents and first-frame latents side by side), one latent pixel per token."""
    _, height, width = sizes.latent_shape
    return CogVideoXTransformer3DModel(
        num_attention_heads=sizes.heads,
        attention_head_dim=HEAD_DIM,
        in_channels=2 * sizes.latent,
        out_channels=sizes.latent,
        time_embed_dim=sizes.time_dim,
        text_embed_dim=sizes.text_dim,
        num_layers=sizes.layers,
        sample_width=width,
        sample_height=height,
        sample_frames=sizes.frames,
        patch_size=1,
        max_text_seq_length=sizes.text_length,
        spatial_interpolation_scale=1.0,
        use_rotary_positional_embeddings=True,
    )


def make_text_encoder(sizes: Sizes) -> T5EncoderModel:
    """A T5 encoder of the v1.1 kind with few, narrow layers."""
    config = T5Config(
        vocab_size=32128,
        d_model=sizes.text_dim,
        d_kv=min(64, sizes.text_dim),
        num_heads=max(sizes.text_dim // 64, 1),
        d_ff=2 * sizes.text_dim,
        num_layers=sizes.text_layers,
        dropout_rate=0.0,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
    )
    return T5EncoderModel(config)


def make_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The T5 tokenizer from a folder that holds `tokenizer.json`."""
    return T5TokenizerFast.from_pretrained(str(folder), local_files_only=True)


def token_ids(tokenizer: PreTrainedTokenizerBase, prompts: Sequence[str], length: int) -> Tensor:
    """(B, length) ids: the prompt, `</s>`, padding. ValueError when a prompt is longer than the model's rows."""
    rows = tokenizer(list(prompts), add_special_tokens=True)["input_ids"]
    longest = max(range(len(rows)), key=lambda i: len(rows[i]))
    if len(rows[longest]) > length:
        raise ValueError(
            f"a prompt of {len(rows[longest])} tokens, and the model reads {length}: "
            f"shorten {prompts[longest][:60]!r}..."
        )
    out = torch.zeros(len(rows), length, dtype=torch.long)
    for row, ids in zip(out, rows):
        row[: len(ids)] = torch.as_tensor(ids)
    return out


def rotary(sizes: Sizes, device: torch.device | str | None = None) -> tuple[Tensor, Tensor]:
    """Cosines and sines of the rotary positions, each (T*h*w, 64), as CogVideoX makes them at its base size."""
    frames, height, width = sizes.latent_shape
    return get_3d_rotary_pos_embed(
        embed_dim=HEAD_DIM,
        crops_coords=((0, 0), (height, width)),
        grid_size=(height, width),
        temporal_size=frames,
        device=device,
    )


def make_scheduler() -> CogVideoXDDIMScheduler:
    """Velocity prediction with zero terminal signal, as CogVideoX-5B; 1,000 training timesteps."""
    return CogVideoXDDIMScheduler(
        num_train_timesteps=1000,
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        rescale_betas_zero_snr=True,
        snr_shift_scale=1.0,
        timestep_spacing="trailing",
        set_alpha_to_one=True,
        clip_sample=False,
    )


def codec_names(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Renames a codec from the release's names to those of `AutoencoderKLWan`."""
    return {_codec_name(name): value for name, value in weights.items()}


def _codec_name(name: str) -> str:
    side, _, rest = name.partition(".")
    if side in ("conv1", "conv2"):
        return f"{'quant_conv' if side == 'conv1' else 'post_quant_conv'}.{rest}"
    part, _, rest = rest.partition(".")
    if part == "conv1":
        return f"{side}.conv_in.{rest}"
    index, _, rest = rest.partition(".")
    if part == "head":
        return f"{side}.{'norm_out' if index == '0' else 'conv_out'}.{rest}"
    for old, new in (
        ("residual.0", "norm1"),
        ("residual.2", "conv1"),
        ("residual.3", "norm2"),
        ("residual.6", "conv2"),
    ):
        rest = rest.replace(old, new)
    rest = rest.replace("shortcut", "conv_shortcut")
    if part == "middle":
        place = "attentions.0" if index == "1" else f"resnets.{int(index) // 2}"
        return f"{side}.mid_block.{place}.{rest}"
    if part == "downsamples":
        return f"{side}.down_blocks.{index}.{rest}"
    block, inner = divmod(int(index), 4)  # three residual blocks and the upsampler make one up block
    return f"{side}.up_blocks.{block}.{'upsamplers.0' if inner == 3 else f'resnets.{inner}'}.{rest}"


def make_codec(sizes: Sizes) -> AutoencoderKLWan:
    """The codec as diffusers knows it. CogVideoX pipelines ask a codec for a few settings that Wan's lacks; they are
    added to its config, so the unmodified pipeline runs on it."""
    codec = AutoencoderKLWan(
        base_dim=sizes.codec_base,
        z_dim=sizes.latent,
        latents_mean=[0.0] * sizes.latent,
        latents_std=[1.0 / LATENT_SCALE] * sizes.latent,
    )
    codec.register_to_config(
        block_out_channels=[sizes.codec_base * m for m in (1, 2, 4, 4)],
        temporal_compression_ratio=TIME_STRIDE,
        scaling_factor=LATENT_SCALE,
        invert_scale_latents=False,
    )
    use_onednn(codec)
    return codec


def build_pipeline(
    sizes: Sizes,
    codec: dict[str, Tensor],
    text: dict[str, Tensor],
    transformer: dict[str, Tensor],
    tokenizer: Path,
    dtype: torch.dtype = torch.float32,
) -> CogVideoXImageToVideoPipeline:
    """The ordinary CogVideoX image-to-video pipeline around the mini model's weights (`Bundle.weights` of each part)
    and the folder of its tokenizer."""
    parts: dict[str, Any] = {
        "vae": _filled(make_codec(sizes), codec_names(codec), dtype),
        "text_encoder": _filled(make_text_encoder(sizes), text, dtype),
        "transformer": _filled(make_transformer(sizes), transformer, dtype),
    }
    words = make_tokenizer(tokenizer)
    words.model_max_length = sizes.text_length
    return CogVideoXImageToVideoPipeline(tokenizer=words, scheduler=make_scheduler(), **parts)


def _filled(module: Any, weights: dict[str, Tensor], dtype: torch.dtype) -> Any:
    if "shared.weight" in weights:
        weights = {**weights, "encoder.embed_tokens.weight": weights["shared.weight"]}
    module.load_state_dict({name: value.float() for name, value in weights.items()})
    return _cast(module, None, dtype).eval()


def move(pipeline: Any, device: torch.device | str, dtype: torch.dtype) -> Any:
    """The mini model's pipeline on a device and in a number format. Returns it. Raises ValueError for a device that
    there is not."""
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ValueError(f"there is no device {str(device)!r} here: {str(error).splitlines()[0][:200]}") from None
    for part in (pipeline.vae, pipeline.text_encoder, pipeline.transformer):
        _cast(part, device, dtype)
    return pipeline


def _cast(module: Any, device: torch.device | str | None, dtype: torch.dtype) -> Any:
    """`module.to` as PyTorch has it: diffusers' own warns at every cast of modules to keep in float32, of which the
    parts of mini have none."""
    return torch.nn.Module.to(module, device=device, dtype=dtype)


@torch.no_grad()
def sample(
    pipeline: CogVideoXImageToVideoPipeline,
    sizes: Sizes,
    prompts: Sequence[str],
    first: Tensor | None,
    steps: int = 24,
    cfg: float = 2.0,
    seed: int | Sequence[int] = 0,
    extra: Tensor | None = None,
    intrinsic: IntrinsicDenoising | None = None,
    tracks: Sequence[MaskTracks] = (),
    done: Callable[[IntrinsicHook], None] | None = None,
    scheduler: Any = None,
    rows: Tensor | None = None,
) -> Tensor:
    """Many clips at once, one transformer call per step for both branches of the guidance.

    Args:
        first: (B, 3, H, W) uint8, the first frames; None samples from text alone, for a model that was trained so.
        cfg: guidance scale; 1 leaves out the unconditional branch.
        seed: clip i gets the noise of `seed + i`, whatever the batch; or one for each clip, without `intrinsic`.
        extra: (B, C, h, w) of the first latent frame, for a model with a widened input projection (ID map, target
            mask); later frames get zeros, and both branches of the guidance see it.
        intrinsic: temporal intrinsic denoising along `tracks`, one per clip; clip i draws its noise from `seed + i`.
            Attention is steered by `steer` around this function.
        done: told what intrinsic denoising did.
        scheduler: the pipeline's own, where `steer` acts before its steps (gradient guidance); by default a new one.
        rows: (B, D, width), text rows in place of the prompts' own (`text_rows`), for cfg 1.

    Returns:
        (B, F, 3, H, W) uint8 on the pipeline's device.
    """
    net, device = pipeline.transformer, pipeline.transformer.device
    count = len(prompts)
    texts = [*prompts] if cfg == 1.0 else [""] * len(prompts) + [*prompts]
    if rows is None:
        rows = text_rows(pipeline, sizes, texts)
    elif cfg != 1.0:
        raise ValueError(f"text rows are given for cfg 1, which has no unconditional ones; got {cfg}")
    image = _first_latent(pipeline, sizes, first, count)
    if extra is not None:
        image = torch.cat([image, extra[:, None].to(image)], dim=2)
    condition = torch.cat([image, image.new_zeros(count, sizes.latent_shape[0] - 1, *image.shape[2:])], dim=1)
    shape = (sizes.latent_shape[0], sizes.latent, *sizes.latent_shape[1:])
    seeds = [seed + i for i in range(count)] if isinstance(seed, int) else [*seed]
    noise = [torch.randn(shape, generator=torch.Generator().manual_seed(each)) for each in seeds]
    x = torch.stack(noise).to(device, net.dtype)
    scheduler, positions = scheduler or make_scheduler(), rotary(sizes, device)
    scheduler.set_timesteps(steps, device=device)
    copies = len(texts) // len(prompts)

    def velocity(x: Tensor, t: Tensor) -> Tensor:
        both = torch.cat([x, condition], dim=2).repeat(copies, 1, 1, 1, 1)
        v = net(both, rows, t.expand(len(both)), image_rotary_emb=positions, return_dict=False)[0].float()
        if copies == 2:
            free, bound = v.chunk(2)
            v = free + cfg * (bound - free)
        return v

    hook = None
    if intrinsic is not None and not intrinsic.idle:
        if len(tracks) != len(prompts):
            raise ValueError(f"intrinsic denoising follows one tracks per clip: {len(tracks)} for {len(prompts)} clips")
        if not isinstance(seed, int):
            raise ValueError("intrinsic denoising draws clip i's noise from seed + i: give one seed, not one a clip")
        follow = [[] if each is None else [each] for each in tracks]
        hook = IntrinsicHook(intrinsic, follow, (TIME_STRIDE, STRIDE), seed=seed)
    for step, t in enumerate(scheduler.timesteps):
        v = velocity(x, t)
        if hook is not None:
            x, v = _refined(hook, x, v, functools.partial(velocity, t=t), noise_at(scheduler, t), step, steps)
        x = scheduler.step(v, t, x.float(), return_dict=False)[0].to(net.dtype)
    if hook is not None and done is not None:
        done(hook)
    video = pipeline.vae.decode(x.transpose(1, 2) / LATENT_SCALE).sample
    return video.float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8).transpose(1, 2)


@torch.no_grad()
def text_rows(pipeline: CogVideoXImageToVideoPipeline, sizes: Sizes, prompts: Sequence[str]) -> Tensor:
    """(B, D, width) of prompts, on the pipeline's device."""
    ids = token_ids(pipeline.tokenizer, prompts, sizes.text_length)
    rows: Tensor = pipeline.text_encoder(ids.to(pipeline.transformer.device))[0]
    return rows


def _first_latent(pipeline: Any, sizes: Sizes, first: Tensor | None, count: int) -> Tensor:
    """(B, 1, C, h, w): of the first frames, or zeros where there are none."""
    net = pipeline.transformer
    if first is None:
        return torch.zeros(count, 1, sizes.latent, *sizes.latent_shape[1:], device=net.device, dtype=net.dtype)
    if tuple(first.shape[-2:]) != (sizes.height, sizes.width):
        raise ValueError(
            f"first frames are {tuple(first.shape[-2:])}, the model makes {sizes.height}x{sizes.width}: resize them"
        )
    pixels = first.to(net.device, net.dtype).div(127.5).sub(1.0)[:, :, None]
    return pipeline.vae.encode(pixels).latent_dist.mode().transpose(1, 2) * LATENT_SCALE


def _refined(
    hook: IntrinsicHook, x: Tensor, v: Tensor, velocity: Callable[[Tensor], Tensor], noise: Noise, step: int, steps: int
) -> tuple[Tensor, Tensor]:
    """The hook in this loop: latents are (B, T, C, h, w) here, and repeated predictions are nobody's to record."""

    def again(z: Tensor) -> Tensor:
        with replaying(0), perturbed("intrinsic"):
            return velocity(z.transpose(1, 2).to(x)).transpose(1, 2)

    at = OutputContext(x.transpose(1, 2), v.transpose(1, 2), again, noise, step, steps)
    at.x = hook(at)
    return at.x.transpose(1, 2).to(x), at.output().transpose(1, 2)
