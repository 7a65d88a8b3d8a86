"""Dual-clock denoising (Time-to-Move, arXiv 2511.08633): a model sampled to follow a rough animation, without training.

A reference clip says where everything is: an animation that was drawn by hand, reprojected, or made of the first frame
and mask tracks (`cut_and_drag`). Up to a step of its own, each of two regions is what the reference says, noisy as the
sampler has it there; from then on the model denoises freely:

    x <- alpha z + sigma e        with z the reference's latent and e noise that stays the same over a run

Inside the tracks that step is late (the paper's t_strong), outside early (t_weak), so that what moves is held to its
path and what is around it answers to that.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from ..noise import NoiseLevel
from .base import Guidance, Where

__all__ = ["DualClockDenoising", "held"]


@dataclass(frozen=True)
class DualClockDenoising(Guidance):
    """Two clocks, as shares of the steps of a run; where it is part of a longer schedule, of the steps of that.

    Args:
        inside: share of the steps after which the inside of the tracks is the model's own. The paper's 9 of 50 for
            CogVideoX (7 for Wan): more keeps to the path and looks pasted.
        outside: the same for everything else; at most `inside`. The paper's 4 of 50 (3 for Wan): less lets the model
            draw things twice or move the camera, more freezes the background. 0 leaves the outside alone.
        cover: a latent element is inside where the tracks cover more than this share of it.

    Raises ValueError for anything else.
    """

    where: ClassVar[Where] = "step"
    needs_reference: ClassVar[bool] = True
    only_one: ClassVar[str] = "draw one reference clip that says everything"

    inside: float = 0.18
    outside: float = 0.08
    cover: float = 0.0

    def __post_init__(self) -> None:
        numbers = all(isinstance(each, (int, float)) for each in (self.inside, self.outside, self.cover))
        if not numbers or not (math.isfinite(self.inside) and 0 <= self.outside <= self.inside <= 1):
            raise ValueError(
                "the clocks are shares of the steps with 0 <= outside <= inside <= 1; "
                f"got outside {self.outside!r} and inside {self.inside!r}, cover {self.cover!r}"
            )
        if not 0 <= self.cover < 1:
            raise ValueError(f"cover is a share from 0 to below 1; got {self.cover}")

    @property
    def idle(self) -> bool:
        return self.inside == 0

    def clocks(self, steps: int) -> tuple[int, int]:
        """The steps from which (inside, outside) are free. 0: they always are."""
        return round(self.inside * steps), round(self.outside * steps)

    def at(self, step: float, steps: int) -> float:
        """1 where anything is held before a step."""
        return float(not self.idle and step <= self.clocks(steps)[0] != 0)

    def collapses(self, steps: int) -> list[str]:
        inside, outside = self.clocks(steps)
        if self.idle:
            return []
        if not inside:
            return [f"of {steps} steps, {self.inside:.0%} are less than half a step: nothing is held"]
        if self.outside and not outside:
            return [
                f"of {steps} steps, {self.outside:.0%} are less than half a step: outside of the tracks nothing is held"
            ]
        if inside == outside and self.inside != self.outside:
            return [
                f"of {steps} steps, {self.inside:.0%} and {self.outside:.0%} are the same step {inside}: inside and "
                "outside of the tracks are held alike"
            ]
        return []

    def everywhere(self, step: float, steps: int) -> bool:
        """Whether the outside is held, too."""
        return step <= self.clocks(steps)[1] != 0


def held(x: Tensor, reference: Tensor, noise: Tensor, level: NoiseLevel, inside: Tensor | None = None) -> Tensor:
    """x (B, C, T, H, W) with the noisy reference where `inside` (B, 1, T, H, W) bool is true; None: everywhere.

    `reference` and `noise` are like x; `level` says how noisy x is."""
    noisy = (level.alpha * reference.float() + level.sigma * noise.float()).to(x)
    return noisy if inside is None else torch.where(inside, noisy, x)
