"""Temporal intrinsic denoising of one sampling run: whose tracks each latent follows, which noise it draws, and what
became of tau.

B batch, C channels, T latent frames, H, W latent rows and columns.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..core.grid import Grid
from ..core.guidance.intrinsic import IntrinsicDenoising, RowPriors, TemporalPrior, refine
from ..core.guidance.part import RunPart
from ..core.noise import NoiseLevel
from ..core.tracks.tracks import MaskTracks
from .steps import StepContext

__all__ = ["IntrinsicHook", "StepTau"]


@dataclass(frozen=True)
class StepTau:
    """tau, mean over the batch, before and after the iterations of one step of the whole schedule."""

    step: float
    sigma: float
    before: float
    after: float


class IntrinsicHook:
    """Refines the latents of one run.

    Args:
        tracks: for each prompt those that its latents follow (none, or several); a prompt's samples follow each other
            in the batch.
        strides: of the model's `Grid`.
        prefix_frames: latent frames in front of the clip.
        seed: row i of the batch draws its noise from `seed + i`, whatever the batch.
    """

    title: ClassVar[str] = "intrinsic denoising"
    asks_model = True

    def __init__(
        self,
        guidance: IntrinsicDenoising,
        tracks: Sequence[Sequence[MaskTracks]],
        strides: tuple[int, ...],
        prefix_frames: int = 0,
        seed: int = 0,
    ) -> None:
        self.guidance, self.tracks, self.strides = guidance, tuple(tracks), strides
        self.prefix_frames, self.seed = prefix_frames, seed
        self._now, self._ended = self.tracks, list[str]()
        self._rows: list[list[TemporalPrior]] = []
        self._priors: RowPriors | None = None
        self._shape: tuple[int, ...] = ()
        self._draws: list[torch.Generator] = []
        self._taus: list[tuple[float, float, Tensor, Tensor]] = []
        self._told: list[str] = []
        self._drawn = 0

    def begin(self, x: Tensor | None, part: RunPart) -> None:
        self._draws, self._taus = [], []  # the same seed gives the same noise
        self._told = [
            *self.guidance.collapses(part.steps),
            *part.told([self.acts(at, part.steps) for at in part.places]),
        ]
        # a later part of a split run goes on with the noise where the earlier ones stopped
        before = [] if part.begins or part.refines else range(math.ceil(part.places[0] - 1e-6))
        self._drawn = sum(self.acts(at, part.steps) for at in before) * self.guidance.iterations
        if x is not None:
            self.prepare((x.shape[0], *x.shape[2:]))

    def follow(self, start: int, own: Callable[[MaskTracks], MaskTracks | None]) -> None:
        """The segment's part of the tracks; those that end before it move nothing any more."""
        parts = [[own(each) for each in given] for given in self.tracks]
        self._now, self._shape = tuple([part for part in given if part is not None] for given in parts), ()
        if any(part is None for given in parts for part in given):
            self._ended = [
                f"tracks end before frame {start}, with which a further segment begins: nothing follows them there"
            ]

    def tell(self, note: str) -> None:
        if note not in self._told:
            self._told.append(note)

    def acts(self, step: float, steps: int) -> bool:
        return self.guidance.at(step, steps) != 0

    @property
    def notes(self) -> list[str]:
        """Instances that have no motion to speak of, and what the run is a part of."""
        return list(
            dict.fromkeys(
                [*(note for row in self._rows for prior in row for note in prior.notes), *self._told, *self._ended]
            )
        )

    def figures(self) -> list[str]:
        """What was measured, a line each."""
        return [
            f"step {at.step:g}, sigma {at.sigma:.3f}: tau {at.before:.3f} before, {at.after:.3f} after"
            for at in self.taus()
        ]

    def taus(self) -> list[StepTau]:
        """What it did to tau, per step."""
        return [
            StepTau(step, sigma, float(before.mean()), float(after.mean())) for step, sigma, before, after in self._taus
        ]

    def prepare(self, latent: tuple[int, int, int, int]) -> None:
        """Lays the tracks over latents of (B, T, H, W), `prefix_frames` included.

        Raises ValueError for tracks that do not fit the clip, and a batch that does not divide into the prompts."""
        batch, frames, height, width = latent
        if latent == self._shape:
            return
        if batch % len(self.tracks):
            raise ValueError(f"{batch} samples do not divide into {len(self.tracks)} prompts with tracks")
        grid = Grid.of_elements((frames - self.prefix_frames, height, width), self.strides)
        made = {id(each): self.guidance.prior(each, grid) for given in self._now for each in given}
        every = [[made[id(each)] for each in given] for given in self._now]
        self._rows = [row for row in every for _ in range(batch // len(every))]
        self._priors = RowPriors(self._rows)
        self._shape = latent

    def __call__(self, at: StepContext) -> Tensor:
        factor = self.guidance.at(at.step, at.steps)
        if factor == 0:
            return at.x
        x, given = at.x, at.given_frames
        front = 0 if given is None else given.shape[2]
        self.prepare((x.shape[0], x.shape[2] + front, x.shape[3], x.shape[4]))
        assert self._priors is not None
        slope = self._priors.gradient

        def gradient(z: Tensor) -> Tensor:
            grad = slope(self._clip(z, given))
            prefix = torch.zeros_like(grad[:, :, :1]).expand(-1, -1, self.prefix_frames, -1, -1)
            return torch.cat([prefix, grad], 2)[:, :, front:]

        before = self._tau(x, given)
        x, _ = refine(x, at.denoised(), at.predict, gradient, self.guidance, _safe(at.level), factor, self._draw)
        self._taus.append((at.step, at.level.sigma, before, self._tau(x, given)))
        return x

    def _tau(self, x: Tensor, given: Tensor | None) -> Tensor:
        """tau, mean over the batch."""
        assert self._priors is not None
        return self._priors.value(self._clip(x, given)).mean()

    def _clip(self, x: Tensor, given: Tensor | None) -> Tensor:
        """The clip's own latent frames."""
        whole = x if given is None else torch.cat([given.to(x), x], 2)
        return whole[:, :, self.prefix_frames :]

    def _draw(self, x: Tensor) -> Tensor:
        if len(self._draws) != len(x):  # other numbers than those that the run began from, also where seeds agree
            self._draws = [
                torch.Generator().manual_seed(((self.seed + i) ^ 0x5DEECE66D) % 2**63) for i in range(len(x))
            ]
            for draw in self._draws if self.guidance.noise else ():
                for _ in range(self._drawn):
                    torch.randn(x.shape[1:], generator=draw)
        rows = [torch.randn(x.shape[1:], generator=draw) for draw in self._draws]
        return torch.stack(rows).to(x)


def _safe(level: NoiseLevel) -> NoiseLevel:
    """The score divides by sigma: a last timestep without noise has none, and its steps have no length."""
    return NoiseLevel(level.alpha, max(level.sigma, 1e-6))
