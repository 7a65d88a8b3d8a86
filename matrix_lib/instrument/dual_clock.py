"""Dual-clock denoising of one sampling run: whose reference each latent is held to, where, and with which noise.

B batch, C channels, T latent frames, H, W latent rows and columns.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..core.grid import Grid
from ..core.guidance.dual_clock import DualClockDenoising, held
from ..core.noise import Level
from ..core.tracks.tracks import MaskTracks

__all__ = ["Clocks"]

_MARK = 0x2545F491  # so that its noise is not the sampler's own of the same seed


class Clocks:
    """Holds the latents of one run.

    Args:
        references: for each prompt the latent (C, T, H, W) of its reference clip, as the model sees latents.
        tracks: for each prompt those whose inside is held longer; a prompt's samples follow each other in the batch.
        strides: (time, space), pixels per latent element.
        lead: latent frames in front of the clip.
        seed: row i of the batch draws its noise from `seed + i`, whatever the batch.

    Raises ValueError where there is not one reference latent for each prompt.
    """

    def __init__(
        self,
        config: DualClockDenoising,
        references: Sequence[Tensor],
        tracks: Sequence[Sequence[MaskTracks]],
        strides: tuple[int, int],
        lead: int = 0,
        seed: int = 0,
    ) -> None:
        if any(not isinstance(each, Tensor) or each.ndim != 4 for each in references) or len(references) != len(tracks):
            shapes = ", ".join(str(list(getattr(each, "shape", [])) or type(each).__name__) for each in references[:3])
            raise ValueError(
                f"a reference clip is a latent [channels, frames, rows, columns], one for each of {len(tracks)} "
                f"prompts; got {len(references)}: {shapes}"
            )
        self.config, self.references, self.tracks = config, tuple(references), tuple(tracks)
        self.strides, self.lead, self.seed = strides, lead, seed
        self._notes: list[str] = []
        self._key: tuple[object, ...] = ()
        self._rows: tuple[Tensor, Tensor, Tensor] | None = None

    def begin(self) -> None:
        """A run begins."""
        self._key, self._rows = (), None

    def acts(self, step: int, steps: int) -> bool:
        """Whether anything is held before a step."""
        if step == 0 and not self.config.idle and not self.config.clocks(steps)[0]:
            self._notes.append(f"of {steps} steps, {self.config.inside:.0%} are less than half a step: nothing is held")
        return self.config.acts(step, steps)

    @property
    def notes(self) -> list[str]:
        """What is held for nobody, and what the tracks do not say."""
        return list(dict.fromkeys(self._notes))

    def __call__(self, x: Tensor, level: Level, step: int, steps: int, still: Tensor | None = None) -> Tensor:
        """The latents (B, C, T, H, W) before a step, held. `still`: frames in front of x that nobody samples."""
        if not self.acts(step, steps):
            return x
        reference, inside, noise = self.prepare(x, 0 if still is None else still.shape[2])
        return held(x, reference, noise, level, None if self.config.everywhere(step, steps) else inside)

    def prepare(self, x: Tensor, front: int = 0) -> tuple[Tensor, Tensor, Tensor]:
        """Reference, inside and noise for latents like x, whose first `front` frames (of the clip, `lead` included) are
        left out.

        Raises ValueError for references and tracks that do not fit, and for a batch that does not divide into the
        prompts."""
        key = (tuple(x.shape), front, x.device, self.lead, self.seed)
        if self._rows is None or key != self._key:
            with torch.inference_mode(False):
                made = self._made(tuple(x.shape), front)
                self._rows = made[0].to(x.device), made[1].to(x.device), made[2].to(x.device)
            self._key = key
        return self._rows

    def _made(self, shape: tuple[int, ...], front: int) -> tuple[Tensor, Tensor, Tensor]:
        batch, channels, frames, height, width = shape
        clip = (channels, frames + front - self.lead, height, width)
        for each in self.references:
            if tuple(each.shape) != clip:
                raise ValueError(
                    f"the reference clip has a latent of {list(each.shape)} (channels, frames, rows, columns), but "
                    f"{list(clip)} is sampled, without {self.lead} frames in front (`lead`): encode a clip of as many "
                    "frames and pixels, with this model's own VAE"
                )
        if batch % len(self.references):
            raise ValueError(
                f"{batch} samples do not divide into {len(self.references)} reference clips: give one, or one for each"
            )
        times = batch // len(self.references)
        grid = Grid.from_latent(clip[1:], (1, 1, 1), *self.strides)
        wide = [torch.cat([each[:, :1]] * self.lead + [each], 1)[:, front:] for each in self.references]
        inside = torch.stack([self._inside(each, grid) for each in self.tracks])[:, :, front:]
        draws = [torch.Generator().manual_seed(((self.seed + row) ^ _MARK) % 2**63) for row in range(batch)]
        noise = torch.stack([torch.randn(shape[1:], generator=draw) for draw in draws])
        return torch.stack(wide).repeat_interleave(times, 0), inside.repeat_interleave(times, 0), noise

    def _inside(self, tracks: Sequence[MaskTracks], grid: Grid) -> Tensor:
        """(1, lead + T, H, W) bool of one prompt."""
        inside = torch.zeros(grid.shape, dtype=torch.bool)
        for each in tracks:
            if each.frames == 1 and grid.pixel_frames > 1:
                raise ValueError(
                    "these tracks are masks of the first frame alone, so they do not say where anything goes: give "
                    f"tracks of all {grid.pixel_frames} frames"
                )
            cover = each.to_grid(grid, "area")
            self._notes += cover.notes
            inside |= (cover.maps > self.config.cover).any(0)
        return torch.cat([torch.zeros(self.lead, *grid.shape[1:], dtype=torch.bool), inside])[None]
