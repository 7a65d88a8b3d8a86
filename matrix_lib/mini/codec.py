"""The mini model's codec: a small causal video autoencoder of the Wan 2.1 architecture.

The names of the parameters are those of the Wan release, so ComfyUI's VAE loader recognises the file as it is, and
`hosts.diffusers.mini` renames them for `AutoencoderKLWan`. Those two walk through a clip in chunks and keep caches;
this one computes the same numbers on the whole clip at once, which is what training wants.

B batch, F pixel frames (4n + 1), T latent frames (n + 1), H x W pixels, C channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["SPATIAL", "TEMPORAL", "Codec", "CodecConfig"]

SPATIAL, TEMPORAL = 8, 4
MULTIPLIERS = (1, 2, 4, 4)
DOWN_IN_TIME = (False, True, True)
RES_BLOCKS = 2
# The mean of the latents is what both hosts use; a log-variance this low makes a sample of them equal to the mean.
CERTAIN = -20.0


@dataclass(frozen=True)
class CodecConfig:
    """Widths of the codec. Everything else is fixed by the architecture that the hosts know.

    Args:
        base: channels at full resolution; the inner stages have 2x, 4x and 4x as many.
        latent: channels of the latents (16 is what ComfyUI's loader accepts).
    """

    base: int = 16
    latent: int = 16

    def __post_init__(self) -> None:
        if self.base < 2 or self.base % 2:
            raise ValueError(f"codec base width must be an even number of channels, at least 2; got {self.base}")
        if self.latent < 1:
            raise ValueError(f"codec latents need at least one channel; got {self.latent}")


class CausalConv(nn.Conv3d):
    """3D convolution that sees only the present and the past: all padding in time goes in front."""

    def forward(self, x: Tensor) -> Tensor:
        t, h, w = self.kernel_size
        if max(t, h, w) > 1:
            x = F.pad(x, (w // 2, w // 2, h // 2, h // 2, t - 1, 0))
        return F.conv3d(x, self.weight, self.bias, self.stride)


class Norm(nn.Module):
    """Unit root mean square over channels, one gain per channel. `dims` trailing axes of size 1 in the gain."""

    def __init__(self, channels: int, dims: int = 3) -> None:
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(channels, *(1,) * dims))

    def forward(self, x: Tensor) -> Tensor:
        # The sum is taken in float32 without a copy of x: this moves more memory than the convolutions do.
        length = torch.linalg.vector_norm(x, dim=1, keepdim=True, dtype=torch.float32)
        return x * (x.shape[1] ** 0.5 / length.clamp_min(1e-12)).to(x.dtype) * self.gamma.to(x.dtype)


class Residual(nn.Module):
    """Two convolutions around a shortcut."""

    def __init__(self, inside: int, outside: int) -> None:
        super().__init__()
        self.residual = nn.Sequential(
            Norm(inside),
            nn.SiLU(),
            CausalConv(inside, outside, 3),
            Norm(outside),
            nn.SiLU(),
            nn.Identity(),  # dropout in the release; kept for the numbering
            CausalConv(outside, outside, 3),
        )
        self.shortcut = nn.Identity() if inside == outside else CausalConv(inside, outside, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.residual(x) + self.shortcut(x)


class FrameAttention(nn.Module):
    """One head of attention inside each frame."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = Norm(channels, dims=2)
        self.to_qkv = nn.Conv2d(channels, channels * 3, 1)
        self.proj = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        frames, size = to_frames(x)
        rows = self.to_qkv(self.norm(frames)).flatten(2).transpose(1, 2)  # (BT, HW, 3C)
        out = F.scaled_dot_product_attention(*(part[:, None] for part in rows.chunk(3, dim=-1)))[:, 0]
        return x + from_frames(self.proj(out.transpose(1, 2).reshape_as(frames)), size)


class Down(nn.Module):
    """Halves rows and columns, and frames after the first if `time`."""

    def __init__(self, channels: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(channels, channels, 3, stride=2))
        self.time_conv = nn.Conv3d(channels, channels, (3, 1, 1), stride=(2, 1, 1)) if time else None

    def forward(self, x: Tensor) -> Tensor:
        frames, size = to_frames(x)
        x = from_frames(self.resample(frames), size)
        if self.time_conv is None or x.shape[2] == 1:
            return x
        return torch.cat([x[:, :, :1], self.time_conv(x)], dim=2)


class Up(nn.Module):
    """Doubles rows and columns while halving channels, and doubles frames after the first if `time`."""

    def __init__(self, channels: int, time: bool) -> None:
        super().__init__()
        self.resample = nn.Sequential(
            nn.Upsample(scale_factor=2.0, mode="nearest-exact"), nn.Conv2d(channels, channels // 2, 3, padding=1)
        )
        self.time_conv = CausalConv(channels, channels * 2, (3, 1, 1)) if time else None

    def forward(self, x: Tensor) -> Tensor:
        if self.time_conv is not None and x.shape[2] > 1:
            later = self.time_conv(x[:, :, 1:])
            pairs = later.unflatten(1, (2, x.shape[1])).movedim(1, 3)  # (B, C, T, 2, H, W)
            x = torch.cat([x[:, :, :1], pairs.flatten(2, 3)], dim=2)
        frames, size = to_frames(x)
        return from_frames(self.resample(frames), size)


def to_frames(x: Tensor) -> tuple[Tensor, int]:
    """(B, C, T, H, W) -> (B*T, C, H, W) and T."""
    return x.transpose(1, 2).flatten(0, 1), x.shape[2]


def from_frames(x: Tensor, frames: int) -> Tensor:
    """Inverse of `to_frames`."""
    return x.unflatten(0, (-1, frames)).transpose(1, 2)


def middle(channels: int) -> nn.Sequential:
    return nn.Sequential(Residual(channels, channels), FrameAttention(channels), Residual(channels, channels))


def head(channels: int, out: int) -> nn.Sequential:
    return nn.Sequential(Norm(channels), nn.SiLU(), CausalConv(channels, out, 3))


class Encoder(nn.Module):
    def __init__(self, base: int, latent: int) -> None:
        super().__init__()
        widths = [base] + [base * m for m in MULTIPLIERS]
        self.conv1 = CausalConv(3, base, 3)
        layers: list[nn.Module] = []
        for stage, (inside, outside) in enumerate(pairwise(widths)):
            layers += [Residual(inside if i == 0 else outside, outside) for i in range(RES_BLOCKS)]
            if stage < len(DOWN_IN_TIME):
                layers.append(Down(outside, DOWN_IN_TIME[stage]))
        self.downsamples = nn.Sequential(*layers)
        self.middle = middle(widths[-1])
        self.head = head(widths[-1], latent)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.middle(self.downsamples(self.conv1(x))))


class Decoder(nn.Module):
    def __init__(self, base: int, latent: int) -> None:
        super().__init__()
        widths = [base * MULTIPLIERS[-1]] + [base * m for m in reversed(MULTIPLIERS)]
        self.conv1 = CausalConv(latent, widths[0], 3)
        self.middle = middle(widths[0])
        layers: list[nn.Module] = []
        for stage, (inside, outside) in enumerate(pairwise(widths)):
            inside = inside // 2 if stage else inside
            layers += [Residual(inside if i == 0 else outside, outside) for i in range(RES_BLOCKS + 1)]
            if stage < len(DOWN_IN_TIME):
                layers.append(Up(outside, DOWN_IN_TIME[-1 - stage]))
        self.upsamples = nn.Sequential(*layers)
        self.head = head(widths[-1], 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.upsamples(self.middle(self.conv1(x))))


class Codec(nn.Module):
    """Pixels to latents and back: 8x in space, 4x in time, the first frame alone."""

    def __init__(self, config: CodecConfig | None = None) -> None:
        super().__init__()
        self.config = config or CodecConfig()
        latent = self.config.latent
        self.encoder = Encoder(self.config.base, latent * 2)
        self.conv1 = CausalConv(latent * 2, latent * 2, 1)
        self.conv2 = CausalConv(latent, latent, 1)
        self.decoder = Decoder(self.config.base, latent)

    def moments(self, video: Tensor) -> tuple[Tensor, Tensor]:
        """(B, 3, F, H, W) in [-1, 1] -> mean and log-variance of the latents, each (B, latent, T, H/8, W/8)."""
        check_size(video)
        mean, log_variance = self.conv1(self.encoder(video)).chunk(2, dim=1)
        return mean, log_variance

    def encode(self, video: Tensor) -> Tensor:
        """The mean of the latents, which is what both hosts use."""
        return self.moments(video)[0]

    def decode(self, latents: Tensor) -> Tensor:
        """(B, latent, T, h, w) -> (B, 3, 4(T-1)+1, 8h, 8w), not clamped."""
        if latents.ndim != 5 or latents.shape[1] != self.config.latent:
            raise ValueError(
                f"latents must be (batch, {self.config.latent}, frames, height, width); got {tuple(latents.shape)}"
            )
        return self.decoder(self.conv2(latents))

    @torch.no_grad()
    def standardise(self, mean: Tensor, std: Tensor, target: float = 1.0) -> None:
        """Folds a change of units into the 1x1x1 convolutions: latents with the given statistics per channel come out
        with mean 0 and standard deviation `target`, decode unchanged, and carry no noise when sampled."""
        n = self.config.latent
        gain = (target / std).view(n, 1, 1, 1, 1)
        self.conv1.weight[:n] *= gain
        self.conv1.bias[:n] = (self.conv1.bias[:n] - mean) * gain.flatten()
        self.conv1.weight[n:] = 0.0
        self.conv1.bias[n:] = CERTAIN
        assert self.conv2.bias is not None
        self.conv2.bias += self.conv2.weight.flatten(1) @ mean
        self.conv2.weight /= gain.view(1, n, 1, 1, 1)


def check_size(video: Tensor) -> None:
    """Raises ValueError for clips that the strides do not divide."""
    if video.ndim != 5 or video.shape[1] != 3:
        raise ValueError(f"video must be (batch, 3, frames, height, width); got {tuple(video.shape)}")
    frames, height, width = video.shape[2:]
    if (frames - 1) % TEMPORAL or height % SPATIAL or width % SPATIAL:
        raise ValueError(
            f"the codec takes {TEMPORAL}n+1 frames and sides that are multiples of {SPATIAL}; "
            f"got {frames} frames of {height}x{width}: crop or resize the clip first"
        )
