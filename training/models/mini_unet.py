"""A small U-Net of ZeroScope's architecture in mini's world: frames of mini's codec without compression of time, words
of mini's text encoder, and attention in space, to words and in time.

B batch, F frames, C latent channels, h x w latents of a frame, H x W pixels.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from diffusers import UNet3DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.attach import perturbed
from matrix_lib.hosts.diffusers.batches import replaying
from matrix_lib.hosts.diffusers.mini import LATENT_SCALE, make_scheduler
from matrix_lib.hosts.diffusers.schedules import noise_at
from matrix_lib.hosts.diffusers.steps import OutputContext
from matrix_lib.instrument.intrinsic import IntrinsicHook

from ..run import checkpoint
from .mini_encoders import MiniEncoders
from .mini_run import place_of

__all__ = ["FORMAT", "MiniUNet", "UNetSizes", "encode_frames", "make_unet", "publish_unet"]

FORMAT = "mini-unet"  # which `bundle.load` refuses: it is no transformer
_STRIDE = 8
_AT_ONCE = 512  # frames that the codec sees at a time


@dataclass(frozen=True)
class UNetSizes:
    """channels: of each resolution, the last one without attention. layers: of a resolution. head: size of a head."""

    channels: tuple[int, ...] = (96, 192, 192)
    layers: int = 2
    head: int = 32
    text_dim: int = 128
    text_length: int = 226
    latent: int = 16
    frames: int = 9
    height: int = 128
    width: int = 128


def make_unet(sizes: UNetSizes) -> UNet3DConditionModel:
    """The U-Net of ZeroScope in small: one latent element a token at the first resolution, half as many rows and
    columns at each next one."""
    deep = len(sizes.channels) - 1
    return UNet3DConditionModel(
        sample_size=sizes.height // _STRIDE,
        in_channels=sizes.latent,
        out_channels=sizes.latent,
        down_block_types=("CrossAttnDownBlock3D",) * deep + ("DownBlock3D",),
        up_block_types=("UpBlock3D",) + ("CrossAttnUpBlock3D",) * deep,
        block_out_channels=sizes.channels,
        layers_per_block=sizes.layers,
        cross_attention_dim=sizes.text_dim,
        attention_head_dim=sizes.head,
        norm_num_groups=8,
    )


@torch.no_grad()
def encode_frames(codec: Any, video: Tensor, dtype: torch.dtype) -> Tensor:
    """(B, F, 3, H, W) uint8 -> (B, C, F, h, w): each frame by itself, at the scale that networks read."""
    found = []
    for part in video.flatten(0, 1).split(_AT_ONCE):
        made = codec.encode(part.to(dtype).div(127.5).sub(1.0)[:, :, None])
        latents = made if isinstance(made, Tensor) else made.latent_dist.mode()
        found.append(latents[:, :, 0] * LATENT_SCALE)
    return torch.cat(found).unflatten(0, video.shape[:2]).transpose(1, 2)


def publish_unet(run: Path, out: Path) -> Path:
    """Writes the U-Net of a finished run in float16, with a manifest. Raises ValueError where there is none."""
    found = checkpoint.latest(run) if run.is_dir() else None
    groups, meta = checkpoint.load(found) if found else ({}, {})
    if not meta.get("finished") or meta.get("kind") != "UNetTask":
        raise ValueError(f"{run} is no finished run of a U-Net")
    out.mkdir(parents=True, exist_ok=True)
    name = "unet.safetensors"
    weights = {key.removeprefix("unet."): value.half().cpu().contiguous() for key, value in groups["final"].items()}
    save_file({key: value for key, value in weights.items() if not key.startswith("text.")}, out / name)
    manifest = {
        "format": FORMAT,
        "sizes": meta["sizes"],
        "files": {"transformer": [name]},
        "checksums": {name: hashlib.sha256((out / name).read_bytes()).hexdigest()},
        "training": {"steps": meta["step"]},
    }
    (out / bundle.MANIFEST).write_text(json.dumps(manifest, indent=1) + "\n")
    return out


class MiniUNet:
    """A published U-Net, open, with mini's codec and words.

    Attributes:
        pipeline: what guidance attaches to: `unet`, `scheduler` and `tokenizer`.
    """

    def __init__(self, folder: Path, device: torch.device) -> None:
        said = json.loads((folder / bundle.MANIFEST).read_text())
        if said.get("format") != FORMAT:
            raise ValueError(f"{folder} holds no U-Net of mini's world")
        self.sizes = UNetSizes(**{**said["sizes"], "channels": tuple(said["sizes"]["channels"])})
        self.device = device
        self.dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.encoders = MiniEncoders(str(place_of("mini")), device)
        unet: nn.Module = make_unet(self.sizes)
        unet.load_state_dict({key: value.float() for key, value in load_file(folder / "unet.safetensors").items()})
        unet = nn.Module.to(unet, device, self.dtype).eval().requires_grad_(False)
        self.pipeline = SimpleNamespace(
            unet=unet, scheduler=make_scheduler(), tokenizer=self.encoders.pipeline.tokenizer, transformer=None
        )

    @torch.no_grad()
    def sample(
        self,
        prompts: Sequence[str],
        steps: int,
        cfg: float,
        seed: int,
        intrinsic: IntrinsicDenoising | None = None,
        tracks: Sequence[MaskTracks] = (),
    ) -> Tensor:
        """(B, F, 3, H, W) uint8 from text alone, as `hosts.diffusers.mini.sample` does it for a transformer."""
        sizes, unet, count = self.sizes, self.pipeline.unet, len(prompts)
        texts = [*prompts] if cfg == 1.0 else [""] * count + [*prompts]
        rows = self.encoders.encode_text(texts).to(self.dtype)
        shape = (sizes.latent, sizes.frames, sizes.height // _STRIDE, sizes.width // _STRIDE)
        noise = [torch.randn(shape, generator=torch.Generator().manual_seed(seed + i)) for i in range(count)]
        x = torch.stack(noise).to(self.device)
        scheduler = make_scheduler()
        scheduler.set_timesteps(steps, device=self.device)

        def velocity(x: Tensor, t: Tensor) -> Tensor:
            both = x.to(self.dtype).repeat(len(texts) // count, 1, 1, 1, 1)
            v = unet(both, t, rows, return_dict=False)[0].float()
            if cfg == 1.0:
                return v
            free, bound = v.chunk(2)
            return free + cfg * (bound - free)

        hook = None
        if intrinsic is not None and not intrinsic.idle:
            hook = IntrinsicHook(intrinsic, [[each] for each in tracks], (1, _STRIDE), seed=seed)
        for step, t in enumerate(scheduler.timesteps):
            v = velocity(x, t)
            if hook is not None:
                at = OutputContext(x, v, _again(functools.partial(velocity, t=t)), noise_at(scheduler, t), step, steps)
                at.x = hook(at)
                x, v = at.x, at.output()
            x = scheduler.step(v, t, x, return_dict=False)[0]
        return self._decoded(x)

    def _decoded(self, x: Tensor) -> Tensor:
        flat, found = x.transpose(1, 2).flatten(0, 1), []
        for part in flat.split(_AT_ONCE):
            pixels = self.encoders.vae.decode((part / LATENT_SCALE)[:, :, None].to(self.encoders.codec_dtype)).sample
            found.append(pixels[:, :, 0].float().add(1.0).mul(127.5).round().clamp(0, 255).to(torch.uint8))
        return torch.cat(found).unflatten(0, (x.shape[0], x.shape[2]))


def _again(velocity: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Repeated predictions are nobody's to record."""

    def made(z: Tensor) -> Tensor:
        with replaying(0), perturbed("intrinsic"):
            return velocity(z)

    return made
