"""How noisy a latent is."""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["NoiseLevel"]


@dataclass(frozen=True)
class NoiseLevel:
    """How noisy a latent is: x = alpha x0 + sigma e."""

    alpha: float
    sigma: float

    @property
    def scale(self) -> float:
        """Standard deviation of x where x0 has 1."""
        return math.hypot(self.alpha, self.sigma)
