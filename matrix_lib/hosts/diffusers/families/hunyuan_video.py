"""What is particular to HunyuanVideo in diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from PIL import Image
from torch import Tensor

from ....backbones.hunyuan_video import SPEC
from .base import Family

__all__ = ["FAMILY", "HunyuanVideo"]

_IMAGE_STEPS = {"concat": 2, "replace": 4}
"""Every how many image tokens its text keeps, as its pipeline has it."""


class HunyuanVideo(Family):
    """HunyuanVideo, text and image to video, and SkyReels I2V on its network."""

    def bind_options(self, image: str) -> dict[str, int]:
        return {"image_step": _IMAGE_STEPS[image]} if image in _IMAGE_STEPS else {}

    def text(self, pipe: Any, prompt: str, tokens: int, image: str, first: Tensor) -> dict[str, Tensor]:
        """Also "mask" (D,) and "pooled" (P,)."""
        given: dict[str, Any] = {"device": pipe._execution_device, "max_sequence_length": tokens}
        if image in _IMAGE_STEPS:  # not SkyReels, whose text encoder sees words alone
            given |= {"image": Image.fromarray(first.cpu().numpy()), "image_embed_interleave": _IMAGE_STEPS[image]}
        rows, pooled, mask = pipe.encode_prompt(prompt=prompt, **given)
        return {"rows": rows[0], "mask": mask[0].float(), "pooled": pooled[0]}

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
        """Mask and pooled text, and the guidance of models that were distilled from one."""
        given = super().inputs(config, hidden, t, text)
        given["encoder_attention_mask"] = text["mask"].to(hidden.dtype)
        given["pooled_projections"] = text["pooled"].to(hidden.dtype)
        if config.guidance_embeds:
            given["guidance"] = hidden.new_full((len(hidden),), guidance * 1000.0)
        return given


FAMILY = HunyuanVideo(SPEC)
