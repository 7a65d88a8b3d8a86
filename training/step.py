"""What is trained: each task builds its network, prepares clips for it, and gives the loss of one step.

B batch, K instances, F pixel frames, H x W pixels, T latent frames, h x w latents, D text rows, C latent channels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
import torch.nn.functional as F
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
from matrix_lib.mini import bundle
from matrix_lib.mini.codec import SPATIAL, TEMPORAL, Codec, CodecConfig
from matrix_lib.mini.world import Clips, make_clips

from . import checkpoint
from .config import CodecTask, Data, DenoiseTask, FitConfig
from .data import world_of

__all__ = ["CodecStep", "DenoiseStep", "MiniNet", "Step", "load_codec", "make_step"]

STATISTICS_SEED, STATISTICS_CLIPS = 20_240_229, 64
TOKENIZER = Path(__file__).resolve().parents[1] / "matrix_lib" / "mini" / "model" / "tokenizer"


class Step(Protocol):
    net: nn.Module

    def compile(self, net: nn.Module) -> nn.Module: ...

    def prepare(self, clips: Clips) -> dict[str, Tensor]: ...

    def loss(self, net: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]: ...

    def finish(self, net: nn.Module) -> None: ...


def make_step(config: FitConfig, device: torch.device) -> Step:
    """The task that a configuration asks for."""
    if isinstance(config.task, CodecTask):
        return CodecStep(config.task, config.data, device)
    assert isinstance(config.task, DenoiseTask)
    return DenoiseStep(config.task, config.data, device)


def channels_last(net: nn.Module, device: torch.device) -> None:
    """Convolutions in the layout that GPUs compute them in."""
    if device.type == "cuda":
        for module in net.modules():
            if isinstance(module, nn.Conv3d | nn.Conv2d):
                three = isinstance(module, nn.Conv3d)
                module.to(memory_format=torch.channels_last_3d if three else torch.channels_last)  # type: ignore[call-overload]


def as_input(video: Tensor) -> Tensor:
    """(B, F, 3, H, W) uint8 -> (B, 3, F, H, W) in [-1, 1]."""
    return video.transpose(1, 2).float().div(127.5).sub(1.0)


class CodecStep:
    """Reconstruction from slightly noisy latents; instances count more than background.

    The noise is a fixed share of the latents' own spread. A divergence from the unit normal instead, as variational
    autoencoders have it, kept this small network from learning anything for its first 800 steps.
    """

    def __init__(self, task: CodecTask, data: Data, device: torch.device) -> None:
        self.task, self.data, self.device = task, data, device
        self.net: nn.Module = Autoencoder(Codec(CodecConfig(base=task.base)), task.noise).to(device)
        channels_last(self.net, device)

    def compile(self, net: nn.Module) -> nn.Module:
        """Left as it is: its many shapes take longer to compile than they save."""
        return net

    def prepare(self, clips: Clips) -> dict[str, Tensor]:
        return {"video": clips.video, "foreground": clips.masks.any(dim=1)}

    def loss(self, net: nn.Module, batch: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        window = self._window(batch["video"].shape, generator)
        target, foreground = as_input(batch["video"][window]), batch["foreground"][window]
        output, latents = net(target, torch.randn(latent_shape(target), generator=generator).to(self.device))
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
    def finish(self, net: nn.Module) -> None:
        """Puts the latents at the scale that the transformer's host expects: unit variance after its factor."""
        assert isinstance(net, Autoencoder)
        clips = make_clips(STATISTICS_SEED, STATISTICS_CLIPS, world_of(self.data), self.device)
        latents = torch.cat([net.codec.encode(as_input(part)).float() for part in clips.video.split(8)])
        mean, std = latents.mean((0, 2, 3, 4)), latents.std((0, 2, 3, 4))
        net.codec.standardise(mean, std, 1.0 / LATENT_SCALE)


class Autoencoder(nn.Module):
    """Codec with noise between its halves, so that one forward is one training step."""

    def __init__(self, codec: Codec, noise: float) -> None:
        super().__init__()
        self.codec, self.noise = codec, noise

    def forward(self, video: Tensor, noise: Tensor) -> tuple[Tensor, Tensor]:
        latents = self.codec.encode(video)
        spread = latents.detach().float().std()
        return self.codec.decode(latents + (self.noise * spread * noise).to(latents.dtype)), latents


def latent_shape(video: Tensor, channels: int = 16) -> tuple[int, ...]:
    """Shape of the latents of (B, 3, F, H, W)."""
    frames, height, width = video.shape[2:]
    return video.shape[0], channels, (frames - 1) // TEMPORAL + 1, height // SPATIAL, width // SPATIAL


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


def covered(masks: Tensor) -> Tensor:
    """(B, F, H, W) bool -> (B, T, h, w) float: latents that some masked pixel falls into; 1 or 0."""
    cells = F.max_pool2d(masks.float(), SPATIAL)
    later = cells[:, 1:].unflatten(1, (-1, TEMPORAL)).amax(dim=2)
    return torch.cat([cells[:, :1], later], dim=1)


def load_codec(folder: Path) -> Codec:
    """The codec of a finished run or of a published bundle. ValueError when there is none."""
    if (folder / bundle.MANIFEST).is_file():
        return _codec(bundle.load(folder).weights("codec"))
    found = checkpoint.latest(folder) if folder.is_dir() else None
    if found is None:
        raise ValueError(
            f"no trained codec in {folder}: run `python -m training.fit codec` first, or point task.codec to its "
            "folder or to a published bundle"
        )
    groups, meta = checkpoint.load(found)
    if not meta.get("finished"):
        raise ValueError(f"the codec in {folder} stopped at step {meta['step']}: run it again to finish it")
    return _codec({name.removeprefix("codec."): value for name, value in groups["final"].items()})


def _codec(weights: dict[str, Tensor]) -> Codec:
    codec = Codec(CodecConfig(base=weights["decoder.head.0.gamma"].shape[0]))
    codec.load_state_dict(weights)
    return codec


def describe(step: Step) -> dict[str, Any]:
    """What a checkpoint says about the network's shapes."""
    return vars(step.sizes) if isinstance(step, DenoiseStep) else {}
