"""What is particular to Kandinsky 5 in diffusers.

B batch, T latent frames, h x w latents, D text tokens, P width of CLIP-L's summary.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from ....backbones.kandinsky5 import SPEC
from ....backbones.spec import input_channels
from ..model_shape import patch_of
from .base import Family

__all__ = ["FAMILY", "Kandinsky5"]


class Kandinsky5(Family):
    """Kandinsky 5 video, for text or a picture. Its transformer is told where its tokens are, and no mask of the words:
    every row of the text that it is given counts."""

    def text(self, pipe: Any, prompt: str, tokens: int, image: str, first: Tensor) -> dict[str, Tensor]:
        """Also "mask" (D,), which says how many rows there are, and "pooled" (P,)."""
        rows, pooled, _ = pipe.encode_prompt(prompt=prompt, device=pipe._execution_device, max_sequence_length=tokens)
        count = rows.shape[1]
        padded = torch.nn.functional.pad(rows[0], (0, 0, 0, tokens - count))
        return {"rows": padded, "mask": (torch.arange(tokens) < count).float(), "pooled": pooled[0]}

    def started(self, pipe: Any, noisy: Tensor, first: Callable[[], Tensor]) -> Tensor:
        """With the room for a picture behind (1, T, h, w, C), and with the first frame of a pipeline that takes one: it
        adds neither to latents that it is given."""
        pictured = "image" in inspect.signature(pipe.__call__).parameters
        if pictured:
            noisy = torch.cat([first().to(noisy), noisy[:, 1:]], dim=1)
        return _with_room(noisy, input_channels(pipe.transformer.config), int(pictured))

    def check(self, given: Mapping[str, Any]) -> None:
        """Block-sparse attention, whose tokens stand in another order and of which no kernel tells."""
        if given.get("sparse_params") is not None:
            raise ValueError(
                "this Kandinsky 5 attends block-sparsely (NABLA, attention_type 'nabla'), which cannot be watched or "
                "steered: let it attend to everything, as native ComfyUI does, with "
                "pipe.transformer.register_to_config(attention_type='regular')"
            )

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
        """Room for a picture, which no pipeline uses, and which frames are given; the words without their padding;
        positions, scaled by the size of the clip as the pipeline does.

        Raises ValueError for block-sparse attention, and for prompts of several lengths in one batch.
        """
        from diffusers import Kandinsky5T2VPipeline as Pipeline

        if config.get("attention_type", "regular") != "regular":
            raise ValueError(
                f"this Kandinsky 5 was made for block-sparse attention (attention_type {config['attention_type']!r}), "
                "which is not trained here: use a model whose transformer/config.json says 'regular'"
            )
        counts = [int(count) for count in text["mask"].sum(1)]
        if len(set(counts)) > 1:
            raise ValueError(
                f"prompts of {sorted(set(counts))} tokens are in one batch, and Kandinsky 5's transformer takes no "
                "mask that would tell words from padding: train with data.batch=1, and optim.accumulate for more"
            )
        frames, (height, width) = hidden.shape[1], hidden.shape[3:]
        wide = _with_room(hidden.movedim(2, -1), input_channels(config), given_frames)
        hidden = wide.movedim(-1, 2)
        made = super().inputs(config, hidden, t, {"rows": text["rows"][:, : counts[0]]})
        made["return_dict"] = True  # without it the output is a bare tensor, in no tuple
        made["pooled_projections"] = text["pooled"].to(hidden.dtype)
        shape = zip((frames, height, width), patch_of(config))
        made["visual_rope_pos"] = [torch.arange(size // step, device=hidden.device) for size, step in shape]
        made["text_rope_pos"] = torch.arange(counts[0], device=hidden.device)
        sides = (side * SPEC.spatial_stride for side in (height, width))
        made["scale_factor"] = Pipeline._get_scale_factor(None, *sides)
        return made


def _with_room(latents: Tensor, channels: int, given_frames: int) -> Tensor:
    """(B, T, h, w, C) with zeros behind up to so many channels, of which the last says which frames are given."""
    room = latents.new_zeros(*latents.shape[:-1], channels - latents.shape[-1])
    room[:, :given_frames, ..., -1:] = 1.0
    return torch.cat([latents, room], dim=-1)


FAMILY = Kandinsky5(SPEC)
