"""Trains a small U-Net of ZeroScope's architecture on frames of the mini world, from text alone."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.mini import Sizes, make_scheduler, make_text_encoder, make_tokenizer, token_ids
from matrix_lib.mini.codec import SPATIAL
from matrix_lib.mini.world import Clips

from ..data.world import Stream, device_noise, schedule_positions, seed_of
from ..models.mini_run import TOKENIZER, identity, load_codec, place_of
from ..models.mini_unet import UNetSizes, encode_frames, make_unet
from ..run.config import FitConfig
from ..run.task_settings import UNetTask
from .codec import channels_last
from .denoise import take_words
from .task import Look, Task

__all__ = ["UNetNet", "UNetStep"]


class UNetNet(nn.Module):
    """Text encoder, which stays as it is, and U-Net as one network."""

    def __init__(self, sizes: UNetSizes, text: nn.Module) -> None:
        super().__init__()
        self.text, self.unet = text, make_unet(sizes)

    def forward(self, latents: Tensor, ids: Tensor, timestep: Tensor) -> Tensor:
        """(B, C, F, h, w), (B, D), (B,) -> velocity (B, C, F, h, w)."""
        with torch.no_grad():
            text = self.text(input_ids=ids)[0]
        return self.unet(latents, timestep, text, return_dict=False)[0]  # type: ignore[no-any-return]


class UNetStep(Task):
    """Velocity prediction at drawn timesteps, given the prompt."""

    @classmethod
    def look(cls, config: FitConfig, device: torch.device) -> Look:
        task: UNetTask = config.task
        load_codec(place_of(task.codec))  # or a sentence that there is none
        return Look({"codec": identity(place_of(task.codec)), "text encoder": identity(place_of(task.text))})

    def __init__(self, config: FitConfig, device: torch.device, seen: Look) -> None:
        self.config, self.device = config, device
        self.task: UNetTask = config.task
        self.codec = load_codec(place_of(self.task.codec)).to(device).eval().requires_grad_(False)
        self.codec_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.codec.to(self.codec_dtype)
        channels_last(self.codec, device)
        words = bundle.load(place_of(self.task.text)).sizes
        data = config.data
        self.sizes = UNetSizes(
            self.task.channels, self.task.layers, self.task.head, words["text_dim"], words["text_length"],
            frames=data.frames, height=data.height, width=data.width,
        )  # fmt: skip
        self.net: UNetNet = UNetNet(self.sizes, make_text_encoder(_text_sizes(words))).to(device)
        take_words(self.net, place_of(self.task.text))
        self.tokenizer = make_tokenizer(TOKENIZER)
        self.signal = make_scheduler().alphas_cumprod.float().to(device)
        self.empty = token_ids(self.tokenizer, [""], self.sizes.text_length)[0].to(device)

    def batches(self, process: int) -> Stream:
        return Stream(self.config.data, self, seed_of(self.config.run.seed, process), self.device)

    @torch.no_grad()
    def prepare(self, clips: Clips) -> dict[str, Tensor]:
        """Latents (B, C, F, h, w), token ids (B, D), and what each latent counts, (B, F, h, w)."""
        covered = F.max_pool2d(clips.masks.any(1).float(), SPATIAL)
        return {
            "latents": encode_frames(self.codec, clips.video, self.codec_dtype),
            "ids": token_ids(self.tokenizer, clips.prompts, self.sizes.text_length).to(self.device),
            "weight": 1.0 + self.task.foreground * covered,
        }

    def loss(self, net: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        clean = batch["latents"].float()
        noise = device_noise(clean.shape, generator, self.device)
        u = schedule_positions(len(clean), self.task.even, self.task.high_noise, generator)
        t = (u * len(self.signal)).long().clamp(max=len(self.signal) - 1).to(self.device)
        kept, lost = (x.view(-1, 1, 1, 1, 1) for x in (self.signal[t].sqrt(), (1.0 - self.signal[t]).sqrt()))
        noisy, velocity = kept * clean + lost * noise, kept * noise - lost * clean
        dropped = torch.rand(len(clean), generator=generator) < self.task.dropout
        ids = torch.where(dropped.to(self.device)[:, None], self.empty, batch["ids"])
        error = (net(noisy, ids, t).float() - velocity).square().mean(dim=1)  # (B, F, h, w)
        weight = batch["weight"]
        return {"loss": (error * weight).sum() / weight.sum(), "mse": error.detach().mean()}

    def describe(self) -> dict[str, Any]:
        """Everything that it takes to build the network again."""
        return asdict(self.sizes)


def _text_sizes(words: dict[str, int]) -> Sizes:
    return Sizes(**{name: words[name] for name in ("text_layers", "text_dim", "text_length")})
