"""Temporal intrinsic denoising of one sampling run: whose tracks each latent follows, which noise it draws, and what
became of tau.

B batch, C channels, T latent frames, H, W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from ..core.grid import Grid
from ..core.guidance.intrinsic import IntrinsicDenoising, RowPriors, TemporalPrior, refine
from ..core.noise import Level
from ..core.tracks.tracks import MaskTracks

__all__ = ["Refiner", "StepTau"]


@dataclass(frozen=True)
class StepTau:
    """tau, mean over the batch, before and after the iterations of one step."""

    step: int
    sigma: float
    before: float
    after: float


class Refiner:
    """Refines the latents of one run.

    Args:
        tracks: for each prompt those that its latents follow (none, or several); a prompt's samples follow each other
            in the batch.
        strides: (time, space), pixels per latent element.
        lead: latent frames in front of the clip.
        seed: row i of the batch draws its noise from `seed + i`, whatever the batch.
    """

    def __init__(
        self,
        config: IntrinsicDenoising,
        tracks: Sequence[Sequence[MaskTracks]],
        strides: tuple[int, int],
        lead: int = 0,
        seed: int = 0,
    ) -> None:
        self.config, self.tracks, self.strides, self.lead, self.seed = config, tuple(tracks), strides, lead, seed
        self._rows: list[list[TemporalPrior]] = []
        self._priors: RowPriors | None = None
        self._shape: tuple[int, ...] = ()
        self._draws: list[torch.Generator] = []
        self._taus: list[tuple[int, float, Tensor, Tensor]] = []

    def begin(self) -> None:
        """A run begins: the same seed gives the same noise."""
        self._draws, self._taus = [], []

    def acts(self, step: int, steps: int) -> bool:
        """Whether anything happens before a step."""
        return self.config.factor(step, steps) != 0

    @property
    def notes(self) -> list[str]:
        """Instances that have no motion to speak of."""
        return list(dict.fromkeys(note for row in self._rows for prior in row for note in prior.notes))

    def taus(self) -> list[StepTau]:
        """What it did to tau, per step."""
        return [
            StepTau(step, sigma, float(before.mean()), float(after.mean())) for step, sigma, before, after in self._taus
        ]

    def prepare(self, latent: tuple[int, int, int, int]) -> None:
        """Lays the tracks over latents of (B, T, H, W), `lead` frames included.

        Raises ValueError for tracks that do not fit the clip, and a batch that does not divide into the prompts."""
        batch, frames, height, width = latent
        if latent == self._shape:
            return
        if batch % len(self.tracks):
            raise ValueError(f"{batch} samples do not divide into {len(self.tracks)} prompts with tracks")
        time, space = self.strides
        grid = Grid.from_latent((frames - self.lead, height, width), (1, 1, 1), time, space)
        made = {id(each): self.config.prior(each, grid) for given in self.tracks for each in given}
        every = [[made[id(each)] for each in given] for given in self.tracks]
        self._rows = [row for row in every for _ in range(batch // len(every))]
        self._priors = RowPriors(self._rows)
        self._shape = latent

    def __call__(
        self,
        x: Tensor,
        denoised: Tensor,
        predict: Callable[[Tensor], Tensor],
        level: Level,
        step: int,
        steps: int,
        still: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The latents and the prediction there, after the iterations of a step.

        Args:
            x: noisy latents (B, C, T, H, W).
            denoised, predict, level: see `core.intrinsic.refine`.
            still: latent frames (B, C, n, H, W) in front of x that nobody samples.
        """
        factor = self.config.factor(step, steps)
        if factor == 0:
            return x, denoised
        front = 0 if still is None else still.shape[2]
        self.prepare((x.shape[0], x.shape[2] + front, x.shape[3], x.shape[4]))
        assert self._priors is not None
        slope = self._priors.gradient

        def gradient(z: Tensor) -> Tensor:
            grad = slope(self._clip(z, still))
            whole = torch.cat([torch.zeros_like(grad[:, :, :1]).expand(-1, -1, self.lead, -1, -1), grad], 2)
            return whole[:, :, front:]

        before = self._tau(x, still)
        x, denoised = refine(x, denoised, predict, gradient, self.config, _safe(level), factor, self._draw)
        self._taus.append((step, level.sigma, before, self._tau(x, still)))
        return x, denoised

    def _tau(self, x: Tensor, still: Tensor | None) -> Tensor:
        """tau, mean over the batch."""
        assert self._priors is not None
        return self._priors.value(self._clip(x, still)).mean()

    def _clip(self, x: Tensor, still: Tensor | None) -> Tensor:
        """The clip's own latent frames."""
        whole = x if still is None else torch.cat([still.to(x), x], 2)
        return whole[:, :, self.lead :]

    def _draw(self, x: Tensor) -> Tensor:
        if len(self._draws) != len(x):  # other numbers than those that the run began from, also where seeds agree
            self._draws = [
                torch.Generator().manual_seed(((self.seed + i) ^ 0x5DEECE66D) % 2**63) for i in range(len(x))
            ]
        rows = [torch.randn(x.shape[1:], generator=draw) for draw in self._draws]
        return torch.stack(rows).to(x)


def _safe(level: Level) -> Level:
    """The score divides by sigma: a last timestep without noise has none, and its steps have no length."""
    return Level(level.alpha, max(level.sigma, 1e-6))
