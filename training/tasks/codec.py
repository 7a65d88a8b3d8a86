"""Trains mini's codec: a small causal video autoencoder."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from matrix_lib.hosts.diffusers.mini import LATENT_SCALE
from matrix_lib.mini.codec import SPATIAL, TEMPORAL, Codec, CodecConfig
from matrix_lib.mini.world import Clips, make_clips

from ..data.world import Stream, as_input, seed_of, world_of
from ..run.config import FitConfig
from ..run.distributed import trained_state
from ..run.task_settings import CodecTask
from .task import Look, Task

__all__ = ["CodecStep", "channels_last"]

STATISTICS_SEED, STATISTICS_CLIPS = 20_240_229, 64
_PREFIX = "codec."


def channels_last(net: nn.Module, device: torch.device) -> None:
    """Convolutions in the layout that GPUs compute them in."""
    if device.type == "cuda":
        for module in net.modules():
            if isinstance(module, nn.Conv3d | nn.Conv2d):
                three = isinstance(module, nn.Conv3d)
                module.to(memory_format=torch.channels_last_3d if three else torch.channels_last)  # type: ignore[call-overload]


class CodecStep(Task):
    """Reconstruction from slightly noisy latents; instances count more than background.

    The noise is a fixed share of the latents' own spread. A divergence from the unit normal instead, as variational
    autoencoders have it, kept this small network from learning anything for its first 800 steps.
    """

    def __init__(self, config: FitConfig, device: torch.device, seen: Look) -> None:
        self.config, self.device = config, device
        self.task: CodecTask = config.task
        self.net: Autoencoder = Autoencoder(Codec(CodecConfig(base=self.task.base)), self.task.noise).to(device)
        channels_last(self.net, device)

    # `compile` leaves it as it is: its many shapes take longer to compile than they save.

    def batches(self, process: int) -> Stream:
        return Stream(self.config.data, self, seed_of(self.config.run.seed, process), self.device)

    def prepare(self, clips: Clips) -> dict[str, Tensor]:
        """Pixels (B, F, 3, H, W) uint8, and where an instance is, (B, F, H, W) bool."""
        return {"video": clips.video, "foreground": clips.masks.any(dim=1)}

    def loss(self, net: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        window = self._window(batch["video"].shape, generator)
        target, foreground = as_input(batch["video"][window]), batch["foreground"][window]
        output, latents = net(target, torch.randn(_latent_shape(target), generator=generator).to(self.device))
        error = (output.float() - target).abs().mean(dim=1)  # (B, F, H, W)
        weight = 1.0 + self.task.foreground * foreground
        mse = (output.detach().float() - target).square().mean()
        return {
            "loss": (error * weight).sum() / weight.sum(),
            "psnr": 10 * torch.log10(4.0 / mse),
            "spread": latents.detach().float().std(),
        }

    def _window(self, shape: torch.Size, generator: torch.Generator) -> tuple[Any, ...]:
        """The same square, and often a shorter piece in time, of every clip of a batch."""
        frames, (height, width) = shape[1], shape[-2:]
        choices = [f for f in (5, 9, frames) if f <= frames]
        length = choices[int(torch.randint(0, len(choices), (1,), generator=generator))]
        side = min(self.task.crop or max(height, width), height, width)
        start, top, left = (
            int(torch.randint(0, whole - part + 1, (1,), generator=generator))
            for whole, part in ((frames, length), (height, side), (width, side))
        )
        return slice(None), slice(start, start + length), ..., slice(top, top + side), slice(left, left + side)

    @torch.no_grad()
    def final(self, state: dict[str, Tensor]) -> dict[str, Tensor]:
        """With latents at the scale that the transformer's host expects: unit variance after its factor."""
        codec = copy.deepcopy(self.net.codec)
        codec.load_state_dict({name.removeprefix(_PREFIX): value for name, value in state.items()})
        clips = make_clips(STATISTICS_SEED, STATISTICS_CLIPS, world_of(self.config.data), self.device)
        latents = torch.cat([codec.encode(as_input(part)).float() for part in clips.video.split(8)])
        mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
        codec.standardise(mean, std, 1.0 / LATENT_SCALE)
        return {_PREFIX + name: value for name, value in trained_state(codec).items()}


class Autoencoder(nn.Module):
    """Codec with noise between its halves, so that one forward is one training step."""

    def __init__(self, codec: Codec, noise: float) -> None:
        super().__init__()
        self.codec, self.noise = codec, noise

    def forward(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.codec.encode(video)
        spread = latents.detach().float().std()
        return self.codec.decode(latents + (self.noise * spread * noise).to(latents.dtype)), latents


def _latent_shape(video: Tensor, channels: int = 16) -> tuple[int, ...]:
    """Shape of the latents of (B, 3, F, H, W)."""
    frames, height, width = video.shape[2:]
    return video.shape[0], channels, (frames - 1) // TEMPORAL + 1, height // SPATIAL, width // SPATIAL
