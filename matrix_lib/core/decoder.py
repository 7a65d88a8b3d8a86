"""A light causal decoder from attention maps to mask tracks in pixels, used in training and dropped at inference.

It retraces what a causal video VAE does (MATRIX): first tokens back to latents, then latents to pixels, where latent
frame 0 becomes pixel frame 0 alone and each later one `temporal_stride` frames. No frame depends on later tokens.

N maps (entities), L layers of attention, F, h, w token frames, rows, columns, T, H, W pixel frames, rows, columns.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from .grid import Grid

__all__ = ["DecoderConfig", "Head", "MaskDecoder", "upsample_time"]

Head = Literal["grounding", "propagation"]


@dataclass(frozen=True)
class DecoderConfig:
    """Sizes of the decoder.

    Args:
        grounding, propagation: layers whose maps each head reads; 0 leaves a head out.
        width: channels at the token grid; each upsampling halves them, down to `least`.
        patch, temporal_stride, spatial_stride: of the model's `Grid`.
        probabilities: whether the maps are probabilities (as multiples of chance) rather than logits.
    """

    grounding: int = 2
    propagation: int = 1
    width: int = 64
    least: int = 8
    patch: tuple[int, int, int] = (1, 2, 2)
    temporal_stride: int = 4
    spatial_stride: int = 8
    probabilities: bool = False

    def __post_init__(self) -> None:
        if self.grounding < 0 or self.propagation < 0 or self.grounding + self.propagation == 0:
            raise ValueError(f"a decoder reads at least one layer; got {self.grounding} and {self.propagation}")
        if min(self.width, self.least, *self.patch, self.temporal_stride, self.spatial_stride) < 1:
            raise ValueError(f"widths, patch and strides are 1 or more; got {self}")

    def stages(self) -> tuple[tuple[int, int, int], ...]:
        """Factors (time, rows, columns) by which latents grow to pixels, the time in the first stages; the heads do the
        last stage."""
        times, spaces = _factors(self.temporal_stride), _factors(self.spatial_stride)
        count = max(len(times), len(spaces), 1)
        times, spaces = times + [1] * (count - len(times)), spaces + [1] * (count - len(spaces))
        return tuple((t, s, s) for t, s in zip(times, spaces))


class MaskDecoder(nn.Module):
    """Maps (N, L, F, h, w) of one head's layers, in ascending order, to mask logits (N, T, H, W)."""

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        width = config.width
        reads = {"grounding": config.grounding, "propagation": config.propagation}
        used = {name: count for name, count in reads.items() if count}
        self.stems = nn.ModuleDict({name: CausalConv(count, width) for name, count in used.items()})
        *stages, last = config.stages()
        widths = [width]
        for _ in (config.patch, *stages):
            widths.append(max(config.least, widths[-1] // 2))
        # channels shrink before the size grows, and what follows is per channel: the large maps stay few
        self.blocks = nn.ModuleList(Block(a, b) for a, b in pairwise(widths))
        self.smooth = nn.ModuleList(CausalConv(b, b, groups=b) for b in widths[1:])
        self.ups = (config.patch, *stages)
        self.last = last
        out = math.prod(last)
        self.heads = nn.ModuleDict({name: nn.Conv3d(widths[-1], out, 1) for name in used})

    def forward(self, maps: Tensor, grid: Grid, head: Head, size: tuple[int, int] | None = None) -> Tensor:
        """
        Args:
            maps: (N, L, F, h, w) attention maps of any float type.
            grid: their token grid; its pixel frames are T.
            size: (H, W) of the clip, where the grid's last tokens reach beyond it; None takes all that they cover.

        Raises ValueError for maps of another grid, another number of layers, or a head that this decoder has not.
        """
        self._check(maps, grid, head)
        dtype = next(self.parameters()).dtype
        x = maps.to(dtype)
        if self.config.probabilities:
            x = x.log1p()
        x = self.stems[head](x)
        for index, (block, up, smooth) in enumerate(zip(self.blocks, self.ups, self.smooth)):
            x = _grow(block(x), up, grid.lead if index == 0 else None)
            x = x + smooth(x)
        x = _shuffle(self.heads[head](x), self.last)
        height, width = size or (x.shape[-2], x.shape[-1])
        return x[:, : grid.pixel_frames, :height, :width]

    def _check(self, maps: Tensor, grid: Grid, head: str) -> None:
        if head not in self.stems:
            raise ValueError(f"this decoder has heads {', '.join(self.stems)}; got {head!r}")
        layers = self.config.grounding if head == "grounding" else self.config.propagation
        if maps.ndim != 5 or maps.shape[1] != layers or tuple(maps.shape[2:]) != grid.shape:
            raise ValueError(
                f"the {head} head reads maps (N, {layers} layers, {grid.shape} tokens); got {tuple(maps.shape)}"
            )
        mine = (self.config.patch, self.config.temporal_stride, self.config.spatial_stride)
        if (grid.patch, grid.temporal_stride, grid.spatial_stride) != mine:
            raise ValueError(f"this decoder was made for patch and strides {mine}; the grid is {grid}")


class CausalConv(nn.Module):
    """A 3 x 3 x 3 convolution that sees the present and the two frames before; the first frame stands for what was
    before it."""

    def __init__(self, inputs: int, outputs: int, groups: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3, groups=groups)

    def forward(self, x: Tensor) -> Tensor:
        front = x[:, :, :1].expand(-1, -1, 2, -1, -1)
        return functional.conv3d(
            torch.cat([front, x], dim=2), self.conv.weight, self.conv.bias, padding=(0, 1, 1), groups=self.conv.groups
        )


class Block(nn.Module):
    """Normalises each position over its channels (over time it would not be causal), then convolves; residual."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(inputs, 1, 1, 1))
        self.conv = CausalConv(inputs, outputs)
        self.skip = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        normal = x * (x.square().mean(1, keepdim=True) + 1e-6).rsqrt() * self.scale
        return self.skip(x) + self.conv(functional.silu(normal))


def upsample_time(x: Tensor, factor: int) -> Tensor:
    """(N, C, T, H, W) to (N, C, 1 + (T - 1) * factor, H, W): the first frame stays one, as in a causal VAE."""
    if factor == 1:
        return x
    return torch.cat([x[:, :, :1], x[:, :, 1:].repeat_interleave(factor, dim=2)], dim=2)


def _grow(x: Tensor, factors: Sequence[int], lead: int | None) -> Tensor:
    """Repeats in time and space. `lead` is given where tokens become latents: each token frame is then that many whole
    latent frames, of which the first `lead` stand in front of the clip."""
    time, rows, columns = factors
    if lead is None:
        x = upsample_time(x, time)
    elif time > 1:
        x = x.repeat_interleave(time, dim=2)[:, :, lead:]
    return x.repeat_interleave(rows, dim=3).repeat_interleave(columns, dim=4)


def _shuffle(x: Tensor, factors: tuple[int, int, int]) -> Tensor:
    """(N, time*rows*columns, T, H, W) to (N, frames, H*rows, W*columns): channels are places inside each cell; of the
    first frame only its last frame is kept."""
    time, rows, columns = factors
    n, _, t, h, w = x.shape
    x = x.reshape(n, time, rows, columns, t, h, w).permute(0, 4, 1, 5, 2, 6, 3)
    return x.reshape(n, t * time, h * rows, w * columns)[:, time - 1 :]


def _factors(stride: int) -> list[int]:
    """Prime factors, ascending: 4 is 2 and 2."""
    found, rest, prime = [], stride, 2
    while rest > 1:
        while rest % prime == 0:
            found.append(prime)
            rest //= prime
        prime += 1
    return found
