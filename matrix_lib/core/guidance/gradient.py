"""Gradient guidance: before a step the latent descends MATRIX's alignment losses, through the network."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..layers import Layers
from .base import Guidance, Where
from .schedule import Schedule

__all__ = ["GradientGuidance"]


@dataclass(frozen=True)
class GradientGuidance(Guidance):
    """Gradient guidance: before a step the latent descends MATRIX's alignment losses, through the network.

    x <- x - strength * sigma * g / rms(g), with g the gradient of sga * L_SGA + spa * L_SPA with respect to x. The
    losses compare attention maps with the masks on the token grid, without a decoder. The papers use them in training
    only; the update is ours.

    Args:
        strength: size of one update, as a share of the noise in x.
        iterations: updates before each step; each takes a forward and a backward pass of the conditional prediction.
        sga, spa: weights of grounding (words look where their instance is) and of propagation (an instance's first
            tokens look along its track); `layers.v2t` counts for the first, `layers.v2v` for the second.
        scores: maps of "probabilities" or of "logits".
        checkpoint: keeps one block's activations at a time and runs blocks again, instead of keeping all.
        schedule: factor on the strength over the steps; steps where it is 0 cost nothing.
    """

    where: ClassVar[Where] = "step"
    needs_words: ClassVar[bool] = True

    strength: float = 0.1
    iterations: int = 1
    sga: float = 1.0
    spa: float = 1.0
    scores: Literal["probabilities", "logits"] = "probabilities"
    checkpoint: bool = True
    layers: Layers = Layers()
    schedule: Schedule = Schedule()

    def __post_init__(self) -> None:
        for name in ("strength", "sga", "spa"):
            if not (math.isfinite(getattr(self, name)) and 0 <= getattr(self, name) <= 1000):
                raise ValueError(f"{name} is 0 to 1000; got {getattr(self, name)}")
        if not 0 <= self.iterations <= 100:
            raise ValueError(f"iterations before each step are 0 to 100; got {self.iterations}")
        if self.scores not in ("probabilities", "logits"):
            raise ValueError(f"scores are 'probabilities' or 'logits'; got {self.scores!r}")

    @property
    def idle(self) -> bool:
        return not (self.strength and self.iterations and (self.sga or self.spa))

    def check_layers(self, known: Iterable[int]) -> None:
        self.layers.check(known)

    def at(self, step: float, steps: int) -> float:
        """The size of an update at a step, as a share of the noise."""
        return 0.0 if self.idle else self.strength * self.schedule.at(step, steps)
