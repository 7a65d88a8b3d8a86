"""What is particular to LTX-2 in diffusers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ....backbones.ltx2 import SPEC
from .ltx import LTX

__all__ = ["FAMILY", "LTX2"]


class LTX2(LTX):
    """LTX-2.0 and 2.3: the same for the clip, with sound beside it."""

    def skipped(self, given: Mapping[str, Any]) -> frozenset[int]:
        """Those of spatio-temporal guidance, where every row of the batch is disturbed."""
        blocks, kept = given.get("spatio_temporal_guidance_blocks"), given.get("perturbation_mask")
        return frozenset(blocks or ()) if kept is None or not bool(kept.any()) else frozenset()


FAMILY = LTX2(SPEC)
