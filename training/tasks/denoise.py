"""Trains mini: a video transformer on clips of the mini world."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor, nn

from matrix_lib.hosts.diffusers.mini import (
    LATENT_SCALE,
    Sizes,
    make_scheduler,
    make_text_encoder,
    make_tokenizer,
    make_transformer,
    rotary,
    token_ids,
)
from matrix_lib.mini.world import Clips
from training.data.world import as_input, covered
from training.models.mini_run import TOKENIZER, load_codec
from training.tasks.codec import channels_last

from ..run.config import Data, DenoiseTask

__all__ = ["DenoiseStep", "MiniNet"]


class MiniNet(nn.Module):
    """Text encoder and transformer as one network."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.text = make_text_encoder(sizes)
        look_near(self.text)
        self.transformer = make_transformer(sizes)
        cos, sin = rotary(sizes)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, latents: Tensor, ids: Tensor, timestep: Tensor) -> Tensor:
        """(B, T, 2C, h, w), (B, D), (B,) -> velocity (B, T, C, h, w)."""
        rows = self.text(input_ids=ids)[0]
        return self.transformer(latents, rows, timestep, image_rotary_emb=(self.cos, self.sin), return_dict=False)[0]


@torch.no_grad()
def look_near(encoder: nn.Module, far: float = 1.5, side: float = 3.0) -> None:
    """Starts a T5's positions so that words see their neighbours: every other head those before, the rest those after.

    A T5 starts blind to order, and a short prompt in 226 rows gives 95 % of each word's attention to padding: the model
    then learns which things are meant long before it learns which of them is the agent.

    Args:
        far: what each bucket of distance after the sixth lowers the logit by.
        side: what the other direction lowers it by.
    """
    bias = encoder.encoder.block[0].layer[0].SelfAttention.relative_attention_bias.weight  # (buckets, heads)
    buckets, heads = bias.shape
    bucket = torch.arange(buckets, device=bias.device)
    after, distance = bucket >= buckets // 2, bucket % (buckets // 2)
    for head in range(heads):
        wrong = (after != bool(head % 2)) & (distance > 0)
        bias[:, head] = -far * (distance - 6).clamp_min(0) - side * wrong


class DenoiseStep:
    """Velocity prediction at drawn timesteps, given the prompt and the first frame."""

    def __init__(self, task: DenoiseTask, data: Data, device: torch.device) -> None:
        self.task, self.device = task, device
        self.codec = load_codec(Path(task.codec)).to(device).eval().requires_grad_(False)
        self.codec_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.codec.to(self.codec_dtype)
        channels_last(self.codec, device)
        self.sizes = Sizes(
            layers=task.layers,
            heads=task.heads,
            time_dim=task.time_dim,
            text_layers=task.text_layers,
            text_dim=task.text_dim,
            text_length=task.text_length,
            codec_base=self.codec.config.base,
            frames=data.frames,
            height=data.height,
            width=data.width,
        )
        self.net: nn.Module = MiniNet(self.sizes).to(device)
        self.tokenizer = make_tokenizer(TOKENIZER)
        self.signal = make_scheduler().alphas_cumprod.float().to(device)
        self.empty = token_ids(self.tokenizer, [""], task.text_length)[0].to(device)

    def compile(self, net: nn.Module) -> nn.Module:
        """All blocks have one shape: compiling one of them is enough, and takes seconds instead of a minute."""
        assert isinstance(self.net, MiniNet)
        for block in self.net.transformer.transformer_blocks:
            block.compile(dynamic=False)
        return net

    @torch.no_grad()
    def prepare(self, clips: Clips) -> dict[str, Tensor]:
        video = as_input(clips.video).to(self.codec_dtype)
        return {
            "latents": self.codec.encode(video).transpose(1, 2) * LATENT_SCALE,
            "ids": token_ids(self.tokenizer, clips.prompts, self.task.text_length).to(self.device),
            "weight": self._weight(covered(clips.masks.flatten(0, 1)).unflatten(0, clips.masks.shape[:2])),
        }

    def loss(self, net: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        clean = batch["latents"].float()
        count = len(clean)
        noise = self._noise(clean.shape, generator)
        start, drop = torch.rand(1, generator=generator), torch.rand(count, generator=generator)
        place = (start + torch.arange(count) / count) % 1.0  # evenly spread over time: less variance than independent
        t = self._timesteps(place).to(self.device)
        kept, lost = (x.view(-1, 1, 1, 1, 1) for x in (self.signal[t].sqrt(), (1.0 - self.signal[t]).sqrt()))
        noisy, velocity = kept * clean + lost * noise, kept * noise - lost * clean
        condition = torch.zeros_like(clean)
        condition[:, 0] = clean[:, 0]
        ids = torch.where((drop < self.task.dropout).to(self.device)[:, None], self.empty, batch["ids"])
        output = net(torch.cat([noisy, condition], dim=2), ids, t).float()
        error = (output - velocity).square().mean(dim=2)  # (B, T, h, w)
        weight = batch["weight"]
        plain = error.detach().mean()
        return {"loss": (error * weight).sum() / weight.sum(), "mse": plain}

    def _weight(self, covered: Tensor) -> Tensor:
        """What each latent counts, (B, T, h, w), from where each instance is, (B, K, T, h, w)."""
        moved = (covered != covered[:, :, :1]).any(dim=1).float()
        return 1.0 + self.task.foreground * covered.amax(dim=1) + self.task.change * moved

    def _timesteps(self, place: Tensor) -> Tensor:
        """Timesteps from numbers in [0, 1): the first `even` of them evenly, the others mostly where noise is high."""
        even = self.task.even
        low = place / even if even else place
        high = ((place - even) / (1.0 - even)).clamp_min(0.0) if even < 1.0 else place
        share = torch.where(place < even, low, high ** (1.0 / self.task.high_noise))
        return (share * len(self.signal)).long().clamp(max=len(self.signal) - 1)

    def _noise(self, shape: torch.Size, generator: torch.Generator) -> Tensor:
        """Drawn on the device that trains; seeded from the step's generator."""
        local = torch.Generator(self.device).manual_seed(generator.initial_seed())
        return torch.randn(shape, generator=local, device=self.device)

    def finish(self, net: nn.Module) -> None:
        """Nothing: the averaged weights are published as they are."""
