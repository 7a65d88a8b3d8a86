"""What is particular to CogVideoX in diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from ....backbones.cogvideox import SPEC
from .base import Family

__all__ = ["FAMILY", "CogVideoX"]

_OFS = 2.0  # what the CogVideoX 1.5 pipeline passes as `ofs`


class CogVideoX(Family):
    """CogVideoX 1.0 and 1.5."""

    def scaled_image(self, vae: Any, latents: Tensor) -> Tensor:
        """1.5 divides its first frame's latents by the scale."""
        if vae.config.get("invert_scale_latents"):
            return latents / vae.config.scaling_factor
        return self.scaled(vae, latents)

    def text_trouble(self, transformer: Any) -> str:
        """2B and the 5B image-to-video model of 1.0 add positions to text and clip together."""
        config = transformer.config
        if config.use_learned_positional_embeddings or not config.use_rotary_positional_embeddings:
            return (
                f"its table of positions is for {config.max_text_seq_length} rows of text in diffusers, and captions "
                "add theirs (native ComfyUI has no such table)"
            )
        return super().text_trouble(transformer)

    def positions(self, transformer: Any, shape: tuple[int, ...], device: torch.device) -> Any:
        """Rotary ones, but for 2B."""
        if not transformer.config.use_rotary_positional_embeddings:
            return None
        from diffusers import CogVideoXImageToVideoPipeline as Pipeline

        stride = self.spec.spatial_stride
        holder: Any = SimpleNamespace(transformer=transformer, vae_scale_factor_spatial=stride)
        size = (shape[3] * stride, shape[4] * stride, shape[1], device)
        return Pipeline._prepare_rotary_positional_embeddings(holder, *size)

    def inputs(
        self,
        config: Any,
        hidden: Tensor,
        t: Tensor,
        text: Mapping[str, Tensor],
        positions: Any = None,
        guidance: float = 1.0,
        given_frames: int = 0,
    ) -> dict[str, Any]:
        """Positions, and `ofs` of 1.5."""
        given = super().inputs(config, hidden, t, text) | {"image_rotary_emb": positions}
        if getattr(config, "ofs_embed_dim", None) is not None:
            given["ofs"] = hidden.new_full((1,), _OFS)
        return given


FAMILY = CogVideoX(SPEC)
