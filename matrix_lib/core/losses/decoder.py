"""A light causal decoder from attention maps to mask tracks in pixels, used in training and dropped at inference.

It retraces what a causal video VAE does (MATRIX): first tokens back to latents, then latents to pixels, where latent
frame 0 becomes pixel frame 0 alone and each later one `temporal_stride` frames. No frame depends on later tokens.

Growing by repetition and smoothing at the larger size is what is meant; what runs is one convolution at the smaller
size that makes all places of the larger one as channels (`Grow`), and the head is part of the last one: nothing but the
logits has the size of the clip. Convolutions over time are over rows and columns, with the frames they see side by side
as channels, channels last in memory: the form that kernels are fastest at.

N maps (entities), L layers of attention, F, h, w token frames, rows, columns, T, H, W pixel frames, rows, columns,
C channels. Inside, tensors are (N, T, H, W, C).
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..grid import Grid

__all__ = ["DecoderConfig", "Head", "MaskDecoder"]

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
        self.smooth = nn.ModuleList(Grow(b) for b in widths[1:])
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
        x = self.stems[head](x.movedim(1, -1).contiguous())
        final = len(self.blocks) - 1
        for index, (block, up, smooth) in enumerate(zip(self.blocks, self.ups, self.smooth)):
            drop = grid.prefix_frames if index == 0 else up[0] - 1
            x = block(x)
            x = smooth(x, up, drop) if index < final else smooth(x, up, drop, self.heads[head], self.last).squeeze(-1)
        height, width = size or (x.shape[-2], x.shape[-1])
        if grid.cycle:  # the first latent frame of each cycle is one pixel frame
            time, frames = grid.temporal_stride, range(grid.latent_frames)
            x = x[:, [at for i in frames for at in range(time * i - (time - 1) * (i % grid.cycle > 0), time * i + 1)]]
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

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(inputs, outputs, 3)

    def forward(self, x: Tensor) -> Tensor:
        return _convolve(x, self.conv.weight, self.conv.bias)


class Block(nn.Module):
    """Normalises each position over its channels (over time it would not be causal), then convolves; residual."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.ones(inputs, 1, 1, 1))
        self.conv = CausalConv(inputs, outputs)
        self.skip = nn.Conv3d(inputs, outputs, 1) if inputs != outputs else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        normal = x * (x.square().mean(-1, keepdim=True) + 1e-6).rsqrt() * self.scale.flatten()
        if isinstance(self.skip, nn.Conv3d):
            x = functional.linear(x, self.skip.weight.flatten(1), self.skip.bias)
        return x + self.conv(functional.silu(normal))


class Grow(nn.Module):
    """Repeats in time, rows and columns, then adds a causal 3 x 3 x 3 convolution of each channel with itself.

    Of neighbours in the larger size most are repetitions of one value, so the same comes out of a convolution at the
    smaller size: its taps are sums of taps, and its channels the places inside each cell.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv3d(channels, channels, 3, groups=channels)

    def forward(
        self,
        x: Tensor,
        factors: tuple[int, int, int],
        drop: int,
        head: nn.Conv3d | None = None,
        last: tuple[int, int, int] = (1, 1, 1),
    ) -> Tensor:
        """(N, T, H, W, C) to (N, T * time - drop, H * rows, W * columns, C).

        Args:
            factors: time, rows, columns.
            drop: frames that the first one is not repeated to (all but one of them, as in a causal VAE).
            head: a 1 x 1 x 1 convolution that follows, whose channels are the places inside each cell of `last`: a
                second growth, of whose first frame only the last place is kept. One channel comes out.
        """
        weight, bias = self._folded(factors, head)
        x = _convolve(x, weight, bias)
        n, t, h, w, _ = x.shape
        (time, rows, columns), (a, b, c) = factors, last
        x = x.reshape(n, t, h, w, time, rows, columns, a, b, c, -1).permute(0, 1, 4, 7, 2, 5, 8, 3, 6, 9, 10)
        return x.reshape(n, t * time * a, h * rows * b, w * columns * c, -1)[:, drop * a + a - 1 :]

    def _folded(self, factors: tuple[int, int, int], head: nn.Conv3d | None) -> tuple[Tensor, Tensor]:
        """Weights (places * outputs, C, taps in time, 3, 3) and biases of the convolution at the smaller size."""
        weight, bias = self.conv.weight.flatten(1), self.conv.bias
        assert bias is not None
        taps, present, mixed = _constants(factors, len(bias), weight.device, weight.dtype)
        if head is not None:
            mixed, bias = head.weight.flatten(1), functional.linear(bias, head.weight.flatten(1), head.bias)
        with torch.autocast(weight.device.type, enabled=False):  # rounded once, behind the sums
            folded = (taps @ (weight + present).T).mT[:, None] * mixed[:, :, None]
        return folded.reshape(-1, len(weight), taps.shape[1] // 9, 3, 3), bias.repeat(math.prod(factors))


@functools.cache
def _constants(
    factors: tuple[int, int, int], channels: int, device: torch.device, dtype: torch.dtype
) -> tuple[Tensor, Tensor, Tensor]:
    """On the device, so that no step waits for a copy: which taps (places, taps at the smaller size, 27) become which,
    the 27 taps that leave a tensor what it is, and the head (channels, channels) that leaves channels what they are."""
    with torch.inference_mode(False), torch.no_grad():
        time, rows, columns = (_taps(f, past) for f, past in zip(factors, (2, 1, 1)))
        taps = torch.einsum("pai,qbj,rdl->pqrabdijl", time, rows, columns).flatten(0, 2).flatten(1, 3).flatten(2)
        present = torch.zeros(3, 3, 3)
        present[2, 1, 1] = 1.0
        made = taps, present.flatten(), torch.eye(channels)
        return tuple(t.to(device, dtype) for t in made)  # type: ignore[return-value]


def _taps(factor: int, past: int) -> Tensor:
    """(place inside a cell, tap at the smaller size, tap at the larger size): 1 where both read the same.

    The larger size is read at -past .. 2 - past. Time (past 2) has no tap at the smaller size that nobody reads."""
    found = torch.zeros(factor, 3, 3)
    for place in range(factor):
        for tap in range(3):
            found[place, (place + tap - past) // factor + past, tap] = 1.0
    return found[:, 1:] if past == 2 and factor > 1 else found


def _convolve(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """(N, T, H, W, C) and (O, C, k, 3, 3) to (N, T, H, W, O): the present and the k - 1 frames before, zeros around."""
    n, t = x.shape[:2]
    k = weight.shape[2]
    past = torch.cat([x[:, :1].expand(-1, k - 1, -1, -1, -1), x], dim=1)
    seen = torch.cat([past[:, i : i + t] for i in range(k)], dim=-1)
    flat = weight.transpose(1, 2).flatten(1, 2).contiguous(memory_format=torch.channels_last)
    out = functional.conv2d(seen.flatten(0, 1).movedim(-1, 1), flat, bias, padding=1)
    return out.movedim(1, -1).unflatten(0, (n, t))


def _factors(stride: int) -> list[int]:
    """Prime factors, ascending: 4 is 2 and 2."""
    found, rest, prime = [], stride, 2
    while rest > 1:
        while rest % prime == 0:
            found.append(prime)
            rest //= prime
        prime += 1
    return found
