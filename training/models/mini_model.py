"""What alignment training asks of a model family: its noise, its inputs, and how clips become its latents.

B batch, T latent frames, C latent channels, h x w latents, D text rows, X channels of the mask condition.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from matrix_lib.core.grid import Grid
from matrix_lib.core.words.binding import PromptBinding
from matrix_lib.hosts import bundle
from matrix_lib.hosts.diffusers.mini import LATENT_SCALE, Sizes, make_scheduler, rotary, token_ids
from matrix_lib.hosts.diffusers.prompts import bind_prompt

from .mini_run import pipeline_of

__all__ = ["Backbone", "MiniModel"]


class Backbone(Protocol):
    """A transformer in training, and what its family does around it."""

    transformer: nn.Module
    grid: Grid

    def corrupt(self, clean: Tensor, noise: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]: ...

    def inputs(
        self, noisy: Tensor, image: Tensor, condition: Tensor | None, rows: Tensor, t: Tensor
    ) -> dict[str, Any]: ...


class MiniModel:
    """The mini model of a bundle or a run: CogVideoX with image condition, velocity prediction.

    Args:
        folder: a bundle or a run of `training.fit mini`; empty: the bundle of this package.
    """

    def __init__(self, folder: str, device: torch.device) -> None:
        self.folder = Path(folder) if folder else bundle.HOME
        self.device = device
        self.pipeline, self.sizes = pipeline_of(self.folder)
        self.transformer: Any = self.pipeline.transformer.to(device)
        self.codec_dtype = torch.bfloat16 if device.type == "cuda" else torch.float32
        self.vae: Any = self.pipeline.vae.to(device, self.codec_dtype).requires_grad_(False)
        self.text: Any = self.pipeline.text_encoder.to(device).requires_grad_(False)
        self.signal = make_scheduler().alphas_cumprod.float().to(device)
        self.positions = rotary(self.sizes, device)
        self.grid = grid_of(self.sizes)

    def corrupt(self, clean: Tensor, noise: Tensor, share: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Noisy latents, the velocity to predict, timesteps, and times in [0, 1] (1 is pure noise).

        Args:
            share: (B,) place in the schedule, [0, 1).
        """
        t = (share * len(self.signal)).long().clamp(max=len(self.signal) - 1).to(clean.device)
        kept, lost = (x.view(-1, 1, 1, 1, 1) for x in (self.signal[t].sqrt(), (1.0 - self.signal[t]).sqrt()))
        return kept * clean + lost * noise, kept * noise - lost * clean, t, (t + 1) / len(self.signal)

    def inputs(self, noisy: Tensor, image: Tensor, condition: Tensor | None, rows: Tensor, t: Tensor) -> dict[str, Any]:
        """What the transformer is called with: image (B, C, h, w) and condition (B, X, h, w) are of the first latent
        frame, and 0 in later ones."""
        first = image if condition is None else torch.cat([image, condition], dim=1)
        later = first.new_zeros(len(first), noisy.shape[1] - 1, *first.shape[1:])
        hidden = torch.cat([noisy, torch.cat([first[:, None], later], dim=1).to(noisy)], dim=2)
        return {
            "hidden_states": hidden,
            "encoder_hidden_states": rows,
            "timestep": t,
            "image_rotary_emb": self.positions,
            "return_dict": False,
        }

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
        """(N, D, width) rows of the conditioning."""
        ids = token_ids(self.pipeline.tokenizer, prompts, self.sizes.text_length)
        return self.text(ids.to(self.device))[0]

    def bind(self, prompt: str, phrases: str) -> PromptBinding:
        """Words of a prompt and the rows that they are."""
        rows = self.sizes.text_length
        return bind_prompt(self.pipeline.tokenizer, prompt, phrases, family="t5", max_sequence_length=rows)


def grid_of(sizes: Sizes) -> Grid:
    """The token grid of the mini model: one latent pixel per token."""
    return Grid.from_pixels(sizes.frames, sizes.height, sizes.width, patch=(1, 1, 1))
