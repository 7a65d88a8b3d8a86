"""What is particular to LTX-2 in diffusers.

D text tokens, W their width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from ....backbones.ltx2 import SPEC
from .ltx import LTX

__all__ = ["FAMILY", "LTX2"]


class LTX2(LTX):
    """LTX-2.0 and 2.3: the same for the clip, with sound beside it. What is called from here has no sound: the video
    tower is cut off from that of the sound, of which one silent token is left."""

    def skipped(self, given: Mapping[str, Any]) -> frozenset[int]:
        """Those of spatio-temporal guidance, where every row of the batch is disturbed."""
        blocks, kept = given.get("spatio_temporal_guidance_blocks"), given.get("perturbation_mask")
        return frozenset(blocks or ()) if kept is None or not bool(kept.any()) else frozenset()

    def rate(self, given: Mapping[str, Any]) -> float | None:
        return None if given.get("fps") is None else float(given["fps"])

    @torch.no_grad()
    def text(self, pipe: Any, prompt: str, tokens: int, image: str, first: Tensor) -> dict[str, Tensor]:
        """The words as the connectors hand them to the video tower, registers behind them: (D, W)."""
        rows, mask, *_ = pipe.encode_prompt(
            prompt=prompt,
            do_classifier_free_guidance=False,
            device=pipe._execution_device,
            max_sequence_length=tokens,
        )
        side = getattr(pipe.tokenizer, "padding_side", "left")
        return {"rows": pipe.connectors(rows, mask, padding_side=side)[0][0]}

    def beside(self, config: Any, hidden: Tensor, t: Tensor, text: Mapping[str, Tensor]) -> dict[str, Any]:
        """One token of sound and of its text, which nothing of the clip attends to."""
        projected = getattr(config, "use_prompt_embeddings", True)
        width = getattr(config, "caption_channels" if projected else "audio_cross_attention_dim", 1)
        batch = len(hidden)
        return {
            "audio_hidden_states": hidden.new_zeros(batch, 1, getattr(config, "audio_in_channels", 1)),
            "audio_encoder_hidden_states": hidden.new_zeros(batch, 1, width),
            "audio_num_frames": 1,
            "audio_timestep": t,
            "sigma": t,
            "fps": float(self.spec.fps[""]),
            "isolate_modalities": True,
        }


FAMILY = LTX2(SPEC)
