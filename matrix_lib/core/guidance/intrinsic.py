"""Temporal intrinsic denoising (IVG-DA, arXiv 2505.24253): Langevin steps that make what a track holds move as one.

Before each step of the sampler, M times, in the paper's symbols

    z <- z + eta_l [grad log p(z) + c_g grad tau(z)] + eta_k eps

tau is the sum, over instances and adjacent frames, of the Pearson correlation of the latent inside the instance's
boxes. Its gradient is written out here: no network pass, no autograd. How eta_l and eta_k follow from gamma is not
published; ours is the Langevin step of size gamma sigma^2, for a noisy latent x = alpha x0 + sigma e:

    eta_l = gamma sigma^2,    eta_k = sqrt(2 gamma) sigma,    grad log p = -e / sigma,    e = (x - alpha x0) / sigma

with x0 the model's (CFG) prediction. So epsilon, velocity and flow models differ in alpha alone:

    diffusers' DDPM family (variance preserving)   alpha = sqrt(abar), sigma = sqrt(1 - abar)
    epsilon and velocity models in ComfyUI (EDM)   alpha = 1, sigma up to 14 and more
    flow models                                    alpha = 1 - s, sigma = s

A correlation does not change when x is scaled, so the gradient shrinks as x grows, and the first two say the same.

B batch, C channels, T latent frames, H rows, W columns; P samples of a box.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field, fields
from typing import ClassVar, Literal, get_args

import torch
from torch import Tensor
from torch.nn import functional

from ..grid import Framing, Grid
from ..noise import NoiseLevel
from ..tracks.timing import time_notes
from ..tracks.token_masks import default_framing
from ..tracks.tracks import MaskTracks
from .base import Guidance, Where
from .schedule import Schedule

__all__ = ["IntrinsicDenoising", "RowPriors", "TemporalPrior", "by_row", "latent_boxes", "refine"]

Source = Literal["noisy", "clean"]
Region = Literal["box", "mask"]
Channels = Literal["joint", "each"]
# Values in a correlation at which `normalise` changes nothing: a quarter of ZeroScope's 40 x 72 latent, 4 channels.
REFERENCE_VALUES = 2880
_FLAT = 1e-10  # share of the mean square below which a variance is rounding, and correlation undefined


@dataclass(frozen=True)
class IntrinsicDenoising(Guidance):
    """Temporal intrinsic denoising, with the paper's constants.

    Args:
        iterations: M, before each step; 0 changes nothing. Each costs one more prediction.
        strength: c_g, the weight of grad tau beside the score. 0 leaves plain Langevin steps.
        rate: gamma, the size of a step as a share of the noise variance.
        noise: factor on eta_k; 0 leaves the fresh noise out.
        share: where given, c_g is chosen in each step so that c_g |grad tau| is this share of |score| (both over the
            places where tau has a gradient), instead of `strength`.
        normalise: multiplies the gradient by the number of values correlated over `REFERENCE_VALUES`: the gradient of
            a correlation shrinks with that number, so small boxes are pushed harder than large ones without it.
        on: "noisy" takes tau of the latent itself (the paper), "clean" of the predicted clean latent, whose change with
            the latent is taken as the identity at unit variance.
        region: "box" correlates everything inside the boxes (the paper), "mask" what the mask covers.
        channels: "joint" is one correlation over all channels of two boxes, "each" the mean of one for each channel.
        schedule: factor on c_g (or on `share`) over the steps; steps where it is 0 are left alone altogether.

    Raises ValueError for anything else.
    """

    where: ClassVar[Where] = "step"
    only_one: ClassVar[str] = "raise its iterations or its strength instead"

    iterations: int = 2
    strength: float = 10000.0
    rate: float = 0.05
    noise: float = 1.0
    share: float | None = None
    normalise: bool = False
    on: Source = "noisy"
    region: Region = "box"
    channels: Channels = "joint"
    schedule: Schedule = field(default_factory=Schedule)

    def __post_init__(self) -> None:
        if not 0 <= self.iterations <= 100:
            raise ValueError(f"iterations before each step are 0 to 100; got {self.iterations}")
        if not 0 <= self.strength <= 1e9:
            raise ValueError(f"the strength c_g is 0 to 1e9; got {self.strength}")
        if not 0 < self.rate <= 1:
            raise ValueError(f"the rate gamma is above 0 and at most 1; got {self.rate}")
        if not 0 <= self.noise <= 1000:
            raise ValueError(f"the noise factor is 0 to 1000; got {self.noise}")
        if self.share is not None and not 0 <= self.share <= 1000:
            raise ValueError(f"the share of the score is 0 to 1000, or None; got {self.share}")
        for name, kinds in (("on", Source), ("region", Region), ("channels", Channels)):
            if getattr(self, name) not in get_args(kinds):
                raise ValueError(f"{name} is one of {', '.join(get_args(kinds))}; got {getattr(self, name)!r}")

    @property
    def idle(self) -> bool:
        return self.iterations == 0

    def at(self, step: float, steps: int) -> float:
        """The schedule's factor at a step."""
        return 0.0 if self.idle else self.schedule.at(step, steps)

    def prior(self, tracks: MaskTracks, grid: Grid) -> TemporalPrior:
        """tau of these tracks on a clip's latent; see `TemporalPrior`."""
        return TemporalPrior(tracks, grid, self.region, self.channels, self.normalise)


def latent_boxes(tracks: MaskTracks, grid: Grid) -> dict[str, Tensor]:
    """Per name (T, 4) int64 boxes (x0, y0, x1, y1) in latent elements, at least one large; -1 where the instance is
    absent.

    The box of a latent frame is the mean of the boxes in its pixel frames: those of a moving instance keep its size.
    It is rounded in size first and then in place, so that a box of constant size stays of constant size.

    `grid` is that of the latent: patch (1, 1, 1). Raises ValueError for tracks that do not fit the clip.
    """
    if grid.patch != (1, 1, 1):
        raise ValueError(f"boxes are on the latent, a grid of patch (1, 1, 1); got {grid.patch}")
    known = tracks.to_grid(grid).known  # says what does not fit
    framing = default_framing(tracks, grid)
    spans = [span if yes else (0, 0) for span, yes in zip(grid.pixel_spans(), known)]
    pixels = {name: tracks.boxes(name).double() for name in tracks.names}
    return {
        name: torch.stack([_whole(boxes[first:last], grid, framing) for first, last in spans])
        for name, boxes in pixels.items()
    }


def _whole(boxes: Tensor, grid: Grid, framing: Framing) -> Tensor:
    """(4,) int64 of the (n, 4) pixel boxes of one latent frame; -1 where none is there."""
    (top, left, height, width), (above, before, high, wide) = framing.box(), framing.window()
    boxes = boxes[~boxes.isnan().any(1)]
    scale = torch.tensor([wide / width, high / height]).double() / grid.spatial_stride
    lead = torch.tensor([before, above]).double() / grid.spatial_stride
    size = torch.tensor([grid.width, grid.height])
    corners = ((boxes.view(-1, 2, 2) - torch.tensor([left, top])) * scale + lead).clamp(min=0)
    corners = corners.minimum(size.double())
    corners = corners[((corners[:, 1] - corners[:, 0]) > 0).all(1)]
    if not len(corners):
        return torch.full((4,), -1)
    low, high = corners.mean(0)
    extent = (high - low).round().long().clamp(min=1).minimum(size)
    start = ((low + high - extent) / 2).round().long().clamp(min=0).minimum(size - extent)
    return torch.cat([start, start + extent])


@dataclass(frozen=True, eq=False)
class _Samples:
    """Where one instance is read off each of N latents, N 1 where all have the same. index, weight: (N, T, 4, P)
    bilinear corners in the flat plane; here: (N, T) bool; inside: (N, T, P), how much each sample counts; points: (N,),
    how many of P there are."""

    index: Tensor
    weight: Tensor
    here: Tensor
    inside: Tensor
    points: Tensor

    def to(self, like: Tensor) -> _Samples:
        weight, inside, points = (t.to(like) for t in (self.weight, self.inside, self.points))
        return _Samples(self.index.to(like.device), weight, self.here.to(like.device), inside, points)

    def padded(self, points: int) -> _Samples:
        """The same with samples that count for nothing behind, up to so many."""
        more = points - self.index.shape[-1]
        index, weight, inside = (functional.pad(t, (0, more)) for t in (self.index, self.weight, self.inside))
        return _Samples(index, weight, self.here, inside, self.points)


class TemporalPrior:
    """tau of a clip's tracks, and its gradient.

    Args:
        tracks: what moves where. Boxes of an instance are resampled to its largest one, so that adjacent frames
            correlate even where the size changes.
        grid: of the clip's latent, patch (1, 1, 1).
        region, channels, normalise: see `IntrinsicDenoising`.

    Two adjacent frames count where the instance is in both. `notes` say which instances never count.

    Raises ValueError for tracks that do not fit the clip.
    """

    def __init__(
        self,
        tracks: MaskTracks,
        grid: Grid,
        region: Region = "box",
        channels: Channels = "joint",
        normalise: bool = False,
    ) -> None:
        self.grid, self.channels, self.normalise = grid, channels, normalise
        self.notes = time_notes(tracks, grid)
        cover = tracks.to_grid(grid, "area") if region == "mask" else None
        self._samples: list[_Samples] = []
        for name, boxes in latent_boxes(tracks, grid).items():
            here = boxes[:, 0] >= 0
            if not (here[1:] & here[:-1]).any():
                self.notes.append(f"{name!r} is never in two latent frames that follow each other: it has no motion")
                continue
            plane = None if cover is None else cover.maps[cover.index(name)]
            self._samples.append(_samples(boxes, here, grid, plane))
        self._on: dict[tuple[torch.device, torch.dtype], list[_Samples]] = {}

    def value(self, z: Tensor) -> Tensor:
        """tau (B,) float32 of latents (B, C, T, H, W)."""
        return self(z)[0]

    def gradient(self, z: Tensor) -> Tensor:
        """grad tau (B, C, T, H, W) float32, of each latent's own tau."""
        return self(z)[1]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """tau and its gradient."""
        if tuple(z.shape[2:]) != self.grid.shape:
            raise ValueError(
                f"the tracks are laid out for a latent of {self.grid.shape}, but it has {list(z.shape[2:])}"
            )
        z = z if z.dtype == torch.float64 else z.float()
        flat = z.flatten(3)
        tau, grad = z.new_zeros(z.shape[0]), torch.zeros_like(flat)
        place = z.device, z.dtype
        if place not in self._on:
            with torch.inference_mode(False):
                self._on[place] = [each.to(z) for each in self._samples]
        for at in self._on[place]:
            part, slope = self._instance(flat, at)
            tau += part
            grad += slope
        return tau, grad.view(z.shape)

    def _instance(self, flat: Tensor, at: _Samples) -> tuple[Tensor, Tensor]:
        b, c = flat.shape[:2]
        frames, _, points = at.index.shape[1:]
        index = at.index.flatten(2)[:, None].expand(b, c, -1, -1)
        weight = at.weight[:, None]
        x = (flat.gather(3, index).view(b, c, frames, 4, points) * weight).sum(3)
        counts = torch.minimum(at.inside[:, 1:], at.inside[:, :-1]) * (at.here[:, 1:] & at.here[:, :-1])[..., None]
        r, left, right = _pearson(x[:, :, :-1], x[:, :, 1:], counts[:, None], self.channels)
        slope = torch.zeros_like(x)
        slope[:, :, :-1] += left
        slope[:, :, 1:] += right
        if self.normalise:
            slope *= (at.points * c / REFERENCE_VALUES)[:, None, None, None]
        spread = (slope[:, :, :, None] * weight).view(b, c, frames, -1)
        return r.sum(1), torch.zeros_like(flat).scatter_add_(3, index, spread)


def _samples(boxes: Tensor, here: Tensor, grid: Grid, plane: Tensor | None) -> _Samples:
    """Reads every box of an instance at as many points as its largest one has elements."""
    size = boxes[:, 2:] - boxes[:, :2]
    columns, rows = (int(n) for n in size[here].amax(0))
    x0, xf = _along(boxes[:, 0], boxes[:, 2], columns)
    y0, yf = _along(boxes[:, 1], boxes[:, 3], rows)
    x1, y1 = (x0 + 1).minimum(boxes[:, 2:3] - 1).clamp(min=0), (y0 + 1).minimum(boxes[:, 3:4] - 1).clamp(min=0)
    corners = []
    for y, wy in ((y0, 1 - yf), (y1, yf)):
        for x, wx in ((x0, 1 - xf), (x1, xf)):
            flat = (y[:, :, None] * grid.width + x[:, None]).flatten(1)
            corners.append((flat, (wy[:, :, None] * wx[:, None]).flatten(1)))
    index = torch.stack([flat for flat, _ in corners], 1)
    weight = torch.stack([share for _, share in corners], 1) * here[:, None, None]
    inside = torch.ones(len(boxes), rows * columns)
    if plane is not None:
        taken = plane.flatten(1).gather(1, index.flatten(1)).view(index.shape)
        inside = (taken * weight).sum(1)
    points = torch.tensor([float(rows * columns)])
    return _Samples(index[None], weight[None], here[None], inside[None], points)


def _along(first: Tensor, last: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """(T, count) lower neighbours and shares of the upper ones, at the centres of `count` equal parts of each box."""
    length = (last - first).double()[:, None]
    at = ((torch.arange(count).double() + 0.5) * length / count - 0.5).clamp(min=0)
    at = at.minimum((length - 1).clamp(min=0))
    low = at.floor()
    return (first.clamp(min=0)[:, None] + low).long(), at - low


def _pearson(a: Tensor, b: Tensor, weight: Tensor, channels: Channels) -> tuple[Tensor, Tensor, Tensor]:
    """Weighted correlation (B, pairs) of a and b (B, C, pairs, P), and its gradients with respect to both; weights are
    (N, 1, pairs, P). 0 where one of them does not vary, where a correlation is undefined."""
    over = (1, 3) if channels == "joint" else (3,)
    many = a.shape[1] if channels == "joint" else 1
    total = (weight.sum(-1) * many).clamp(min=torch.finfo(a.dtype).tiny)[..., None]  # (N, 1, pairs, 1)

    def centred(t: Tensor) -> tuple[Tensor, Tensor]:
        """t less its mean, and the reciprocal of its norm or 0."""
        square = (weight * t.square()).sum(over, keepdim=True)
        t = t - (weight * t).sum(over, keepdim=True) / total
        norm = (weight * t.square()).sum(over, keepdim=True)
        varies = norm > _FLAT * square
        return t, torch.where(varies, norm, 1.0).rsqrt() * varies

    (a, na), (b, nb) = centred(a), centred(b)
    a, b = a * na, b * nb
    r = (weight * a * b).sum(over, keepdim=True)
    both = (na > 0) & (nb > 0)
    left, right = weight * (b - r * a) * na * both, weight * (a - r * b) * nb * both
    share = 1.0 if channels == "joint" else 1.0 / a.shape[1]
    return (r * share).sum((1, 3)), left * share, right * share


class RowPriors:
    """tau of a batch whose rows have priors of their own: a row's is the sum over its list. All rows run together.

    Raises ValueError for priors of different grids or configurations.
    """

    def __init__(self, priors: Sequence[Sequence[TemporalPrior]]) -> None:
        self.count = len(priors)
        known = [prior for row in priors for prior in row]
        if len({(prior.grid, prior.channels, prior.normalise) for prior in known}) > 1:
            raise ValueError("priors of one batch have one grid and one configuration")
        self._prior: TemporalPrior | None = None
        if known:
            self._prior = copy(known[0])
            self._prior._samples, self._prior._on = _joined(priors), {}

    def value(self, z: Tensor) -> Tensor:
        """tau (B,) float32 of latents (B, C, T, H, W)."""
        return self(z)[0]

    def gradient(self, z: Tensor) -> Tensor:
        """grad tau (B, C, T, H, W) float32."""
        return self(z)[1]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """tau and its gradient."""
        if len(z) != self.count:
            raise ValueError(f"there are tracks for {self.count} latents, but the batch has {len(z)}")
        if self._prior is None:
            kind = torch.promote_types(z.dtype, torch.float32)
            return z.new_zeros(len(z), dtype=kind), torch.zeros_like(z, dtype=kind)
        return self._prior(z)


def _joined(priors: Sequence[Sequence[TemporalPrior]]) -> list[_Samples]:
    """Samples of all rows side by side: the n-th instance of every row makes one."""
    if all(list(map(id, row)) == list(map(id, priors[0])) for row in priors):
        return [at for prior in priors[0] for at in prior._samples]
    rows = [[at for prior in row for at in prior._samples] for row in priors]
    found = []
    for place in range(max(map(len, rows))):
        some = [row[place] if place < len(row) else None for row in rows]
        most = max(at.index.shape[-1] for at in some if at is not None)
        wide = [at.padded(most) if at is not None else None for at in some]
        model = next(at for at in wide if at is not None)
        none = _Samples(*(torch.zeros_like(getattr(model, one.name)) for one in fields(model)))
        each = [none if at is None else at for at in wide]
        found.append(_Samples(*(torch.cat([getattr(at, one.name) for at in each]) for one in fields(model))))
    return found


def by_row(priors: Sequence[Sequence[TemporalPrior]]) -> Callable[[Tensor], Tensor]:
    """grad tau of a batch, one entry per row: the sum over the row's priors; see `RowPriors`."""
    return RowPriors(priors).gradient


def refine(
    x: Tensor,
    denoised: Tensor,
    predict: Callable[[Tensor], Tensor],
    gradient: Callable[[Tensor], Tensor],
    config: IntrinsicDenoising,
    level: NoiseLevel,
    factor: float = 1.0,
    draw: Callable[[Tensor], Tensor] = torch.randn_like,
) -> tuple[Tensor, Tensor]:
    """The M iterations before one step.

    Args:
        x: noisy latents (B, C, T, H, W).
        denoised: the model's prediction of the clean latents at x, after CFG.
        predict: that prediction for other x.
        gradient: grad tau, see `TemporalPrior.gradient` and `by_row`.
        level: the noise in x.
        factor: of the schedule at this step.
        draw: standard normal noise like a tensor.

    Returns the new latents and the prediction there, in the dtypes of `x` and `denoised`.
    """
    for _ in range(config.iterations if factor else 0):
        x = _iterate(x, denoised, gradient, config, level, factor, draw).to(x.dtype)
        denoised = predict(x)
    return x, denoised


def _iterate(
    x: Tensor,
    denoised: Tensor,
    gradient: Callable[[Tensor], Tensor],
    config: IntrinsicDenoising,
    level: NoiseLevel,
    factor: float,
    draw: Callable[[Tensor], Tensor],
) -> Tensor:
    """One Langevin step."""
    kind = torch.promote_types(x.dtype, torch.float32)
    x, clean = x.to(kind), denoised.to(kind)
    alpha, sigma = level.alpha, level.sigma
    score = (alpha * clean - x) / sigma**2
    slope = gradient(x) if config.on == "noisy" else gradient(clean) / level.scale
    if config.share is None:
        slope = slope * (config.strength * factor)
    else:
        slope = slope * _share(slope, score, config.share * factor)
    moved = x + config.rate * sigma**2 * (score + slope)
    if config.noise:
        moved = moved + config.noise * math.sqrt(2 * config.rate) * sigma * draw(x).to(x)
    return moved


def _share(slope: Tensor, score: Tensor, share: float) -> Tensor:
    """c_g per row, so that c_g |slope| = share |score| over the places where the slope is not 0."""
    dims = tuple(range(1, slope.ndim))
    steep = slope.square().sum(dims, keepdim=True).sqrt()
    pull = (score * (slope != 0)).square().sum(dims, keepdim=True).sqrt()
    return torch.where(steep > 0, share * pull / torch.where(steep > 0, steep, 1.0), 0.0)
