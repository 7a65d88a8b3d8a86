"""Who acts in one run, for each way of steering: an editor of attention, or a hook before steps."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from ..core.grid import Grid
from ..core.guidance.base import Guidance
from ..core.guidance.dual_clock import DualClockDenoising
from ..core.guidance.gradient import GradientGuidance
from ..core.guidance.intrinsic import IntrinsicDenoising
from ..core.guidance.part import RunPart
from ..core.sites import AttentionSite
from ..core.tracks.tracks import MaskTracks
from .attention_guidance import AttentionGuidance
from .dual_clock import DualClockHook, ReferenceClip
from .gradient import GradientHook
from .intrinsic import IntrinsicHook

__all__ = ["Actor", "SteeredRun", "actor_for"]

Actor = AttentionGuidance | GradientHook | IntrinsicHook | DualClockHook


@dataclass(frozen=True)
class SteeredRun:
    """What a host knows of a run that is steered.

    Args:
        grid: the token grid of the clip, None where the first forward tells it.
        part: of which schedule the run is which part, None where that is told later.
        sites: of the model, in the order in which they run.
        strides: of the model's `Grid`.
        tracks: for each prompt those that its latents follow.
        references: for each prompt the latent (C, T, H, W) of its reference clip, or its frames.
        token: the name of second predictions.
    """

    grid: Grid | None = None
    part: RunPart | None = None
    sites: Sequence[AttentionSite] = ()
    strides: tuple[int, ...] = (4, 8)
    tracks: Sequence[Sequence[MaskTracks]] = ()
    references: Sequence[Tensor | ReferenceClip] = ()
    prefix_frames: int = 0
    seed: int = 0
    token: Hashable = None


_HOOKS: dict[type[Guidance], Callable[[Any, SteeredRun], Actor]] = {
    GradientGuidance: lambda guidance, run: GradientHook(guidance, run.grid, run.sites),
    IntrinsicDenoising: lambda guidance, run: IntrinsicHook(
        guidance, run.tracks, run.strides, run.prefix_frames, run.seed
    ),
    DualClockDenoising: lambda guidance, run: DualClockHook(
        guidance, run.references, run.tracks, run.strides, run.prefix_frames, run.seed
    ),
}
"""Ways of steering that act before steps, and who does it; all others edit attention."""


def actor_for(guidance: Any, run: SteeredRun) -> Actor:
    """Who acts in a run under `guidance`."""
    if guidance.where == "step":
        return _HOOKS[type(guidance)](guidance, run)
    editor = AttentionGuidance(guidance, run.grid, token=run.token)
    if run.part is not None:
        editor.begin(run.part)
    return editor
