"""What is particular to Wan in diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ....backbones.wan import SPEC
from .base import Family

__all__ = ["FAMILY", "Wan"]


class Wan(Family):
    """Wan 2.1 and 2.2, VACE and SkyReels V2."""

    def check(self, given: Mapping[str, Any]) -> None:
        """VACE with references, latent frames in front of the clip of which nothing is to be made: their mask is 0, and
        so is what is behind it, other than in any frame of a video. Frames that have noise levels of their own."""
        control, own = given.get("control_hidden_states"), self.spec.latent_channels
        if control is not None and not bool(control[:, own:, 0].any()):
            raise ValueError(
                "this run of VACE has reference frames in front of the clip, so tracks and maps would be of other "
                "frames than the clip's: leave reference_images out, or use native ComfyUI, where they are told apart"
            )
        if given.get("enable_diffusion_forcing"):
            raise ValueError(
                "diffusion forcing gives every frame a noise level of its own, so a run has no steps that could be "
                "watched or steered: use SkyReelsV2Pipeline or SkyReelsV2ImageToVideoPipeline"
            )

    def check_trainable(self, index: Mapping[str, Any]) -> None:
        """The 5B model, and VACE."""
        if index.get("expand_timesteps"):
            raise ValueError("Wan 2.2 5B, whose first frame goes in by its timestep, cannot be trained here yet")
        _, kind = index.get("transformer") or (None, None)  # (None, None) as well where it was not loaded
        if "VACE" in f"{kind} {index.get('_class_name')}":
            raise ValueError("Wan VACE, which reads a control video, cannot be trained here: train Wan 2.1")

    def image_rows(self, pipe: Any, picture: Image.Image) -> Tensor:
        """(257, width): the first frame through CLIP."""
        return pipe.encode_image(picture, pipe._execution_device)[0]  # type: ignore[no-any-return]

    def text_trouble(self, transformer: Any) -> str:
        """Its attention to a picture counts on 512 rows of text."""
        if any(getattr(module, "add_k_proj", None) is not None for module in transformer.modules()):
            return (
                "diffusers takes the last 512 rows for the text and the rest for the picture (native ComfyUI does not)"
            )
        return super().text_trouble(transformer)

    def scaled(self, vae: Any, latents: Tensor) -> Tensor:
        """By a mean and a deviation a channel."""
        mean, std = _channels(vae, latents)
        return (latents - mean) * (1.0 / std)

    def unscaled(self, vae: Any, latents: Tensor) -> Tensor:
        mean, std = _channels(vae, latents)
        return latents * std + mean

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
        """The picture of 2.1's second cross-attention, where there is one."""
        given = super().inputs(config, hidden, t, text)
        if "image_rows" in text:
            given["encoder_hidden_states_image"] = text["image_rows"].to(hidden.dtype)
        return given


def _channels(vae: Any, like: Tensor) -> tuple[Tensor, Tensor]:
    shape = (1, -1, *(1,) * (like.ndim - 2))
    mean, std = (torch.tensor(v).view(shape).to(like) for v in (vae.config.latents_mean, vae.config.latents_std))
    return mean, std


FAMILY = Wan(SPEC)
