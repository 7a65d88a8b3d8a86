"""What is particular to native LTX-2."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import nn

from ....backbones.ltx2 import SPEC
from ..weights import Progress
from .base import Family
from .ltx import LTX

__all__ = ["FAMILY", "LTX2"]


class LTX2(LTX):
    """LTX-2.0 and 2.3. Words come out of the text encoder without padding; the network's connectors put registers
    behind them."""

    def text_encoder(self, folder: Path, progress: Progress | None) -> Any:
        """Refused: natively Gemma 3 and the connectors' projection are one file."""
        return Family.text_encoder(self, folder, progress)

    def text_rows(self, network: nn.Module, cond: Mapping[str, Any]) -> int:
        """As many as fill whole sets of registers, 1024 at the least."""
        connector, rows = getattr(network, "video_embeddings_connector", None), cond.get("cross_attn")
        registers = getattr(connector, "num_learnable_registers", 0)
        if rows is None or not registers:
            return 0
        both: Any = network
        whole = (both.cross_attention_dim + both.audio_cross_attention_dim, 2 * both.caption_channels)
        if rows.shape[-1] in whole and not cond.get("unprocessed_ltxav_embeds", False):
            return 0  # they have been through the connectors
        return math.ceil(max(self.spec.text_tokens, rows.shape[1]) / registers) * int(registers)


FAMILY = LTX2(SPEC)
