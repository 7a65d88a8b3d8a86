"""What is particular to Mochi 1 in diffusers.

B batch, T latent frames, h x w latents, D text tokens.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from torch import Tensor

from ....backbones.mochi import SPEC
from .base import Family
from .ltx import LTX

__all__ = ["FAMILY", "Mochi"]

_STEPS = 1000.0  # its transformer's time of a clip without noise


class Mochi(LTX):
    """Mochi 1, whose latents are scaled as LTX-Video's. Its time runs from noise (0) to clip (1000), and it predicts
    the way from noise to clip. The mask of the text says which rows attention reads."""

    def usual_size(self, pipe: Any) -> tuple[int, int, int]:
        frames = inspect.signature(pipe.__call__).parameters["num_frames"].default
        return int(frames), int(pipe.default_height), int(pipe.default_width)

    def rate(self, given: Mapping[str, Any]) -> float | None:
        """Its transformer is not told."""
        return None

    def check(self, given: Mapping[str, Any]) -> None:
        """A mask of the text with gaps, whose rows attention moves together."""
        mask = given["encoder_attention_mask"].bool()
        if bool((mask[:, 1:] & ~mask[:, :-1]).any()):
            raise ValueError(
                "the mask of the prompt has gaps (prompt_attention_mask): attention moves its tokens together, so it "
                "is open which of them are which words; pass a prompt, or embeddings that are padded behind"
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
        """The time as its transformer counts it, and which text rows are words."""
        made = Family.inputs(self, config, hidden, _STEPS - t, text)
        return made | {"encoder_attention_mask": text["mask"].bool()}

    def output(self, made: Tensor, like: Tensor) -> Tensor:
        """The way from clip to noise, as other families predict it."""
        return -Family.output(self, made, like)


FAMILY = Mochi(SPEC)
