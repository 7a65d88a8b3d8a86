"""What is particular to HunyuanVideo 1.5 in diffusers.

B batch, D text tokens, G glyph tokens, W, V their widths, P picture tokens, N tokens of the joint sequence.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from ....backbones.hunyuan_video15 import SPEC
from .base import Family

__all__ = ["FAMILY", "HunyuanVideo15"]


class HunyuanVideo15(Family):
    """HunyuanVideo 1.5, text and image to video. Behind the clip stand the tokens of the picture, the glyphs and the
    words that are there, for each row of the batch its own number of them, then what is padding of all three."""

    def usual_size(self, pipe: Any) -> tuple[int, int, int]:
        """That of its transformer's training, wide. A picture decides on the shape itself."""
        frames = inspect.signature(pipe.__call__).parameters["num_frames"].default
        height, width = pipe.video_processor.calculate_default_height_width(9, 16, pipe.target_size)
        return int(frames), int(height), int(width)

    def text(self, pipe: Any, prompt: str, tokens: int, image: str, first: Tensor) -> dict[str, Tensor]:
        """Also "mask" (D,), "glyphs" (G, V) and "glyph_mask" (G,)."""
        rows, mask, glyphs, glyph_mask = pipe.encode_prompt(prompt=prompt, device=pipe._execution_device)
        return {
            "rows": rows[0, :tokens],
            "mask": mask[0, :tokens].float(),
            "glyphs": glyphs[0],
            "glyph_mask": glyph_mask[0].float(),
        }

    def image_rows(self, pipe: Any, picture: Image.Image) -> Tensor:
        """(P, width): the first frame through SigLIP."""
        place, dtype = pipe._execution_device, pipe.image_encoder.dtype
        return pipe.encode_image(image=picture, batch_size=1, device=place, dtype=dtype)[0]  # type: ignore[no-any-return]

    def text_starts(self, given: Mapping[str, Any]) -> tuple[int, ...]:
        """Picture tokens where there is a picture, and the glyphs of each row."""
        words, glyphs = given["encoder_attention_mask"].bool(), given["encoder_attention_mask_2"].bool()
        picture = given["image_embeds"]
        before = glyphs.sum(1) + (picture.shape[1] if bool((picture != 0).any()) else 0)
        first, count = words.int().argmax(1), words.sum(1)
        last = words.shape[1] - words.flip(1).int().argmax(1)
        if bool(((count > 0) & (last - first != count)).any()):
            raise ValueError(
                "the mask of the prompt has gaps (encoder_attention_mask): the transformer moves its tokens together, "
                "so it is open which of them are which words; pass a prompt, or embeddings padded at one end"
            )
        return tuple((before - first).tolist())

    def mask(self, mask: Tensor | None) -> Tensor | None:
        """Of (B, 1, N, N), in which padding sees nothing and is seen by nothing, the row of the clip's first token:
        which keys are seen at all, (B, 1, 1, N). No token that counts sees what padding makes of it."""
        return mask if mask is None or mask.shape[-2] == 1 else mask[..., :1, :]

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
        """The room for a picture is there without one, too, behind the latents and in front of a condition. A picture
        of zeros is none; one token of it is enough."""
        if missing := int(config.in_channels) - hidden.shape[2]:
            own = SPEC.latent_channels
            room = hidden.new_zeros(*hidden.shape[:2], missing, *hidden.shape[3:])
            hidden = torch.cat([hidden[:, :, :own], room, hidden[:, :, own:]], dim=2)
        given = super().inputs(config, hidden, t.to(hidden.dtype), text)  # which decides on the type of the embedding
        given["encoder_attention_mask"] = text["mask"].to(hidden.dtype)
        given["encoder_hidden_states_2"] = text["glyphs"].to(hidden.dtype)
        given["encoder_attention_mask_2"] = text["glyph_mask"].to(hidden.dtype)
        picture = text.get("image_rows")
        if picture is None:
            picture = hidden.new_zeros(len(hidden), 1, int(config.image_embed_dim))
        given["image_embeds"] = picture.to(hidden.dtype)
        return given


FAMILY = HunyuanVideo15(SPEC)
