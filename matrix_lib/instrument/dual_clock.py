"""Dual-clock denoising of one sampling run: whose reference each latent is held to, where, and with which noise.

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
from ..core.guidance.dual_clock import DualClockDenoising, held
from ..core.guidance.part import RunPart
from ..core.noise import NoiseLevel
from ..core.tracks.tracks import MaskTracks
from .steps import StepContext

__all__ = ["DualClockHook", "ReferenceClip"]

_MARK = 0x2545F491  # so that its noise is not the sampler's own of the same seed
_SEGMENT = 0x9E3779B97F4A7C15
_ALIKE = 0.02  # of the reference's mean square: how far from it a clip may be that is the reference
_KNOWN = 0.3  # correlation from which a latent is taken to hold a noise; chance gives 0


@dataclass(frozen=True)
class ReferenceClip:
    """A reference as frames, for clips that are made segment by segment: the first latent frame of a segment holds one
    pixel frame, so each segment's own part is encoded.

    frames: (F, rows, columns, 3) uint8. encode: a part of them to (C, T, H, W), as the model sees latents.
    """

    frames: Tensor
    encode: Callable[[Tensor], Tensor]

    def part(self, start: int, count: int) -> tuple[Tensor, str]:
        """The latent of `count` frames from `start` on, and a note where the last one stands for those that are
        missing. Raises ValueError where there are none."""
        have = len(self.frames)
        if start >= have:
            raise ValueError(
                f"a further segment of the clip begins with frame {start}, and the reference clip has {have} frames: "
                "give it as many as the clip has"
            )
        own = self.frames[start : start + count]
        short = count - len(own)
        note = f"the reference clip ends with frame {have - 1}, which is held for the {short} frames behind it, too"
        return self.encode(torch.cat([own, *[own[-1:]] * short])), note if short else ""


class DualClockHook:
    """Holds the latents of one run.

    A refining pass, over a clip that is there, is not held, unless that clip is the reference itself. A later part of
    a split run is held with the noise of the first one: where its seed is that run's, exactly that; else what is left
    in the latent.

    Args:
        references: for each prompt the latent (C, T, H, W) of its reference clip, as the model sees latents, or its
            frames.
        tracks: for each prompt those whose inside is held longer; a prompt's samples follow each other in the batch.
        strides: of the model's `Grid`.
        prefix_frames: latent frames in front of the clip.
        seed: row i of the batch draws its noise from `seed + i`, whatever the batch.

    Raises ValueError where there is not one reference latent for each prompt.
    """

    title: ClassVar[str] = "dual-clock denoising"
    asks_model = False

    def __init__(
        self,
        guidance: DualClockDenoising,
        references: Sequence[Tensor | ReferenceClip],
        tracks: Sequence[Sequence[MaskTracks]],
        strides: tuple[int, ...],
        prefix_frames: int = 0,
        seed: int = 0,
    ) -> None:
        odd = [
            each
            for each in references
            if not isinstance(each, ReferenceClip) and (not isinstance(each, Tensor) or each.ndim != 4)
        ]
        if odd or len(references) != len(tracks):
            shapes = ", ".join(str(list(getattr(each, "shape", [])) or type(each).__name__) for each in references[:3])
            raise ValueError(
                f"a reference clip is a latent [channels, frames, rows, columns], one for each of {len(tracks)} "
                f"prompts; got {len(references)}: {shapes}"
            )
        self.guidance, self.references, self.tracks = guidance, tuple(references), tuple(tracks)
        self.strides, self.prefix_frames, self.seed = strides, prefix_frames, seed
        self._start, self._now, self._used = 0, self.tracks, 0
        self._notes: list[str] = []
        self._part: RunPart | None = None
        self._own_noise: Tensor | None = None
        self._free = self._compared = False
        self._key: tuple[object, ...] = ()
        self._rows: tuple[Tensor, Tensor, Tensor] | None = None

    def begin(self, x: Tensor | None, part: RunPart) -> None:
        self._key, self._rows, self._part, self._own_noise = (), None, part, None
        self._free = self._compared = False
        acting = [self.acts(at, part.steps) for at in part.places]
        self._notes += self.guidance.collapses(part.steps)
        if x is not None and any(acting):
            reference, *_ = self.prepare(x)
            self._compared = part.start is not None and part.start.shape == reference.shape
            if part.refines and self._compared:
                assert part.start is not None
                self._leave(float((part.start.to(reference) - reference).square().mean()), reference)
        self._notes += part.told([each and not self._free for each in acting])

    def follow(self, start: int, own: Callable[[MaskTracks], MaskTracks | None]) -> None:
        """The segment's part of reference and tracks. Raises ValueError where the reference is a latent, which is that
        of a clip made in one."""
        if start and not all(isinstance(each, ReferenceClip) for each in self.references):
            raise ValueError(
                f"a further segment of the clip begins with frame {start}, and the reference is the latent of a clip "
                "that is made in one: the first latent frame of a segment has no like in it. Give the reference as "
                "frames (F, rows, columns, 3) uint8, of which each segment's own part is encoded"
            )
        self._start, self._rows = start, None
        parts = [[own(each) for each in given] for given in self.tracks]
        self._now = tuple([part for part in given if part is not None] for given in parts)
        if any(part is None for given in parts for part in given):
            self.tell(f"tracks end before frame {start}, with which a further segment begins: nothing is held longer")

    def tell(self, note: str) -> None:
        if note not in self._notes:
            self._notes.append(note)

    def acts(self, step: float, steps: int) -> bool:
        return not self._free and self.guidance.at(step, steps) != 0

    @property
    def notes(self) -> list[str]:
        """What is held for nobody, what the tracks do not say, and what the run is a part of."""
        clips = [each for each in self.references if isinstance(each, ReferenceClip)]
        left = [
            f"of the reference clip's {len(each.frames)} frames the first {self._used} were used"
            for each in clips
            if 0 < self._used < len(each.frames)
        ]
        return list(dict.fromkeys([*self._notes, *left]))

    def figures(self) -> list[str]:
        """Nothing is measured."""
        return []

    def __call__(self, at: StepContext) -> Tensor:
        if not self.acts(at.step, at.steps):
            return at.x
        front = 0 if at.given_frames is None else at.given_frames.shape[2]
        reference, inside, noise = self.prepare(at.x, front)
        if self._part is not None and not self._part.begins:
            if self._part.refines and not self._compared:
                self._compared = True
                over = (at.x.float() - at.level.alpha * reference.float()).square().mean() - at.level.sigma**2
                chance = 4 * at.level.sigma**2 * math.sqrt(2 / at.x.numel())  # of noise that is not quite its size
                self._leave((float(over) - chance) / max(at.level.alpha**2, 1e-9), reference)
                if self._free:
                    return at.x
            if not self._part.refines:
                noise = self._going_on(at.x, reference, inside, noise, at.level)
        everywhere = self.guidance.everywhere(at.step, at.steps)
        return held(at.x, reference, noise, at.level, None if everywhere else inside)

    def _leave(self, apart: float, reference: Tensor) -> None:
        """`apart`: mean square distance of what is refined from the reference."""
        self._free = apart > _ALIKE * float(reference.float().square().mean())
        if self._free:
            self._notes.append(
                "this run refines a clip that is not the reference, so it is not held: the clip would be lost. To "
                "begin from the rough animation itself, sample its own latent"
            )

    def _going_on(self, x: Tensor, reference: Tensor, inside: Tensor, noise: Tensor, level: NoiseLevel) -> Tensor:
        """The noise that the earlier part of the run was held with, as far as it can be known."""
        if self._own_noise is None:
            left = (x.float() - level.alpha * reference.float()) / level.sigma
            where = inside.expand_as(left) if inside.any() else torch.ones_like(left, dtype=torch.bool)
            a, b = left[where], noise.to(left)[where]
            known = float((a * b).sum() / (a.norm() * b.norm()).clamp(min=1e-9))
            self._own_noise = noise if known > _KNOWN else left
            if known <= _KNOWN:
                self._notes.append(
                    "the earlier part of this run was held with noise of another seed, so what is left of it in the "
                    "latent is used; the same seed in both samplers makes them exactly one run"
                )
        return self._own_noise.to(x.device)

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
        grid = Grid.of_elements(clip[1:], self.strides)
        references = [self._latent(each, grid.pixel_frames) for each in self.references]
        for each in references:
            if tuple(each.shape) != clip:
                raise ValueError(
                    f"the reference clip has a latent of {list(each.shape)} (channels, frames, rows, columns), but "
                    f"{list(clip)} is sampled, without {self.prefix_frames} frames in front: encode a clip of as many "
                    "frames and pixels, with this model's own VAE"
                )
        if batch % len(references):
            raise ValueError(
                f"{batch} samples do not divide into {len(references)} reference clips: give one, or one for each"
            )
        times = batch // len(references)
        wide = [torch.cat([each[:, :1]] * self.prefix_frames + [each], 1)[:, front:] for each in references]
        inside = torch.stack([self._inside(each, grid) for each in self._now])[:, :, front:]
        mark = _MARK + self._start * _SEGMENT  # each segment has noise of its own
        draws = [torch.Generator().manual_seed(((self.seed + row) ^ mark) % 2**63) for row in range(batch)]
        noise = torch.stack([torch.randn(shape[1:], generator=draw) for draw in draws])
        return torch.stack(wide).repeat_interleave(times, 0), inside.repeat_interleave(times, 0), noise

    def _latent(self, reference: Tensor | ReferenceClip, frames: int) -> Tensor:
        if not isinstance(reference, ReferenceClip):
            return reference
        self._used = max(self._used, self._start + frames)
        latent, note = reference.part(self._start, frames)
        if note:
            self.tell(note)
        return latent

    def _inside(self, tracks: Sequence[MaskTracks], grid: Grid) -> Tensor:
        """(1, prefix_frames + T, H, W) bool of one prompt."""
        inside = torch.zeros(grid.shape, dtype=torch.bool)
        for each in tracks:
            if each.frames == 1 and grid.pixel_frames > 1:
                raise ValueError(
                    "these tracks are masks of the first frame alone, so they do not say where anything goes: give "
                    f"tracks of all {grid.pixel_frames} frames"
                )
            if any(
                isinstance(clip, ReferenceClip) for clip in self.references
            ):  # what is left may be of later segments
                each = each.take(range(min(each.frames, grid.pixel_frames)))
            cover = each.to_grid(grid, "area")
            self._notes += cover.notes
            inside |= (cover.maps > self.guidance.cover).any(0)
        return torch.cat([torch.zeros(self.prefix_frames, *grid.shape[1:], dtype=torch.bool), inside])[None]
