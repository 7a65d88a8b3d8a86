"""Trains mini: a video transformer on clips of the mini world."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from matrix_lib.hosts import bundle
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

from ..data.world import Stream, as_input, device_noise, diffusion_weight, schedule_positions, seed_of
from ..models.mini_run import TOKENIZER, identity, load_codec, place_of
from ..run.config import Data, FitConfig
from ..run.task_settings import DenoiseTask
from .codec import channels_last
from .task import Look, Task

__all__ = ["DenoiseStep", "MiniNet", "take_words"]


class MiniNet(nn.Module):
    """Text encoder and transformer as one network."""

    def __init__(self, sizes: Sizes) -> None:
        super().__init__()
        self.text = make_text_encoder(sizes)
        local_attention_init(self.text)
        self.transformer = make_transformer(sizes)
        cos, sin = rotary(sizes)
        self.register_buffer("cos", cos, persistent=False)
        self.register_buffer("sin", sin, persistent=False)

    def forward(self, latents: Tensor, ids: Tensor, timestep: Tensor) -> Tensor:
        """(B, T, 2C, h, w), (B, D), (B,) -> velocity (B, T, C, h, w)."""
        text = self.text(input_ids=ids)[0]
        return self.transformer(latents, text, timestep, image_rotary_emb=(self.cos, self.sin), return_dict=False)[0]


@torch.no_grad()
def local_attention_init(encoder: nn.Module, far: float = 1.5, side: float = 3.0) -> None:
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


class DenoiseStep(Task):
    """Velocity prediction at drawn timesteps, given the prompt and the first frame."""

    @classmethod
    def look(cls, config: FitConfig, device: torch.device) -> Look:
        task: DenoiseTask = config.task
        load_codec(place_of(task.codec))  # or a sentence that there is none
        text = {"text encoder": identity(place_of(task.text))} if task.text else {}
        return Look({"codec": identity(place_of(task.codec)), **text})

    def __init__(self, config: FitConfig, device: torch.device, seen: Look) -> None:
        self.config, self.device = config, device
        self.task: DenoiseTask = config.task
        self.codec = load_codec(place_of(self.task.codec)).to(device).eval().requires_grad_(False)
        self.codec_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.codec.to(self.codec_dtype)
        channels_last(self.codec, device)
        self.sizes = _sizes(self.task, config.data, self.codec.config.base)
        self.net: MiniNet = MiniNet(self.sizes).to(device)
        if self.task.text:
            take_words(self.net, place_of(self.task.text))
        self.tokenizer = make_tokenizer(TOKENIZER)
        self.signal = make_scheduler().alphas_cumprod.float().to(device)
        self.empty = token_ids(self.tokenizer, [""], self.task.text_length)[0].to(device)

    def compile(self, net: nn.Module) -> nn.Module:
        """All blocks have one shape: compiling one of them is enough, and takes seconds instead of a minute."""
        for block in self.net.transformer.transformer_blocks:
            block.compile(dynamic=False)
        return net

    def batches(self, process: int) -> Stream:
        return Stream(self.config.data, self, seed_of(self.config.run.seed, process), self.device)

    @torch.no_grad()
    def prepare(self, clips: Clips) -> dict[str, Tensor]:
        """Latents (B, T, C, h, w), token ids (B, D), and what each latent counts, (B, T, h, w)."""
        video = as_input(clips.video).to(self.codec_dtype)
        return {
            "latents": self.codec.encode(video).transpose(1, 2) * LATENT_SCALE,
            "ids": token_ids(self.tokenizer, clips.prompts, self.task.text_length).to(self.device),
            "weight": diffusion_weight(clips.masks, self.task.foreground, self.task.change),
        }

    def loss(self, net: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        clean = batch["latents"].float()
        noise = device_noise(clean.shape, generator, self.device)
        u = schedule_positions(len(clean), self.task.even, self.task.high_noise, generator)
        t = (u * len(self.signal)).long().clamp(max=len(self.signal) - 1).to(self.device)
        kept, lost = (x.view(-1, 1, 1, 1, 1) for x in (self.signal[t].sqrt(), (1.0 - self.signal[t]).sqrt()))
        noisy, velocity = kept * clean + lost * noise, kept * noise - lost * clean
        condition = torch.zeros_like(clean)
        condition[:, 0] = clean[:, 0]
        if self.task.image_dropout:
            shown = torch.rand(len(clean), generator=generator) >= self.task.image_dropout
            condition *= shown.to(self.device).view(-1, 1, 1, 1, 1)
        prompt_dropped = torch.rand(len(clean), generator=generator) < self.task.dropout
        ids = torch.where(prompt_dropped.to(self.device)[:, None], self.empty, batch["ids"])
        output = net(torch.cat([noisy, condition], dim=2), ids, t).float()
        error = (output - velocity).square().mean(dim=2)  # (B, T, h, w)
        weight = batch["weight"]
        plain = error.detach().mean()
        return {"loss": (error * weight).sum() / weight.sum(), "mse": plain}

    def describe(self) -> dict[str, Any]:
        """Everything that it takes to build the network again."""
        return vars(self.sizes)


def take_words(net: Any, folder: Path) -> None:
    """Gives a network, whose `text` it is, the text encoder of a bundle, which then stays as it is.

    Raises ValueError where it is of other sizes."""
    weights = {name: value.float() for name, value in bundle.load(folder).weights("text").items()}
    try:
        net.text.load_state_dict({**weights, "encoder.embed_tokens.weight": weights["shared.weight"]})
    except RuntimeError as error:
        raise ValueError(f"the text encoder of {folder} has other sizes than task.text_*: {error!s:.200}") from error
    net.text.requires_grad_(False)


def _sizes(task: DenoiseTask, data: Data, codec_base: int) -> Sizes:
    return Sizes(
        layers=task.layers,
        heads=task.heads,
        time_dim=task.time_dim,
        text_layers=task.text_layers,
        text_dim=task.text_dim,
        text_length=task.text_length,
        codec_base=codec_base,
        frames=data.frames,
        height=data.height,
        width=data.width,
    )
