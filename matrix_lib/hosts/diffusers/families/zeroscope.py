"""What is particular to ZeroScope in diffusers."""

from __future__ import annotations

from typing import Any

from torch import Tensor

from ....backbones.zeroscope import SPEC
from .base import Family

__all__ = ["FAMILY", "ZeroScope"]


class ZeroScope(Family):
    """ZeroScope and ModelScope text-to-video."""

    def encode(self, vae: Any, pixels: Tensor) -> Tensor:
        """Its VAE knows pictures alone."""
        return vae.encode(pixels[0].transpose(0, 1)).latent_dist.mode().transpose(0, 1)[None]


FAMILY = ZeroScope(SPEC)
