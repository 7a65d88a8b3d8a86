"""What is particular to native Mochi 1."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ....backbones.mochi import SPEC
from ..weights import Progress
from .base import Family, t5_clip

__all__ = ["FAMILY", "Mochi"]


class Mochi(Family):
    """Mochi 1, of which the host knows one size."""

    def adapt(self, model: Any, folder: Path, config: Mapping[str, Any], aside: Any) -> None:
        """Raises ValueError for another number of heads: the host does not read it."""
        network = model.model.diffusion_model
        if (heads := config.get("num_attention_heads", network.num_heads)) != network.num_heads:
            raise ValueError(f"{folder} has {heads} heads; ComfyUI's {SPEC.title} has {network.num_heads}")

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        import comfy.text_encoders.genmo as host

        return t5_clip(folder, "t5xxl", host.mochi_te, host.MochiT5Tokenizer, progress)

    def text_tokens(self, rows: int, given: Mapping[str, Any]) -> int:
        """The words alone: as many as the text encoder's mask counts."""
        return min(rows, int(given.get("num_tokens", rows)))


FAMILY = Mochi(SPEC)
