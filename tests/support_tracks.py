"""Mask tracks that are hard on whoever steers by them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

__all__ = ["awkward"]


def awkward(make: Callable[..., Any], frames: int, height: int, width: int) -> dict[str, Any]:
    """Tracks of a cyclist and a van by what is awkward about them. `make`: `MaskTracks.from_masks` of the library that
    the test uses."""
    dot = torch.zeros(frames, height, width)
    dot[:, height // 2, width // 2] = 1
    leaves, blinks, over = torch.zeros_like(dot), torch.zeros_like(dot), torch.zeros_like(dot)
    leaves[0, :, : width // 4] = 1
    blinks[::4, : height // 2] = 1
    over[:, :, : width // 2] = 1
    return {
        "single pixel": make({"cyclist": dot, "van": over}),
        "leaves the frame": make({"cyclist": leaves, "van": over}),
        "vanishes for some frames": make({"cyclist": blinks, "van": dot}),
        "overlaps": make({"cyclist": over, "van": torch.ones_like(dot)}),
        "never there": make({"cyclist": torch.zeros_like(dot), "van": dot}, allow_empty=True),
        "first frame alone": make({"cyclist": over[:1], "van": dot[:1]}),
    }
