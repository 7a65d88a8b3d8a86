"""Geometry of a clip, from pixels through latents to tokens. The only place that knows strides and patch sizes.

F, h, w: token frames, rows, columns. T, H, W: latent frames, height, width. Everything else is pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

import torch
from torch import Tensor

__all__ = ["FITS", "Fit", "Framing", "Grid", "clip_lengths"]

Fit = Literal["center", "stretch", "pad"]
"""How frames of another shape become the model's: cropped about their centre, stretched, or whole between bars."""
FITS: tuple[Fit, ...] = get_args(Fit)


@dataclass(frozen=True)
class Grid:
    """The token grid of one forward pass and how each token maps back to latents and pixels.

    Args:
        frames, height, width: tokens along time, rows and columns.
        patch: latent elements per token along (time, rows, columns).
        temporal_stride, spatial_stride: pixels per latent element; time is causal, so latent 0 holds pixel frame 0
            alone and latent i pixel frames `s*(i-1)+1 .. s*i`.
        cycle: after how many latent frames time begins anew, with a latent of one pixel frame (MiniMax H3: 5, of 17
            pixel frames); 0: never.
        prefix_frames: latent frames put in front of the clip to fill the first temporal patch (CogVideoX 1.5); they
            stand for pixel frame 0.
        pixels: (height, width) of the clip's frames, which the last row and column of tokens may reach over; None, and
            left None, where they end with it.
        fps: frames per second that the model makes; None where nobody knows.
        start: of a segment of a longer clip, which pixel frame of it is the first one here; more segments may follow.
            None: this is the whole clip. Grids that differ in `fps` and `start` alone are equal.
    """

    frames: int
    height: int
    width: int
    patch: tuple[int, int, int] = (1, 2, 2)
    temporal_stride: int = 4
    spatial_stride: int = 8
    prefix_frames: int = 0
    pixels: tuple[int, int] | None = None
    fps: float | None = field(default=None, compare=False)
    cycle: int = 0
    start: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        if min(self.frames, self.height, self.width, *self.patch, self.temporal_stride, self.spatial_stride) < 1:
            raise ValueError(f"a grid needs at least one token, patch element and stride along each axis; got {self}")
        if self.cycle < 0 or (self.cycle and self.patch[0] > 1):
            raise ValueError(f"cycle is 0, or some latent frames of one token frame each; got {self}")
        if not 0 <= self.prefix_frames < self.patch[0]:
            raise ValueError(
                f"prefix_frames counts latent frames in front, 0 to {self.patch[0] - 1}; got {self.prefix_frames}"
            )
        if self.pixels is None:
            return
        whole = self.height * self.token_pixels[0], self.width * self.token_pixels[1]
        if any(not 0 <= end - at < step for end, at, step in zip(whole, self.pixels, self.token_pixels)):
            raise ValueError(f"frames of {self.pixels} pixels (h, w) do not make {self.height}x{self.width} tokens")
        object.__setattr__(self, "pixels", None if self.pixels == whole else tuple(self.pixels))

    @classmethod
    def from_latent(
        cls,
        latent: tuple[int, int, int],
        patch: tuple[int, int, int] = (1, 2, 2),
        temporal_stride: int = 4,
        spatial_stride: int = 8,
        prefix_frames: int = 0,
        fps: float | None = None,
        cycle: int = 0,
    ) -> Grid:
        """Grid of a latent (T, H, W), without its prefix; sizes that the patch does not divide are rounded up. Frames
        have the pixels of the latent, its size times the stride."""
        t, h, w = latent
        tokens = (-(-(t + prefix_frames) // patch[0]), -(-h // patch[1]), -(-w // patch[2]))
        return cls(
            *tokens,
            patch=patch,
            temporal_stride=temporal_stride,
            spatial_stride=spatial_stride,
            prefix_frames=prefix_frames,
            pixels=(h * spatial_stride, w * spatial_stride),
            fps=fps,
            cycle=cycle,
        )

    @classmethod
    def from_pixels(
        cls,
        frames: int,
        height: int,
        width: int,
        patch: tuple[int, int, int] = (1, 2, 2),
        temporal_stride: int = 4,
        spatial_stride: int = 8,
        prefix_frames: int | None = None,
        cycle: int = 0,
    ) -> Grid:
        """Grid of a clip of `frames` x `height` x `width` pixels. `prefix_frames=None` fills the first temporal
        patch."""
        whole, rest = divmod(frames - 1, _round(temporal_stride, cycle)) if cycle else (0, frames - 1)
        t = whole * cycle + -(-rest // temporal_stride) + 1
        front = -t % patch[0] if prefix_frames is None else prefix_frames
        latent = (t, -(-height // spatial_stride), -(-width // spatial_stride))
        made = cls.from_latent(latent, patch, temporal_stride, spatial_stride, front, cycle=cycle)
        return replace(made, pixels=(height, width))

    @classmethod
    def of_elements(cls, latent: tuple[int, int, int], strides: tuple[int, ...]) -> Grid:
        """Grid of a latent (T, H, W) whose every element is a token; `strides` as the property has them."""
        time, space, *cycle = strides
        return cls.from_latent(latent, (1, 1, 1), time, space, cycle=sum(cycle))

    @property
    def strides(self) -> tuple[int, ...]:
        """(time, space), pixels per latent element, and the cycle of time where it has one."""
        return self.temporal_stride, self.spatial_stride, *([self.cycle] if self.cycle else [])

    @property
    def shape(self) -> tuple[int, int, int]:
        """(F, h, w)."""
        return self.frames, self.height, self.width

    @property
    def size(self) -> int:
        """Number of video tokens, F*h*w."""
        return self.frames * self.height * self.width

    @property
    def frame_size(self) -> int:
        """Tokens of one token frame, h*w."""
        return self.height * self.width

    @property
    def latent_frames(self) -> int:
        """Latent frames covered, without the prefix (an upper bound where the patch had to be padded)."""
        return self.frames * self.patch[0] - self.prefix_frames

    @property
    def pixel_frames(self) -> int:
        """Pixel frames covered."""
        return self._latent_span(self.latent_frames - 1)[1]

    @property
    def token_pixels(self) -> tuple[int, int]:
        """Pixel height and width of one token."""
        return self.patch[1] * self.spatial_stride, self.patch[2] * self.spatial_stride

    @property
    def frame_pixels(self) -> tuple[int, int]:
        """Pixel height and width of the clip's frames, as the model sees them."""
        return self.pixels or (self.height * self.token_pixels[0], self.width * self.token_pixels[1])

    def pixel_span(self, frame: int) -> tuple[int, int]:
        """Pixel frames [start, stop) that token frame `frame` stands for: the union over its latent frames."""
        if not 0 <= frame < self.frames:
            raise ValueError(f"token frame {frame} is outside 0..{self.frames - 1}")
        first = max(frame * self.patch[0] - self.prefix_frames, 0)
        last = max((frame + 1) * self.patch[0] - self.prefix_frames - 1, 0)
        return self._latent_span(first)[0], self._latent_span(last)[1]

    def _latent_span(self, frame: int) -> tuple[int, int]:
        """Pixel frames [start, stop) of a latent frame."""
        whole, rest = divmod(frame, self.cycle) if self.cycle else (0, frame)
        begin = whole * _round(self.temporal_stride, self.cycle) if whole else 0
        start = begin + (0 if rest == 0 else (rest - 1) * self.temporal_stride + 1)
        return start, begin + rest * self.temporal_stride + 1

    def pixel_spans(self) -> tuple[tuple[int, int], ...]:
        return tuple(self.pixel_span(i) for i in range(self.frames))


def _round(temporal_stride: int, cycle: int) -> int:
    """Pixel frames of a cycle."""
    return (cycle - 1) * temporal_stride + 1


def clip_lengths(temporal_stride: int, cycle: int = 0) -> tuple[int, int]:
    """(step, first): clips have step * n + first frames; where time goes in cycles, two latent frames more than whole
    ones (17 n + 5)."""
    return (_round(temporal_stride, cycle), 1 + temporal_stride) if cycle else (temporal_stride, 1)


@dataclass(frozen=True)
class Framing:
    """How source frames become what the model sees: one crop and one resize, for images and masks alike.

    `apply` smooths pictures before it makes them smaller; start images are resized as their host does, after this crop.

    Args:
        source, target: (height, width) in pixels.
        crop: "center" keeps the aspect ratio and cuts the overhang evenly (what ComfyUI does with start images);
            "stretch" resizes without a crop; "pad" shows the whole frame in its proportions, between black bars where
            nothing is (as ComfyUI's Resize And Pad Image).
    """

    source: tuple[int, int]
    target: tuple[int, int]
    crop: Fit = "center"

    def __post_init__(self) -> None:
        if min(*self.source, *self.target) < 1:
            raise ValueError(f"frame sizes are at least 1x1 pixel; got source {self.source}, target {self.target}")
        if self.crop not in FITS:
            raise ValueError(f"crop is 'center', 'stretch' or 'pad'; got {self.crop!r}")
        if min(*self.box()[2:], *self.window()[2:]) < 1:
            raise ValueError(
                f"bringing frames of {self.source} (h, w) to the shape of {self.target} ({self.crop}) leaves no pixel; "
                "choose a size of nearer proportions, or stretch"
            )

    def box(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the source region that the model sees; the same rounding as the host's."""
        (sh, sw), (th, tw) = self.source, self.target
        if self.crop != "center":
            return 0, 0, sh, sw
        old, new = sw / sh, tw / th
        x = round((sw - sw * (new / old)) / 2) if old > new else 0
        y = round((sh - sh * (old / new)) / 2) if old < new else 0
        return y, x, sh - 2 * y, sw - 2 * x

    def window(self) -> tuple[int, int, int, int]:
        """(top, left, height, width) of the target region that shows `box`: all of it, but for bars."""
        (sh, sw), (th, tw) = self.source, self.target
        if self.crop != "pad":
            return 0, 0, th, tw
        scale = min(tw / sw, th / sh)
        height, width = int(sh * scale), int(sw * scale)  # rounded as the host's own node does
        return (th - height) // 2, (tw - width) // 2, height, width

    def apply(self, frames: Tensor, mode: Literal["nearest", "area", "bilinear"] = "bilinear") -> Tensor:
        """Crops and resizes `frames` (..., source height, source width) to (..., target height, target width)."""
        if tuple(frames.shape[-2:]) != self.source:
            raise ValueError(
                f"frames are {tuple(frames.shape[-2:])} pixels (h, w), but this framing is for {self.source}"
            )
        y, x, h, w = self.box()
        cut = frames[..., y : y + h, x : x + w]
        top, left, height, width = self.window()
        if (h, w) != (height, width):
            flat = cut.reshape(-1, 1, h, w)
            flat = flat if flat.is_floating_point() else flat.float()
            out = _resized(flat, (height, width), mode)
            cut = out.reshape(*frames.shape[:-2], height, width).to(frames.dtype)
        if (height, width) == self.target:
            return cut
        whole = cut.new_zeros(*frames.shape[:-2], *self.target)
        whole[..., top : top + height, left : left + width] = cut
        return whole


def _resized(flat: Tensor, size: tuple[int, int], mode: Literal["nearest", "area", "bilinear"]) -> Tensor:
    if mode == "nearest":
        return torch.nn.functional.interpolate(flat, size, mode="nearest-exact")
    if mode == "area":
        return torch.nn.functional.interpolate(flat, size, mode="area")
    return torch.nn.functional.interpolate(flat, size, mode="bilinear", antialias=True)
