"""Mini's encoders in training: many clips and prompts of its own world at once, as latents and text rows.

N clips, F pixel frames, H x W pixels, T latent frames, C latent channels, h x w latents, D text rows.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from matrix_lib.core.words.binding import PromptBinding
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.mini import LATENT_SCALE, token_ids
from matrix_lib.hosts.diffusers.prompts import bind_prompt

from ..clips.encoders import PipelineEncoders
from .mini_run import pipeline_of

__all__ = ["MiniEncoders"]


class MiniEncoders:
    """The pipeline of a mini model, open.

    Args:
        folder: a bundle or a run of `training.fit mini`; empty: the bundle of this package.
    """

    def __init__(self, folder: str, device: torch.device) -> None:
        self.folder = Path(folder) if folder else bundle.HOME
        self.device = device
        self.pipeline, self.sizes = pipeline_of(self.folder)
        self.shape = PipelineEncoders(self.pipeline).shape
        self.grid = self.shape.grid(self.sizes.frames, self.sizes.height, self.sizes.width)
        self.codec_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.vae: Any = self.pipeline.vae.to(device, self.codec_dtype).requires_grad_(False)
        self.text: Any = self.pipeline.text_encoder.to(device).requires_grad_(False)

    @torch.no_grad()
    def encode(self, video: Tensor, piece: int = 32) -> Tensor:
        """(N, F, 3, H, W) uint8 -> latents (N, T, C, h, w) at the scale that the transformer reads."""
        out = []
        for part in video.split(piece):
            pixels = part.transpose(1, 2).to(self.codec_dtype).div(127.5).sub(1.0)
            out.append(self.vae.encode(pixels).latent_dist.mode().transpose(1, 2) * LATENT_SCALE)
        return torch.cat(out)

    @torch.no_grad()
    def encode_text(self, prompts: list[str]) -> Tensor:
        """(N, D, width) text rows."""
        ids = token_ids(self.pipeline.tokenizer, prompts, self.sizes.text_length)
        return self.text(ids.to(self.device))[0]

    def bind(self, prompt: str, phrases: str) -> PromptBinding:
        """Words of a prompt and the text rows that they are."""
        rows = self.sizes.text_length
        return bind_prompt(self.pipeline.tokenizer, prompt, phrases, family="t5", max_sequence_length=rows)
