"""What the host gets wrong about a MODEL, and a clone on which it is put right. What that is, the families know."""

from __future__ import annotations

from typing import Any

from .families import Family, family
from .families.base import DynamicGuidance, Variant
from .model import backbone_of

__all__ = ["needs_repair", "repair"]


def needs_repair(model: Any, variant: Variant = "auto", first_frame: bool = False) -> list[str]:
    """What the host gets wrong about this MODEL, one sentence each; [] where it is right.

    Args:
        variant: which CogVideoX 1.0 it is; "auto" asks the loader that made it, and else goes by its width.
        first_frame: whether the first frame will be given. HunyuanVideo has a fault that only this use meets.
    """
    known = _family_of(model)
    return [] if known is None else [defect.text for defect in known.defects(model, variant, first_frame)]


def repair(model: Any, variant: Variant = "auto", dynamic_cfg: DynamicGuidance = "off") -> tuple[Any, list[str]]:
    """(MODEL, what was mended). Where nothing is to do the MODEL itself comes back, else a clone.

    Args:
        variant: see `needs_repair`.
        dynamic_cfg: guidance that grows over the run (CogVideoX); takes the host's one slot for a guidance function.
    """
    known = _family_of(model)
    return (model, []) if known is None else known.repair(model, variant, dynamic_cfg)


def _family_of(model: Any) -> Family | None:
    """None for a MODEL that is not a video DiT that we know."""
    try:
        return family(backbone_of(model).name)
    except (AttributeError, ValueError):
        return None
