"""What is particular to LTX-Video in diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....backbones import BackboneSpec
from ....backbones.ltx import SPEC
from .base import Family

__all__ = ["FAMILY", "LTX"]


class LTX(Family):
    """LTX-Video 0.9. Latents are tokens; a first frame that is given has a timestep of its own."""

    def __init__(self, spec: BackboneSpec = SPEC) -> None:
        super().__init__(spec)

    def text(self, pipe: Any, prompt: str, tokens: int, image: str, first: Tensor) -> dict[str, Tensor]:
        """Also "mask" (D,)."""
        rows, mask, *_ = pipe.encode_prompt(
            prompt=prompt,
            do_classifier_free_guidance=False,
            device=pipe._execution_device,
            max_sequence_length=tokens,
        )
        return {"rows": rows[0], "mask": mask[0].float()}

    def scaled(self, vae: Any, latents: Tensor) -> Tensor:
        """By a mean and a deviation a channel, and one factor for all."""
        mean, std = _channels(vae, latents)
        return (latents - mean) * vae.config.scaling_factor / std

    def unscaled(self, vae: Any, latents: Tensor) -> Tensor:
        mean, std = _channels(vae, latents)
        return latents * std / vae.config.scaling_factor + mean

    def size(self, given: Mapping[str, Any]) -> tuple[int, int, int]:
        """Pipelines say it beside the tokens, but for the one that puts tokens of its conditions in front of them."""
        found = [int(given[name]) for name in ("num_frames", "height", "width") if given.get(name) is not None]
        if len(found) < 3:
            raise ValueError(
                f"this pipeline calls {self.spec.title}'s transformer without num_frames, height and width (as "
                "LTXConditionPipeline does, whose conditions stand in front of the clip), so it is open which tokens "
                "are the clip: use the pipeline for text or for one picture"
            )
        t, h, w = found
        return t, h, w

    def rate(self, given: Mapping[str, Any]) -> float | None:
        """Told as the seconds that a latent frame lasts."""
        scale = given.get("rope_interpolation_scale")
        return None if scale is None else self.spec.temporal_stride / float(scale[0])

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
        """Tokens, and where they are. Those of frames that are given have the timestep of a clean clip."""
        given = super().inputs(config, hidden, t, text)
        given["hidden_states"] = hidden.permute(0, 1, 3, 4, 2).flatten(1, 3)
        given |= dict(zip(("num_frames", "height", "width"), (hidden.shape[1], *hidden.shape[3:])))
        if given_frames:
            noisy = hidden.new_ones(hidden.shape[1], dtype=torch.float32)
            noisy[:given_frames] = 0.0
            given["timestep"] = t[:, None] * noisy.repeat_interleave(hidden.shape[3] * hidden.shape[4])
        return given | self.beside(config, hidden, t, text)

    def beside(self, config: Any, hidden: Tensor, t: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """What the transformer makes its positions of, and which text rows are words."""
        stride = self.spec.spatial_stride
        return {
            "encoder_attention_mask": text["mask"].to(hidden.dtype),
            "rope_interpolation_scale": (self.spec.temporal_stride / self.spec.fps[""], stride, stride),
        }

    def output(self, made: Tensor, like: Tensor) -> Tensor:
        return made.unflatten(1, (like.shape[1], *like.shape[3:])).permute(0, 1, 4, 2, 3)


def _channels(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, *(1,) * (like.ndim - 2))
    found = (torch.as_tensor(getattr(vae if hasattr(vae, name) else vae.config, name)) for name in _STATISTICS)
    mean, std = (each.view(shape).to(like) for each in found)
    return mean, std


_STATISTICS = ("latents_mean", "latents_std")
FAMILY = LTX()
