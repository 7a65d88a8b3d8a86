"""Dual-clock denoising of one sampling run: whose reference each latent is held to, where, and with which noise.

B batch, C channels, T latent frames, H, W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

import torch
from torch import Tensor

from ..core.grid import Grid
from ..core.guidance.dual_clock import DualClockDenoising, held
from ..core.tracks.tracks import MaskTracks
from .steps import StepContext

__all__ = ["DualClockHook"]

_MARK = 0x2545F491  # so that its noise is not the sampler's own of the same seed


class DualClockHook:
    """Holds the latents of one run.

    Args:
        references: for each prompt the latent (C, T, H, W) of its reference clip, as the model sees latents.
        tracks: for each prompt those whose inside is held longer; a prompt's samples follow each other in the batch.
        strides: (time, space), pixels per latent element.
        prefix_frames: latent frames in front of the clip.
        seed: row i of the batch draws its noise from `seed + i`, whatever the batch.

    Raises ValueError where there is not one reference latent for each prompt.
    """

    title: ClassVar[str] = "dual-clock denoising"
    asks_model = False
    fresh_runs_only = True

    def __init__(
        self,
        guidance: DualClockDenoising,
        references: Sequence[Tensor],
        tracks: Sequence[Sequence[MaskTracks]],
        strides: tuple[int, int],
        prefix_frames: int = 0,
        seed: int = 0,
    ) -> None:
        if any(not isinstance(each, Tensor) or each.ndim != 4 for each in references) or len(references) != len(tracks):
            shapes = ", ".join(str(list(getattr(each, "shape", [])) or type(each).__name__) for each in references[:3])
            raise ValueError(
                f"a reference clip is a latent [channels, frames, rows, columns], one for each of {len(tracks)} "
                f"prompts; got {len(references)}: {shapes}"
            )
        self.guidance, self.references, self.tracks = guidance, tuple(references), tuple(tracks)
        self.strides, self.prefix_frames, self.seed = strides, prefix_frames, seed
        self._notes: list[str] = []
        self._key: tuple[object, ...] = ()
        self._rows: tuple[Tensor, Tensor, Tensor] | None = None

    def begin(self, x: Tensor | None, steps: int) -> None:
        self._key, self._rows = (), None
        if x is not None and any(self.acts(step, steps) for step in range(steps)):
            self.prepare(x)

    def acts(self, step: int, steps: int) -> bool:
        if step == 0 and not self.guidance.idle and not self.guidance.clocks(steps)[0]:
            self._notes.append(
                f"of {steps} steps, {self.guidance.inside:.0%} are less than half a step: nothing is held"
            )
        return self.guidance.at(step, steps) != 0

    @property
    def notes(self) -> list[str]:
        """What is held for nobody, and what the tracks do not say."""
        return list(dict.fromkeys(self._notes))

    def figures(self) -> list[str]:
        """Nothing is measured."""
        return []

    def __call__(self, at: StepContext) -> Tensor:
        if not self.acts(at.step, at.steps):
            return at.x
        front = 0 if at.given_frames is None else at.given_frames.shape[2]
        reference, inside, noise = self.prepare(at.x, front)
        everywhere = self.guidance.everywhere(at.step, at.steps)
        return held(at.x, reference, noise, at.level, None if everywhere else inside)

    def prepare(self, x: Tensor, front: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Reference, inside and noise for latents like x, whose first `front` frames (of the clip, prefix included) are
        left out.

        Raises ValueError for references and tracks that do not fit, and for a batch that does not divide into the
        prompts."""
        key = (tuple(x.shape), front, x.device, self.prefix_frames, self.seed)
        if self._rows is None or key != self._key:
            with torch.inference_mode(False):
                made = self._made(tuple(x.shape), front)
                self._rows = made[0].to(x.device), made[1].to(x.device), made[2].to(x.device)
            self._key = key
        return self._rows

    def _made(self, shape: tuple[int, ...], front: int) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, frames, height, width = shape
        clip = (channels, frames + front - self.prefix_frames, height, width)
        for each in self.references:
            if tuple(each.shape) != clip:
                raise ValueError(
                    f"the reference clip has a latent of {list(each.shape)} (channels, frames, rows, columns), but "
                    f"{list(clip)} is sampled, without {self.prefix_frames} frames in front: encode a clip of as many "
                    "frames and pixels, with this model's own VAE"
                )
        if batch % len(self.references):
            raise ValueError(
                f"{batch} samples do not divide into {len(self.references)} reference clips: give one, or one for each"
            )
        times = batch // len(self.references)
        grid = Grid.from_latent(clip[1:], (1, 1, 1), *self.strides)
        wide = [torch.cat([each[:, :1]] * self.prefix_frames + [each], 1)[:, front:] for each in self.references]
        inside = torch.stack([self._inside(each, grid) for each in self.tracks])[:, :, front:]
        draws = [torch.Generator().manual_seed(((self.seed + row) ^ _MARK) % 2**63) for row in range(batch)]
        noise = torch.stack([torch.randn(shape[1:], generator=draw) for draw in draws])
        return torch.stack(wide).repeat_interleave(times, 0), inside.repeat_interleave(times, 0), noise

    def _inside(self, tracks: Sequence[MaskTracks], grid: Grid) -> Tensor:
        """(1, prefix_frames + T, H, W) bool of one prompt."""
        inside = torch.zeros(grid.shape, dtype=torch.bool)
        for each in tracks:
            if each.frames == 1 and grid.pixel_frames > 1:
                raise ValueError(
                    "these tracks are masks of the first frame alone, so they do not say where anything goes: give "
                    f"tracks of all {grid.pixel_frames} frames"
                )
            cover = each.to_grid(grid, "area")
            self._notes += cover.notes
            inside |= (cover.maps > self.guidance.cover).any(0)
        return torch.cat([torch.zeros(self.prefix_frames, *grid.shape[1:], dtype=torch.bool), inside])[None]
