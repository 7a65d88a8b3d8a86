"""A U-Net base, opened to be sampled from text alone and judged."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrix_lib.core.guidance.intrinsic import IntrinsicDenoising
from matrix_lib.core.tracks.tracks import MaskTracks
from matrix_lib.hosts import bundle

from ..models.mini_unet import FORMAT, MiniUNet
from .bench import Bench, BoxBench
from .scale import Scale

__all__ = ["UNetBench", "open_bench"]


class UNetBench(BoxBench):
    """Args: folder: that `models.mini_unet.publish_unet` wrote."""

    def __init__(self, folder: Path, scale: Scale, device: torch.device) -> None:
        self.unet = MiniUNet(folder, device)
        super().__init__(folder, scale, device, self.unet.encoders, self.unet.pipeline, self.unet.sizes)

    def from_text(
        self,
        prompts: Sequence[str],
        seed: int,
        intrinsic: IntrinsicDenoising | None = None,
        tracks: Sequence[MaskTracks] = (),
        scheduler: Any = None,
    ) -> Tensor:
        scale = self.scale
        return self.unet.sample(prompts, scale.box_sampling, scale.box_cfg, seed, intrinsic, tracks)


def open_bench(folder: Path, scale: Scale, device: torch.device) -> Any:
    """The bench of a base: a transformer's or a U-Net's."""
    unet = json.loads((folder / bundle.MANIFEST).read_text())["format"] == FORMAT
    return UNetBench(folder, scale, device) if unet else Bench(folder, scale, device)
